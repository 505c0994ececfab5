-- Rows that hold a value in these columns do not keep their seals: only an empty or older store goes back whole.
DROP INDEX idempotency_principal;
ALTER TABLE idempotency DROP COLUMN principal;
ALTER TABLE data_key_version DROP COLUMN fenced_window_seconds;
ALTER TABLE data_key_version DROP COLUMN destroy_began_at;

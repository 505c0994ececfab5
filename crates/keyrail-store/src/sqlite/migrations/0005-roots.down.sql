-- Rows that hold a value in these columns do not keep their seals: only an empty or older store goes back whole.
ALTER TABLE root_slot DROP COLUMN rehearsed_at;
ALTER TABLE root_slot DROP COLUMN recipients;
ALTER TABLE root_slot DROP COLUMN role;

-- Rows that hold a value in these columns do not keep their seals: only an empty or older store goes back whole.
ALTER TABLE campaign DROP COLUMN resumed_by;
ALTER TABLE campaign DROP COLUMN not_scrubbed;
ALTER TABLE campaign DROP COLUMN scrub_due;

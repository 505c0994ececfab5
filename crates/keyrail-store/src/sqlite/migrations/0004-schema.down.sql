-- Rows that hold a value in this column do not keep their seals: only an empty or older store goes back whole.
ALTER TABLE asset DROP COLUMN "schema";

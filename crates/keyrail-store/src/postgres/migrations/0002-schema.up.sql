-- Some databases keep their tables in schemas.
ALTER TABLE asset ADD COLUMN "schema" text COLLATE "C";
COMMENT ON COLUMN asset."schema" IS 'the schema with the table';

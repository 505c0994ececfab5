-- Some databases keep their tables in schemas.
ALTER TABLE asset ADD COLUMN
  "schema" TEXT; -- the schema with the table

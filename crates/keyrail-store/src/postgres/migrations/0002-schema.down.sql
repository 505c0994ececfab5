-- Assets lose the schema of their table. Nothing in Keyrail runs this by itself.
ALTER TABLE asset DROP COLUMN "schema";

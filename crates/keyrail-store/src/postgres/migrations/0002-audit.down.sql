-- Drops the audit log. Nothing in Keyrail runs this by itself.
DROP TABLE audit_batch;
DROP TABLE audit_checkpoint;
DROP TABLE audit_head;

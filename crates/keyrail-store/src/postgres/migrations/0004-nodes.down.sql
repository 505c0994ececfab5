ALTER TABLE meta ADD COLUMN writer_epoch bigint NOT NULL DEFAULT 0;
ALTER TABLE meta ALTER COLUMN writer_epoch DROP DEFAULT;
COMMENT ON COLUMN meta.writer_epoch IS 'raised by each process that becomes the writer: the former ones write no more';
DROP TABLE node_lease;

-- The audit log of several nodes: its head, its signed head, and its records, a row for each group commit.

CREATE TABLE audit_head (
  "only" bigint NOT NULL DEFAULT 1,
  size   bigint NOT NULL,
  root   bytea NOT NULL,
  peaks  bytea NOT NULL,
  tag    bytea NOT NULL,
  epoch  bigint NOT NULL,
  fence  bigint NOT NULL,
  CONSTRAINT audit_head_pk PRIMARY KEY ("only"),
  CONSTRAINT audit_head_only CHECK ("only" = 1),
  CONSTRAINT audit_head_size_min CHECK (size >= 0),
  CONSTRAINT audit_head_root_len CHECK (octet_length(root) = 32),
  CONSTRAINT audit_head_tag_len CHECK (octet_length(tag) = 32)
) WITH (fillfactor = 10);
COMMENT ON TABLE audit_head IS 'The head of the audit log. Every append replaces it, if it is still what the append builds on.';
COMMENT ON COLUMN audit_head."only" IS 'always 1: there is one row';
COMMENT ON COLUMN audit_head.size IS 'number of records';
COMMENT ON COLUMN audit_head.root IS 'root hash of the tree over them';
COMMENT ON COLUMN audit_head.peaks IS 'the roots of its complete subtrees, the largest first, 32 bytes each';
COMMENT ON COLUMN audit_head.tag IS 'HMAC over size and peaks';
COMMENT ON COLUMN audit_head.epoch IS 'raised by every change that a decision may depend on, in its transaction: what was decided before is not appended';
COMMENT ON COLUMN audit_head.fence IS 'raised by who must be sure that no append that was sent before is stored later';

CREATE TABLE audit_checkpoint (
  "only" bigint NOT NULL DEFAULT 1,
  size   bigint NOT NULL,
  note   text COLLATE "C" NOT NULL,
  CONSTRAINT audit_checkpoint_pk PRIMARY KEY ("only"),
  CONSTRAINT audit_checkpoint_only CHECK ("only" = 1)
) WITH (fillfactor = 10);
COMMENT ON TABLE audit_checkpoint IS 'The signed head of the audit log, at most moments behind the head.';
COMMENT ON COLUMN audit_checkpoint."only" IS 'always 1: there is one row';
COMMENT ON COLUMN audit_checkpoint.size IS 'number of records that it covers';
COMMENT ON COLUMN audit_checkpoint.note IS 'the signed note, see spec/audit-log.md';

CREATE TABLE audit_batch (
  first   bigint NOT NULL,
  count   bigint NOT NULL,
  epoch   bigint NOT NULL,
  node    bytea NOT NULL,
  number  bigint NOT NULL,
  root    bytea NOT NULL,
  records bytea NOT NULL,
  tag     bytea NOT NULL,
  CONSTRAINT audit_batch_pk PRIMARY KEY (first),
  CONSTRAINT audit_batch_node_number UNIQUE (node, number),
  CONSTRAINT audit_batch_first_min CHECK (first >= 0),
  CONSTRAINT audit_batch_count_min CHECK (count > 0),
  CONSTRAINT audit_batch_node_len CHECK (octet_length(node) = 16),
  CONSTRAINT audit_batch_root_len CHECK (octet_length(root) = 32),
  CONSTRAINT audit_batch_tag_len CHECK (octet_length(tag) = 32)
);
-- To try to make them shorter costs more time than it saves: they hold random ids and salts.
ALTER TABLE audit_batch ALTER COLUMN records SET STORAGE EXTERNAL;
COMMENT ON TABLE audit_batch IS 'Records of the audit log that became durable together.';
COMMENT ON COLUMN audit_batch.first IS 'index of the first of them';
COMMENT ON COLUMN audit_batch.count IS 'how many there are';
COMMENT ON COLUMN audit_batch.epoch IS 'the epoch of the head that they were appended to';
COMMENT ON COLUMN audit_batch.node IS 'random id of who wrote them, for as long as it ran';
COMMENT ON COLUMN audit_batch.number IS 'the number that its writer gave the batch';
COMMENT ON COLUMN audit_batch.root IS 'root hash of the tree with them';
COMMENT ON COLUMN audit_batch.records IS 'length, salt and body of each, one behind the other';
COMMENT ON COLUMN audit_batch.tag IS 'HMAC over all other columns';

-- The authenticated map over the rows of all other tables but the outbox: see spec/state-map.md.

-- The map over the rows of all other tables but the outbox, as a tree. The seal of each node stands in the node above it.
CREATE TABLE map_node (
  id         bigint NOT NULL,
  bytes      bytea NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT map_node_pk PRIMARY KEY (id)
);
COMMENT ON TABLE map_node IS 'The map over the rows of all other tables but the outbox, as a tree. The seal of each node stands in the node above it.';
COMMENT ON COLUMN map_node.id IS 'counts from 1; none is given twice';
COMMENT ON COLUMN map_node.bytes IS 'the entries';
COMMENT ON COLUMN map_node.generation IS 'how often the row was written';
COMMENT ON COLUMN map_node.seal IS 'HMAC over all other columns';

-- The head of the map. Its generation and root stand in the record of every change.
CREATE TABLE map_head (
  "only"              bigint NOT NULL,
  root_node           bigint NOT NULL,
  root                bytea NOT NULL,
  next_node           bigint NOT NULL,
  entries             bigint NOT NULL,
  recorded            bytea,
  recorded_generation bigint NOT NULL,
  generation          bigint NOT NULL,
  seal                bytea NOT NULL,
  CONSTRAINT map_head_pk PRIMARY KEY ("only"),
  CONSTRAINT map_head_only CHECK ("only" = 1)
);
COMMENT ON TABLE map_head IS 'The head of the map. Its generation and root stand in the record of every change.';
COMMENT ON COLUMN map_head."only" IS 'always 1: there is one row';
COMMENT ON COLUMN map_head.root_node IS 'the node that all others hang from';
COMMENT ON COLUMN map_head.root IS 'its seal';
COMMENT ON COLUMN map_head.next_node IS 'the id that the next new node gets';
COMMENT ON COLUMN map_head.entries IS 'entries in the map';
COMMENT ON COLUMN map_head.recorded IS 'the request of the last change with a record; NULL while the map is being built';
COMMENT ON COLUMN map_head.recorded_generation IS 'the generation that it made';
COMMENT ON COLUMN map_head.generation IS 'counts the commits';
COMMENT ON COLUMN map_head.seal IS 'HMAC over all other columns';

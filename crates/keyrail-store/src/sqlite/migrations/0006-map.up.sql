-- The authenticated map over the rows of all other tables but the outbox: see spec/state-map.md.

-- Nodes of the map. The seal of each stands in the node above it, that of the root in the head.
CREATE TABLE map_node (
  id          INTEGER NOT NULL, -- counts from 1; none is given twice
  bytes       BLOB    NOT NULL, -- the entries
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT map_node_pk PRIMARY KEY (id)
) STRICT;

-- The head of the map. Its generation and root stand in the record of every change.
CREATE TABLE map_head (
  only                INTEGER NOT NULL, -- always 1: there is one row
  root_node           INTEGER NOT NULL, -- the node that all others hang from
  root                BLOB    NOT NULL, -- its seal
  next_node           INTEGER NOT NULL, -- the id that the next new node gets
  entries             INTEGER NOT NULL, -- entries in the map
  recorded            BLOB,             -- the request of the last change with a record; NULL while the map is being built
  recorded_generation INTEGER NOT NULL, -- the generation that it made
  generation          INTEGER NOT NULL, -- counts the commits
  seal                BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT map_head_pk PRIMARY KEY (only),
  CONSTRAINT map_head_only CHECK (only = 1)
) STRICT, WITHOUT ROWID;

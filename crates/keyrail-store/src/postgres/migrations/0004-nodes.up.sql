-- Several nodes over one store: each works under a lease. The one writer of before is no more.

CREATE TABLE node_lease (
  node       bytea NOT NULL,
  epoch      bigint NOT NULL,
  millis     bigint NOT NULL,
  generation bigint NOT NULL,
  CONSTRAINT node_lease_pk PRIMARY KEY (node),
  CONSTRAINT node_lease_node_len CHECK (octet_length(node) = 16)
) WITH (fillfactor = 50);
COMMENT ON TABLE node_lease IS 'What each node may work under: see spec/retirement.md. No time stands here, on which no two clocks would agree.';
COMMENT ON COLUMN node_lease.node IS 'random id of a node, for as long as it runs';
COMMENT ON COLUMN node_lease.epoch IS 'the earliest epoch that the node may work under';
COMMENT ON COLUMN node_lease.millis IS 'how long the lease is, on the clock of the node and from before it asked';
COMMENT ON COLUMN node_lease.generation IS 'counts the renewals';

ALTER TABLE meta DROP COLUMN writer_epoch;

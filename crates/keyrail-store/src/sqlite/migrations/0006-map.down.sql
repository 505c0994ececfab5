DROP TABLE map_head;
DROP TABLE map_node;

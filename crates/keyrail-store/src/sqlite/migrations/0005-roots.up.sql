-- A store has several ways to be opened; the one that an earlier schema knew is the primary one.
ALTER TABLE root_slot ADD COLUMN
  role TEXT; -- pending or recovery; primary if NULL

ALTER TABLE root_slot ADD COLUMN
  recipients TEXT; -- JSON list of whom its shares were encrypted to

ALTER TABLE root_slot ADD COLUMN
  rehearsed_at INTEGER; -- when its root last proved to open the store

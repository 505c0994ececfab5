-- Columns that came later stand behind the seal; the seal covers them where they are not NULL (spec/sealed-row.md).

-- Use before a countdown began was answered for when it began.
ALTER TABLE data_key_version ADD COLUMN
  destroy_began_at INTEGER; -- when the countdown to destruction began

-- The window was promised to callers; the key's label may say another one by now.
ALTER TABLE data_key_version ADD COLUMN
  fenced_window_seconds INTEGER; -- the longest write window its label had when it stopped encrypting

-- So that one principal cannot take all the room.
ALTER TABLE idempotency ADD COLUMN
  principal TEXT; -- who asked, as in the record

CREATE INDEX idempotency_principal ON idempotency (principal);

-- What a campaign overwrote is scrubbed, whichever process ends it.
ALTER TABLE campaign ADD COLUMN
  scrub_due INTEGER; -- 1 if the files may hold plaintext that was overwritten

ALTER TABLE campaign ADD COLUMN
  not_scrubbed TEXT; -- JSON list of what the last scrub left, and why

ALTER TABLE campaign ADD COLUMN
  resumed_by TEXT; -- who resumed it last

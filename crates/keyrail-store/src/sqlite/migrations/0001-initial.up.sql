-- The first schema of a Keyrail store.
--
-- Columns come in three groups: what never changes, what may change, and bookkeeping (generation, seal).
-- Ids are 16 random bytes, times are milliseconds since 1970 UTC, states are words. Every row carries the
-- number of its changes (generation) and an HMAC over all its columns (seal, see spec/sealed-row.md).

-- Ways to open the store: the root key, wrapped by a root of trust.
CREATE TABLE root_slot (
  id          BLOB    NOT NULL, -- id of the slot
  slot        BLOB    NOT NULL, -- kind, parameters and the wrapped root key
  created_at  INTEGER NOT NULL, -- when the row was made
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT root_slot_pk PRIMARY KEY (id),
  CONSTRAINT root_slot_id_len CHECK (length(id) = 16)
) STRICT, WITHOUT ROWID;

-- Keys directly under the root key that are no master keys.
CREATE TABLE root_secret (
  purpose         TEXT    NOT NULL, -- what the key is for
  id              BLOB    NOT NULL, -- bound into the wrapping
  wrapped         BLOB    NOT NULL, -- the key, wrapped by the root key
  wrap_generation INTEGER NOT NULL, -- counts the wrappings
  created_at      INTEGER NOT NULL, -- when the row was made
  generation      INTEGER NOT NULL, -- how often the row was written
  seal            BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT root_secret_pk PRIMARY KEY (purpose),
  CONSTRAINT root_secret_purpose CHECK (purpose IN ('log-signing', 'store'))
) STRICT, WITHOUT ROWID;

-- How the service behaves, where that can be changed while it runs.
CREATE TABLE setting (
  name        TEXT    NOT NULL, -- the name, unique in its place
  value       TEXT    NOT NULL, -- what it is set to
  updated_at  INTEGER NOT NULL, -- when it last changed
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT setting_pk PRIMARY KEY (name),
  CONSTRAINT setting_name CHECK (name IN ('local-operator', 'log-origin'))
) STRICT, WITHOUT ROWID;

-- Isolation boundaries: tenants or data domains.
CREATE TABLE domain (
  id          BLOB    NOT NULL, -- 16 random bytes; never changes
  name        TEXT    NOT NULL, -- the name, unique in its place
  created_at  INTEGER NOT NULL, -- when the row was made
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT domain_pk PRIMARY KEY (id),
  CONSTRAINT domain_name_unique UNIQUE (name),
  CONSTRAINT domain_id_len CHECK (length(id) = 16)
) STRICT, WITHOUT ROWID;

-- Low-code apps, workflows or flows, each in one environment.
CREATE TABLE app (
  id          BLOB    NOT NULL, -- 16 random bytes; never changes
  domain      BLOB    NOT NULL, -- the domain it belongs to
  environment TEXT    NOT NULL, -- part of the identity; nothing crosses it
  name        TEXT    NOT NULL, -- the name, unique in its place
  created_at  INTEGER NOT NULL, -- when the row was made
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT app_pk PRIMARY KEY (id),
  CONSTRAINT app_domain_fk FOREIGN KEY (domain) REFERENCES domain (id),
  CONSTRAINT app_name_unique UNIQUE (domain, environment, name),
  CONSTRAINT app_id_len CHECK (length(id) = 16)
) STRICT, WITHOUT ROWID;

-- Master keys, one for each domain and environment.
CREATE TABLE master_key (
  id          BLOB    NOT NULL, -- 16 random bytes; never changes
  domain      BLOB    NOT NULL, -- the domain it belongs to
  environment TEXT    NOT NULL, -- part of the identity; nothing crosses it
  created_at  INTEGER NOT NULL, -- when the row was made
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT master_key_pk PRIMARY KEY (id),
  CONSTRAINT master_key_domain_fk FOREIGN KEY (domain) REFERENCES domain (id),
  CONSTRAINT master_key_place_unique UNIQUE (domain, environment),
  CONSTRAINT master_key_id_len CHECK (length(id) = 16)
) STRICT, WITHOUT ROWID;

-- Versions of master keys, wrapped by the root key.
CREATE TABLE master_key_version (
  id               BLOB    NOT NULL, -- 16 random bytes; never changes
  master_key       BLOB    NOT NULL, -- the key it is a version of
  version          INTEGER NOT NULL, -- counts from 1
  state            TEXT    NOT NULL, -- active wraps, deactivated unwraps only
  wrapped          BLOB,             -- NULL once destroyed
  wrap_generation  INTEGER NOT NULL, -- how often it was wrapped
  activated_at     INTEGER NOT NULL, -- when it became active
  state_changed_at INTEGER NOT NULL, -- when the state last changed
  generation       INTEGER NOT NULL, -- how often the row was written
  seal             BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT master_key_version_pk PRIMARY KEY (id),
  CONSTRAINT master_key_version_key_fk FOREIGN KEY (master_key) REFERENCES master_key (id),
  CONSTRAINT master_key_version_number_unique UNIQUE (master_key, version),
  CONSTRAINT master_key_version_id_len CHECK (length(id) = 16),
  CONSTRAINT master_key_version_state CHECK (state IN
    ('pre-active', 'active', 'suspended', 'deactivated', 'retired', 'compromised', 'destroyed')),
  CONSTRAINT master_key_version_wrapped CHECK ((wrapped IS NULL) = (state = 'destroyed'))
) STRICT, WITHOUT ROWID;

-- A master key wraps new keys under one version at most.
CREATE UNIQUE INDEX master_key_version_one_active ON master_key_version (master_key) WHERE state = 'active';

-- Labels: classes of data, with what they demand of the keys that protect them. NULL demands nothing.
CREATE TABLE label (
  name                       TEXT    NOT NULL, -- the name, unique in its place
  suite                      TEXT    NOT NULL, -- content algorithm of new key versions
  data_key_age_seconds_max   INTEGER,          -- after so long a new version is due
  data_key_uses_max          INTEGER,          -- after so many uses a new version is due
  master_key_age_seconds_max INTEGER,          -- the same for the master key
  cache_seconds_max          INTEGER NOT NULL, -- how long an unwrapped key is kept at hand
  write_window_seconds       INTEGER NOT NULL, -- how long a caller may still store a ciphertext
  campaign_deadline_seconds  INTEGER,          -- how long moving the data may take
  destroy_wait_seconds       INTEGER NOT NULL, -- how long destruction waits
  approval_role              TEXT,             -- who must approve
  approval_count             INTEGER,          -- how many of them
  created_at                 INTEGER NOT NULL, -- when the row was made
  updated_at                 INTEGER NOT NULL, -- when it last changed
  generation                 INTEGER NOT NULL, -- how often the row was written
  seal                       BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT label_pk PRIMARY KEY (name),
  CONSTRAINT label_approval CHECK ((approval_role IS NULL) = (approval_count IS NULL)),
  CONSTRAINT label_approval_role CHECK (approval_role IN ('owner', 'operator', 'app', 'auditor'))
) STRICT, WITHOUT ROWID;

-- Data keys; their material is in their versions.
CREATE TABLE data_key (
  id          BLOB    NOT NULL, -- 16 random bytes; never changes
  app         BLOB    NOT NULL, -- the app it belongs to
  name        TEXT    NOT NULL, -- the name, unique in its place
  label       TEXT    NOT NULL, -- what is demanded of it
  status      TEXT    NOT NULL, -- disabled: its active version was suspended
  created_at  INTEGER NOT NULL, -- when the row was made
  updated_at  INTEGER NOT NULL, -- when it last changed
  generation  INTEGER NOT NULL, -- counts the changes of the key and its versions
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT data_key_pk PRIMARY KEY (id),
  CONSTRAINT data_key_app_fk FOREIGN KEY (app) REFERENCES app (id),
  CONSTRAINT data_key_label_fk FOREIGN KEY (label) REFERENCES label (name),
  CONSTRAINT data_key_name_unique UNIQUE (app, name),
  CONSTRAINT data_key_id_len CHECK (length(id) = 16),
  CONSTRAINT data_key_status CHECK (status IN ('enabled', 'disabled'))
) STRICT, WITHOUT ROWID;

-- Versions of data keys, each wrapped by one version of a master key.
CREATE TABLE data_key_version (
  kid                      BLOB    NOT NULL, -- stands in every ciphertext of the version
  key                      BLOB    NOT NULL, -- the data key
  version                  INTEGER NOT NULL, -- counts from 1
  state                    TEXT    NOT NULL, -- where it stands in its life
  suite                    TEXT    NOT NULL, -- content algorithm, by its COSE name
  wrapped                  BLOB,             -- NULL once destroyed
  wrapped_by               BLOB    NOT NULL, -- the master key version that wraps it
  wrap_generation          INTEGER NOT NULL, -- how often it was wrapped
  created_at               INTEGER NOT NULL, -- when the row was made
  activated_at             INTEGER,          -- when it became active
  state_changed_at         INTEGER NOT NULL, -- when the state last changed
  fenced_at                INTEGER,          -- when it stopped encrypting
  destroy_wait_seconds     INTEGER,          -- a countdown to destruction: how long in all,
  destroy_observed_seconds INTEGER,          -- how much of it was observed,
  destroy_halt             TEXT,             -- and why it stands still
  generation               INTEGER NOT NULL, -- how often the row was written
  seal                     BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT data_key_version_pk PRIMARY KEY (kid),
  CONSTRAINT data_key_version_key_fk FOREIGN KEY (key) REFERENCES data_key (id),
  CONSTRAINT data_key_version_wrapped_by_fk FOREIGN KEY (wrapped_by) REFERENCES master_key_version (id),
  CONSTRAINT data_key_version_number_unique UNIQUE (key, version),
  CONSTRAINT data_key_version_kid_len CHECK (length(kid) = 16),
  CONSTRAINT data_key_version_state CHECK (state IN
    ('pre-active', 'active', 'suspended', 'deactivated', 'retired', 'compromised', 'destroyed')),
  CONSTRAINT data_key_version_wrapped CHECK ((wrapped IS NULL) = (state = 'destroyed')),
  CONSTRAINT data_key_version_destroy CHECK ((destroy_wait_seconds IS NULL) = (destroy_observed_seconds IS NULL)),
  CONSTRAINT data_key_version_destroy_halt CHECK (destroy_halt IN ('clock-jumped', 'decrypt-refused'))
) STRICT, WITHOUT ROWID;

-- A data key encrypts under one version at most.
CREATE UNIQUE INDEX data_key_version_one_active ON data_key_version (key) WHERE state = 'active';
-- Rewrapping walks over what one master key version wraps.
CREATE INDEX data_key_version_wrapped_by ON data_key_version (wrapped_by, kid);

-- Tokens: who may call. The token itself is kept nowhere.
CREATE TABLE token (
  id          BLOB    NOT NULL, -- 16 random bytes; never changes
  hash        BLOB    NOT NULL, -- keyed hash of the token
  role        TEXT    NOT NULL, -- what the holder may do
  app         TEXT,             -- domain/environment/app that it is confined to
  created_at  INTEGER NOT NULL, -- when the row was made
  expires_at  INTEGER NOT NULL, -- when it ends
  revoked_at  INTEGER,          -- when it was taken back
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT token_pk PRIMARY KEY (id),
  CONSTRAINT token_hash_unique UNIQUE (hash),
  CONSTRAINT token_id_len CHECK (length(id) = 16),
  CONSTRAINT token_role CHECK (role IN ('owner', 'operator', 'app', 'auditor'))
) STRICT, WITHOUT ROWID;

-- Assets: tables of apps, with columns that are protected by a data key.
CREATE TABLE asset (
  id               BLOB    NOT NULL, -- bound into every protected value
  name             TEXT    NOT NULL, -- the name, unique in its place
  url              TEXT    NOT NULL, -- where the database is
  "table"          TEXT    NOT NULL, -- the table
  identity         TEXT    NOT NULL, -- what a value's row is told by
  identity_columns TEXT    NOT NULL, -- JSON list of column names
  key              BLOB    NOT NULL, -- the data key
  state            TEXT    NOT NULL, -- where it stands in its life
  created_at       INTEGER NOT NULL, -- when the row was made
  updated_at       INTEGER NOT NULL, -- when it last changed
  generation       INTEGER NOT NULL, -- how often the row was written
  seal             BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT asset_pk PRIMARY KEY (id),
  CONSTRAINT asset_key_fk FOREIGN KEY (key) REFERENCES data_key (id),
  CONSTRAINT asset_name_unique UNIQUE (name),
  CONSTRAINT asset_id_len CHECK (length(id) = 16),
  CONSTRAINT asset_identity CHECK (identity IN ('primary-key', 'columns', 'none')),
  CONSTRAINT asset_state CHECK (state IN ('registered', 'protected'))
) STRICT, WITHOUT ROWID;

-- Columns of assets, or paths within JSON columns.
CREATE TABLE asset_column (
  id          BLOB    NOT NULL, -- bound into every protected value
  asset       BLOB    NOT NULL, -- the asset
  position    INTEGER NOT NULL, -- its place in the list
  "column"    TEXT    NOT NULL, -- the column
  json_path   TEXT,             -- the path within it, if it holds JSON
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT asset_column_pk PRIMARY KEY (id),
  CONSTRAINT asset_column_asset_fk FOREIGN KEY (asset) REFERENCES asset (id),
  CONSTRAINT asset_column_position_unique UNIQUE (asset, position),
  CONSTRAINT asset_column_id_len CHECK (length(id) = 16)
) STRICT, WITHOUT ROWID;

-- Values that do not open and that somebody took out of the count.
CREATE TABLE accepted_damage (
  asset        BLOB    NOT NULL, -- the asset
  "column"     BLOB    NOT NULL, -- the column
  row          TEXT    NOT NULL, -- the row's identity
  bytes_sha256 BLOB    NOT NULL, -- other bytes count again
  reason       TEXT    NOT NULL, -- why, in words
  accepted_by  TEXT    NOT NULL, -- who took it out
  accepted_at  INTEGER NOT NULL, -- when
  generation   INTEGER NOT NULL, -- how often the row was written
  seal         BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT accepted_damage_pk PRIMARY KEY (asset, "column", row),
  CONSTRAINT accepted_damage_asset_fk FOREIGN KEY (asset) REFERENCES asset (id),
  CONSTRAINT accepted_damage_column_fk FOREIGN KEY ("column") REFERENCES asset_column (id)
) STRICT, WITHOUT ROWID;

-- Campaigns: walks over an asset that put every value where it belongs.
CREATE TABLE campaign (
  id                  BLOB    NOT NULL, -- 16 random bytes; never changes
  asset               BLOB    NOT NULL, -- the asset
  kind                TEXT    NOT NULL, -- what the campaign does
  target              BLOB,             -- the version that values end under; NULL for plaintext
  state               TEXT    NOT NULL, -- where it stands in its life
  cursor              BLOB,             -- rows up to here are done in this pass
  rows_per_second_max INTEGER,          -- how fast it may go
  rows_total          INTEGER NOT NULL, -- rows at its start
  rows_done           INTEGER NOT NULL, -- rows that were looked at
  cells_moved         INTEGER NOT NULL, -- values that were written
  cas_lost            INTEGER NOT NULL, -- rows that somebody else wrote in between
  damaged             INTEGER NOT NULL, -- values that do not open
  bytes               INTEGER NOT NULL, -- bytes that were written
  passes              INTEGER NOT NULL, -- walks over the whole table
  busy_millis         INTEGER NOT NULL, -- time spent at work
  error_code          TEXT,             -- why it stands still
  started_by          TEXT    NOT NULL, -- who began it
  started_at          INTEGER NOT NULL, -- when it began
  updated_at          INTEGER NOT NULL, -- when it last changed
  finished_at         INTEGER,          -- when it ended
  generation          INTEGER NOT NULL, -- how often the row was written
  seal                BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT campaign_pk PRIMARY KEY (id),
  CONSTRAINT campaign_asset_fk FOREIGN KEY (asset) REFERENCES asset (id),
  CONSTRAINT campaign_target_fk FOREIGN KEY (target) REFERENCES data_key_version (kid),
  CONSTRAINT campaign_id_len CHECK (length(id) = 16),
  CONSTRAINT campaign_kind CHECK (kind IN ('protect', 'reencrypt', 'rollback', 'unprotect')),
  CONSTRAINT campaign_state CHECK (state IN ('running', 'paused', 'stopped', 'incomplete', 'completed'))
) STRICT, WITHOUT ROWID;

-- One campaign at a time works on an asset.
CREATE UNIQUE INDEX campaign_one_open ON campaign (asset) WHERE state <> 'completed';

-- How often each version was used, counted from the log.
CREATE TABLE usage (
  kid         BLOB    NOT NULL, -- id of the version; stands in every ciphertext
  principal   TEXT    NOT NULL, -- who used it
  action      TEXT    NOT NULL, -- what for
  place       TEXT    NOT NULL, -- whether an asset accounts for it
  uses        INTEGER NOT NULL, -- how often
  first_at    INTEGER NOT NULL, -- when first
  last_at     INTEGER NOT NULL, -- when last
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT usage_pk PRIMARY KEY (kid, principal, action, place),
  CONSTRAINT usage_place CHECK (place IN ('asset', 'outside'))
) STRICT, WITHOUT ROWID;

-- How far the usage table has followed the log.
CREATE TABLE usage_mark (
  only        INTEGER NOT NULL, -- always 1: there is one row
  log_index   INTEGER NOT NULL, -- records before this one are counted
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT usage_mark_pk PRIMARY KEY (only),
  CONSTRAINT usage_mark_only CHECK (only = 1)
) STRICT, WITHOUT ROWID;

-- Records whose change is stored and which the log may not have yet.
CREATE TABLE outbox (
  request       BLOB    NOT NULL, -- the request of the record
  log_index_min INTEGER NOT NULL, -- the record stands here in the log, or later
  body          BLOB    NOT NULL, -- the record
  seal          BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT outbox_pk PRIMARY KEY (request),
  CONSTRAINT outbox_request_len CHECK (length(request) = 16)
) STRICT, WITHOUT ROWID;

-- The log's head as it was last seen: an older log is told by it.
CREATE TABLE log_head (
  only        INTEGER NOT NULL, -- always 1: there is one row
  size        INTEGER NOT NULL, -- records in the log
  root        BLOB    NOT NULL, -- root hash of the tree of that size
  generation  INTEGER NOT NULL, -- how often the row was written
  seal        BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT log_head_pk PRIMARY KEY (only),
  CONSTRAINT log_head_only CHECK (only = 1)
) STRICT, WITHOUT ROWID;

-- The last look at the clocks, for waits that count observed time.
CREATE TABLE observation (
  only          INTEGER NOT NULL, -- always 1: there is one row
  boot          BLOB    NOT NULL, -- which start of the machine
  wall          INTEGER NOT NULL, -- the clock on the wall
  uptime_millis INTEGER NOT NULL, -- time since that start
  generation    INTEGER NOT NULL, -- how often the row was written
  seal          BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT observation_pk PRIMARY KEY (only),
  CONSTRAINT observation_only CHECK (only = 1)
) STRICT, WITHOUT ROWID;

-- Changes that were asked for under an idempotency key. Answers with a secret are not kept.
CREATE TABLE idempotency (
  key_hash       BLOB    NOT NULL, -- keyed hash of principal and idempotency key
  request_sha256 BLOB    NOT NULL, -- another request under the key is refused
  answer         BLOB,             -- the first answer, if it held no secret
  request        BLOB    NOT NULL, -- the request of the record
  expires_at     INTEGER NOT NULL, -- when it ends
  generation     INTEGER NOT NULL, -- how often the row was written
  seal           BLOB    NOT NULL, -- HMAC over all other columns
  CONSTRAINT idempotency_pk PRIMARY KEY (key_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_expires ON idempotency (expires_at);

-- The first schema of a Keyrail store in PostgreSQL. Run with the schema `keyrail` as the search path.
--
-- The same tables and columns as in SQLite. Ids are 16 random bytes, times are milliseconds since 1970 UTC, states are
-- words. Every row carries the number of its changes (generation) and an HMAC over all its columns (seal, see
-- spec/sealed-row.md). Text is compared and sorted by its bytes (COLLATE "C"), as SQLite does it.

-- What is kept beside the rows of Keyrail: which schema this is, and who writes.
CREATE TABLE meta (
  "only"         bigint NOT NULL,
  schema_version bigint NOT NULL,
  writer_epoch   bigint NOT NULL,
  CONSTRAINT meta_pk PRIMARY KEY ("only"),
  CONSTRAINT meta_only CHECK ("only" = 1)
);
COMMENT ON TABLE meta IS 'Which schema this is, and which process writes.';
COMMENT ON COLUMN meta."only" IS 'always 1: there is one row';
COMMENT ON COLUMN meta.schema_version IS 'the number of the newest migration that was done';
COMMENT ON COLUMN meta.writer_epoch IS 'raised by each process that becomes the writer: the former ones write no more';
INSERT INTO meta VALUES (1, 0, 0);

-- Ways to open the store: the root key, wrapped by a root of trust.
CREATE TABLE root_slot (
  id         bytea NOT NULL,
  slot       bytea NOT NULL,
  created_at bigint NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  role       text COLLATE "C",
  recipients text COLLATE "C",
  rehearsed_at bigint,
  CONSTRAINT root_slot_pk PRIMARY KEY (id),
  CONSTRAINT root_slot_id_len CHECK (octet_length(id) = 16)
);
COMMENT ON TABLE root_slot IS 'Ways to open the store: the root key, wrapped by a root of trust.';
COMMENT ON COLUMN root_slot.id IS 'id of the slot';
COMMENT ON COLUMN root_slot.slot IS 'kind, parameters and the wrapped root key';
COMMENT ON COLUMN root_slot.created_at IS 'when the row was made';
COMMENT ON COLUMN root_slot.generation IS 'how often the row was written';
COMMENT ON COLUMN root_slot.seal IS 'HMAC over all other columns';
COMMENT ON COLUMN root_slot.role IS 'pending or recovery; primary if NULL';
COMMENT ON COLUMN root_slot.recipients IS 'JSON list of whom its shares were encrypted to';
COMMENT ON COLUMN root_slot.rehearsed_at IS 'when its root last proved to open the store';

-- Keys directly under the root key that are no master keys.
CREATE TABLE root_secret (
  purpose         text COLLATE "C" NOT NULL,
  id              bytea NOT NULL,
  wrapped         bytea NOT NULL,
  wrap_generation bigint NOT NULL,
  created_at      bigint NOT NULL,
  generation      bigint NOT NULL,
  seal            bytea NOT NULL,
  CONSTRAINT root_secret_pk PRIMARY KEY (purpose),
  CONSTRAINT root_secret_purpose CHECK (purpose IN ('log-signing', 'store'))
);
COMMENT ON TABLE root_secret IS 'Keys directly under the root key that are no master keys.';
COMMENT ON COLUMN root_secret.purpose IS 'what the key is for';
COMMENT ON COLUMN root_secret.id IS 'bound into the wrapping';
COMMENT ON COLUMN root_secret.wrapped IS 'the key, wrapped by the root key';
COMMENT ON COLUMN root_secret.wrap_generation IS 'counts the wrappings';
COMMENT ON COLUMN root_secret.created_at IS 'when the row was made';
COMMENT ON COLUMN root_secret.generation IS 'how often the row was written';
COMMENT ON COLUMN root_secret.seal IS 'HMAC over all other columns';

-- How the service behaves, where that can be changed while it runs.
CREATE TABLE setting (
  name       text COLLATE "C" NOT NULL,
  "value"    text COLLATE "C" NOT NULL,
  updated_at bigint NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT setting_pk PRIMARY KEY (name),
  CONSTRAINT setting_name CHECK (name IN ('local-operator', 'log-origin', 'accept-async-loss'))
);
COMMENT ON TABLE setting IS 'How the service behaves, where that can be changed while it runs.';
COMMENT ON COLUMN setting.name IS 'the name, unique in its place';
COMMENT ON COLUMN setting."value" IS 'what it is set to';
COMMENT ON COLUMN setting.updated_at IS 'when it last changed';
COMMENT ON COLUMN setting.generation IS 'how often the row was written';
COMMENT ON COLUMN setting.seal IS 'HMAC over all other columns';

-- Isolation boundaries: tenants or data domains.
CREATE TABLE domain (
  id         bytea NOT NULL,
  name       text COLLATE "C" NOT NULL,
  created_at bigint NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT domain_pk PRIMARY KEY (id),
  CONSTRAINT domain_name_unique UNIQUE (name),
  CONSTRAINT domain_id_len CHECK (octet_length(id) = 16)
);
COMMENT ON TABLE domain IS 'Isolation boundaries: tenants or data domains.';
COMMENT ON COLUMN domain.id IS '16 random bytes; never changes';
COMMENT ON COLUMN domain.name IS 'the name, unique in its place';
COMMENT ON COLUMN domain.created_at IS 'when the row was made';
COMMENT ON COLUMN domain.generation IS 'how often the row was written';
COMMENT ON COLUMN domain.seal IS 'HMAC over all other columns';

-- Low-code apps, workflows or flows, each in one environment.
CREATE TABLE app (
  id          bytea NOT NULL,
  domain      bytea NOT NULL,
  environment text COLLATE "C" NOT NULL,
  name        text COLLATE "C" NOT NULL,
  created_at  bigint NOT NULL,
  generation  bigint NOT NULL,
  seal        bytea NOT NULL,
  CONSTRAINT app_pk PRIMARY KEY (id),
  CONSTRAINT app_domain_fk FOREIGN KEY (domain) REFERENCES domain (id),
  CONSTRAINT app_name_unique UNIQUE (domain, environment, name),
  CONSTRAINT app_id_len CHECK (octet_length(id) = 16)
);
COMMENT ON TABLE app IS 'Low-code apps, workflows or flows, each in one environment.';
COMMENT ON COLUMN app.id IS '16 random bytes; never changes';
COMMENT ON COLUMN app.domain IS 'the domain it belongs to';
COMMENT ON COLUMN app.environment IS 'part of the identity; nothing crosses it';
COMMENT ON COLUMN app.name IS 'the name, unique in its place';
COMMENT ON COLUMN app.created_at IS 'when the row was made';
COMMENT ON COLUMN app.generation IS 'how often the row was written';
COMMENT ON COLUMN app.seal IS 'HMAC over all other columns';

-- Master keys, one for each domain and environment.
CREATE TABLE master_key (
  id          bytea NOT NULL,
  domain      bytea NOT NULL,
  environment text COLLATE "C" NOT NULL,
  created_at  bigint NOT NULL,
  generation  bigint NOT NULL,
  seal        bytea NOT NULL,
  CONSTRAINT master_key_pk PRIMARY KEY (id),
  CONSTRAINT master_key_domain_fk FOREIGN KEY (domain) REFERENCES domain (id),
  CONSTRAINT master_key_place_unique UNIQUE (domain, environment),
  CONSTRAINT master_key_id_len CHECK (octet_length(id) = 16)
);
COMMENT ON TABLE master_key IS 'Master keys, one for each domain and environment.';
COMMENT ON COLUMN master_key.id IS '16 random bytes; never changes';
COMMENT ON COLUMN master_key.domain IS 'the domain it belongs to';
COMMENT ON COLUMN master_key.environment IS 'part of the identity; nothing crosses it';
COMMENT ON COLUMN master_key.created_at IS 'when the row was made';
COMMENT ON COLUMN master_key.generation IS 'how often the row was written';
COMMENT ON COLUMN master_key.seal IS 'HMAC over all other columns';

-- Versions of master keys, wrapped by the root key.
CREATE TABLE master_key_version (
  id               bytea NOT NULL,
  master_key       bytea NOT NULL,
  version          bigint NOT NULL,
  state            text COLLATE "C" NOT NULL,
  wrapped          bytea,
  wrap_generation  bigint NOT NULL,
  activated_at     bigint NOT NULL,
  state_changed_at bigint NOT NULL,
  generation       bigint NOT NULL,
  seal             bytea NOT NULL,
  CONSTRAINT master_key_version_pk PRIMARY KEY (id),
  CONSTRAINT master_key_version_key_fk FOREIGN KEY (master_key) REFERENCES master_key (id),
  CONSTRAINT master_key_version_number_unique UNIQUE (master_key, version),
  CONSTRAINT master_key_version_id_len CHECK (octet_length(id) = 16),
  CONSTRAINT master_key_version_state CHECK (state IN
    ('pre-active', 'active', 'suspended', 'deactivated', 'retired', 'compromised', 'destroyed')),
  CONSTRAINT master_key_version_wrapped CHECK ((wrapped IS NULL) = (state = 'destroyed'))
);
COMMENT ON TABLE master_key_version IS 'Versions of master keys, wrapped by the root key.';
COMMENT ON COLUMN master_key_version.id IS '16 random bytes; never changes';
COMMENT ON COLUMN master_key_version.master_key IS 'the key it is a version of';
COMMENT ON COLUMN master_key_version.version IS 'counts from 1';
COMMENT ON COLUMN master_key_version.state IS 'active wraps, deactivated unwraps only';
COMMENT ON COLUMN master_key_version.wrapped IS 'NULL once destroyed';
COMMENT ON COLUMN master_key_version.wrap_generation IS 'how often it was wrapped';
COMMENT ON COLUMN master_key_version.activated_at IS 'when it became active';
COMMENT ON COLUMN master_key_version.state_changed_at IS 'when the state last changed';
COMMENT ON COLUMN master_key_version.generation IS 'how often the row was written';
COMMENT ON COLUMN master_key_version.seal IS 'HMAC over all other columns';

-- Labels: classes of data, with what they demand of the keys that protect them. NULL demands nothing.
CREATE TABLE label (
  name                       text COLLATE "C" NOT NULL,
  suite                      text COLLATE "C" NOT NULL,
  data_key_age_seconds_max   bigint,
  data_key_uses_max          bigint,
  master_key_age_seconds_max bigint,
  cache_seconds_max          bigint NOT NULL,
  write_window_seconds       bigint NOT NULL,
  campaign_deadline_seconds  bigint,
  destroy_wait_seconds       bigint NOT NULL,
  approval_role              text COLLATE "C",
  approval_count             bigint,
  created_at                 bigint NOT NULL,
  updated_at                 bigint NOT NULL,
  generation                 bigint NOT NULL,
  seal                       bytea NOT NULL,
  CONSTRAINT label_pk PRIMARY KEY (name),
  CONSTRAINT label_approval CHECK ((approval_role IS NULL) = (approval_count IS NULL)),
  CONSTRAINT label_approval_role CHECK (approval_role IN ('owner', 'operator', 'app', 'auditor'))
);
COMMENT ON TABLE label IS 'Labels: classes of data, with what they demand of the keys that protect them. NULL demands nothing.';
COMMENT ON COLUMN label.name IS 'the name, unique in its place';
COMMENT ON COLUMN label.suite IS 'content algorithm of new key versions';
COMMENT ON COLUMN label.data_key_age_seconds_max IS 'after so long a new version is due';
COMMENT ON COLUMN label.data_key_uses_max IS 'after so many uses a new version is due';
COMMENT ON COLUMN label.master_key_age_seconds_max IS 'the same for the master key';
COMMENT ON COLUMN label.cache_seconds_max IS 'how long an unwrapped key is kept at hand';
COMMENT ON COLUMN label.write_window_seconds IS 'how long a caller may still store a ciphertext';
COMMENT ON COLUMN label.campaign_deadline_seconds IS 'how long moving the data may take';
COMMENT ON COLUMN label.destroy_wait_seconds IS 'how long destruction waits';
COMMENT ON COLUMN label.approval_role IS 'who must approve';
COMMENT ON COLUMN label.approval_count IS 'how many of them';
COMMENT ON COLUMN label.created_at IS 'when the row was made';
COMMENT ON COLUMN label.updated_at IS 'when it last changed';
COMMENT ON COLUMN label.generation IS 'how often the row was written';
COMMENT ON COLUMN label.seal IS 'HMAC over all other columns';

-- Data keys; their material is in their versions.
CREATE TABLE data_key (
  id         bytea NOT NULL,
  app        bytea NOT NULL,
  name       text COLLATE "C" NOT NULL,
  label      text COLLATE "C" NOT NULL,
  status     text COLLATE "C" NOT NULL,
  created_at bigint NOT NULL,
  updated_at bigint NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT data_key_pk PRIMARY KEY (id),
  CONSTRAINT data_key_app_fk FOREIGN KEY (app) REFERENCES app (id),
  CONSTRAINT data_key_label_fk FOREIGN KEY (label) REFERENCES label (name),
  CONSTRAINT data_key_name_unique UNIQUE (app, name),
  CONSTRAINT data_key_id_len CHECK (octet_length(id) = 16),
  CONSTRAINT data_key_status CHECK (status IN ('enabled', 'disabled'))
);
COMMENT ON TABLE data_key IS 'Data keys; their material is in their versions.';
COMMENT ON COLUMN data_key.id IS '16 random bytes; never changes';
COMMENT ON COLUMN data_key.app IS 'the app it belongs to';
COMMENT ON COLUMN data_key.name IS 'the name, unique in its place';
COMMENT ON COLUMN data_key.label IS 'what is demanded of it';
COMMENT ON COLUMN data_key.status IS 'disabled: its active version was suspended';
COMMENT ON COLUMN data_key.created_at IS 'when the row was made';
COMMENT ON COLUMN data_key.updated_at IS 'when it last changed';
COMMENT ON COLUMN data_key.generation IS 'counts the changes of the key and its versions';
COMMENT ON COLUMN data_key.seal IS 'HMAC over all other columns';

-- Versions of data keys, each wrapped by one version of a master key.
CREATE TABLE data_key_version (
  kid                      bytea NOT NULL,
  "key"                    bytea NOT NULL,
  version                  bigint NOT NULL,
  state                    text COLLATE "C" NOT NULL,
  suite                    text COLLATE "C" NOT NULL,
  wrapped                  bytea,
  wrapped_by               bytea NOT NULL,
  wrap_generation          bigint NOT NULL,
  created_at               bigint NOT NULL,
  activated_at             bigint,
  state_changed_at         bigint NOT NULL,
  fenced_at                bigint,
  destroy_wait_seconds     bigint,
  destroy_observed_seconds bigint,
  destroy_halt             text COLLATE "C",
  generation               bigint NOT NULL,
  seal                     bytea NOT NULL,
  destroy_began_at         bigint,
  fenced_window_seconds    bigint,
  CONSTRAINT data_key_version_pk PRIMARY KEY (kid),
  CONSTRAINT data_key_version_key_fk FOREIGN KEY ("key") REFERENCES data_key (id),
  CONSTRAINT data_key_version_wrapped_by_fk FOREIGN KEY (wrapped_by) REFERENCES master_key_version (id),
  CONSTRAINT data_key_version_number_unique UNIQUE ("key", version),
  CONSTRAINT data_key_version_kid_len CHECK (octet_length(kid) = 16),
  CONSTRAINT data_key_version_state CHECK (state IN
    ('pre-active', 'active', 'suspended', 'deactivated', 'retired', 'compromised', 'destroyed')),
  CONSTRAINT data_key_version_wrapped CHECK ((wrapped IS NULL) = (state = 'destroyed')),
  CONSTRAINT data_key_version_destroy CHECK ((destroy_wait_seconds IS NULL) = (destroy_observed_seconds IS NULL)),
  CONSTRAINT data_key_version_destroy_halt CHECK (destroy_halt IN ('clock-jumped', 'decrypt-refused'))
);
COMMENT ON TABLE data_key_version IS 'Versions of data keys, each wrapped by one version of a master key.';
COMMENT ON COLUMN data_key_version.kid IS 'stands in every ciphertext of the version';
COMMENT ON COLUMN data_key_version."key" IS 'the data key';
COMMENT ON COLUMN data_key_version.version IS 'counts from 1';
COMMENT ON COLUMN data_key_version.state IS 'where it stands in its life';
COMMENT ON COLUMN data_key_version.suite IS 'content algorithm, by its COSE name';
COMMENT ON COLUMN data_key_version.wrapped IS 'NULL once destroyed';
COMMENT ON COLUMN data_key_version.wrapped_by IS 'the master key version that wraps it';
COMMENT ON COLUMN data_key_version.wrap_generation IS 'how often it was wrapped';
COMMENT ON COLUMN data_key_version.created_at IS 'when the row was made';
COMMENT ON COLUMN data_key_version.activated_at IS 'when it became active';
COMMENT ON COLUMN data_key_version.state_changed_at IS 'when the state last changed';
COMMENT ON COLUMN data_key_version.fenced_at IS 'when it stopped encrypting';
COMMENT ON COLUMN data_key_version.destroy_wait_seconds IS 'a countdown to destruction: how long in all';
COMMENT ON COLUMN data_key_version.destroy_observed_seconds IS 'how much of it was observed';
COMMENT ON COLUMN data_key_version.destroy_halt IS 'and why it stands still';
COMMENT ON COLUMN data_key_version.generation IS 'how often the row was written';
COMMENT ON COLUMN data_key_version.seal IS 'HMAC over all other columns';
COMMENT ON COLUMN data_key_version.destroy_began_at IS 'when the countdown to destruction began';
COMMENT ON COLUMN data_key_version.fenced_window_seconds IS 'the longest write window its label had when it stopped encrypting';

-- Tokens: who may call. The token itself is kept nowhere.
CREATE TABLE token (
  id         bytea NOT NULL,
  hash       bytea NOT NULL,
  role       text COLLATE "C" NOT NULL,
  app        text COLLATE "C",
  created_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  revoked_at bigint,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT token_pk PRIMARY KEY (id),
  CONSTRAINT token_hash_unique UNIQUE (hash),
  CONSTRAINT token_id_len CHECK (octet_length(id) = 16),
  CONSTRAINT token_role CHECK (role IN ('owner', 'operator', 'app', 'auditor'))
);
COMMENT ON TABLE token IS 'Tokens: who may call. The token itself is kept nowhere.';
COMMENT ON COLUMN token.id IS '16 random bytes; never changes';
COMMENT ON COLUMN token.hash IS 'keyed hash of the token';
COMMENT ON COLUMN token.role IS 'what the holder may do';
COMMENT ON COLUMN token.app IS 'domain/environment/app that it is confined to';
COMMENT ON COLUMN token.created_at IS 'when the row was made';
COMMENT ON COLUMN token.expires_at IS 'when it ends';
COMMENT ON COLUMN token.revoked_at IS 'when it was taken back';
COMMENT ON COLUMN token.generation IS 'how often the row was written';
COMMENT ON COLUMN token.seal IS 'HMAC over all other columns';

-- Assets: tables of apps, with columns that are protected by a data key.
CREATE TABLE asset (
  id               bytea NOT NULL,
  name             text COLLATE "C" NOT NULL,
  url              text COLLATE "C" NOT NULL,
  "table"          text COLLATE "C" NOT NULL,
  "identity"       text COLLATE "C" NOT NULL,
  identity_columns text COLLATE "C" NOT NULL,
  "key"            bytea NOT NULL,
  state            text COLLATE "C" NOT NULL,
  created_at       bigint NOT NULL,
  updated_at       bigint NOT NULL,
  generation       bigint NOT NULL,
  seal             bytea NOT NULL,
  "schema"         text COLLATE "C",
  CONSTRAINT asset_pk PRIMARY KEY (id),
  CONSTRAINT asset_key_fk FOREIGN KEY ("key") REFERENCES data_key (id),
  CONSTRAINT asset_name_unique UNIQUE (name),
  CONSTRAINT asset_id_len CHECK (octet_length(id) = 16),
  CONSTRAINT asset_identity CHECK ("identity" IN ('primary-key', 'columns', 'none')),
  CONSTRAINT asset_state CHECK (state IN ('registered', 'protected'))
);
COMMENT ON TABLE asset IS 'Assets: tables of apps, with columns that are protected by a data key.';
COMMENT ON COLUMN asset.id IS 'bound into every protected value';
COMMENT ON COLUMN asset.name IS 'the name, unique in its place';
COMMENT ON COLUMN asset.url IS 'where the database is';
COMMENT ON COLUMN asset."table" IS 'the table';
COMMENT ON COLUMN asset."identity" IS 'what a value''s row is told by';
COMMENT ON COLUMN asset.identity_columns IS 'JSON list of column names';
COMMENT ON COLUMN asset."key" IS 'the data key';
COMMENT ON COLUMN asset.state IS 'where it stands in its life';
COMMENT ON COLUMN asset.created_at IS 'when the row was made';
COMMENT ON COLUMN asset.updated_at IS 'when it last changed';
COMMENT ON COLUMN asset.generation IS 'how often the row was written';
COMMENT ON COLUMN asset.seal IS 'HMAC over all other columns';
COMMENT ON COLUMN asset."schema" IS 'the schema with the table';

-- Columns of assets, or paths within JSON columns.
CREATE TABLE asset_column (
  id         bytea NOT NULL,
  asset      bytea NOT NULL,
  "position" bigint NOT NULL,
  "column"   text COLLATE "C" NOT NULL,
  json_path  text COLLATE "C",
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT asset_column_pk PRIMARY KEY (id),
  CONSTRAINT asset_column_asset_fk FOREIGN KEY (asset) REFERENCES asset (id),
  CONSTRAINT asset_column_position_unique UNIQUE (asset, "position"),
  CONSTRAINT asset_column_id_len CHECK (octet_length(id) = 16)
);
COMMENT ON TABLE asset_column IS 'Columns of assets, or paths within JSON columns.';
COMMENT ON COLUMN asset_column.id IS 'bound into every protected value';
COMMENT ON COLUMN asset_column.asset IS 'the asset';
COMMENT ON COLUMN asset_column."position" IS 'its place in the list';
COMMENT ON COLUMN asset_column."column" IS 'the column';
COMMENT ON COLUMN asset_column.json_path IS 'the path within it, if it holds JSON';
COMMENT ON COLUMN asset_column.generation IS 'how often the row was written';
COMMENT ON COLUMN asset_column.seal IS 'HMAC over all other columns';

-- Values that do not open and that somebody took out of the count.
CREATE TABLE accepted_damage (
  asset        bytea NOT NULL,
  "column"     bytea NOT NULL,
  "row"        text COLLATE "C" NOT NULL,
  bytes_sha256 bytea NOT NULL,
  reason       text COLLATE "C" NOT NULL,
  accepted_by  text COLLATE "C" NOT NULL,
  accepted_at  bigint NOT NULL,
  generation   bigint NOT NULL,
  seal         bytea NOT NULL,
  CONSTRAINT accepted_damage_pk PRIMARY KEY (asset, "column", "row"),
  CONSTRAINT accepted_damage_asset_fk FOREIGN KEY (asset) REFERENCES asset (id),
  CONSTRAINT accepted_damage_column_fk FOREIGN KEY ("column") REFERENCES asset_column (id)
);
COMMENT ON TABLE accepted_damage IS 'Values that do not open and that somebody took out of the count.';
COMMENT ON COLUMN accepted_damage.asset IS 'the asset';
COMMENT ON COLUMN accepted_damage."column" IS 'the column';
COMMENT ON COLUMN accepted_damage."row" IS 'the row''s identity';
COMMENT ON COLUMN accepted_damage.bytes_sha256 IS 'other bytes count again';
COMMENT ON COLUMN accepted_damage.reason IS 'why, in words';
COMMENT ON COLUMN accepted_damage.accepted_by IS 'who took it out';
COMMENT ON COLUMN accepted_damage.accepted_at IS 'when';
COMMENT ON COLUMN accepted_damage.generation IS 'how often the row was written';
COMMENT ON COLUMN accepted_damage.seal IS 'HMAC over all other columns';

-- Campaigns: walks over an asset that put every value where it belongs.
CREATE TABLE campaign (
  id                  bytea NOT NULL,
  asset               bytea NOT NULL,
  kind                text COLLATE "C" NOT NULL,
  target              bytea,
  state               text COLLATE "C" NOT NULL,
  "cursor"            bytea,
  rows_per_second_max bigint,
  rows_total          bigint NOT NULL,
  rows_done           bigint NOT NULL,
  cells_moved         bigint NOT NULL,
  cas_lost            bigint NOT NULL,
  damaged             bigint NOT NULL,
  bytes               bigint NOT NULL,
  passes              bigint NOT NULL,
  busy_millis         bigint NOT NULL,
  error_code          text COLLATE "C",
  started_by          text COLLATE "C" NOT NULL,
  started_at          bigint NOT NULL,
  updated_at          bigint NOT NULL,
  finished_at         bigint,
  generation          bigint NOT NULL,
  seal                bytea NOT NULL,
  scrub_due           bigint,
  not_scrubbed        text COLLATE "C",
  resumed_by          text COLLATE "C",
  CONSTRAINT campaign_pk PRIMARY KEY (id),
  CONSTRAINT campaign_asset_fk FOREIGN KEY (asset) REFERENCES asset (id),
  CONSTRAINT campaign_target_fk FOREIGN KEY (target) REFERENCES data_key_version (kid),
  CONSTRAINT campaign_id_len CHECK (octet_length(id) = 16),
  CONSTRAINT campaign_kind CHECK (kind IN ('protect', 'reencrypt', 'rollback', 'unprotect')),
  CONSTRAINT campaign_state CHECK (state IN ('running', 'paused', 'stopped', 'incomplete', 'completed'))
);
COMMENT ON TABLE campaign IS 'Campaigns: walks over an asset that put every value where it belongs.';
COMMENT ON COLUMN campaign.id IS '16 random bytes; never changes';
COMMENT ON COLUMN campaign.asset IS 'the asset';
COMMENT ON COLUMN campaign.kind IS 'what the campaign does';
COMMENT ON COLUMN campaign.target IS 'the version that values end under; NULL for plaintext';
COMMENT ON COLUMN campaign.state IS 'where it stands in its life';
COMMENT ON COLUMN campaign."cursor" IS 'rows up to here are done in this pass';
COMMENT ON COLUMN campaign.rows_per_second_max IS 'how fast it may go';
COMMENT ON COLUMN campaign.rows_total IS 'rows at its start';
COMMENT ON COLUMN campaign.rows_done IS 'rows that were looked at';
COMMENT ON COLUMN campaign.cells_moved IS 'values that were written';
COMMENT ON COLUMN campaign.cas_lost IS 'rows that somebody else wrote in between';
COMMENT ON COLUMN campaign.damaged IS 'values that do not open';
COMMENT ON COLUMN campaign.bytes IS 'bytes that were written';
COMMENT ON COLUMN campaign.passes IS 'walks over the whole table';
COMMENT ON COLUMN campaign.busy_millis IS 'time spent at work';
COMMENT ON COLUMN campaign.error_code IS 'why it stands still';
COMMENT ON COLUMN campaign.started_by IS 'who began it';
COMMENT ON COLUMN campaign.started_at IS 'when it began';
COMMENT ON COLUMN campaign.updated_at IS 'when it last changed';
COMMENT ON COLUMN campaign.finished_at IS 'when it ended';
COMMENT ON COLUMN campaign.generation IS 'how often the row was written';
COMMENT ON COLUMN campaign.seal IS 'HMAC over all other columns';
COMMENT ON COLUMN campaign.scrub_due IS '1 if the files may hold plaintext that was overwritten';
COMMENT ON COLUMN campaign.not_scrubbed IS 'JSON list of what the last scrub left, and why';
COMMENT ON COLUMN campaign.resumed_by IS 'who resumed it last';

-- How often each version was used, counted from the log.
CREATE TABLE "usage" (
  kid        bytea NOT NULL,
  principal  text COLLATE "C" NOT NULL,
  action     text COLLATE "C" NOT NULL,
  place      text COLLATE "C" NOT NULL,
  uses       bigint NOT NULL,
  first_at   bigint NOT NULL,
  last_at    bigint NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT usage_pk PRIMARY KEY (kid, principal, action, place),
  CONSTRAINT usage_place CHECK (place IN ('asset', 'outside'))
);
COMMENT ON TABLE "usage" IS 'How often each version was used, counted from the log.';
COMMENT ON COLUMN "usage".kid IS 'id of the version; stands in every ciphertext';
COMMENT ON COLUMN "usage".principal IS 'who used it';
COMMENT ON COLUMN "usage".action IS 'what for';
COMMENT ON COLUMN "usage".place IS 'whether an asset accounts for it';
COMMENT ON COLUMN "usage".uses IS 'how often';
COMMENT ON COLUMN "usage".first_at IS 'when first';
COMMENT ON COLUMN "usage".last_at IS 'when last';
COMMENT ON COLUMN "usage".generation IS 'how often the row was written';
COMMENT ON COLUMN "usage".seal IS 'HMAC over all other columns';

-- How far the usage table has followed the log.
CREATE TABLE usage_mark (
  "only"     bigint NOT NULL,
  log_index  bigint NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT usage_mark_pk PRIMARY KEY ("only"),
  CONSTRAINT usage_mark_only CHECK ("only" = 1)
);
COMMENT ON TABLE usage_mark IS 'How far the usage table has followed the log.';
COMMENT ON COLUMN usage_mark."only" IS 'always 1: there is one row';
COMMENT ON COLUMN usage_mark.log_index IS 'records before this one are counted';
COMMENT ON COLUMN usage_mark.generation IS 'how often the row was written';
COMMENT ON COLUMN usage_mark.seal IS 'HMAC over all other columns';

-- Records whose change is stored and which the log may not have yet.
CREATE TABLE outbox (
  request       bytea NOT NULL,
  log_index_min bigint NOT NULL,
  body          bytea NOT NULL,
  seal          bytea NOT NULL,
  CONSTRAINT outbox_pk PRIMARY KEY (request),
  CONSTRAINT outbox_request_len CHECK (octet_length(request) = 16)
);
COMMENT ON TABLE outbox IS 'Records whose change is stored and which the log may not have yet.';
COMMENT ON COLUMN outbox.request IS 'the request of the record';
COMMENT ON COLUMN outbox.log_index_min IS 'the record stands here in the log, or later';
COMMENT ON COLUMN outbox.body IS 'the record';
COMMENT ON COLUMN outbox.seal IS 'HMAC over all other columns';

-- The log's head as it was last seen: an older log is told by it.
CREATE TABLE log_head (
  "only"     bigint NOT NULL,
  size       bigint NOT NULL,
  root       bytea NOT NULL,
  generation bigint NOT NULL,
  seal       bytea NOT NULL,
  CONSTRAINT log_head_pk PRIMARY KEY ("only"),
  CONSTRAINT log_head_only CHECK ("only" = 1)
);
COMMENT ON TABLE log_head IS 'The log''s head as it was last seen: an older log is told by it.';
COMMENT ON COLUMN log_head."only" IS 'always 1: there is one row';
COMMENT ON COLUMN log_head.size IS 'records in the log';
COMMENT ON COLUMN log_head.root IS 'root hash of the tree of that size';
COMMENT ON COLUMN log_head.generation IS 'how often the row was written';
COMMENT ON COLUMN log_head.seal IS 'HMAC over all other columns';

-- The last look at the clocks, for waits that count observed time.
CREATE TABLE observation (
  "only"        bigint NOT NULL,
  boot          bytea NOT NULL,
  wall          bigint NOT NULL,
  uptime_millis bigint NOT NULL,
  generation    bigint NOT NULL,
  seal          bytea NOT NULL,
  CONSTRAINT observation_pk PRIMARY KEY ("only"),
  CONSTRAINT observation_only CHECK ("only" = 1)
);
COMMENT ON TABLE observation IS 'The last look at the clocks, for waits that count observed time.';
COMMENT ON COLUMN observation."only" IS 'always 1: there is one row';
COMMENT ON COLUMN observation.boot IS 'which start of the machine';
COMMENT ON COLUMN observation.wall IS 'the clock on the wall';
COMMENT ON COLUMN observation.uptime_millis IS 'time since that start';
COMMENT ON COLUMN observation.generation IS 'how often the row was written';
COMMENT ON COLUMN observation.seal IS 'HMAC over all other columns';

-- Changes that were asked for under an idempotency key. Answers with a secret are not kept.
CREATE TABLE idempotency (
  key_hash       bytea NOT NULL,
  request_sha256 bytea NOT NULL,
  answer         bytea,
  request        bytea NOT NULL,
  expires_at     bigint NOT NULL,
  generation     bigint NOT NULL,
  seal           bytea NOT NULL,
  principal      text COLLATE "C",
  CONSTRAINT idempotency_pk PRIMARY KEY (key_hash)
);
COMMENT ON TABLE idempotency IS 'Changes that were asked for under an idempotency key. Answers with a secret are not kept.';
COMMENT ON COLUMN idempotency.key_hash IS 'keyed hash of principal and idempotency key';
COMMENT ON COLUMN idempotency.request_sha256 IS 'another request under the key is refused';
COMMENT ON COLUMN idempotency.answer IS 'the first answer, if it held no secret';
COMMENT ON COLUMN idempotency.request IS 'the request of the record';
COMMENT ON COLUMN idempotency.expires_at IS 'when it ends';
COMMENT ON COLUMN idempotency.generation IS 'how often the row was written';
COMMENT ON COLUMN idempotency.seal IS 'HMAC over all other columns';
COMMENT ON COLUMN idempotency.principal IS 'who asked, as in the record';

-- A master key wraps new keys under one version at most.
CREATE UNIQUE INDEX master_key_version_one_active ON master_key_version (master_key) WHERE state = 'active';

-- A data key encrypts under one version at most.
CREATE UNIQUE INDEX data_key_version_one_active ON data_key_version ("key") WHERE state = 'active';

-- Rewrapping walks over what one master key version wraps.
CREATE INDEX data_key_version_wrapped_by ON data_key_version (wrapped_by, kid);

-- One campaign at a time works on an asset.
CREATE UNIQUE INDEX campaign_one_open ON campaign (asset) WHERE state <> 'completed';

CREATE INDEX idempotency_expires ON idempotency (expires_at);

CREATE INDEX idempotency_principal ON idempotency (principal);

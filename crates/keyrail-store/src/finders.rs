//! The questions that the engine asks, each with its name.

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::Campaign;
use keyrail_core::id::{
    AppId, AssetId, CampaignId, DataKeyId, DomainId, MasterKeyId, MasterVersionId, RequestId, TokenId,
};
use keyrail_core::key::{App, DataKey, DataKeyVersion, Domain, Keyring, MasterKey, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::{AppPath, EnvironmentPath, KeyName, Name};
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, ObservationRow, OutboxEntry, RootSecret, RootSlotRow, Setting, SettingName, UsageMark,
};
use keyrail_core::time::Timestamp;
use keyrail_core::token::Token;
use keyrail_core::usage::{Usage, UsageKey};
use keyrail_crypto::envelope::Kid;

use crate::driver::Condition;
use crate::error::StoreError;
use crate::field::Field;
use crate::row::Row;
use crate::state::State;

/// What a single-row table is asked by.
const ONLY: u64 = 1;

fn is(column: &'static str, value: &impl Field) -> Condition {
    Condition::Equal(column, value.to_value())
}

macro_rules! finders {
    ($($(#[$meta:meta])* $name:ident($($arg:ident: $type:ty => $column:literal),*) -> $way:ident $row:ty;)+) => {
        #[allow(missing_docs, reason = "each finder's first line says what it finds; errors are those of State::page")]
        impl State {$(
            $(#[$meta])*
            ///
            /// # Errors
            /// As [`State::page`].
            pub async fn $name(&self, $($arg: $type),*) -> Result<finders!(@answer $way $row), StoreError> {
                self.$way(vec![$(is($column, $arg)),*]).await
            }
        )+}
    };
    (@answer one $row:ty) => { Option<$row> };
    (@answer all $row:ty) => { Vec<$row> };
}

finders! {
    /// All ways to open the store.
    root_slots() -> all RootSlotRow;
    /// The keys directly under the root key that are no master keys.
    root_secrets() -> all RootSecret;
    /// The domain of this name.
    domain_by_name(name: &Name => "name") -> one Domain;
    /// The domain of this id.
    domain(id: &DomainId => "id") -> one Domain;
    /// All domains.
    domains() -> all Domain;
    /// The app of this name in a domain and environment.
    app_by_name(domain: &DomainId => "domain", environment: &Name => "environment", name: &Name => "name") -> one App;
    /// The app of this id.
    app(id: &AppId => "id") -> one App;
    /// All apps.
    apps() -> all App;
    /// The master key of a domain and environment.
    master_key(domain: &DomainId => "domain", environment: &Name => "environment") -> one MasterKey;
    /// All master keys.
    master_keys() -> all MasterKey;
    /// A master key version.
    master_version(id: &MasterVersionId => "id") -> one MasterVersion;
    /// The label of this name.
    label_by_name(name: &Name => "name") -> one Label;
    /// All labels.
    labels() -> all Label;
    /// The data key of this name in an app.
    data_key_by_name(app: &AppId => "app", name: &Name => "name") -> one DataKey;
    /// The data key of this id.
    data_key(id: &DataKeyId => "id") -> one DataKey;
    /// All data keys.
    data_keys() -> all DataKey;
    /// The version with this id.
    data_key_version(kid: &Kid => "kid") -> one DataKeyVersion;
    /// The token of this hash.
    token_by_hash(hash: &[u8; 32] => "hash") -> one Token;
    /// The token of this id.
    token(id: &TokenId => "id") -> one Token;
    /// All tokens.
    tokens() -> all Token;
    /// The asset of this name.
    asset_by_name(name: &Name => "name") -> one Asset;
    /// The asset of this id.
    asset(id: &AssetId => "id") -> one Asset;
    /// All assets.
    assets() -> all Asset;
    /// The assets that a data key protects.
    assets_of_key(key: &DataKeyId => "key") -> all Asset;
    /// The damage that somebody accepted in an asset.
    accepted_of(asset: &AssetId => "asset") -> all AcceptedDamage;
    /// The campaigns of an asset.
    campaigns_of(asset: &AssetId => "asset") -> all Campaign;
    /// The campaign of this id.
    campaign(id: &CampaignId => "id") -> one Campaign;
    /// All campaigns.
    campaigns() -> all Campaign;
    /// How often a version was used, by whom and for what.
    usage_of(kid: &Kid => "kid") -> all Usage;
    /// A setting.
    setting(name: &SettingName => "name") -> one Setting;
    /// What is known under an idempotency key.
    idempotency_entry(key_hash: &[u8; 32] => "key_hash") -> one IdempotencyEntry;
}

impl State {
    /// The log's head as it was remembered.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn log_head(&self) -> Result<Option<LogHeadRow>, StoreError> {
        self.one(vec![is("only", &ONLY)]).await
    }

    /// The last look at the clocks.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn observation(&self) -> Result<Option<ObservationRow>, StoreError> {
        self.one(vec![is("only", &ONLY)]).await
    }

    /// How far the usage table has followed the log.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn usage_mark(&self) -> Result<Option<UsageMark>, StoreError> {
        self.one(vec![is("only", &ONLY)]).await
    }

    /// One count of usage.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn usage(&self, key: &UsageKey) -> Result<Option<Usage>, StoreError> {
        self.one(vec![
            is("kid", &key.kid),
            is("principal", &key.principal),
            is("action", &key.action),
            is("place", &key.place),
        ])
        .await
    }

    /// The versions of a master key, in the order of their numbers.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn master_versions(&self, key: &MasterKeyId) -> Result<Vec<MasterVersion>, StoreError> {
        let mut versions: Vec<MasterVersion> = self.all(vec![is("master_key", key)]).await?;
        versions.sort_by_key(|row| row.version);
        Ok(versions)
    }

    /// The active master key version of a domain and environment.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn active_master(
        &self,
        domain: &DomainId,
        environment: &Name,
    ) -> Result<Option<MasterVersion>, StoreError> {
        let Some(key) = self.master_key(domain, environment).await? else {
            return Ok(None);
        };
        self.one(vec![is("master_key", &key.id), is("state", &VersionState::Active)]).await
    }

    /// How many data key versions a master key version wraps.
    ///
    /// # Errors
    /// As [`State::count`].
    pub async fn count_wrapped_by(&self, master: &MasterVersionId) -> Result<u64, StoreError> {
        self.count::<DataKeyVersion>(vec![is("wrapped_by", master)]).await
    }

    /// Data key versions that a master key version wraps, by id, a page at a time.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn wrapped_by(
        &self,
        master: &MasterVersionId,
        after: Option<&Kid>,
        limit: usize,
    ) -> Result<Vec<DataKeyVersion>, StoreError> {
        let after = after.map(|kid| vec![kid.to_value()]);
        self.page(vec![is("wrapped_by", master)], &["kid"], after, limit).await
    }

    /// A data key with its versions.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn keyring(&self, key: DataKey) -> Result<Keyring, StoreError> {
        let mut versions: Vec<DataKeyVersion> = self.all(vec![is("key", &key.id)]).await?;
        versions.sort_by_key(|row| row.version);
        Ok(Keyring { key, versions })
    }

    /// The data key of this full name, with its versions.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn keyring_by_name(&self, name: &KeyName) -> Result<Option<Keyring>, StoreError> {
        let Some(app) = self.app_by_path(&name.app).await? else {
            return Ok(None);
        };
        let Some(key) = self.data_key_by_name(&app.id, &name.key).await? else {
            return Ok(None);
        };
        Ok(Some(self.keyring(key).await?))
    }

    /// The app of this path.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn app_by_path(&self, path: &AppPath) -> Result<Option<App>, StoreError> {
        let Some(domain) = self.domain_by_name(&path.environment.domain).await? else {
            return Ok(None);
        };
        self.app_by_name(&domain.id, &path.environment.environment, &path.app).await
    }

    /// The full name of a data key.
    ///
    /// # Errors
    /// As [`State::page`]; [`StoreError::Malformed`] if its app or domain is gone.
    pub async fn key_name(&self, key: &DataKey) -> Result<KeyName, StoreError> {
        let app =
            self.app(&key.app).await?.ok_or(StoreError::Malformed { table: DataKey::TABLE.name, column: "app" })?;
        let domain = self
            .domain(&app.domain)
            .await?
            .ok_or(StoreError::Malformed { table: App::TABLE.name, column: "domain" })?;
        Ok(KeyName { app: path_of(&domain, &app), key: key.name.clone() })
    }

    /// Data keys with their versions, in the order of their names, a page at a time.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn keyrings_page(
        &self,
        app: Option<&AppPath>,
        after: Option<&KeyName>,
        limit: usize,
    ) -> Result<Vec<(KeyName, Keyring)>, StoreError> {
        let mut page = Vec::new();
        for (name, key) in self.keys_page(app, after, limit).await? {
            page.push((name, self.keyring(key).await?));
        }
        Ok(page)
    }

    /// The same without the versions, so that one that is damaged does not stand in the way of the others.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn keys_page(
        &self,
        app: Option<&AppPath>,
        after: Option<&KeyName>,
        limit: usize,
    ) -> Result<Vec<(KeyName, DataKey)>, StoreError> {
        let domains = self.domains().await?;
        let mut apps: Vec<(AppPath, AppId)> = Vec::new();
        for row in self.apps().await? {
            let Some(domain) = domains.iter().find(|domain| domain.id == row.domain) else {
                continue;
            };
            let path = path_of(domain, &row);
            let wanted = app.is_none_or(|only| *only == path) && after.is_none_or(|after| path >= after.app);
            if wanted {
                apps.push((path, row.id));
            }
        }
        apps.sort();
        let mut page = Vec::new();
        for (path, id) in apps {
            let begin = after.filter(|after| after.app == path).map(|after| vec![after.key.to_value()]);
            let keys: Vec<DataKey> = self.page(vec![is("app", &id)], &["name"], begin, limit - page.len()).await?;
            for key in keys {
                let name = KeyName { app: path.clone(), key: key.name.clone() };
                page.push((name, key));
            }
            if page.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    /// The columns of an asset, in their order.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn columns_of(&self, asset: &AssetId) -> Result<Vec<AssetColumn>, StoreError> {
        let mut columns: Vec<AssetColumn> = self.all(vec![is("asset", asset)]).await?;
        columns.sort_by_key(|row| row.position);
        Ok(columns)
    }

    /// Whether the record of a request is in the outbox: then its change is stored.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn outbox_has(&self, request: &RequestId) -> Result<bool, StoreError> {
        Ok(self.one::<OutboxEntry>(vec![is("request", request)]).await?.is_some())
    }

    /// The records that the log may not have yet.
    ///
    /// # Errors
    /// As [`State::all`].
    pub async fn pending_outbox(&self) -> Result<Vec<OutboxEntry>, StoreError> {
        self.all(Vec::new()).await
    }

    /// Idempotency keys whose time is over, a page of them.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn expired_idempotency(&self, now: Timestamp, limit: usize) -> Result<Vec<IdempotencyEntry>, StoreError> {
        self.page(vec![Condition::Less("expires_at", now.to_value())], IdempotencyEntry::TABLE.key, None, limit).await
    }

    /// How many idempotency keys of one principal are remembered.
    ///
    /// # Errors
    /// [`StoreError`] when the database fails.
    pub async fn count_idempotency_of(&self, principal: &str) -> Result<u64, StoreError> {
        self.count::<IdempotencyEntry>(vec![is("principal", &principal.to_owned())]).await
    }

    /// The idempotency key that is forgotten next.
    ///
    /// # Errors
    /// As [`State::page`].
    pub async fn oldest_idempotency(&self) -> Result<Option<IdempotencyEntry>, StoreError> {
        Ok(self.page(Vec::new(), &["expires_at", "key_hash"], None, 1).await?.pop())
    }

    /// Tokens that ended, or were revoked, before `before`, at most `limit` of each.
    ///
    /// # Errors
    /// As [`State::all`].
    pub async fn tokens_over(&self, before: Timestamp, limit: usize) -> Result<Vec<Token>, StoreError> {
        let over = |column| vec![Condition::Less(column, before.to_value())];
        let mut found = self.page(over("expires_at"), Token::TABLE.key, None, limit).await?;
        let revoked: Vec<Token> = self.page(over("revoked_at"), Token::TABLE.key, None, limit).await?;
        found.extend(revoked.into_iter().filter(|token| token.expires_at >= before));
        Ok(found)
    }

    /// Data key versions whose destruction waits.
    ///
    /// # Errors
    /// As [`State::all`].
    pub async fn waiting_for_destruction(&self) -> Result<Vec<DataKeyVersion>, StoreError> {
        self.all(vec![Condition::Less("destroy_observed_seconds", u64::MAX.to_value())]).await
    }
}

fn path_of(domain: &Domain, app: &App) -> AppPath {
    let environment = EnvironmentPath { domain: domain.name.clone(), environment: app.environment.clone() };
    AppPath { environment, app: app.name.clone() }
}

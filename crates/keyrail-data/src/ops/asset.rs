//! Registering assets, looking at them, counting them.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::asset::{ASSET_COLUMNS_MAX, AcceptedDamage, Asset, AssetColumn, AssetState, IdentityKind};
use keyrail_core::id::{AssetId, ColumnId};
use keyrail_core::name::{KeyName, Name, VersionNumber};
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use keyrail_engine::ops::key::FoundKey;
use keyrail_engine::{Acted, Authorized, Context, EngineError, Operation, Scope, Target, Unsealed, replay_answer};
use keyrail_store::Change;
use serde::{Deserialize, Serialize};

use crate::adapter::{self, AssetSpec, Fit, Severity};
use crate::census::Census;
use crate::error::AssetError;
use crate::keyset::Keyset;
use crate::ops::overlap::{check_free, check_not_ours, choice, overlap};
use crate::ops::{Loaded, counted, load, load_row, require, target};

/// The longest text of a URL, table, column, path or reason, in bytes.
const TEXT_LEN_MAX: usize = 1_024;

/// What tells the rows of a new asset apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IdentityChoice {
    /// The table's primary key.
    PrimaryKey,
    /// These columns, which never change.
    Columns(Vec<String>),
    /// Nothing: values are bound to no row.
    None,
}

/// A column to protect, or a path in its JSON.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ColumnChoice {
    /// The column.
    pub column: String,
    /// The path within its JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_path: Option<String>,
}

/// An asset as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct AssetView {
    /// Its id, bound into every protected value.
    pub id: AssetId,
    /// Its name.
    pub name: Name,
    /// Where the database is.
    pub url: String,
    /// The schema with the table, in a database that has schemas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// What tells rows apart.
    pub identity: IdentityKind,
    /// The columns of the identity.
    pub identity_columns: Vec<String>,
    /// What is protected.
    pub columns: Vec<ColumnView>,
    /// The key.
    pub key: KeyName,
    /// Whether it is protected.
    pub state: AssetState,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts its changes; the ETag.
    pub generation: u64,
    /// What will be different once it is protected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<MisfitView>,
}

/// A protected column.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct ColumnView {
    /// Its id, bound into every protected value.
    pub id: ColumnId,
    /// The column, and the path within its JSON.
    #[serde(flatten)]
    pub choice: ColumnChoice,
}

/// Something about a table that does not go with protected values.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct MisfitView {
    /// What it is.
    pub problem: String,
    /// What to do.
    pub hint: String,
}

impl AssetView {
    pub(crate) fn of(loaded: &Loaded) -> Self {
        let asset = &loaded.asset;
        let column = |row: &AssetColumn| ColumnView { id: row.id, choice: choice(row) };
        Self {
            id: asset.id,
            name: asset.name.clone(),
            url: asset.url.clone(),
            schema: asset.schema.clone(),
            table: asset.table.clone(),
            identity: asset.identity,
            identity_columns: asset.identity_columns.clone(),
            columns: loaded.columns.iter().map(column).collect(),
            key: loaded.key.clone(),
            state: asset.state,
            created_at: asset.created_at,
            updated_at: asset.updated_at,
            generation: asset.generation,
            warnings: Vec::new(),
        }
    }
}

/// Registers a table with the columns to protect. Nothing in it is changed.
#[derive(Clone, Debug)]
pub struct AddAsset {
    /// Its name.
    pub name: Name,
    /// Where the database is, like `sqlite:/srv/app/data.sqlite` or `postgres://app@db.example/crm`.
    pub url: String,
    /// The schema with the table, in a database that has schemas; the first of the search path that has it if left out.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// What tells rows apart.
    pub identity: IdentityChoice,
    /// What is protected.
    pub columns: Vec<ColumnChoice>,
    /// The key.
    pub key: KeyName,
}

impl AddAsset {
    fn check(&self) -> Result<(), EngineError> {
        let invalid = |problem: &str, hint| EngineError::Invalid { problem: problem.to_owned(), hint };
        if self.columns.is_empty() || self.columns.len() > ASSET_COLUMNS_MAX {
            return Err(invalid("an asset has 1 to 64 columns", "name each with --column"));
        }
        let texts = self.columns.iter().flat_map(|row| [Some(&row.column), row.json_path.as_ref()]).flatten();
        let texts = texts.chain(self.schema.as_ref());
        if texts.chain([&self.url, &self.table]).any(|text| text.is_empty() || text.len() > TEXT_LEN_MAX) {
            return Err(invalid(
                "a URL, schema, table, column or path is empty or longer than 1024 bytes",
                "shorten it",
            ));
        }
        for (index, row) in self.columns.iter().enumerate() {
            for other in self.columns.iter().skip(index + 1) {
                if other.column != row.column && other.column.eq_ignore_ascii_case(&row.column) {
                    return Err(invalid("a column is named in two spellings", "spell it one way"));
                }
                if overlap(row, other) {
                    return Err(invalid("a column or path is named twice", "name each once"));
                }
            }
        }
        Ok(())
    }

    fn rows(&self, key: &keyrail_core::key::DataKey, now: Timestamp) -> Result<(Asset, Vec<AssetColumn>), EngineError> {
        let (identity, identity_columns) = match &self.identity {
            IdentityChoice::PrimaryKey => (IdentityKind::PrimaryKey, Vec::new()),
            IdentityChoice::Columns(columns) => (IdentityKind::Columns, columns.clone()),
            IdentityChoice::None => (IdentityKind::None, Vec::new()),
        };
        let asset = Asset {
            id: AssetId::from_bytes(random::array()?),
            name: self.name.clone(),
            url: self.url.clone(),
            schema: self.schema.clone(),
            table: self.table.clone(),
            identity,
            identity_columns,
            key: key.id,
            state: AssetState::Registered,
            created_at: now,
            updated_at: now,
            generation: 1,
        };
        let mut columns = Vec::with_capacity(self.columns.len());
        for (row, position) in self.columns.iter().zip(0..) {
            let id = ColumnId::from_bytes(random::array()?);
            columns.push(AssetColumn {
                id,
                asset: asset.id,
                position,
                column: row.column.clone(),
                json_path: row.json_path.clone(),
                generation: 1,
            });
        }
        Ok((asset, columns))
    }
}

impl Operation for AddAsset {
    const ACTION: Action = Action::AssetAdd;
    type Loaded = (FoundKey, Option<Asset>);
    type Answer = AssetView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok((open.key(&self.key).await?, open.state().asset_by_name(&self.name).await?))
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::of_app("asset", self.name.to_string(), self.key.app.clone())
    }

    async fn act(
        authorized: &Authorized<Self>,
        (key, former): Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<AssetView>, EngineError> {
        let op = authorized.op();
        op.check()?;
        let key = key.ok_or_else(|| EngineError::NotFound { what: "key", name: op.key.to_string() })?;
        if former.is_some() {
            return Err(EngineError::Exists { what: "asset", name: op.name.to_string() });
        }
        let (mut asset, columns) = op.rows(&key.keyring.key, cx.now)?;
        check_not_ours(cx.open, &asset)?;
        check_free(cx.open, &asset, &columns).await?;
        let fit = inspect(&asset, &columns).await?;
        let (refusals, warnings): (Vec<_>, Vec<_>) =
            fit.misfits.iter().partition(|misfit| misfit.severity == Severity::Refusal);
        if let Some(first) = refusals.first() {
            let problem = refusals.iter().map(|misfit| misfit.problem.as_str()).collect::<Vec<_>>().join("; ");
            let error = AssetError::Unfit { problem, hint: first.hint.clone() };
            return Err(error.into_engine(op.name.as_str()));
        }
        asset.identity_columns = fit.identity_columns;
        asset.schema = fit.schema;
        // Once more, with the schema that was found.
        check_free(cx.open, &asset, &columns).await?;
        let mut change = Change::new();
        change.insert(&asset);
        for column in &columns {
            change.insert(column);
        }
        let mut view = AssetView::of(&Loaded { asset, columns, key: op.key.clone() });
        view.warnings = warnings
            .into_iter()
            .map(|misfit| MisfitView { problem: misfit.problem.clone(), hint: misfit.hint.clone() })
            .collect();
        Ok(Acted::new(view).change(change).detail("key", &op.key).detail("table", &op.table).detail("url", &op.url))
    }
}

pub(crate) async fn inspect(asset: &Asset, columns: &[AssetColumn]) -> Result<Fit, EngineError> {
    let name = asset.name.to_string();
    let spec = AssetSpec::of(asset, columns).map_err(|error| error.into_engine(&name))?;
    let looked = tokio::task::spawn_blocking(move || adapter::open(&spec).and_then(|mut adapter| adapter.inspect()));
    let looked = looked.await.map_err(|_| EngineError::Bug { what: "looking at a table ended by a panic" })?;
    looked.map_err(|error| error.into_engine(&name))
}

/// Looks at an asset.
#[derive(Clone, Debug)]
pub struct ShowAsset {
    /// Its name.
    pub name: Name,
}

impl Operation for ShowAsset {
    const ACTION: Action = Action::AssetRead;
    type Loaded = Option<Loaded>;
    type Answer = AssetView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        load(open, &self.name).await
    }

    fn target(&self, found: &Self::Loaded) -> Target {
        target(found.as_ref(), &self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<AssetView>, EngineError> {
        Ok(Acted::new(AssetView::of(&require(found, &authorized.op().name)?)))
    }
}

/// Lists the assets.
#[derive(Clone, Copy, Debug)]
pub struct ListAssets;

impl Operation for ListAssets {
    const ACTION: Action = Action::AssetRead;
    type Loaded = Vec<Loaded>;
    type Answer = Vec<AssetView>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        let mut assets = Vec::new();
        for asset in open.state().assets().await? {
            assets.push(load_row(open, asset).await?);
        }
        assets.sort_by(|one, other| one.asset.name.cmp(&other.asset.name));
        Ok(assets)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("assets", None)
    }

    async fn act(
        _: &Authorized<Self>,
        found: Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        Ok(Acted::new(found.iter().map(AssetView::of).collect()))
    }
}

/// Follows a table, column or file that got another name. Ids stay, so that every value still opens.
#[derive(Clone, Debug, Default)]
pub struct UpdateAsset {
    /// The asset.
    pub name: Option<Name>,
    /// Where the database is now.
    pub url: Option<String>,
    /// The schema that the table is in now.
    pub schema: Option<String>,
    /// What the table is called now.
    pub table: Option<String>,
    /// Columns with their former and their present name.
    pub columns: Vec<(String, String)>,
}

impl UpdateAsset {
    fn asset_name(&self) -> Result<&Name, EngineError> {
        self.name
            .as_ref()
            .ok_or_else(|| EngineError::Invalid { problem: "no asset is named".to_owned(), hint: "name one" })
    }
}

impl Operation for UpdateAsset {
    const ACTION: Action = Action::AssetUpdate;
    type Loaded = Option<Loaded>;
    type Answer = AssetView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        load(open, self.asset_name()?).await
    }

    fn target(&self, found: &Self::Loaded) -> Target {
        let name = self.name.as_ref().map(ToString::to_string);
        let scope = Scope::of_app_or_elsewhere(found.as_ref().map(|loaded| loaded.key.app.clone()));
        Target { what: "asset", name, scope }
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<AssetView>, EngineError> {
        let op = authorized.op();
        let mut loaded = require(found, op.asset_name()?)?;
        cx.check_match(loaded.asset.generation)?;
        if let Some((unknown, _)) = op.columns.iter().find(|(former, _)| {
            !loaded.columns.iter().any(|row| row.column == *former) && !loaded.asset.identity_columns.contains(former)
        }) {
            return Err(EngineError::NotFound { what: "column of the asset", name: unknown.clone() });
        }
        let mut change = Change::new();
        let renamed = |name: &String| op.columns.iter().find(|(former, _)| former == name).map(|(_, now)| now.clone());
        for column in &mut loaded.columns {
            if let Some(now) = renamed(&column.column) {
                column.column = now;
                column.generation += 1;
                change.update(&*column);
            }
        }
        let asset = &mut loaded.asset;
        asset.url = op.url.clone().unwrap_or_else(|| asset.url.clone());
        asset.schema = op.schema.clone().or_else(|| asset.schema.clone());
        asset.table = op.table.clone().unwrap_or_else(|| asset.table.clone());
        asset.identity_columns =
            asset.identity_columns.iter().map(|name| renamed(name).unwrap_or_else(|| name.clone())).collect();
        asset.updated_at = cx.now;
        asset.generation += 1;
        check_not_ours(cx.open, &loaded.asset)?;
        check_free(cx.open, &loaded.asset, &loaded.columns).await?;
        let fit = inspect(&loaded.asset, &loaded.columns).await?;
        loaded.asset.schema = fit.schema;
        change.update(&loaded.asset);
        let (table, url) = (loaded.asset.table.clone(), loaded.asset.url.clone());
        Ok(Acted::new(AssetView::of(&loaded)).change(change).detail("table", table).detail("url", url))
    }
}

/// Counts what an asset really holds, by opening it.
#[derive(Clone, Debug)]
pub struct CensusAsset {
    /// The asset.
    pub name: Name,
}

/// What an asset holds.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct CensusView {
    /// The asset.
    pub asset: Name,
    /// Rows of the table.
    pub rows: u64,
    /// Values by key version; every version of the key is listed.
    pub versions: Vec<VersionCount>,
    /// Values that are not protected.
    pub plaintext: u64,
    /// Rows with such a value.
    pub rows_plaintext: u64,
    /// Values that do not open.
    pub damaged: u64,
    /// Rows with such a value.
    pub rows_damaged: u64,
    /// Damaged values that somebody accepted.
    pub accepted_damaged: u64,
    /// Cells without a value.
    pub null: u64,
    /// Rows without any value.
    pub rows_empty: u64,
    /// Damaged values, up to a limit.
    pub damaged_listed: Vec<DamagedView>,
}

/// Values under one version.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct VersionCount {
    /// The version's number.
    pub version: VersionNumber,
    /// Its state.
    pub state: keyrail_core::lifecycle::VersionState,
    /// Values under it.
    pub values: u64,
    /// Rows whose oldest value is under it.
    pub rows: u64,
}

/// A value that does not open.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct DamagedView {
    /// The row's identity.
    pub row: String,
    /// The column.
    pub column: String,
}

impl CensusView {
    /// What a census found, in terms of the key's versions.
    pub fn of(asset: &Name, keys: &Keyset, census: &Census) -> Self {
        let version = |row: &keyrail_core::key::DataKeyVersion| VersionCount {
            version: row.version,
            state: row.state,
            values: census.cells.get(&row.kid).copied().unwrap_or(0),
            rows: census.rows_by_version.get(&row.kid).copied().unwrap_or(0),
        };
        Self {
            asset: asset.clone(),
            rows: census.rows,
            versions: keys.keyring().versions.iter().map(version).collect(),
            plaintext: census.plaintext,
            rows_plaintext: census.rows_plaintext,
            damaged: census.damaged,
            rows_damaged: census.rows_damaged,
            accepted_damaged: census.accepted,
            null: census.null,
            rows_empty: census.rows_empty,
            damaged_listed: census
                .listed
                .iter()
                .map(|cell| DamagedView { row: cell.row.clone(), column: cell.name.clone() })
                .collect(),
        }
    }
}

impl Operation for CensusAsset {
    const ACTION: Action = Action::AssetCensus;
    type Loaded = Option<Loaded>;
    type Answer = CensusView;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        load(open, &self.name).await
    }

    fn target(&self, found: &Self::Loaded) -> Target {
        target(found.as_ref(), &self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<CensusView>, EngineError> {
        let name = &authorized.op().name;
        let loaded = require(found, name)?;
        let counted = counted(cx, &loaded).await?;
        let (keys, census) = counted.as_ref();
        let mut acted = Acted::new(CensusView::of(name, keys, census)).asset(name);
        for detail in crate::campaign::census_detail(census, keys) {
            acted = acted.detail(&detail.name, &detail.value);
        }
        Ok(acted)
    }
}

/// Takes the damaged values of a row out of the count, with a reason; their bytes stay as they are.
#[derive(Clone, Debug)]
pub struct AcceptDamaged {
    /// The asset.
    pub name: Name,
    /// The row's identity, as the census lists it.
    pub row: String,
    /// Why.
    pub reason: String,
}

impl Operation for AcceptDamaged {
    const ACTION: Action = Action::AssetAcceptDamaged;
    type Loaded = Option<Loaded>;
    type Answer = CensusView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        load(open, &self.name).await
    }

    fn target(&self, found: &Self::Loaded) -> Target {
        target(found.as_ref(), &self.name)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<CensusView>, EngineError> {
        let op = authorized.op();
        let loaded = require(found, &op.name)?;
        if op.reason.trim().is_empty() || op.reason.len() > TEXT_LEN_MAX {
            return Err(EngineError::Invalid {
                problem: "a reason has 1 to 1024 bytes".to_owned(),
                hint: "say why with --reason",
            });
        }
        let counted = counted(cx, &loaded).await?;
        let (keys, census) = counted.as_ref();
        let former = cx.open.state().accepted_of(&loaded.asset.id).await?;
        let mut change = Change::new();
        let mut accepted = 0;
        for cell in census.listed.iter().filter(|cell| cell.row == op.row) {
            let Some(bytes_sha256) = cell.fingerprint else { continue };
            let before = former.iter().find(|row| row.column == cell.column && row.row == cell.row);
            let row = AcceptedDamage {
                asset: loaded.asset.id,
                column: cell.column,
                row: cell.row.clone(),
                bytes_sha256,
                reason: op.reason.clone(),
                accepted_by: authorized.principal().label(),
                accepted_at: cx.now,
                generation: before.map_or(1, |row| row.generation + 1),
            };
            if before.is_some() {
                change.update(&row)
            } else {
                change.insert(&row)
            };
            accepted += 1;
        }
        if accepted == 0 {
            return Err(EngineError::NotFound { what: "damaged value in row", name: op.row.clone() });
        }
        let mut view = CensusView::of(&op.name, keys, census);
        view.damaged = view.damaged.saturating_sub(accepted);
        view.accepted_damaged += accepted;
        view.damaged_listed.retain(|cell| cell.row != op.row);
        let acted = Acted::new(view).change(change).asset(&op.name);
        Ok(acted.detail("row", &op.row).detail("reason", &op.reason).detail("values", accepted))
    }
}

//! The operations on assets and campaigns, through the engine's one pipeline.

pub mod asset;
pub mod campaign;
mod overlap;

use std::sync::Arc;

use keyrail_core::asset::{Asset, AssetColumn};
use keyrail_core::name::{KeyName, Name};
use keyrail_engine::{Context, EngineError, Scope, Target, Unsealed};

use crate::adapter::{self, AssetSpec};
use crate::census::{self, Accepted, Census};
use crate::keyset::Keyset;

/// An asset with what belongs to it.
pub struct Loaded {
    /// The asset.
    pub asset: Asset,
    /// Its columns, in their order.
    pub columns: Vec<AssetColumn>,
    /// The full name of its key.
    pub key: KeyName,
}

pub(crate) async fn load(open: &Unsealed, name: &Name) -> Result<Option<Loaded>, EngineError> {
    match open.state().asset_by_name(name).await? {
        Some(asset) => load_row(open, asset).await.map(Some),
        None => Ok(None),
    }
}

pub(crate) async fn load_row(open: &Unsealed, asset: Asset) -> Result<Loaded, EngineError> {
    let columns = open.state().columns_of(&asset.id).await?;
    let key = open.state().data_key(&asset.key).await?.ok_or(EngineError::Bug { what: "an asset without a key" })?;
    let key = open.state().key_name(&key).await?;
    Ok(Loaded { asset, columns, key })
}

pub(crate) fn require(found: Option<Loaded>, name: &Name) -> Result<Loaded, EngineError> {
    found.ok_or_else(|| EngineError::NotFound { what: "asset", name: name.to_string() })
}

/// An asset belongs to the app of its key.
pub(crate) fn target(found: Option<&Loaded>, name: &Name) -> Target {
    let scope = Scope::of_app_or_elsewhere(found.map(|loaded| loaded.key.app.clone()));
    Target { what: "asset", name: Some(name.to_string()), scope }
}

/// Takes the census of an asset, once for a request: other changes may overtake it as long as it is about the same.
pub(crate) async fn counted(cx: &Context<'_>, loaded: &Loaded) -> Result<Arc<(Keyset, Census)>, EngineError> {
    let accepted = cx.open.state().accepted_of(&loaded.asset.id).await?;
    let key = cx.open.key(&loaded.key).await?.map(|key| key.keyring.key.generation);
    let about = (loaded.asset.clone(), loaded.columns.clone(), accepted, key);
    cx.once(about, async { census_of(cx.open, &loaded.asset, &loaded.key).await.map(Arc::new) }).await
}

/// Takes the census of an asset now.
pub(crate) async fn census_of(
    open: &Arc<Unsealed>,
    asset: &Asset,
    key: &KeyName,
) -> Result<(Keyset, Census), EngineError> {
    let columns = open.state().columns_of(&asset.id).await?;
    let accepted = Accepted::of(&open.state().accepted_of(&asset.id).await?);
    let keys = Keyset::load(open, key).await?;
    let name = asset.name.to_string();
    let spec = AssetSpec::of(asset, &columns).map_err(|error| error.into_engine(&name))?;
    let unsealed = open.clone();
    let counted = tokio::task::spawn_blocking(move || {
        // The keys are wiped from memory when the store is sealed: then nothing is opened with them any more.
        let mut goes_on = |_| unsealed.still_open().is_ok();
        let taken = adapter::open(&spec)
            .and_then(|mut adapter| census::take(adapter.as_mut(), &spec, &keys, &accepted, &mut goes_on));
        (keys, taken)
    });
    let (keys, taken) = counted.await.map_err(|_| EngineError::Bug { what: "a census ended by a panic" })?;
    let census = taken.map_err(|error| error.into_engine(&name))?;
    match census {
        Some(census) => Ok((keys, census)),
        None => Err(open.still_open().err().unwrap_or(EngineError::Bug { what: "a census was stopped by nobody" })),
    }
}

//! Wrapping: what each key is bound to.

use keyrail_core::id::MasterVersionId;
use keyrail_core::key::{DataKeyVersion, MasterVersion, NewVersion};
use keyrail_core::name::VersionNumber;
use keyrail_core::system::{RootSecret, RootSecretPurpose};
use keyrail_crypto::CryptoError;
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::random;
use keyrail_crypto::secret::{AsSecret, DataKey, MasterKey, RootKey, SigningSeed, StoreKey, Wraps};
use keyrail_crypto::suite::Suite;
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use keyrail_store::StoreError;

use crate::error::EngineError;

const DATA_KEY_TABLE: &str = "data_key_version";
const MASTER_KEY_TABLE: &str = "master_key_version";
pub(crate) const ROOT_SECRET_TABLE: &str = "root_secret";

/// A new data key version, wrapped; its material is known to nobody else yet.
pub(crate) fn new_data_key(
    master: &MasterKey,
    wrapped_by: MasterVersionId,
    version: VersionNumber,
    suite: Suite,
) -> Result<NewVersion, EngineError> {
    let kid = Kid::from_bytes(random::array()?);
    let key = DataKey::generate()?;
    let wrapped = wrap_data_key(master, &key, &kid, version, 1)?;
    Ok(NewVersion { kid, suite, wrapped, wrapped_by })
}

pub(crate) fn wrap_data_key(
    master: &MasterKey,
    key: &DataKey,
    kid: &Kid,
    version: VersionNumber,
    generation: u64,
) -> Result<Vec<u8>, EngineError> {
    let context = WrapContext { table: DATA_KEY_TABLE, id: kid.as_bytes(), version: version.get(), generation };
    Ok(master.wrap(key, &context)?.as_bytes().to_vec())
}

pub(crate) fn unwrap_data_key(master: &MasterKey, row: &DataKeyVersion) -> Result<DataKey, EngineError> {
    let wrapped =
        row.wrapped.as_deref().ok_or(EngineError::VersionUnusable { version: row.version, state: row.state })?;
    let context = WrapContext {
        table: DATA_KEY_TABLE,
        id: row.kid.as_bytes(),
        version: row.version.get(),
        generation: row.wrap_generation,
    };
    Ok(master.unwrap_key(&WrappedKey::from_bytes(wrapped)?, &context)?)
}

pub(crate) fn wrap_master_key(
    root: &RootKey,
    key: &MasterKey,
    id: &MasterVersionId,
    version: VersionNumber,
    generation: u64,
) -> Result<Vec<u8>, EngineError> {
    let context = WrapContext { table: MASTER_KEY_TABLE, id: id.as_bytes(), version: version.get(), generation };
    Ok(root.wrap(key, &context)?.as_bytes().to_vec())
}

pub(crate) fn unwrap_master_key(root: &RootKey, row: &MasterVersion) -> Result<MasterKey, EngineError> {
    let wrapped =
        row.wrapped.as_deref().ok_or(EngineError::VersionUnusable { version: row.version, state: row.state })?;
    let context = WrapContext {
        table: MASTER_KEY_TABLE,
        id: row.id.as_bytes(),
        version: row.version.get(),
        generation: row.wrap_generation,
    };
    Ok(root.unwrap_key(&WrappedKey::from_bytes(wrapped)?, &context)?)
}

/// Puts a master key version under another root key; a row without a key in it stays as it is.
pub(crate) fn rewrap_master_key(
    present: &RootKey,
    next: &RootKey,
    row: &MasterVersion,
) -> Result<MasterVersion, EngineError> {
    if row.wrapped.is_none() {
        return Ok(row.clone());
    }
    let (key, generation) = (unwrap_master_key(present, row)?, row.wrap_generation + 1);
    let wrapped = wrap_master_key(next, &key, &row.id, row.version, generation)?;
    Ok(MasterVersion {
        wrapped: Some(wrapped),
        wrap_generation: generation,
        generation: row.generation + 1,
        ..row.clone()
    })
}

/// Puts a key that lies directly under the root key and is no master key under another root key.
pub(crate) fn rewrap_root_secret(
    present: &RootKey,
    next: &RootKey,
    row: &RootSecret,
) -> Result<RootSecret, EngineError> {
    let generation = row.wrap_generation + 1;
    let context = WrapContext { table: ROOT_SECRET_TABLE, id: &row.id, version: 1, generation };
    let wrapped = match row.purpose {
        RootSecretPurpose::Store => next.wrap(&unwrap_root_secret::<StoreKey>(present, row)?, &context)?,
        RootSecretPurpose::LogSigning => next.wrap(&unwrap_root_secret::<SigningSeed>(present, row)?, &context)?,
    };
    let wrapped = wrapped.as_bytes().to_vec();
    Ok(RootSecret { wrapped, wrap_generation: generation, generation: row.generation + 1, ..row.clone() })
}

/// Wraps a key that lies directly under the root key and is no master key.
pub(crate) fn wrap_root_secret<K>(
    root: &RootKey,
    key: &K,
    purpose: RootSecretPurpose,
    now: keyrail_core::time::Timestamp,
) -> Result<RootSecret, EngineError>
where
    K: AsSecret,
    RootKey: Wraps<K>,
{
    let id = random::array()?;
    let context = WrapContext { table: ROOT_SECRET_TABLE, id: &id, version: 1, generation: 1 };
    let wrapped = root.wrap(key, &context)?.as_bytes().to_vec();
    Ok(RootSecret { purpose, id, wrapped, wrap_generation: 1, created_at: now, generation: 1 })
}

pub(crate) fn unwrap_root_secret<K>(root: &RootKey, row: &RootSecret) -> Result<K, EngineError>
where
    K: AsSecret,
    RootKey: Wraps<K>,
{
    let context = WrapContext { table: ROOT_SECRET_TABLE, id: &row.id, version: 1, generation: row.wrap_generation };
    let unwrapped = WrappedKey::from_bytes(&row.wrapped).and_then(|wrapped| root.unwrap_key(&wrapped, &context));
    unwrapped.map_err(|error| match error {
        // The root key opened its slot, so it is the right one.
        CryptoError::Unopenable => {
            StoreError::RowSeal { table: ROOT_SECRET_TABLE, id: row.purpose.as_str().to_owned() }.into()
        }
        other => other.into(),
    })
}

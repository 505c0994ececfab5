//! Encrypt, decrypt, re-encrypt, and data keys for callers who encrypt by themselves.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::key::DataKeyVersion;
use keyrail_core::name::{KeyName, VersionNumber};
use keyrail_core::record::VersionUse;
use keyrail_crypto::envelope::{self, Context as EnvelopeContext, Kid, PLAINTEXT_LEN_MAX};
use keyrail_crypto::secret::Plaintext;
use keyrail_crypto::{CryptoError, random};
use parking_lot::Mutex;

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::ops::key::{FoundKey, key_target, require};
use crate::parallel::spread;
use crate::pipeline::{Acted, Context, Operation, Target};
use crate::unsealed::{Material, OpenKey, Unsealed};

/// The most items of one request.
pub const ITEMS_MAX: usize = 10_000;

/// The lengths of data keys that can be asked for, in bytes.
pub const DATA_KEY_LENS: [usize; 3] = [16, 32, 64];

/// The outcome of one item: an error of one does not touch the others.
pub type Item<T> = Result<T, EngineError>;

/// Something to encrypt.
pub struct EncryptItem {
    /// The data.
    pub plaintext: Plaintext,
    /// What it belongs to.
    pub context: EnvelopeContext,
}

/// Something to decrypt or to re-encrypt.
pub struct CiphertextItem {
    /// The ciphertext, in its text form.
    pub ciphertext: String,
    /// What it belongs to.
    pub context: EnvelopeContext,
}

/// A ciphertext and the version it is under.
#[derive(Clone, Debug)]
pub struct Encrypted {
    /// The ciphertext, in its text form.
    pub ciphertext: String,
    /// The version's number.
    pub version: VersionNumber,
}

/// A plaintext and the version it was under.
pub struct Decrypted {
    /// The data.
    pub plaintext: Plaintext,
    /// The version's number.
    pub version: VersionNumber,
}

/// Encrypts a batch under the active version.
pub struct Encrypt {
    /// The key.
    pub key: KeyName,
    /// The items; each may be malformed already, with its own error.
    pub items: Vec<Item<EncryptItem>>,
}

impl Operation for Encrypt {
    const ACTION: Action = Action::DataEncrypt;
    type Loaded = FoundKey;
    type Answer = Vec<Item<Encrypted>>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        key_target(&self.key)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        let op = authorized.op();
        let key = require(found, &op.key)?;
        check_len(op.items.len())?;
        let material = active_material(&key, cx).await?;
        let results = spread(op.items.iter().collect(), |item: &Item<_>| seal(&material, item));
        Ok(summarize(results, cx, |done: &Encrypted| done.version, std::slice::from_ref(&material.version)))
    }
}

fn seal(material: &Material, item: &Item<EncryptItem>) -> Item<Encrypted> {
    let item = item.as_ref().map_err(repeat)?;
    let ciphertext =
        envelope::seal_text(&material.key_ref(), &item.context, item.plaintext.as_bytes()).map_err(seal_error)?;
    Ok(Encrypted { ciphertext, version: material.version.version })
}

fn seal_error(error: CryptoError) -> EngineError {
    match error {
        CryptoError::PlaintextTooLong { len, max } => {
            EngineError::TooLarge { what: "the plaintext", unit: "bytes", len, max }
        }
        other => other.into(),
    }
}

/// Decrypts a batch; each item may be under another version of the key.
pub struct Decrypt {
    /// The key that the caller expects.
    pub key: KeyName,
    /// The items.
    pub items: Vec<Item<CiphertextItem>>,
}

impl Operation for Decrypt {
    const ACTION: Action = Action::DataDecrypt;
    type Loaded = FoundKey;
    type Answer = Vec<Item<Decrypted>>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        key_target(&self.key)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        let op = authorized.op();
        let key = require(found, &op.key)?;
        check_len(op.items.len())?;
        let versions = Versions::of_items(&key, &op.items, cx).await?;
        let results = spread(op.items.iter().collect(), |item: &Item<_>| {
            versions.open(item).map(|(plaintext, version)| Decrypted { plaintext, version })
        });
        Ok(summarize(results, cx, |done: &Decrypted| done.version, &key.keyring.versions))
    }
}

/// Puts a batch under the active version, each item with its context kept.
pub struct Reencrypt {
    /// The key.
    pub key: KeyName,
    /// The items.
    pub items: Vec<Item<CiphertextItem>>,
}

impl Operation for Reencrypt {
    const ACTION: Action = Action::DataReencrypt;
    type Loaded = FoundKey;
    type Answer = Vec<Item<Encrypted>>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        key_target(&self.key)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        let op = authorized.op();
        let key = require(found, &op.key)?;
        check_len(op.items.len())?;
        let active = active_material(&key, cx).await?;
        let versions = Versions::of_items(&key, &op.items, cx).await?;
        let opened = Mutex::new(BTreeMap::<VersionNumber, u64>::new());
        let results = spread(op.items.iter().collect(), |item: &Item<_>| {
            let (plaintext, from) = versions.open(item)?;
            *opened.lock().entry(from).or_default() += 1;
            let item = item.as_ref().map_err(repeat)?;
            let ciphertext =
                envelope::seal_text(&active.key_ref(), &item.context, plaintext.as_bytes()).map_err(seal_error)?;
            Ok(Encrypted { ciphertext, version: active.version.version })
        });
        let acted = summarize(results, cx, |done: &Encrypted| done.version, &key.keyring.versions);
        let opened = opened.into_inner().into_iter().filter_map(|(from, count)| {
            let row = key.keyring.version(from).ok()?;
            Some(VersionUse { version: from, kid: row.kid, count, opened: true })
        });
        Ok(acted.versions(opened))
    }
}

/// Makes a data key for a caller who encrypts by himself: the plain key, and its ciphertext under this key.
pub struct MakeDataKey {
    /// The key that protects it.
    pub key: KeyName,
    /// What it belongs to.
    pub context: EnvelopeContext,
    /// Its length in bytes.
    pub len: usize,
}

/// A data key for a caller.
pub struct DataKeyPair {
    /// The plain key; the caller forgets it after use.
    pub plaintext: Plaintext,
    /// The same key, encrypted: an ordinary ciphertext that decrypt opens and re-encrypt moves.
    pub ciphertext: String,
    /// The version it is under.
    pub version: VersionNumber,
}

impl Operation for MakeDataKey {
    const ACTION: Action = Action::DataDataKey;
    type Loaded = FoundKey;
    type Answer = DataKeyPair;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<FoundKey, EngineError> {
        open.key(&self.key).await
    }

    fn target(&self, _: &FoundKey) -> Target {
        key_target(&self.key)
    }

    async fn act(
        authorized: &Authorized<Self>,
        found: FoundKey,
        cx: &Context<'_>,
    ) -> Result<Acted<DataKeyPair>, EngineError> {
        let op = authorized.op();
        let key = require(found, &op.key)?;
        if !DATA_KEY_LENS.contains(&op.len) {
            return Err(EngineError::Invalid {
                problem: "a data key has 16, 32 or 64 bytes".to_owned(),
                hint: "leave `bytes` out for 32",
            });
        }
        let material = active_material(&key, cx).await?;
        let mut bytes = vec![0; op.len];
        random::fill(&mut bytes)?;
        let plaintext = Plaintext::new(bytes);
        let ciphertext = envelope::seal_text(&material.key_ref(), &op.context, plaintext.as_bytes())?;
        let version = &material.version;
        let used = VersionUse { version: version.version, kid: version.kid, count: 1, opened: false };
        Ok(Acted::new(DataKeyPair { plaintext, ciphertext, version: version.version }).version(used).batch(1, 0))
    }
}

fn check_len(len: usize) -> Result<(), EngineError> {
    if len > ITEMS_MAX {
        Err(EngineError::TooLarge { what: "the batch", unit: "items", len, max: ITEMS_MAX })
    } else {
        Ok(())
    }
}

/// The material of the active version.
async fn active_material(key: &OpenKey, cx: &Context<'_>) -> Result<Arc<Material>, EngineError> {
    let disabled = || keyrail_core::key::KeyError::Disabled { name: key.keyring.key.name.clone() };
    let active = key.keyring.active().ok_or_else(disabled)?;
    let permit = active
        .for_encrypt()
        .map_err(|refusal| EngineError::VersionUnusable { version: refusal.version, state: refusal.state })?;
    cx.open.material_to_encrypt(key, &permit).await
}

/// The versions that a batch needs, unwrapped before the batch is spread over threads.
struct Versions<'a> {
    key: &'a OpenKey,
    materials: BTreeMap<Kid, Arc<Material>>,
}

impl<'a> Versions<'a> {
    async fn of_items(key: &'a OpenKey, items: &[Item<CiphertextItem>], cx: &Context<'_>) -> Result<Self, EngineError> {
        let mut materials: BTreeMap<Kid, Arc<Material>> = BTreeMap::new();
        for item in items.iter().flatten() {
            // Our own layout tells its kid at once; what other libraries wrote is parsed as a whole.
            let parsed = || envelope::parse_text(&item.ciphertext).ok().map(|header| header.kid);
            let Some(kid) = envelope::peek_kid(&item.ciphertext).or_else(parsed) else { continue };
            if materials.contains_key(&kid) {
                continue;
            }
            let Some(version) = key.keyring.by_kid(&kid) else { continue };
            match version.for_decrypt() {
                Ok(permit) => {
                    materials.insert(kid, cx.open.material_to_decrypt(key, &permit).await?);
                }
                Err(_) => cx.open.refused_decrypt(key, version).await?,
            }
        }
        Ok(Self { key, materials })
    }

    fn open(&self, item: &Item<CiphertextItem>) -> Item<(Plaintext, VersionNumber)> {
        let item = item.as_ref().map_err(repeat)?;
        let bytes = envelope::from_text(&item.ciphertext).map_err(|_| EngineError::NotCiphertext)?;
        let header = envelope::parse(&bytes).map_err(|_| EngineError::NotCiphertext)?;
        let version = self.key.keyring.by_kid(&header.kid).ok_or(EngineError::OtherKey)?;
        let unusable = || EngineError::VersionUnusable { version: version.version, state: version.state };
        let material = self.materials.get(&header.kid).ok_or_else(unusable)?;
        Ok((envelope::open(&material.key_ref(), &item.context, &bytes)?, version.version))
    }
}

/// Counts what was done under which version, for the record.
fn summarize<T>(
    results: Vec<Item<T>>,
    cx: &Context<'_>,
    version: impl Fn(&T) -> VersionNumber,
    rows: &[DataKeyVersion],
) -> Acted<Vec<Item<T>>> {
    let mut counts: BTreeMap<VersionNumber, u64> = BTreeMap::new();
    for done in results.iter().flatten() {
        *counts.entry(version(done)).or_default() += 1;
    }
    let failed = results.iter().filter(|result| result.is_err()).count();
    let used = counts.into_iter().filter_map(|(number, count)| {
        let row = rows.iter().find(|row| row.version == number)?;
        Some(VersionUse { version: number, kid: row.kid, count, opened: false })
    });
    let used: Vec<_> = used.collect();
    let items = results.len();
    cx.open.metrics().count_items(items);
    Acted::new(results).versions(used).batch(items, failed)
}

/// An item that came malformed keeps its error.
fn repeat(error: &EngineError) -> EngineError {
    match error {
        EngineError::BadContext => EngineError::BadContext,
        EngineError::TooLarge { what, unit, len, max } => EngineError::TooLarge { what, unit, len: *len, max: *max },
        EngineError::Invalid { problem, hint } => EngineError::Invalid { problem: problem.clone(), hint },
        _ => EngineError::NotCiphertext,
    }
}

/// The most bytes of plaintext in one item.
pub const ITEM_LEN_MAX: usize = PLAINTEXT_LEN_MAX;

//! What the benchmarks need, and no product has: very many keys, made fast, and one part of the background work alone.

use std::hint::black_box;
use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::id::DataKeyId;
use keyrail_core::key::{App, DataKey, Fence, KeyStatus, Keyring, MasterVersion, NewVersion};
use keyrail_core::label::Label;
use keyrail_core::name::{AppPath, KeyName, Name};
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::secret::DataKey as Material;
use keyrail_store::Change;

use crate::authenticate::authenticate;
use crate::authorize::{Authorized, authorize};
use crate::error::EngineError;
use crate::keys;
use crate::ops::data::Encrypt;
use crate::pipeline::{Acted, Context, Operation, Target, execute};
use crate::request::{Caller, Credential};
use crate::scheduler;
use crate::unsealed::Unsealed;

/// Many keys of one app in one change, numbered from `from` on.
struct SeedKeys {
    app: AppPath,
    label: Name,
    from: u32,
    count: u32,
}

/// Makes `count` keys `k<number>` of an app, `in_one` of them in one change.
///
/// # Errors
/// As the creation of a key.
pub async fn seed_keys(
    open: &Arc<Unsealed>,
    (app, label): (&AppPath, &Name),
    numbers: std::ops::Range<u32>,
    in_one: u32,
) -> Result<(), EngineError> {
    let mut from = numbers.start;
    while from < numbers.end {
        let count = in_one.min(numbers.end - from);
        let op = SeedKeys { app: app.clone(), label: label.clone(), from, count };
        execute(open, &Caller::system()?, op).await?;
        from += count;
    }
    Ok(())
}

/// Rewraps until nothing is left to rewrap.
///
/// # Errors
/// As the background work.
pub async fn rewrap(open: &Arc<Unsealed>) -> Result<(), EngineError> {
    loop {
        scheduler::rewrap(open).await?;
        if !open.take_rewrap_on() {
            return Ok(());
        }
    }
}

/// Looks at a token and decides whether its holder may encrypt with a key, `times` times.
///
/// # Errors
/// The holder may not.
pub async fn check(open: &Arc<Unsealed>, token: &str, key: &KeyName, times: u32) -> Result<(), EngineError> {
    for _ in 0..times {
        let (now, op) = (open.now(), Encrypt { key: key.clone(), items: Vec::new() });
        let principal = authenticate(open, Credential::Token(token), now).await?;
        let target = op.target(&None);
        black_box(authorize(open, op, principal, target, None, now).map_err(|refusal| refusal.error)?);
    }
    Ok(())
}

impl Operation for SeedKeys {
    const ACTION: Action = Action::SystemRewrap;
    const FENCES: bool = false;
    type Loaded = (App, Label, MasterVersion);
    type Answer = ();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        let missing = || EngineError::Bug { what: "keys are made where there is no app" };
        let path = &self.app.environment;
        let domain = open.state().domain_by_name(&path.domain).await?.ok_or_else(missing)?;
        let app = open.state().app_by_name(&domain.id, &path.environment, &self.app.app).await?;
        let label = open.state().label_by_name(&self.label).await?;
        let master = open.state().active_master(&domain.id, &path.environment).await?;
        Ok((app.ok_or_else(missing)?, label.ok_or_else(missing)?, master.ok_or_else(missing)?))
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("keys", self.app.to_string())
    }

    async fn act(
        authorized: &Authorized<Self>,
        (app, label, master): Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<()>, EngineError> {
        let op = authorized.op();
        let unwrapped = cx.open.master(master.id).await?;
        let fence = Fence { now: cx.now, write_window_seconds: label.demands.write_window_seconds };
        let mut change = Change::new();
        for number in op.from..op.from + op.count {
            let mut id = [0; 16];
            if let Some(end) = id.last_chunk_mut() {
                *end = number.to_be_bytes();
            }
            let unreadable = |_| EngineError::Bug { what: "a name that is none" };
            let key = DataKey {
                id: DataKeyId::from_bytes(id),
                app: app.id,
                name: format!("k{number}").parse().map_err(unreadable)?,
                label: label.name.clone(),
                status: KeyStatus::Enabled,
                created_at: cx.now,
                updated_at: cx.now,
                generation: 0,
            };
            let empty = Keyring { key, versions: Vec::new() };
            // In their order, so that a million of them is made in minutes.
            let (kid, version) = (Kid::from_bytes(id), empty.next_version()?);
            let wrapped = keys::wrap_data_key(&unwrapped, &Material::generate()?, &kid, version, 1)?;
            let new = NewVersion { kid, suite: label.demands.suite, wrapped, wrapped_by: master.id };
            let rows = empty.rotate(new, fence)?;
            change.insert(&rows.key);
            rows.added.iter().for_each(|row| {
                change.insert(row);
            });
        }
        Ok(Acted::new(()).change(change))
    }
}

//! Which state this process decides under, and when what it decided before was fenced.

use std::sync::atomic::Ordering;

use keyrail_core::fence::Epoch;
use keyrail_core::key::DataKeyVersion;
use keyrail_core::time::{BootTime, Observation, Timestamp};
use keyrail_crypto::envelope::Kid;

use crate::error::EngineError;
use crate::unsealed::{FENCES_MAX, Unsealed};

/// How long after its decision a change of a former process was fenced at the latest, in seconds, as far as that counts.
const FENCE_SECONDS_MAX: u64 = 60;

/// A version that a change of this node fenced on all nodes.
#[derive(Clone)]
pub(super) struct OwnFence {
    pub(super) kid: Kid,
    pub(super) decided_at: Timestamp,
    pub(super) complete: Observation,
}

impl Unsealed {
    /// The generation that may be decided under now.
    ///
    /// # Errors
    /// [`EngineError::NoLease`]: this node has not heard from the store for too long.
    pub(crate) fn present(&self) -> Result<u64, EngineError> {
        if let Some(tenure) = &self.tenure {
            tenure.require()?;
        }
        let generation = self.generation();
        if self.generation.load(Ordering::Acquire) < generation {
            self.learn(Epoch(generation));
        }
        Ok(generation)
    }

    /// The state is of this epoch, or a later one: what is known of former ones is forgotten.
    pub(crate) fn learn(&self, epoch: Epoch) {
        self.log.set_epoch(epoch);
        if self.generation.load(Ordering::Acquire) < epoch.0 {
            self.state.refresh();
            self.forget_before(epoch.0);
            self.generation.fetch_max(epoch.0, Ordering::AcqRel);
        }
    }

    /// Whether this process does the work that one does for all who share the store.
    pub fn works_for_all(&self) -> bool {
        self.tenure.as_ref().is_none_or(|tenure| tenure.works())
    }

    /// When the change that was decided at `decided_at` was fenced: what was answered in between was still answered under
    /// the former state. A decision that another change overtook is made anew, so the first fence from then on is its
    /// own. Where that is not known any more, because another process made it or so many others came after it, the
    /// latest moment counts at which it can have been.
    pub(crate) fn fenced_at(&self, version: &DataKeyVersion) -> (Timestamp, Option<BootTime>) {
        let decided_at = version.fenced_at.unwrap_or(version.state_changed_at);
        let fences = self.fences.lock();
        let latest = decided_at.plus_seconds(FENCE_SECONDS_MAX);
        if self.log.is_shared() {
            // It may have been another node's: only what this one fenced of this version itself says anything.
            let own = self.own_fences.lock();
            let mut own = own.iter().filter(|own| own.kid == version.kid);
            return own
                .find(|own| own.decided_at == decided_at)
                .map_or((latest, None), |own| (own.complete.wall, Some(own.complete.boot_time())));
        }
        if decided_at < self.opened_at {
            return (latest.min(self.opened_at), None);
        }
        match fences.iter().position(|fence| fence.wall >= decided_at).map(|index| (index, fences.get(index))) {
            Some((0, Some(fence))) if fences.len() >= FENCES_MAX => (latest.min(fence.wall), None),
            Some((_, Some(fence))) => (fence.wall, Some(fence.boot_time())),
            _ => (decided_at, None),
        }
    }
}

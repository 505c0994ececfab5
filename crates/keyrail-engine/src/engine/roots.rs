//! Requests that change what opens the store, one at a time.

use keyrail_seal::RootSpec;
use tokio::sync::OwnedMutexGuard;

use super::{Engine, TURN_WAIT_MAX};
use crate::error::EngineError;
use crate::migration;
use crate::ops::root::{RemoveRoot, SlotView};
use crate::pipeline::execute;
use crate::request::{Caller, KeptCaller};
use crate::root_place::{RootPlace, RootPlaces};
use crate::unsealed::commit::to_its_end;

impl Engine {
    /// From now on takes roots of trust that a caller names from these places alone: for a server, whose callers are
    /// elsewhere. The first call counts.
    pub fn confine_roots(&self, places: &[RootPlace]) {
        let _first = self.inner.places.set(RootPlaces::Only(places.into()));
    }

    /// Where roots of trust may be that a caller names.
    pub fn root_places(&self) -> RootPlaces {
        self.inner.places.get().cloned().unwrap_or_default()
    }

    /// Moves the store to another root of trust on behalf of a caller, while it is in use. Once it began it goes on to
    /// its end without its caller; killed, it leaves a store that the root which is written down opens.
    ///
    /// # Errors
    /// What the pipeline refuses with, [`EngineError::Root`], [`EngineError::RootBusy`]; [`EngineError::RootPlace`];
    /// [`EngineError::Invalid`] for a root that is written down already, or opens nothing by itself.
    pub async fn migrate_root(&self, caller: &Caller<'_>, to: RootSpec) -> Result<SlotView, EngineError> {
        let turn = self.turn(caller).await?;
        let (inner, caller, places) = (self.inner.clone(), KeptCaller::of(caller), self.root_places());
        let moved = to_its_end(async move {
            let _turn = turn;
            migration::migrate(&inner.unsealed()?, &inner.paths, &caller.caller(), to, places).await
        });
        moved.await?
    }

    /// Takes a way to open the store away, and never while it is being moved to another root.
    ///
    /// # Errors
    /// What the pipeline refuses with, [`EngineError::RootBusy`]; [`EngineError::Invalid`] for the one that the store is
    /// opened with.
    pub async fn remove_root(&self, caller: &Caller<'_>, slot: [u8; 16]) -> Result<SlotView, EngineError> {
        let turn = self.turn(caller).await?;
        let (inner, caller) = (self.inner.clone(), KeptCaller::of(caller));
        let removed = to_its_end(async move {
            let _turn = turn;
            execute(&inner.unsealed()?, &caller.caller(), RemoveRoot { slot }).await
        });
        removed.await?
    }

    /// The turn to open, close or move the store, for a caller who is known: whoever is not does not keep those waiting
    /// who are.
    pub(super) async fn turn(&self, caller: &Caller<'_>) -> Result<OwnedMutexGuard<()>, EngineError> {
        self.authenticate(caller).await?;
        let turn = tokio::time::timeout(TURN_WAIT_MAX, self.inner.turning.clone().lock_owned()).await;
        turn.map_err(|_| EngineError::RootBusy)
    }
}

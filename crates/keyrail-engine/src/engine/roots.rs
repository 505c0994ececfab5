//! Requests that change what opens the store, one at a time.

use keyrail_seal::RootSpec;
use tokio::sync::OwnedMutexGuard;

use super::{Engine, TURN_WAIT_MAX};
use crate::error::EngineError;
use crate::exposure::{self, Answered, Exposure};
use crate::migration;
use crate::ops::root::{NewRecovery, RemoveRoot, SlotView};
use crate::pipeline::execute;
use crate::request::{Caller, KeptCaller};
use crate::root_key::{self, RotatedRoot};
use crate::root_place::{RootPlace, RootPlaces};
use crate::roots::RootSource;
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
    pub async fn remove_root(&self, caller: &Caller<'_>, slot: String) -> Result<SlotView, EngineError> {
        let turn = self.turn(caller).await?;
        let (inner, caller) = (self.inner.clone(), KeptCaller::of(caller));
        let removed = to_its_end(async move {
            let _turn = turn;
            execute(&inner.unsealed()?, &caller.caller(), RemoveRoot { slot }).await
        });
        removed.await?
    }

    /// Rotates the root key on behalf of a caller, while the store is in use. A recovery root whose shares are given has
    /// the new root key in its slot; others open the store through the former one. Once it began it goes on to its end
    /// without its caller.
    ///
    /// # Errors
    /// What the pipeline refuses with, [`EngineError::Root`], [`EngineError::RootBusy`]; [`EngineError::Invalid`] while a
    /// move to another root is interrupted.
    pub async fn rotate_root(
        &self,
        caller: &Caller<'_>,
        renew: Option<RootSource>,
    ) -> Result<RotatedRoot, EngineError> {
        let turn = self.turn(caller).await?;
        let (inner, caller) = (self.inner.clone(), KeptCaller::of(caller));
        let rotated = to_its_end(async move {
            let _turn = turn;
            root_key::rotate(&inner.unsealed()?, &caller.caller(), renew).await
        });
        rotated.await?
    }

    /// Answers an exposure of the root key on behalf of a caller, while the store is in use. Once it began it goes on to
    /// its end without its caller.
    ///
    /// # Errors
    /// As [`Engine::rotate_root`].
    pub async fn answer_exposure(
        &self,
        caller: &Caller<'_>,
        exposure: Exposure,
    ) -> Result<(Answered, Option<NewRecovery>), EngineError> {
        let turn = self.turn(caller).await?;
        let (inner, caller) = (self.inner.clone(), KeptCaller::of(caller));
        let answered = to_its_end(async move {
            let open = inner.unsealed()?;
            let declared = exposure::declare(&open, &caller.caller(), exposure).await?;
            // What follows may take a minute, and the store can be closed meanwhile.
            drop(turn);
            Ok(exposure::replace(&open, declared).await)
        });
        answered.await?
    }

    /// The turn to open, close or move the store, for a caller who is known: whoever is not does not keep those waiting
    /// who are.
    pub(super) async fn turn(&self, caller: &Caller<'_>) -> Result<OwnedMutexGuard<()>, EngineError> {
        self.authenticate(caller).await?;
        let turn = tokio::time::timeout(TURN_WAIT_MAX, self.inner.turning.clone().lock_owned()).await;
        turn.map_err(|_| EngineError::RootBusy)
    }
}

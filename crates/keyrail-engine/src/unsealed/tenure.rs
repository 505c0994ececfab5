//! A node among others over one store: it decides under a lease, and a change of it returns when no other node decides under
//! the state from before. See spec/retirement.md.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use keyrail_core::fence::{Drift, Epoch, LEASE_MILLIS, Lease, LeaseRow, Renewal, revoker_wait_millis};
use keyrail_core::id::NodeId;
use keyrail_core::time::{BootTime, Clock};
use keyrail_crypto::random;
use keyrail_store::{PgLeases, RenewError, Renewed};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::error::EngineError;
use crate::journal::Journal;
use crate::unsealed::Unsealed;

/// How long a renewal may take until it is given up, in milliseconds. What arrives later is not taken.
const RENEW_WAIT_MILLIS: u64 = 4_000;

/// How long a node waits before it asks again after it failed, in milliseconds.
const RENEW_RETRY_MILLIS: u64 = 200;

/// How often a change that waits for other nodes looks at their leases, in milliseconds: soon at first, then less.
const LOOK_MILLIS_MIN: u64 = 2;
const LOOK_MILLIS_MAX: u64 = 100;

/// How long a node takes at most to give its lease back when it ends, in milliseconds.
const RELEASE_WAIT_MILLIS: u64 = 2_000;

/// This node's place among the nodes.
pub(crate) struct Tenure {
    leases: PgLeases,
    node: NodeId,
    clock: Arc<dyn Clock>,
    lease: RwLock<Option<Lease>>,
    /// Of the node's row, as far as it is known.
    generation: Mutex<u64>,
    /// Whether this node does the work that one does for all.
    works: AtomicBool,
    ended: watch::Sender<bool>,
}

impl Tenure {
    /// Joins the nodes of a store, if others may share it: from here on changes of others wait for this one.
    ///
    /// # Errors
    /// [`EngineError::Store`], [`EngineError::NoLease`] when the database does not answer.
    pub(crate) async fn join(
        leases: Option<PgLeases>,
        clock: Arc<dyn Clock>,
        log: &Journal,
    ) -> Result<Option<Arc<Self>>, EngineError> {
        let Some(leases) = leases else { return Ok(None) };
        let tenure = Self {
            leases,
            node: NodeId::from_bytes(random::array()?),
            clock,
            lease: RwLock::default(),
            generation: Mutex::default(),
            works: AtomicBool::new(false),
            ended: watch::channel(false).0,
        };
        let renewed = tenure.renew(Epoch(0)).await?;
        log.set_epoch(renewed.epoch);
        Ok(Some(Arc::new(tenure)))
    }

    /// Whether this node may decide anything now.
    ///
    /// # Errors
    /// [`EngineError::NoLease`].
    pub(crate) fn require(&self) -> Result<(), EngineError> {
        self.epoch_at(self.clock.boot_now()).map(drop).ok_or(EngineError::NoLease)
    }

    fn epoch_at(&self, now: BootTime) -> Option<Epoch> {
        self.lease.read().and_then(|lease| lease.epoch_at(now))
    }

    /// Whether this node does the work that one does for all.
    pub(crate) fn works(&self) -> bool {
        self.works.load(Ordering::Acquire) && self.require().is_ok()
    }

    /// Asks for another lease; `known` is the newest epoch that this node knows. One renewal is under way at a time, and the
    /// answer to one that was given up is never taken.
    async fn renew(&self, known: Epoch) -> Result<Renewed, EngineError> {
        let sent_at = self.clock.boot_now();
        // What it decides now, it decides under the newest epoch that it knows: the lease says only for how long.
        let held = self.epoch_at(sent_at).map(|leased| leased.max(known));
        let asked = Renewal { node: self.node, held, generation: *self.generation.lock(), millis: LEASE_MILLIS };
        let limit = Duration::from_millis(RENEW_WAIT_MILLIS);
        let answered = tokio::time::timeout(limit, self.leases.renew(&asked)).await;
        match answered {
            Ok(Ok(renewed)) => {
                *self.generation.lock() = renewed.row.generation;
                *self.lease.write() = Some(Lease::granted(renewed.epoch, &renewed.row, sent_at));
                self.works.store(renewed.works, Ordering::Release);
                Ok(renewed)
            }
            Ok(Err(RenewError::Superseded { found })) => {
                *self.generation.lock() = found;
                Err(EngineError::NoLease)
            }
            Ok(Err(RenewError::Store(error))) => {
                self.works.store(false, Ordering::Release);
                Err(error.into())
            }
            Err(_) => {
                self.works.store(false, Ordering::Release);
                Err(EngineError::NoLease)
            }
        }
    }

    /// Waits until no other node decides under an epoch before `epoch`, which a change of this one raised before this is
    /// called: until each of them said so, or its lease is over for sure. Without an answer of the database every lease
    /// there can be is waited out.
    pub(crate) async fn others_have(&self, epoch: Epoch) {
        let (began, mut look) = (self.clock.boot_now(), LOOK_MILLIS_MIN);
        let mut first: Option<(BootTime, Vec<LeaseRow>)> = None;
        loop {
            let waited = self.clock.boot_now().millis_since(began).unwrap_or_default();
            let left = match self.leases.all().await {
                Ok(rows) => {
                    let others: Vec<_> = rows.into_iter().filter(|row| row.node != self.node).collect();
                    let left = revoker_wait_millis(&others, epoch, waited, Drift::STATED);
                    let (at, seen) = first.get_or_insert_with(|| (self.clock.boot_now(), others.clone()));
                    if left == 0 {
                        self.remove_over(*at, seen, epoch).await;
                    }
                    left
                }
                Err(error) => {
                    tracing::warn!(%error, "the leases of other nodes cannot be seen, and are waited out");
                    Drift::STATED.waited_millis(LEASE_MILLIS).saturating_sub(waited)
                }
            };
            if left == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left.min(look))).await;
            look = (look * 2).min(LOOK_MILLIS_MAX);
        }
    }

    /// Takes away the leases that were waited out whole since they were seen at `at`, and not renewed: who held them is
    /// gone, or learns that he has none.
    async fn remove_over(&self, at: BootTime, seen: &[LeaseRow], epoch: Epoch) {
        for row in seen.iter().filter(|row| row.epoch < epoch) {
            let waited = self.clock.boot_now().millis_since(at).unwrap_or_default();
            let left = Drift::STATED.waited_millis(row.millis).saturating_sub(waited);
            if left > LOOK_MILLIS_MAX {
                // It was renewed since, or it would have been waited for.
                continue;
            }
            tokio::time::sleep(Duration::from_millis(left)).await;
            if let Err(error) = self.leases.remove(row).await {
                tracing::warn!(%error, "a lease that is over could not be taken away");
            }
        }
    }

    /// Gives the lease back: nothing is decided any more.
    pub(crate) async fn end(&self) {
        self.ended.send_replace(true);
        *self.lease.write() = None;
        self.works.store(false, Ordering::Release);
        let limit = Duration::from_millis(RELEASE_WAIT_MILLIS);
        // What is not given back ends by itself.
        let _in_time = tokio::time::timeout(limit, self.leases.release(self.node)).await;
    }
}

/// Renews the lease of an opened store for as long as that is there.
pub(crate) fn keep(open: &Arc<Unsealed>) {
    let Some(tenure) = open.tenure.clone() else { return };
    let open = Arc::downgrade(open);
    tokio::spawn(async move {
        let mut ended = tenure.ended.subscribe();
        let kept = async {
            while let Some(wait) = keep_once(&tenure, &open).await {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = tenure.leases.heard() => {}
                }
            }
        };
        tokio::select! {
            () = kept => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    });
}

/// Renews once; gives how long to wait for the next time, or nothing once the store is closed.
async fn keep_once(tenure: &Tenure, open: &Weak<Unsealed>) -> Option<Duration> {
    let known = Epoch(open.upgrade()?.generation());
    match tenure.renew(known).await {
        Ok(Renewed { row, epoch, .. }) => {
            let open = open.upgrade()?;
            open.learn(epoch);
            // That it works under the new epoch, the next renewal says, and somebody may wait for that.
            let wait = if row.epoch < epoch { 0 } else { LEASE_MILLIS / 3 };
            Some(Duration::from_millis(wait))
        }
        Err(error) => {
            tracing::warn!(code = error.code(), %error, "the lease of this node was not renewed");
            if tenure.require().is_err() {
                open.upgrade()?.forget();
            }
            Some(Duration::from_millis(RENEW_RETRY_MILLIS))
        }
    }
}

//! What an opened store is made of.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, OnceLock};

use keyrail_audit::VerifierKey;
use keyrail_core::fence::Epoch;
use keyrail_core::system::LogHeadRow;
use keyrail_core::time::Clock;
use keyrail_crypto::mac::MacKey;
use keyrail_crypto::secret::RootKey;
use keyrail_store::State;
use parking_lot::Mutex;

use super::{CACHE_ENTRIES_MAX, GENERATION_FIRST, MASTERS_MAX, Told, Unsealed};
use crate::anchor::{AnchorSet, Keepers};
use crate::cache::GenerationCache;
use crate::clock::ClockWatch;
use crate::counting::{COUNT_WAIT_SECONDS_MAX, Counts};
use crate::journal::Journal;
use crate::metrics::Metrics;
use crate::refusals::Refusals;
use crate::unsealed::late::COMMIT_WAIT_MAX;
use crate::unsealed::root::RootInUse;
use crate::unsealed::tenure::Tenure;
use crate::usage::UsageBook;

/// What [`Unsealed`] is made of.
pub(crate) struct Parts {
    pub(crate) state: State,
    pub(crate) log: Journal,
    pub(crate) verifier: VerifierKey,
    pub(crate) audit_dir: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) root: RootKey,
    pub(crate) opened_by: [u8; 16],
    pub(crate) token_key: MacKey,
    pub(crate) remembered: Option<LogHeadRow>,
    pub(crate) told: Told,
    pub(crate) usage: UsageBook,
    pub(crate) tenure: Option<Arc<Tenure>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) refusals: Arc<Refusals>,
    pub(crate) anchors: AnchorSet,
    pub(crate) keepers: Keepers,
}

impl Unsealed {
    pub(crate) fn new(parts: Parts) -> Self {
        if !parts.log.is_shared() {
            parts.log.set_epoch(Epoch(GENERATION_FIRST));
        }
        let watch = ClockWatch::new(parts.clock.observe());
        let opened_at = parts.clock.now();
        Self {
            state: parts.state,
            log: parts.log,
            verifier: parts.verifier,
            audit_dir: parts.audit_dir,
            clock: parts.clock,
            root: RootInUse::new(parts.root, parts.opened_by),
            root_turn: tokio::sync::Mutex::new(()),
            token_key: parts.token_key,
            local_operator: Mutex::default(),
            generation: AtomicU64::new(GENERATION_FIRST),
            order: tokio::sync::Mutex::new(()),
            closed: AtomicBool::new(false),
            tokens: GenerationCache::new(CACHE_ENTRIES_MAX),
            decisions: GenerationCache::new(CACHE_ENTRIES_MAX),
            keyrings: GenerationCache::new(CACHE_ENTRIES_MAX),
            masters: GenerationCache::new(MASTERS_MAX),
            settled: Mutex::default(),
            remembered: Mutex::new(parts.remembered),
            told: parts.told,
            assets: OnceLock::new(),
            usage: parts.usage,
            counts: Counts::default(),
            count_wait: std::time::Duration::from_secs(COUNT_WAIT_SECONDS_MAX),
            refusals: parts.refusals,
            metrics: parts.metrics,
            anchors: parts.anchors,
            keepers: Mutex::new(Some(parts.keepers)),
            ticks: AtomicU64::new(0),
            sweep_wanted: AtomicBool::new(false),
            rewrap_on: AtomicBool::new(false),
            walk: tokio::sync::Mutex::default(),
            wake: Arc::default(),
            given_up_told: AtomicU64::new(0),
            alarms: Mutex::default(),
            retries: Mutex::default(),
            pending: Mutex::default(),
            late: Mutex::default(),
            commit_wait: COMMIT_WAIT_MAX,
            opened_at,
            fences: Mutex::default(),
            own_fences: Mutex::default(),
            watch,
            backing_up: tokio::sync::Mutex::default(),
            tenure: parts.tenure,
            ticked: tokio::sync::Notify::new(),
        }
    }
}

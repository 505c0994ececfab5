//! Counts of assets before a retirement: they go on when whoever asked has stopped waiting, so that asking again ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyrail_core::access::{Principal, PrincipalKind};
use keyrail_core::asset::Asset;
use keyrail_core::campaign::CampaignState;
use keyrail_core::id::CampaignId;
use keyrail_core::key::DataKeyVersion;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::retirement::AssetEvidence;
use keyrail_core::time::Timestamp;
use keyrail_crypto::envelope::Kid;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::error::EngineError;
use crate::ports::AssetPort;
use crate::unsealed::{OpenKey, Unsealed};

/// How long a request with a token may take in all before it is told that the count goes on, or that the write window
/// is still open, in seconds.
pub(crate) const COUNT_WAIT_SECONDS_MAX: u64 = 150;

/// How long the background work waits for counts in one turn, for all of them together, in seconds.
const BACKGROUND_WAIT_SECONDS: u64 = 5;

/// How long what was counted waits for somebody who was told that the count goes on, in seconds.
const COUNT_KEPT_SECONDS: u64 = 600;

/// How long ago a count may have ended that a version is retired or destroyed by, in seconds.
const COUNT_FRESH_SECONDS: u64 = 60;

/// How many counts are under way or wait to be asked for.
const COUNTS_MAX: usize = 64;

/// The state that a count depends on: when it changes, the count is for nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct About {
    kid: Kid,
    state: VersionState,
    /// Activated and deactivated again in between is another state, too.
    since: (Option<Timestamp>, Timestamp, Option<Timestamp>),
    assets: Vec<(Asset, Vec<(CampaignId, bool)>)>,
    /// Whether the write window was closed when the count began: only then nothing is stored late any more.
    window_closed: bool,
}

impl About {
    pub(crate) async fn of(
        open: &Unsealed,
        key: &OpenKey,
        version: &DataKeyVersion,
        window_closed: bool,
    ) -> Result<Self, EngineError> {
        let mut assets = Vec::new();
        for asset in open.state().assets_of_key(&key.keyring.key.id).await? {
            let campaigns = open.state().campaigns_of(&asset.id).await?;
            let campaigns = campaigns.iter().map(|row| (row.id, row.state == CampaignState::Completed)).collect();
            assets.push((asset, campaigns));
        }
        let since = (version.activated_at, version.state_changed_at, version.fenced_at);
        Ok(Self { kid: version.kid, state: version.state, since, assets, window_closed })
    }
}

/// What a count is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// It is shown, or another one comes after it.
    Look,
    /// A version is retired or destroyed by it.
    LastStep,
}

/// What somebody wants to know.
pub(crate) struct Wanted {
    pub(crate) about: About,
    pub(crate) purpose: Purpose,
    /// How long he waits; without a limit if that is `None`.
    pub(crate) patience: Option<Duration>,
    pub(crate) now: Timestamp,
}

/// Counts that are under way, or ended and not taken by those who were told that they go on.
pub(crate) struct Counts {
    counts: Mutex<HashMap<Kid, Arc<Count>>>,
    /// Room for them, and for those that go on although the state that they are about is gone.
    places: Arc<Semaphore>,
    /// How long ago a count may have ended that is for the last step.
    pub(crate) fresh: Duration,
    /// Set when a count ends of which somebody was told that it goes on.
    news: Arc<AtomicBool>,
}

impl Default for Counts {
    fn default() -> Self {
        let (fresh, places) = (Duration::from_secs(COUNT_FRESH_SECONDS), Arc::new(Semaphore::new(COUNTS_MAX)));
        Self { counts: Mutex::default(), places, fresh, news: Arc::default() }
    }
}

struct Count {
    about: About,
    began_at: Timestamp,
    /// Whether somebody was told that it goes on: only he comes back for what was counted.
    told: Arc<AtomicBool>,
    ended: watch::Receiver<Option<Ended>>,
    /// Held by who counts, too.
    _place: Arc<OwnedSemaphorePermit>,
}

#[derive(Clone)]
struct Ended {
    at: Instant,
    /// The failure is told to the first who asks.
    result: Arc<Mutex<Result<Vec<AssetEvidence>, Option<EngineError>>>>,
}

impl Counts {
    /// What the assets of a key hold under a version. A count that is under way for the same state is joined.
    pub(crate) async fn evidence(
        &self,
        port: &Arc<dyn AssetPort>,
        key: &OpenKey,
        wanted: Wanted,
    ) -> Result<Vec<AssetEvidence>, EngineError> {
        let patience = wanted.patience;
        let count = self.join(port, key, wanted)?;
        let mut ended = count.ended.clone();
        let waiting = ended.wait_for(Option::is_some);
        let ended = match patience {
            Some(patience) => tokio::time::timeout(patience, waiting).await.map_err(|_| self.goes_on(&count))?,
            None => waiting.await,
        };
        let ended = ended.map_err(|_| EngineError::Bug { what: "a count ended by a panic" })?.clone();
        self.take(&count);
        let ended = ended.ok_or(EngineError::Bug { what: "a count that did not end" })?;
        let mut result = ended.result.lock();
        match result.as_mut() {
            Ok(found) => Ok(found.clone()),
            Err(error) => Err(error.take().unwrap_or(EngineError::Contended)),
        }
    }

    fn join(&self, port: &Arc<dyn AssetPort>, key: &OpenKey, wanted: Wanted) -> Result<Arc<Count>, EngineError> {
        let Wanted { about, purpose, now, .. } = wanted;
        let mut counts = self.counts.lock();
        counts.retain(|_, count| count.is_kept());
        match counts.get(&about.kid) {
            Some(count) if count.about == about && self.is_good_for(count, purpose) => return Ok(count.clone()),
            // It ended, and leaves its place.
            Some(count) if count.age().is_some() => drop(counts.remove(&about.kid)),
            _ => {}
        }
        let Ok(place) = self.places.clone().try_acquire_owned().map(Arc::new) else {
            return Err(EngineError::TooMany { what: "counts of assets under way", max: COUNTS_MAX as u64 });
        };
        let (port, key, kid) = (port.clone(), key.keyring.key.id, about.kid);
        let (tell, ended) = watch::channel(None);
        let (told, news) = (Arc::new(AtomicBool::new(false)), self.news.clone());
        let count = Arc::new(Count { about, began_at: now, told: told.clone(), ended, _place: place.clone() });
        tokio::spawn(async move {
            let result = port.evidence(key, kid).await.map_err(Some);
            drop(place);
            // Nobody may ask any more: nothing is lost by that.
            let _gone = tell.send(Some(Ended { at: Instant::now(), result: Arc::new(Mutex::new(result)) }));
            if told.load(Ordering::SeqCst) {
                news.store(true, Ordering::SeqCst);
            }
        });
        counts.insert(kid, count.clone());
        Ok(count)
    }

    /// What was counted is told to those who waited for it; the next who asks wants it counted anew.
    fn take(&self, taken: &Arc<Count>) {
        let mut counts = self.counts.lock();
        if counts.get(&taken.about.kid).is_some_and(|count| Arc::ptr_eq(count, taken)) {
            counts.remove(&taken.about.kid);
        }
    }

    /// Rows may have come back since a count ended, and what is final must not rest on it for long.
    fn is_good_for(&self, count: &Count, purpose: Purpose) -> bool {
        purpose == Purpose::Look || count.age().is_none_or(|age| age < self.fresh)
    }

    /// What is told to whoever does not wait any more.
    fn goes_on(&self, count: &Count) -> EngineError {
        count.told.store(true, Ordering::SeqCst);
        if count.age().is_some() {
            // It ended in between.
            self.news.store(true, Ordering::SeqCst);
        }
        EngineError::StillCounting
    }

    /// Whether a count ended, since this was last asked, of which somebody was told that it goes on.
    pub(crate) fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::SeqCst)
    }

    /// Since when values under a version are being counted, if they are.
    pub(crate) fn under_way_since(&self, kid: &Kid) -> Option<Timestamp> {
        self.counts.lock().get(kid).filter(|count| count.is_under_way()).map(|count| count.began_at)
    }

    /// Whether what was counted under a version waits for somebody who was told that it goes on, and is fresh enough for
    /// the last step.
    pub(crate) fn waits(&self, kid: &Kid) -> bool {
        let waits = |count: &Arc<Count>| count.age().is_some_and(|age| age < self.fresh) && count.is_kept();
        self.counts.lock().get(kid).is_some_and(waits)
    }

    /// Takes all places, until what comes back is dropped.
    #[cfg(test)]
    pub(crate) fn crowd(&self, about: &About) -> impl Sized + use<> {
        let places = (0..COUNTS_MAX).map(|number| {
            let kid = Kid::from_bytes([u8::try_from(number).unwrap(); 16]);
            let (tell, ended) = watch::channel(None);
            let began_at = Timestamp::from_millis(0);
            let _place = Arc::new(self.places.clone().try_acquire_owned().unwrap());
            let count = Count { about: About { kid, ..about.clone() }, began_at, told: Arc::default(), ended, _place };
            self.counts.lock().insert(kid, Arc::new(count));
            tell
        });
        places.collect::<Vec<_>>()
    }

    /// Whether any count is under way.
    #[cfg(test)]
    pub(crate) fn any_under_way(&self) -> bool {
        self.counts.lock().values().any(|count| count.is_under_way())
    }
}

impl Count {
    /// How long ago it ended.
    fn age(&self) -> Option<Duration> {
        self.ended.borrow().as_ref().map(|ended| ended.at.elapsed())
    }

    fn is_under_way(&self) -> bool {
        // Neither ended nor under way: it panicked.
        self.ended.borrow().is_none() && self.ended.has_changed().is_ok()
    }

    fn is_kept(&self) -> bool {
        let kept = Duration::from_secs(COUNT_KEPT_SECONDS);
        match self.age() {
            Some(age) => age < kept && self.told.load(Ordering::SeqCst),
            None => self.is_under_way(),
        }
    }
}

/// How long a caller waits for a count, and for a write window after it. Who acts in this process waits to the end; a request has a limit of time.
pub(crate) fn patience(principal: &Principal, began: Instant, request_wait: Duration) -> Option<Duration> {
    match principal.kind {
        PrincipalKind::LocalOperator => None,
        PrincipalKind::System => {
            let wait = Duration::from_secs(BACKGROUND_WAIT_SECONDS).min(request_wait);
            Some(wait.saturating_sub(began.elapsed()))
        }
        PrincipalKind::Token => Some(request_wait.saturating_sub(began.elapsed())),
    }
}

#[cfg(test)]
mod tests;

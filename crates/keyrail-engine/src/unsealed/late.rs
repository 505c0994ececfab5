//! Commits that the store does not end in time: a disk that hangs holds up one change and refuses the others.

use std::time::Duration;

use keyrail_store::{Recorded, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::EngineError;
use crate::unsealed::Unsealed;

/// How long a commit may take. After that its fate is open until it ends.
pub(crate) const COMMIT_WAIT_MAX: Duration = Duration::from_secs(10);

/// A commit that was given up on and has not ended.
pub(crate) struct Late {
    since: Instant,
    /// Closed when the commit has ended and writes nothing more.
    ended: watch::Receiver<()>,
}

impl Late {
    /// What to tell as long as it has not ended.
    pub(crate) fn stuck(&self) -> Option<EngineError> {
        let ended = self.ended.has_changed().is_err();
        (!ended).then(|| EngineError::StoreStuck { seconds: self.since.elapsed().as_secs() })
    }
}

/// What to answer who sealed a store: it is closed, and that is on record. What could not be published or counted is for
/// the next start.
pub(crate) fn answer_of_seal(closed: Result<(), EngineError>) -> Result<(), EngineError> {
    closed.or_else(|error| match error {
        EngineError::StoreStuck { .. } => Err(error),
        error => {
            tracing::error!(error = %error, "the store is sealed, and its log did not end cleanly");
            Ok(())
        }
    })
}

/// How a commit ended.
pub(super) enum InTime {
    /// In time.
    Done(Result<(), StoreError>),
    /// Not yet: [`Unsealed::ready`] tells when it has.
    Late,
}

impl Unsealed {
    /// Commits, and gives up waiting after the limit. The commit itself goes on: nothing can call it back.
    pub(super) async fn commit_in_time(
        &self,
        commit: impl Future<Output = Result<(), StoreError>> + Send + 'static,
    ) -> InTime {
        let (wake, wait) = (self.wake.clone(), self.commit_wait);
        let since = Instant::now();
        let (tell, ended) = watch::channel(());
        let mut commit = tokio::spawn(async move {
            let ended = commit.await;
            drop(tell);
            if since.elapsed() >= wait {
                // Somebody was told that nobody knows: now it is known.
                wake.notify_one();
            }
            ended
        });
        match tokio::time::timeout(wait, &mut commit).await {
            Ok(Ok(ended)) => InTime::Done(ended),
            Ok(Err(panic)) => InTime::Done(Err(StoreError::Indeterminate { source: Box::new(panic) })),
            Err(_) => {
                tracing::error!("the store has not ended a commit in time; changes are refused until it has");
                *self.late.lock() = Some(Late { since, ended });
                InTime::Late
            }
        }
    }

    /// Commits what has no record.
    pub(super) async fn commit_unasked(&self, change: Recorded) -> Result<(), EngineError> {
        let state = self.state.clone();
        match self.commit_in_time(async move { state.commit(change).await }).await {
            InTime::Done(ended) => Ok(ended?),
            InTime::Late => Err(self.stuck().unwrap_or(EngineError::Indeterminate)),
        }
    }

    /// Whether changes may be made: the store is open, and no former commit is on its way. One that has ended since is
    /// fenced now, since nobody knew of it until now. Called under `order`.
    pub(super) async fn ready(&self) -> Result<(), EngineError> {
        self.still_open()?;
        if !self.is_late() {
            return Ok(());
        }
        if let Some(stuck) = self.stuck() {
            return Err(stuck);
        }
        self.fence();
        // It may have renewed the remembered head, or not.
        let head = self.state.log_head().await?;
        *self.remembered.lock() = head;
        *self.late.lock() = None;
        Ok(())
    }

    /// Whether a commit was given up on and not looked at since.
    pub(crate) fn is_late(&self) -> bool {
        self.late.lock().is_some()
    }

    /// What to tell as long as such a commit has not ended.
    pub(crate) fn stuck(&self) -> Option<EngineError> {
        self.late.lock().as_ref().and_then(Late::stuck)
    }

    /// Waits for such a commit, no longer than any commit may take.
    ///
    /// # Errors
    /// [`EngineError::StoreStuck`] if it has not ended by then.
    pub(crate) async fn late_ends(&self) -> Result<(), EngineError> {
        let ended = self.late.lock().as_ref().map(|late| late.ended.clone());
        let Some(mut ended) = ended else { return Ok(()) };
        // Nothing is ever sent: it ends when the sender is gone.
        let waited = tokio::time::timeout(self.commit_wait, ended.changed()).await;
        waited.map(drop).or_else(|_| self.stuck().map_or(Ok(()), Err))
    }

    /// A commit that outlives the opened store: whoever opens it anew has to wait for it.
    pub(crate) fn take_late(&self) -> Option<Late> {
        self.late.lock().take()
    }
}

//! What every handler works with.

use std::sync::Arc;
use std::time::Duration;

use keyrail_engine::{Engine, EngineError};
use tokio::sync::watch;

use crate::body::Room;
use crate::campaigns::Campaigns;

/// How often the background work is looked at.
const TICK: Duration = Duration::from_secs(1);

/// The engine of one data directory, with the campaigns that run in this process.
pub struct Service {
    engine: Engine,
    campaigns: Campaigns,
    runs_campaigns: bool,
    room: Room,
}

impl Service {
    /// A service around an engine.
    ///
    /// `runs_campaigns` tells whether campaigns that are started run in here, or by whoever started them.
    pub fn new(engine: Engine, runs_campaigns: bool) -> Arc<Self> {
        Arc::new(Self { engine, campaigns: Campaigns::default(), runs_campaigns, room: Room::default() })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn runs_campaigns(&self) -> bool {
        self.runs_campaigns
    }

    pub(crate) fn room(&self) -> &Room {
        &self.room
    }

    pub(crate) fn campaigns(&self) -> &Campaigns {
        &self.campaigns
    }

    /// Does the background work until `stop` is set: rotation, rewrapping, countdowns, unfinished campaigns.
    pub async fn work(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.engine.woken() => {}
                _ = stop.wait_for(|stopped| *stopped) => return,
            }
            if let Err(error) = self.engine.tick().await {
                tracing::warn!(code = error.code(), %error, "background work failed and is tried again");
            }
            if let Err(error) = self.campaigns.resume_unfinished(&self.engine).await {
                tracing::warn!(code = error.code(), %error, "unfinished campaigns could not be looked up");
            }
        }
    }

    /// Stops campaigns after their page and closes the engine. What is not finished goes on at the next start.
    ///
    /// # Errors
    /// [`EngineError::Log`] when the log could not be published; its records are safe in the journal.
    pub async fn close(&self) -> Result<(), EngineError> {
        self.campaigns.stop_all().await;
        self.engine.close().await
    }
}

//! Campaigns that run inside this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use keyrail_core::id::CampaignId;
use keyrail_data::ops::campaign::unfinished;
use keyrail_data::{Run, Stop};
use keyrail_engine::{Engine, EngineError};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

/// The campaigns that run now.
#[derive(Default)]
pub(crate) struct Campaigns {
    running: Mutex<HashMap<CampaignId, Running>>,
    /// Set when the service goes down: nothing is started any more.
    closed: AtomicBool,
}

struct Running {
    stop: Stop,
    task: JoinHandle<()>,
}

impl Campaigns {
    /// Starts a campaign that is stored as running, unless it runs here already.
    pub(crate) fn start(&self, engine: &Engine, id: CampaignId) -> Result<(), EngineError> {
        let open = engine.unsealed()?;
        if !open.works_for_all() {
            // The node that does finds it among those that are unfinished.
            return Ok(());
        }
        let mut running = self.running.lock();
        running.retain(|_, entry| !entry.task.is_finished());
        if self.closed.load(Ordering::Acquire) || running.contains_key(&id) {
            return Ok(());
        }
        let stop = Stop::default();
        let run = Run { open, id, stop: stop.clone(), progress: Box::new(|_| {}) };
        let task = tokio::spawn(async move {
            if let Err(error) = run.run().await {
                tracing::warn!(campaign = %id, code = error.code(), %error, "a campaign stopped");
            }
        });
        running.insert(id, Running { stop, task });
        Ok(())
    }

    /// Goes on with campaigns that were running when the process before this one ended.
    pub(crate) async fn resume_unfinished(&self, engine: &Engine) -> Result<(), EngineError> {
        let Ok(open) = engine.unsealed() else { return Ok(()) };
        if !open.works_for_all() {
            return Ok(());
        }
        for id in unfinished(&open).await? {
            self.start(engine, id)?;
        }
        Ok(())
    }

    /// Ends every campaign after its page, and waits for that. Their state stays "running", so that the next
    /// start goes on.
    pub(crate) async fn stop_all(&self) {
        self.closed.store(true, Ordering::Release);
        let running: Vec<_> = self.running.lock().drain().collect();
        for (id, entry) in running {
            entry.stop.shut_down();
            if entry.task.await.is_err() {
                tracing::warn!(campaign = %id, "a campaign ended by a panic");
            }
        }
    }
}

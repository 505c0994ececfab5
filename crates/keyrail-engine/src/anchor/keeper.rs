//! A thread per anchor that tells it of each new head: no request waits for an anchor, and none for another.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use keyrail_audit::HeadWatch;

use super::{
    ANCHOR_BACKOFF_SECONDS_MAX, ANCHOR_FILE_INTERVAL_MILLIS, ANCHOR_LOOK_SECONDS, ANCHOR_WAIT_SECONDS_MAX,
    ANCHOR_WITNESS_INTERVAL_MILLIS, Anchor, LogSite, Place,
};

/// The threads; they end when this is dropped.
#[derive(Default)]
pub(crate) struct Keepers(Vec<Keeper>);

struct Keeper {
    /// What ends it: with a last look, or without when it is dropped.
    end: Sender<()>,
    /// Closed when it has ended.
    ended: Receiver<()>,
}

impl Keepers {
    pub(super) fn start(anchors: &[Arc<Anchor>], site: &LogSite, watch: &HeadWatch) -> Self {
        let keeper = |anchor: &Arc<Anchor>| {
            let (end, ends) = channel();
            let (alive, ended) = channel();
            let (kept, site, watch) = (anchor.clone(), site.clone(), watch.clone());
            let work = move || {
                keep(&kept, &site, &watch, &ends);
                drop(alive);
            };
            let spawned = std::thread::Builder::new().name("anchor".to_owned()).spawn(work);
            if let Err(error) = &spawned {
                anchor.note(Some(format!("nothing tells it of new heads: {error}")));
            }
            Keeper { end, ended }
        };
        // A witness cannot be shown a log that is in no files.
        let reached = |anchor: &&Arc<Anchor>| site.rows.is_none() || matches!(anchor.place, Place::File(_));
        Self(anchors.iter().filter(reached).map(keeper).collect())
    }

    /// Tells the anchors of the last head, and ends. One that does not answer in time is left behind, and is told at
    /// the next start.
    pub(crate) fn end(self) {
        let deadline = Instant::now() + Duration::from_secs(ANCHOR_WAIT_SECONDS_MAX);
        self.0.iter().for_each(|keeper| {
            // Gone already: it could not be started.
            let _gone = keeper.end.send(());
        });
        for keeper in self.0 {
            let _ended_or_late = keeper.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

fn keep(anchor: &Anchor, site: &LogSite, watch: &HeadWatch, ends: &Receiver<()>) {
    let interval = Duration::from_millis(match anchor.place {
        Place::File(_) => ANCHOR_FILE_INTERVAL_MILLIS,
        Place::Witness(_) => ANCHOR_WITNESS_INTERVAL_MILLIS,
    });
    let (mut wait, mut looked) = (Duration::ZERO, Instant::now());
    let mut failures = 0_u32;
    loop {
        let last = match ends.recv_timeout(wait) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        anchor.note_lag(watch.published().size);
        wait = interval;
        if is_due(anchor, looked) {
            looked = Instant::now();
            match anchor.tell(site) {
                Ok(()) => failures = 0,
                Err(untold) => {
                    anchor.note(Some(untold.to_string()));
                    wait = (interval * 2_u32.saturating_pow(failures))
                        .min(Duration::from_secs(ANCHOR_BACKOFF_SECONDS_MAX));
                    failures = failures.saturating_add(1).min(BACKOFF_STEPS_MAX);
                }
            }
        }
        if last {
            return;
        }
    }
}

/// Whether the anchor has something to learn, or must be looked at.
fn is_due(anchor: &Anchor, looked: Instant) -> bool {
    let state = anchor.state.lock();
    let idle = matches!(anchor.place, Place::File(_)) && looked.elapsed() >= Duration::from_secs(ANCHOR_LOOK_SECONDS);
    state.behind_since.is_some() || state.problem.is_some() || idle
}

/// How often the wait doubles.
const BACKOFF_STEPS_MAX: u32 = 6;

//! Whether the wall clock tells the time that went by.

use keyrail_core::time::{Elapsed, Observation, Timestamp, elapsed};
use parking_lot::Mutex;

/// Compares the wall clock with the machine's own, from one look to the next.
pub(crate) struct ClockWatch {
    inner: Mutex<Watched>,
}

struct Watched {
    seen: Observation,
    set_at: Option<Timestamp>,
}

impl ClockWatch {
    pub(crate) fn new(seen: Observation) -> Self {
        Self { inner: Mutex::new(Watched { seen, set_at: None }) }
    }

    /// By how many milliseconds the wall clock was set since the last look; `None` if it was left alone.
    pub(crate) fn look(&self, now: Observation) -> Option<i64> {
        let mut watched = self.inner.lock();
        let passed = elapsed(watched.seen, now);
        let Elapsed::ClockJumped { off_millis } = passed else {
            // Looks that are close together would let a clock creep by less than drift at each of them.
            if now.uptime_millis.saturating_sub(watched.seen.uptime_millis) >= LOOK_MILLIS_MIN {
                watched.seen = now;
            }
            return None;
        };
        *watched = Watched { seen: now, set_at: Some(now.wall) };
        Some(off_millis)
    }

    /// When it was last seen to be set.
    pub(crate) fn set_at(&self) -> Option<Timestamp> {
        self.inner.lock().set_at
    }
}

/// How far apart two looks are compared, in milliseconds.
const LOOK_MILLIS_MIN: u64 = 60_000;

#[cfg(test)]
mod tests {
    use keyrail_core::time::BootId;

    use super::*;

    fn at(wall: i64, uptime_millis: u64) -> Observation {
        Observation { boot: BootId([1; 16]), wall: Timestamp::from_millis(wall), uptime_millis }
    }

    #[test]
    fn a_clock_that_is_set_is_seen_once() {
        let watch = ClockWatch::new(at(0, 0));
        assert_eq!(watch.look(at(1_000, 1_000)), None);
        assert_eq!(watch.look(at(3_600_000, 2_000)), Some(3_598_000));
        assert_eq!(watch.look(at(3_601_000, 3_000)), None);
        assert_eq!(watch.set_at(), Some(Timestamp::from_millis(3_600_000)));
        assert_eq!(watch.look(at(0, 4_000)), Some(-3_602_000));
        assert_eq!(watch.set_at(), Some(Timestamp::from_millis(0)));
    }

    #[test]
    fn a_clock_that_creeps_forward_is_seen_too() {
        let watch = ClockWatch::new(at(0, 0));
        let seen = (1..60).filter(|second| {
            let uptime = second * 1_000;
            watch.look(at(i64::try_from(uptime + second * 900).unwrap(), uptime)).is_some()
        });
        assert!(seen.count() > 0);
    }
}

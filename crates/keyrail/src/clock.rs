//! The machine's clocks.

use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_crypto::digest::sha256;
use rustix::time::{ClockId, clock_gettime};

/// Wall clock, and the time since boot including sleep.
pub(crate) struct SystemClock {
    boot: BootId,
}

impl SystemClock {
    pub(crate) fn new() -> Self {
        // Where the system names no boot, every start counts as one: then less time is observed, never more.
        let named = std::fs::read("/proc/sys/kernel/random/boot_id")
            .unwrap_or_else(|_| format!("process {}", std::process::id()).into_bytes());
        let mut boot = [0; 16];
        for (to, from) in boot.iter_mut().zip(sha256(&named)) {
            *to = from;
        }
        Self { boot: BootId(boot) }
    }
}

fn millis(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000).saturating_add(time.tv_nsec / 1_000_000)
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(millis(ClockId::Realtime))
    }

    fn observe(&self) -> Observation {
        let uptime_millis = u64::try_from(millis(ClockId::Boottime)).unwrap_or(0);
        Observation { boot: self.boot, wall: self.now(), uptime_millis }
    }
}

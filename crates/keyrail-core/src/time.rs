//! Time: always a parameter, and observed before it is believed.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// A moment: milliseconds since 1970-01-01 UTC. Written as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The moment this many milliseconds after 1970-01-01 UTC.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds from `earlier` to this moment; zero if `earlier` is later.
    pub fn seconds_since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0).max(0) / 1000).unwrap_or(0)
    }

    /// The moment `seconds` later.
    pub fn plus_seconds(self, seconds: u64) -> Self {
        let millis = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }

    /// The moment so many seconds earlier.
    #[must_use]
    pub fn minus_seconds(self, seconds: u64) -> Self {
        let millis = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => write!(f, "out-of-range({})", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        let moment: jiff::Timestamp = text.parse().map_err(|_| TimestampError)?;
        Ok(Self(moment.as_millisecond()))
    }
}

serde_as_text!(Timestamp);

/// Seconds of a text like `90d`, `12h`, `30m`, `45s` or `60`; `None` for any other and for more than `u64` holds.
pub fn seconds_from_text(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().next_back()? {
        (at, 's') => (text.get(..at)?, 1),
        (at, 'm') => (text.get(..at)?, 60),
        (at, 'h') => (text.get(..at)?, 3_600),
        (at, 'd') => (text.get(..at)?, 86_400),
        _ => (text, 1),
    };
    let number: u64 =
        if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok()? } else { return None };
    number.checked_mul(factor)
}

/// A text is not a moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a time is written as RFC 3339, like 2026-11-24T09:30:00.000Z")]
pub struct TimestampError;

/// Where time comes from: the operating system in production, the test's hand in tests.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;

    /// What can be observed at this moment: the wall clock, and a clock of the machine that nobody can set.
    fn observe(&self) -> Observation;

    /// The machine's own clock, which leases count on.
    fn boot_now(&self) -> BootTime {
        self.observe().boot_time()
    }
}

/// A moment on a machine's own clock, which nobody can set and which suspended time counts on (CLOCK_BOOTTIME).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BootTime {
    /// Which start of the machine this is; moments of different starts cannot be compared.
    pub boot: BootId,
    /// Milliseconds since that start.
    pub millis: u64,
}

impl BootTime {
    /// Milliseconds since `earlier`; `None` if that is later, or of another start.
    pub fn millis_since(self, earlier: Self) -> Option<u64> {
        (self.boot == earlier.boot).then(|| self.millis.checked_sub(earlier.millis)).flatten()
    }
}

/// One look at both clocks of the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Observation {
    /// Which start of the machine this is; clocks of different starts cannot be compared.
    pub boot: BootId,
    /// The wall clock.
    pub wall: Timestamp,
    /// Milliseconds since the machine started, suspended time included (CLOCK_BOOTTIME).
    pub uptime_millis: u64,
}

impl Observation {
    /// What the machine's own clock showed.
    pub const fn boot_time(self) -> BootTime {
        BootTime { boot: self.boot, millis: self.uptime_millis }
    }
}

/// One start of a machine.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct BootId(pub [u8; 16]);

/// What two observations of the same machine say of the time between them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Elapsed {
    /// Both clocks agree: so much time has passed, in seconds.
    Observed(u64),
    /// The machine was restarted in between: what passed was not observed and does not count.
    Unobserved,
    /// The wall clock moved differently from the machine's own: somebody set it. Waiting periods halt.
    ClockJumped {
        /// How far the wall clock is off, in milliseconds; positive when it is ahead.
        off_millis: i64,
    },
}

/// Compares two observations, the earlier first.
///
/// A difference of up to [`DRIFT_MILLIS_MAX`] plus one per cent of the time passed is drift, more is a jump.
pub fn elapsed(before: Observation, after: Observation) -> Elapsed {
    if before.boot != after.boot || after.uptime_millis < before.uptime_millis {
        return Elapsed::Unobserved;
    }
    let uptime = after.uptime_millis - before.uptime_millis;
    let uptime_signed = i64::try_from(uptime).unwrap_or(i64::MAX);
    let wall = after.wall.as_millis().saturating_sub(before.wall.as_millis());
    let off_millis = wall.saturating_sub(uptime_signed);
    if off_millis.unsigned_abs() > DRIFT_MILLIS_MAX + uptime / 100 {
        return Elapsed::ClockJumped { off_millis };
    }
    Elapsed::Observed(uptime / 1000)
}

/// How far the wall clock may be from the machine's own clock before it counts as set by hand, in milliseconds.
pub const DRIFT_MILLIS_MAX: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u8, wall: i64, uptime_millis: u64) -> Observation {
        Observation { boot: BootId([boot; 16]), wall: Timestamp::from_millis(wall), uptime_millis }
    }

    #[test]
    fn only_time_that_both_clocks_saw_counts() {
        let rows = [
            ("agreeing clocks", at(1, 0, 0), at(1, 60_000, 60_000), Elapsed::Observed(60)),
            ("small drift", at(1, 0, 0), at(1, 64_000, 60_000), Elapsed::Observed(60)),
            ("set forward", at(1, 0, 0), at(1, 1_000_000, 60_000), Elapsed::ClockJumped { off_millis: 940_000 }),
            ("set back", at(1, 500_000, 0), at(1, 0, 60_000), Elapsed::ClockJumped { off_millis: -560_000 }),
            ("restarted", at(1, 0, 900_000), at(2, 60_000, 1_000), Elapsed::Unobserved),
        ];
        for (name, before, after, want) in rows {
            assert_eq!(elapsed(before, after), want, "{name}");
        }
    }

    #[test]
    fn a_timestamp_reads_back_what_it_prints() {
        let moment = Timestamp::from_millis(1_795_512_600_007);
        assert_eq!(moment.to_string(), "2026-11-24T09:30:00.007Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..Default::default() })]

        /// From the year 1 to 9999 to the millisecond.
        #[test]
        fn every_moment_reads_back(millis in -62_135_596_800_000_i64..253_402_207_200_000) {
            let moment = Timestamp::from_millis(millis);
            proptest::prop_assert_eq!(moment.to_string().parse(), Ok(moment));
        }

        /// However the wall clock is moved, no more time counts than the machine's own clock saw; and a wall clock
        /// that is off by more than drift counts nothing.
        #[test]
        fn no_more_time_counts_than_went_by(uptime in 0_u64..10_000_000_000, off in -10_000_000_000_i64..10_000_000_000) {
            let wall = i64::try_from(uptime).unwrap() + off;
            let allowed = DRIFT_MILLIS_MAX + uptime / 100;
            match elapsed(at(1, 0, 0), at(1, wall, uptime)) {
                Elapsed::Observed(seconds) => {
                    proptest::prop_assert_eq!(seconds, uptime / 1000);
                    proptest::prop_assert!(off.unsigned_abs() <= allowed);
                }
                Elapsed::ClockJumped { off_millis } => {
                    proptest::prop_assert_eq!(off_millis, off);
                    proptest::prop_assert!(off.unsigned_abs() > allowed);
                }
                Elapsed::Unobserved => proptest::prop_assert!(false, "the machine was not restarted"),
            }
        }

        #[test]
        fn seconds_never_go_below_zero_or_over_the_end(one: i64, other: i64, seconds: u64) {
            let (one, other) = (Timestamp::from_millis(one), Timestamp::from_millis(other));
            proptest::prop_assert!(one.seconds_since(other) == 0 || other.seconds_since(one) == 0);
            proptest::prop_assert!(one.plus_seconds(seconds) >= one);
        }
    }
}

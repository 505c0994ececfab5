//! The rotation sweep: which keys are due, as a pure function of what is known and the time.

use crate::id::{DataKeyId, MasterKeyId};
use crate::label::Demands;
use crate::text::text_enum;
use crate::time::Timestamp;
use keyrail_crypto::suite::Suite;

text_enum! {
    /// Why a key is rotated.
    RotationReason, "rotation reason" {
        /// Its active version is older than its label allows.
        Age = "age",
        /// Somebody asked for it.
        Demand = "demand",
        /// A version was declared exposed.
        Exposure = "exposure",
        /// It was given another label.
        Label = "label",
        /// Its label now asks for another content algorithm.
        Policy = "policy",
        /// Its active version encrypted as often as its label allows.
        Uses = "uses",
    }
}

impl RotationReason {
    /// Whether it follows from what a label demands, and is over as soon as the demand is kept again.
    pub const fn comes_of_demands(self) -> bool {
        match self {
            Self::Age | Self::Policy | Self::Uses => true,
            Self::Demand | Self::Exposure | Self::Label => false,
        }
    }
}

/// What the sweep knows of a data key's active version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DataKeyFacts<'a> {
    /// The key.
    pub key: DataKeyId,
    /// What its label demands now.
    pub demands: &'a Demands,
    /// The content algorithm of the active version.
    pub suite: Suite,
    /// When the active version became active.
    pub activated_at: Timestamp,
    /// How often it encrypted, counted from the log.
    pub uses: u64,
    /// Why somebody asks for a rotation now, if somebody does: by hand, for another label, after an exposure.
    pub asked: Option<RotationReason>,
}

/// What the sweep knows of a master key's active version.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MasterKeyFacts {
    /// The master key.
    pub key: MasterKeyId,
    /// The strictest age that the labels of its data keys allow, in seconds.
    pub age_seconds_max: Option<u64>,
    /// When the active version became active.
    pub activated_at: Timestamp,
}

/// A rotation that is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Due {
    /// Rotate this data key.
    DataKey(DataKeyId, RotationReason),
    /// Rotate this master key.
    MasterKey(MasterKeyId, RotationReason),
}

/// Lists what is due at `now`. Each key comes at most once; doing it all and sweeping again gives nothing.
pub fn sweep(data_keys: &[DataKeyFacts<'_>], master_keys: &[MasterKeyFacts], now: Timestamp) -> Vec<Due> {
    let data =
        data_keys.iter().filter_map(|facts| due_reason(facts, now).map(|reason| Due::DataKey(facts.key, reason)));
    let master = master_keys.iter().filter(|facts| too_old(facts.age_seconds_max, facts.activated_at, now));
    data.chain(master.map(|facts| Due::MasterKey(facts.key, RotationReason::Age))).collect()
}

/// Why a data key is to be rotated at `now`, if it is. What somebody asks for goes before what its label demands.
pub fn due_reason(facts: &DataKeyFacts<'_>, now: Timestamp) -> Option<RotationReason> {
    let demands = facts.demands;
    if facts.asked.is_some() {
        return facts.asked;
    }
    if facts.suite != demands.suite {
        return Some(RotationReason::Policy);
    }
    if demands.data_key_uses_max.is_some_and(|max| facts.uses >= max) {
        return Some(RotationReason::Uses);
    }
    too_old(demands.data_key_age_seconds_max, facts.activated_at, now).then_some(RotationReason::Age)
}

fn too_old(age_seconds_max: Option<u64>, activated_at: Timestamp, now: Timestamp) -> bool {
    age_seconds_max.is_some_and(|max| now.seconds_since(activated_at) >= max)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::label::default_labels;

    fn demands(age: Option<u64>, uses: Option<u64>) -> Demands {
        let label = default_labels(Timestamp::from_millis(0)).unwrap().remove(0);
        Demands { data_key_age_seconds_max: age, data_key_uses_max: uses, ..label.demands }
    }

    fn facts(demands: &Demands, activated: i64, uses: u64) -> DataKeyFacts<'_> {
        let activated_at = Timestamp::from_millis(activated * 1000);
        DataKeyFacts {
            key: DataKeyId::from_bytes([1; 16]),
            demands,
            suite: Suite::default(),
            activated_at,
            uses,
            asked: None,
        }
    }

    #[test]
    fn each_reason_at_its_edge() {
        let now = Timestamp::from_millis(100_000);
        let rows = [
            ("young and unused", demands(Some(100), Some(10)), 1, 9, None),
            ("old to the second", demands(Some(100), Some(10)), 0, 0, Some(RotationReason::Age)),
            ("used up", demands(Some(100), Some(10)), 1, 10, Some(RotationReason::Uses)),
            ("no limits", demands(None, None), 0, u64::MAX, None),
            ("clock behind", demands(Some(100), None), 500, 0, None),
        ];
        for (name, demands, activated, uses, want) in rows {
            let got = sweep(&[facts(&demands, activated, uses)], &[], now);
            assert_eq!(
                got.first().map(|due| match due {
                    Due::DataKey(_, reason) | Due::MasterKey(_, reason) => *reason,
                }),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn a_label_that_changes_its_suite_makes_its_keys_due() {
        let changed = Demands { suite: Suite::ChaCha20Poly1305, ..demands(None, None) };
        let got = sweep(&[facts(&changed, 0, 0)], &[], Timestamp::from_millis(0));
        assert_eq!(got, [Due::DataKey(DataKeyId::from_bytes([1; 16]), RotationReason::Policy)]);
    }

    #[test]
    fn what_somebody_asks_for_goes_before_what_is_due() {
        let demands = demands(Some(100), Some(1));
        for asked in [RotationReason::Demand, RotationReason::Label, RotationReason::Exposure] {
            let asked_for = DataKeyFacts { asked: Some(asked), ..facts(&demands, 0, 5) };
            assert_eq!(due_reason(&asked_for, Timestamp::from_millis(500_000)), Some(asked));
            let young = DataKeyFacts { asked: Some(asked), ..facts(&demands, 0, 0) };
            assert_eq!(due_reason(&young, Timestamp::from_millis(0)), Some(asked));
        }
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_due_and_one_set_forward_no_more_than_once() {
        let demands = demands(Some(100), None);
        let mut facts = facts(&demands, 1_000, 0);
        assert_eq!(due_reason(&facts, Timestamp::from_millis(0)), None);
        let far = Timestamp::from_millis(i64::MAX);
        assert_eq!(due_reason(&facts, far), Some(RotationReason::Age));
        facts.activated_at = far;
        assert_eq!(due_reason(&facts, far), None);
        assert_eq!(due_reason(&facts, Timestamp::from_millis(i64::MIN)), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..ProptestConfig::default() })]

        /// What was due is not due again once it was rotated, and what was not due stays.
        #[test]
        fn a_second_sweep_changes_nothing(
            keys in proptest::collection::vec((0_i64..1000, 0_u64..100, proptest::option::of(60_u64..900), proptest::option::of(1_u64..100), proptest::option::of(0_usize..RotationReason::ALL.len()), any::<bool>()), 0..40),
            masters in proptest::collection::vec((0_i64..1000, proptest::option::of(60_u64..900)), 0..10),
        ) {
            let now = Timestamp::from_millis(1_000_000);
            let suite = |other: bool| if other { Suite::ChaCha20Poly1305 } else { Suite::A256Gcm };
            let demand_list: Vec<_> = keys.iter().map(|row| Demands { suite: suite(row.5), ..demands(row.2, row.3) }).collect();
            let mut data: Vec<_> = keys.iter().zip(&demand_list).enumerate().map(|(i, (row, demands))| DataKeyFacts {
                key: DataKeyId::from_bytes([u8::try_from(i).unwrap(); 16]),
                asked: row.4.map(|at| RotationReason::ALL[at]),
                ..facts(demands, row.0, row.1)
            }).collect();
            let mut master: Vec<_> = masters.iter().enumerate().map(|(i, row)| MasterKeyFacts {
                key: MasterKeyId::from_bytes([u8::try_from(i).unwrap(); 16]),
                age_seconds_max: row.1,
                activated_at: Timestamp::from_millis(row.0 * 1000),
            }).collect();
            let first = sweep(&data, &master, now);
            for due in &first {
                match due {
                    Due::DataKey(key, _) => for facts in data.iter_mut().filter(|facts| facts.key == *key) {
                        facts.activated_at = now;
                        facts.uses = 0;
                        facts.suite = facts.demands.suite;
                        facts.asked = None;
                    },
                    Due::MasterKey(key, _) => for facts in master.iter_mut().filter(|facts| facts.key == *key) {
                        facts.activated_at = now;
                    },
                }
            }
            prop_assert_eq!(sweep(&data, &master, now), vec![]);
            prop_assert!(first.len() <= keys.len() + masters.len());
        }
    }
}

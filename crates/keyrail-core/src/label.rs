//! Labels: how sensitive data is, and what that demands of its keys.

use keyrail_crypto::suite::Suite;

use crate::access::Role;
use crate::name::Name;
use crate::time::Timestamp;

/// A label and what it demands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Label {
    /// The label's name: `public`, `internal`, `confidential`, `restricted`, or one of the owner's.
    pub name: Name,
    /// What it demands of the keys that carry it.
    pub demands: Demands,
    /// When the label was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// What a label demands. `None` means no limit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Demands {
    /// The content algorithm of new data key versions.
    pub suite: Suite,
    /// A data key version older than this is rotated, in seconds.
    pub data_key_age_seconds_max: Option<u64>,
    /// A data key version that encrypted this often is rotated.
    pub data_key_uses_max: Option<u64>,
    /// A master key version older than this is rotated, in seconds; of an environment's labels the strictest counts.
    pub master_key_age_seconds_max: Option<u64>,
    /// How long an unwrapped data key may stay in a cache, in seconds.
    pub cache_seconds_max: u64,
    /// How long a caller may still store a ciphertext that was handed out, in seconds; retirement waits for it.
    pub write_window_seconds: u64,
    /// A campaign should be done this long after the rotation, in seconds.
    pub campaign_deadline_seconds: Option<u64>,
    /// How long destruction waits, in seconds of observed time.
    pub destroy_wait_seconds: u64,
    /// Who must approve a grave change, and how many of them. Shown only, until approvals exist.
    pub approval: Option<ApprovalDemand>,
}

/// Whose approval a label asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ApprovalDemand {
    /// The role that approves.
    pub role: Role,
    /// How many of them.
    pub count: u32,
}

/// The longest period that any demand may name, in seconds (ten years).
pub const PERIOD_SECONDS_MAX: u64 = 10 * 365 * DAY;

/// The shortest age after which a key may be rotated by age, in seconds: below it rotation would chase itself.
pub const AGE_SECONDS_MIN: u64 = 60;

const DAY: u64 = 24 * 60 * 60;

impl Demands {
    /// Checks that each demand is within what can be kept.
    ///
    /// # Errors
    /// [`DemandError`] names the first demand that is not.
    pub fn checked(self) -> Result<Self, DemandError> {
        let ages = [
            ("data_key_age_seconds_max", self.data_key_age_seconds_max),
            ("master_key_age_seconds_max", self.master_key_age_seconds_max),
        ];
        for (demand, seconds) in ages {
            if let Some(seconds) = seconds {
                in_range(demand, seconds, AGE_SECONDS_MIN, PERIOD_SECONDS_MAX)?;
            }
        }
        if let Some(uses) = self.data_key_uses_max {
            in_range("data_key_uses_max", uses, 1, i64::MAX as u64)?;
        }
        if let Some(seconds) = self.campaign_deadline_seconds {
            in_range("campaign_deadline_seconds", seconds, 1, PERIOD_SECONDS_MAX)?;
        }
        in_range("cache_seconds_max", self.cache_seconds_max, 0, DAY)?;
        in_range("write_window_seconds", self.write_window_seconds, 0, 30 * DAY)?;
        in_range("destroy_wait_seconds", self.destroy_wait_seconds, 0, PERIOD_SECONDS_MAX)?;
        if let Some(approval) = self.approval {
            in_range("approval_count", approval.count.into(), 1, 16)?;
        }
        Ok(self)
    }

    /// The first demand that `other` makes weaker, if it does; its name in JSON and SQL. The suites of the registry are
    /// equally strong. A role below the owner who approves is weaker, and so is any other that is no owner.
    pub fn loosened_by(&self, other: &Self) -> Option<&'static str> {
        let at_most = |own: Option<u64>, other: Option<u64>| match (own, other) {
            (Some(own), Some(other)) => other > own,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let approval = match (self.approval, other.approval) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(other)) => {
                other.count < own.count || (other.role != own.role && other.role != Role::Owner)
            }
        };
        let weaker = [
            ("data_key_age_seconds_max", at_most(self.data_key_age_seconds_max, other.data_key_age_seconds_max)),
            ("data_key_uses_max", at_most(self.data_key_uses_max, other.data_key_uses_max)),
            ("master_key_age_seconds_max", at_most(self.master_key_age_seconds_max, other.master_key_age_seconds_max)),
            ("cache_seconds_max", other.cache_seconds_max > self.cache_seconds_max),
            ("write_window_seconds", other.write_window_seconds < self.write_window_seconds),
            ("campaign_deadline_seconds", at_most(self.campaign_deadline_seconds, other.campaign_deadline_seconds)),
            ("destroy_wait_seconds", other.destroy_wait_seconds < self.destroy_wait_seconds),
            ("approval", approval),
        ];
        weaker.into_iter().find(|(_, weaker)| *weaker).map(|(demand, _)| demand)
    }
}

/// The four labels a new store begins with; `docs/defaults.md` gives a reason for each figure.
pub fn default_labels(now: Timestamp) -> Result<Vec<Label>, crate::name::NameError> {
    let two_owners = ApprovalDemand { role: Role::Owner, count: 2 };
    let one_owner = ApprovalDemand { role: Role::Owner, count: 1 };
    let rows = [
        ("public", 730, None, 730, 3_600, 7, None),
        ("internal", 365, None, 730, 900, 7, None),
        ("confidential", 90, Some(1 << 32), 365, 300, 14, Some(one_owner)),
        ("restricted", 30, Some(1 << 28), 180, 60, 30, Some(two_owners)),
    ];
    rows.into_iter()
        .map(|(name, age_days, uses, master_days, cache_seconds, destroy_days, approval)| {
            Ok(Label {
                name: name.parse()?,
                demands: Demands {
                    suite: Suite::default(),
                    data_key_age_seconds_max: Some(age_days * DAY),
                    data_key_uses_max: uses,
                    master_key_age_seconds_max: Some(master_days * DAY),
                    cache_seconds_max: cache_seconds,
                    write_window_seconds: WRITE_WINDOW_SECONDS_DEFAULT,
                    campaign_deadline_seconds: Some(30 * DAY),
                    destroy_wait_seconds: destroy_days * DAY,
                    approval,
                },
                created_at: now,
                updated_at: now,
                generation: 1,
            })
        })
        .collect()
}

/// The write window of a label that sets none, in seconds.
pub const WRITE_WINDOW_SECONDS_DEFAULT: u64 = 60;

/// A demand outside what can be kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{demand}` is {value}, and must be from {min} to {max}")]
pub struct DemandError {
    /// The demand's name in JSON and SQL.
    pub demand: &'static str,
    /// What was asked for.
    pub value: u64,
    /// The least that is accepted.
    pub min: u64,
    /// The most that is accepted.
    pub max: u64,
}

fn in_range(demand: &'static str, value: u64, min: u64, max: u64) -> Result<(), DemandError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(DemandError { demand, value, min, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_labels_keep_their_own_limits() {
        let labels = default_labels(Timestamp::from_millis(0)).unwrap();
        assert_eq!(labels.len(), 4);
        for label in labels {
            assert_eq!(label.demands.clone().checked(), Ok(label.demands), "{}", label.name);
        }
    }

    /// Every demand, at both of its edges and beyond them.
    #[test]
    fn each_demand_has_a_least_and_a_most() {
        let base = default_labels(Timestamp::from_millis(0)).unwrap().remove(0).demands;
        type Set = fn(&mut Demands, u64);
        let rows: [(&str, Set, u64, u64); 8] = [
            ("data_key_age_seconds_max", |d, v| d.data_key_age_seconds_max = Some(v), 60, PERIOD_SECONDS_MAX),
            ("data_key_uses_max", |d, v| d.data_key_uses_max = Some(v), 1, i64::MAX as u64),
            ("master_key_age_seconds_max", |d, v| d.master_key_age_seconds_max = Some(v), 60, PERIOD_SECONDS_MAX),
            ("cache_seconds_max", |d, v| d.cache_seconds_max = v, 0, 86_400),
            ("write_window_seconds", |d, v| d.write_window_seconds = v, 0, 30 * 86_400),
            ("campaign_deadline_seconds", |d, v| d.campaign_deadline_seconds = Some(v), 1, PERIOD_SECONDS_MAX),
            ("destroy_wait_seconds", |d, v| d.destroy_wait_seconds = v, 0, PERIOD_SECONDS_MAX),
            (
                "approval_count",
                |d, v| d.approval = Some(ApprovalDemand { role: Role::Owner, count: u32::try_from(v).unwrap() }),
                1,
                16,
            ),
        ];
        for (name, set, min, max) in rows {
            let with = |value| {
                let mut demands = base.clone();
                set(&mut demands, value);
                demands.checked()
            };
            assert!(with(min).is_ok() && with(max).is_ok(), "{name}");
            for wrong in [min.checked_sub(1), max.checked_add(1)].into_iter().flatten() {
                assert_eq!(with(wrong), Err(DemandError { demand: name, value: wrong, min, max }), "{name}");
            }
        }
        let unlimited = Demands {
            data_key_age_seconds_max: None,
            data_key_uses_max: None,
            master_key_age_seconds_max: None,
            campaign_deadline_seconds: None,
            approval: None,
            ..base
        };
        assert!(unlimited.checked().is_ok());
    }

    fn moved(value: &mut Option<u64>, by: i64) {
        *value = value.map(|value| value.checked_add_signed(by).unwrap());
    }

    /// Every demand, one step weaker and one step stronger.
    #[test]
    fn each_demand_can_be_loosened_and_tightened() {
        let approval = |role, count| Some(ApprovalDemand { role, count });
        let base = Demands {
            data_key_uses_max: Some(1_000),
            approval: approval(Role::Operator, 2),
            ..default_labels(Timestamp::from_millis(0)).unwrap().remove(2).demands
        };
        type Set = fn(&mut Demands, i64);
        // The name, what moves it, and in which direction it is weaker.
        let rows: [(&str, Set, i64); 8] = [
            ("data_key_age_seconds_max", |d, by| moved(&mut d.data_key_age_seconds_max, by), 1),
            ("data_key_uses_max", |d, by| moved(&mut d.data_key_uses_max, by), 1),
            ("master_key_age_seconds_max", |d, by| moved(&mut d.master_key_age_seconds_max, by), 1),
            ("cache_seconds_max", |d, by| d.cache_seconds_max = d.cache_seconds_max.checked_add_signed(by).unwrap(), 1),
            (
                "write_window_seconds",
                |d, by| d.write_window_seconds = d.write_window_seconds.checked_add_signed(by).unwrap(),
                -1,
            ),
            ("campaign_deadline_seconds", |d, by| moved(&mut d.campaign_deadline_seconds, by), 1),
            (
                "destroy_wait_seconds",
                |d, by| d.destroy_wait_seconds = d.destroy_wait_seconds.checked_add_signed(by).unwrap(),
                -1,
            ),
            (
                "approval",
                |d, by| {
                    let approval = d.approval.as_mut().unwrap();
                    approval.count = approval.count.checked_add_signed(i32::try_from(by).unwrap()).unwrap();
                },
                -1,
            ),
        ];
        let with = |set: Set, by| {
            let mut demands = base.clone();
            set(&mut demands, by);
            demands
        };
        for (name, set, weaker) in rows {
            assert_eq!(base.loosened_by(&with(set, weaker)), Some(name));
            assert_eq!(base.loosened_by(&with(set, -weaker)), None, "{name}");
        }
        assert_eq!(base.loosened_by(&base), None);
        let lifted: [(&str, Demands); 5] = [
            ("data_key_age_seconds_max", Demands { data_key_age_seconds_max: None, ..base.clone() }),
            ("data_key_uses_max", Demands { data_key_uses_max: None, ..base.clone() }),
            ("master_key_age_seconds_max", Demands { master_key_age_seconds_max: None, ..base.clone() }),
            ("campaign_deadline_seconds", Demands { campaign_deadline_seconds: None, ..base.clone() }),
            ("approval", Demands { approval: None, ..base.clone() }),
        ];
        for (name, demands) in lifted {
            assert_eq!((base.loosened_by(&demands), demands.loosened_by(&base)), (Some(name), None));
        }
        let approves = |role| Demands { approval: approval(role, 2), ..base.clone() };
        assert_eq!(base.loosened_by(&approves(Role::Owner)), None);
        for role in [Role::Operator, Role::App, Role::Auditor] {
            assert_eq!(approves(Role::Owner).loosened_by(&approves(role)), Some("approval"), "{role}");
        }
    }

    #[test]
    fn the_default_labels_get_stricter_one_by_one() {
        let labels = default_labels(Timestamp::from_millis(0)).unwrap();
        for (index, label) in labels.iter().enumerate() {
            for (other_index, other) in labels.iter().enumerate() {
                let looser = label.demands.loosened_by(&other.demands).is_some();
                assert_eq!(looser, other_index < index, "from {} to {}", label.name, other.name);
            }
        }
    }
}

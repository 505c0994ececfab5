//! Fences: after a change of state returned, nothing that was decided before it takes effect any more.
//!
//! The protocol is in `spec/retirement.md`. What the engine and the log call here, its model calls, too.

use crate::id::NodeId;
use crate::time::BootTime;

/// The state that something was decided under, as a number that every change a decision may depend on raises.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the state after one more change.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Whether a record that was decided under `decided` may still be appended to a log whose head is of `head`.
///
/// To be asked in the step that makes the record durable, together with the head: an answer from before is worth
/// nothing.
pub const fn may_append(decided: Epoch, head: Epoch) -> bool {
    decided.0 >= head.0
}

/// How far the clocks of two machines may go apart: of two of them that measure the same time, the faster one counts at
/// most this much more.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Drift {
    /// In thousandths of the slower clock's time.
    pub per_mille: u64,
}

impl Drift {
    /// What Keyrail relies on. A quartz clock is off by a tenth of a thousandth, and the kernel slews it by half of one.
    pub const STATED: Self = Self { per_mille: DRIFT_PER_MILLE_MAX };

    /// How much the faster clock counts until `millis` have surely gone by on the slower one, in milliseconds.
    pub const fn waited_millis(self, millis: u64) -> u64 {
        millis.saturating_add(millis.saturating_mul(self.per_mille).div_ceil(1000))
    }
}

/// Leave for a node to decide under an epoch for a while.
///
/// It counts on the node's own clock, from before the renewal was sent: however long the answer took, whoever granted
/// it began to count later.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Lease {
    epoch: Epoch,
    sent_at: BootTime,
    millis: u64,
}

impl Lease {
    /// What a renewal that was sent at `sent_at` brought back: the epoch that the store was of when it granted it.
    pub const fn granted(epoch: Epoch, row: &LeaseRow, sent_at: BootTime) -> Self {
        Self { epoch, sent_at, millis: row.millis }
    }

    /// The epoch that may be decided under at `now`; none once the lease is over, or on a machine that was started anew.
    pub fn epoch_at(&self, now: BootTime) -> Option<Epoch> {
        self.left_millis(now).map(|_| self.epoch)
    }

    /// Whether it is time to renew it: a third of it has gone by, so that two attempts may fail.
    pub fn is_due(&self, now: BootTime) -> bool {
        self.left_millis(now).is_none_or(|left| left <= self.millis - self.millis / 3)
    }

    /// How much of it is left, in milliseconds; `None` when nothing is.
    fn left_millis(&self, now: BootTime) -> Option<u64> {
        let passed = now.millis_since(self.sent_at)?;
        self.millis.checked_sub(passed).filter(|left| *left > 0)
    }
}

/// What a node asks for. It has one renewal under way at most: the answer to one that it gave up is never taken.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Renewal {
    /// Who asks; a process that was started anew is another node.
    pub node: NodeId,
    /// The epoch that it works under until the answer arrives, whatever that says.
    pub held: Option<Epoch>,
    /// The generation that its row had when it asked; 0 if there was none.
    pub generation: u64,
    /// How long a lease it asks for, in milliseconds.
    pub millis: u64,
}

/// What the store knows of a node's lease. It holds no time: no two clocks would agree on it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LeaseRow {
    /// Who holds it.
    pub node: NodeId,
    /// The earliest epoch that the node may work under.
    pub epoch: Epoch,
    /// How long it is, in milliseconds, from before the renewal was sent.
    pub millis: u64,
    /// Counts the renewals.
    pub generation: u64,
}

impl LeaseRow {
    /// The row after a renewal, in the transaction that read `former` as the node's row, and `epoch` as the state's, which
    /// it grants. With the grant the node learns that what it has of a former epoch is void; that it has learnt it, its
    /// next renewal says.
    ///
    /// # Errors
    /// [`RenewalSuperseded`] if the node was granted another one since it asked: a renewal that was given up must not say
    /// what its node works under.
    pub fn renewed(former: Option<&Self>, asked: &Renewal, epoch: Epoch) -> Result<Self, RenewalSuperseded> {
        let generation = former.map_or(0, |row| row.generation);
        if generation != asked.generation {
            return Err(RenewalSuperseded { asked: asked.generation, found: generation });
        }
        let epoch = asked.held.map_or(epoch, |held| held.min(epoch));
        Ok(Self { node: asked.node, epoch, millis: asked.millis, generation: generation.saturating_add(1) })
    }
}

/// A renewal comes after another one that was sent later.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the lease is of generation {found}, and a renewal was asked for when it was of {asked}")]
pub struct RenewalSuperseded {
    /// The generation that the node knew.
    pub asked: u64,
    /// The one that the row has.
    pub found: u64,
}

/// How much longer whoever raised the state to `epoch` has to wait until no node decides under a former one, in
/// milliseconds.
///
/// `leases` are all of them as the store has them at or after the change, and `waited_millis` is what went by since on
/// the clock of whoever waits. A node that asked under the new epoch has dropped the former one: nobody waits for it.
pub fn revoker_wait_millis(leases: &[LeaseRow], epoch: Epoch, waited_millis: u64, drift: Drift) -> u64 {
    let former = leases.iter().filter(|row| row.epoch < epoch);
    former.map(|row| drift.waited_millis(row.millis).saturating_sub(waited_millis)).max().unwrap_or(0)
}

/// How far the clocks of two machines may go apart, in thousandths.
pub const DRIFT_PER_MILLE_MAX: u64 = 10;

/// How long a node's lease is, in milliseconds: how long a change waits for a node that does not answer.
pub const LEASE_MILLIS: u64 = 5_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::BootId;

    fn at(millis: u64) -> BootTime {
        BootTime { boot: BootId([1; 16]), millis }
    }

    fn asked(node: u8, held: Option<u64>, generation: u64) -> Renewal {
        Renewal { node: NodeId::from_bytes([node; 16]), held: held.map(Epoch), generation, millis: 5_000 }
    }

    fn row(node: u8, epoch: u64) -> LeaseRow {
        LeaseRow::renewed(None, &asked(node, None, 0), Epoch(epoch)).unwrap()
    }

    #[test]
    fn an_append_is_fresh_from_the_heads_epoch_on() {
        for (decided, head, may) in [(1, 1, true), (1, 2, false), (3, 2, true), (0, 1, false)] {
            assert_eq!(may_append(Epoch(decided), Epoch(head)), may, "{decided} under {head}");
        }
        assert!(!may_append(Epoch(7), Epoch(7).next()));
    }

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for() {
        let lease = Lease::granted(Epoch(4), &row(1, 4), at(10_000));
        let rows = [
            (10_000, Some(4), false),
            (11_666, Some(4), true),
            (14_999, Some(4), true),
            (15_000, None, true),
            (9_999, None, true),
        ];
        for (now, epoch, due) in rows {
            assert_eq!(lease.epoch_at(at(now)), epoch.map(Epoch), "at {now}");
            assert_eq!(lease.is_due(at(now)), due, "at {now}");
        }
        let restarted = BootTime { boot: BootId([2; 16]), millis: 11_000 };
        assert_eq!(lease.epoch_at(restarted), None);
    }

    /// Between the grant and its arrival the node works under what it has: only its next renewal says otherwise.
    #[test]
    fn a_row_says_what_its_node_works_under() {
        let former = row(1, 4);
        let renew = |held, generation| LeaseRow::renewed(Some(&former), &asked(1, held, generation), Epoch(6));
        assert_eq!(renew(Some(4), 1), Ok(LeaseRow { generation: 2, ..former }));
        assert_eq!(renew(Some(6), 1).unwrap().epoch, Epoch(6));
        assert_eq!(renew(None, 1).unwrap().epoch, Epoch(6), "a node that works under nothing gets what it is granted");
        assert_eq!(renew(Some(9), 1).unwrap().epoch, Epoch(6), "no node is ahead of the store");
        assert_eq!(renew(None, 0), Err(RenewalSuperseded { asked: 0, found: 1 }));
    }

    #[test]
    fn who_has_the_new_epoch_is_not_waited_for() {
        let drift = Drift::STATED;
        assert_eq!(revoker_wait_millis(&[], Epoch(5), 0, drift), 0);
        assert_eq!(revoker_wait_millis(&[row(1, 5), row(2, 6)], Epoch(5), 0, drift), 0);
        let rows = [row(1, 5), row(2, 4)];
        for (waited, left) in [(0, 5_050), (5_000, 50), (5_049, 1), (5_050, 0), (9_000, 0)] {
            assert_eq!(revoker_wait_millis(&rows, Epoch(5), waited, drift), left, "after {waited}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: proptest::test_runner::RngSeed::Fixed(2), ..Default::default() })]

        /// However slow the holder's clock is within the bound: when the wait is over, so is the lease.
        #[test]
        fn no_lease_outlives_the_wait(millis in 1_u64..100_000, per_mille in 0_u64..1_000, later in 0_u64..1_000) {
            let drift = Drift { per_mille };
            let lease_row = LeaseRow { millis, ..row(1, 1) };
            let lease = Lease::granted(Epoch(1), &lease_row, at(0));
            let waited = revoker_wait_millis(&[lease_row], Epoch(2), 0, drift) + later;
            prop_assert_eq!(revoker_wait_millis(&[lease_row], Epoch(2), waited, drift), 0);
            // The least that a clock shows which goes slower by all of the drift.
            let shown = (waited * 1000).div_ceil(1000 + per_mille);
            prop_assert_eq!(lease.epoch_at(at(shown)), None);
        }
    }
}

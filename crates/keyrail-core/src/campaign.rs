//! Campaigns: jobs that move an asset's data, can be stopped anywhere, and claim completion only with proof.

use keyrail_crypto::envelope::Kid;

use crate::id::{AssetId, CampaignId};
use crate::key::DataKeyVersion;
use crate::lifecycle::VersionState;
use crate::text::text_enum;
use crate::time::Timestamp;

text_enum! {
    /// What a campaign does.
    CampaignKind, "kind of campaign" {
        /// Encrypts plaintext in place.
        Protect = "protect",
        /// Puts everything under the active version.
        Reencrypt = "reencrypt",
        /// Puts everything back under the former version.
        Rollback = "rollback",
        /// Decrypts in place.
        Unprotect = "unprotect",
    }
}

text_enum! {
    /// How far a campaign is.
    CampaignState, "campaign state" {
        /// Works, or will go on at the next start.
        Running = "running",
        /// Stopped by somebody.
        Paused = "paused",
        /// Stopped by an error, and can be resumed.
        Stopped = "stopped",
        /// Went through all rows, and the census still finds something: it does not claim completion.
        Incomplete = "incomplete",
        /// The census proves that nothing is left.
        Completed = "completed",
    }
}

text_enum! {
    /// What happens to a campaign.
    CampaignEvent, "campaign event" {
        /// The census proved that nothing is left.
        Complete = "complete",
        /// An error stopped it.
        Fail = "fail",
        /// All rows were visited, and the census found something left.
        FindLeft = "find-left",
        /// Somebody pauses it.
        Pause = "pause",
        /// Somebody lets it go on.
        Resume = "resume",
    }
}

/// Where `event` takes a campaign in `state`.
///
/// # Errors
/// [`CampaignError`] when the event does not belong to the state.
pub const fn transition(state: CampaignState, event: CampaignEvent) -> Result<CampaignState, CampaignError> {
    use CampaignEvent as Event;
    use CampaignState as State;
    match (state, event) {
        (State::Running, Event::Complete) => Ok(State::Completed),
        (State::Running, Event::Fail) => Ok(State::Stopped),
        (State::Running, Event::FindLeft) => Ok(State::Incomplete),
        (State::Running, Event::Pause) => Ok(State::Paused),
        (State::Paused | State::Stopped | State::Incomplete, Event::Resume) => Ok(State::Running),
        (State::Running, Event::Resume)
        | (
            State::Paused | State::Stopped | State::Incomplete,
            Event::Complete | Event::Fail | Event::FindLeft | Event::Pause,
        )
        | (State::Completed, Event::Complete | Event::Fail | Event::FindLeft | Event::Pause | Event::Resume) => {
            Err(CampaignError { state, event })
        }
    }
}

/// When a campaign that moves data away from `version` should be done: its label's deadline after the version was
/// fenced. `None` if the label sets no deadline, or if the version is not one whose data is to be moved.
pub fn due_at(version: &DataKeyVersion, campaign_deadline_seconds: Option<u64>) -> Option<Timestamp> {
    let moves = matches!(version.state, VersionState::Deactivated | VersionState::Compromised);
    let fenced_at = version.fenced_at.filter(|_| moves)?;
    Some(fenced_at.plus_seconds(campaign_deadline_seconds?))
}

/// Whether an asset's data is late: the deadline is over, and no campaign has brought it under the active version.
pub fn is_overdue(due_at: Option<Timestamp>, active: Option<&Kid>, campaigns: &[Campaign], now: Timestamp) -> bool {
    let done = |campaign: &Campaign| {
        campaign.state == CampaignState::Completed && campaign.target.is_some() && campaign.target.as_ref() == active
    };
    due_at.is_some_and(|due_at| now >= due_at) && !campaigns.iter().any(done)
}

/// An event that does not belong to the state of the campaign.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a campaign that is {state} cannot {event}")]
pub struct CampaignError {
    /// The state the campaign is in.
    pub state: CampaignState,
    /// What was asked of it.
    pub event: CampaignEvent,
}

/// A campaign as the store knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Campaign {
    /// Immutable id.
    pub id: CampaignId,
    /// The asset it moves.
    pub asset: AssetId,
    /// What it does.
    pub kind: CampaignKind,
    /// The version that data goes under; `None` when it is decrypted.
    pub target: Option<Kid>,
    /// How far it is.
    pub state: CampaignState,
    /// The last row that is done in this pass, in the adapter's encoding; `None` before the first.
    pub cursor: Option<Vec<u8>>,
    /// How many rows per second at most.
    pub rows_per_second_max: Option<u32>,
    /// What it counted.
    pub counts: CampaignCounts,
    /// The stable code of the error that stopped it.
    pub error_code: Option<String>,
    /// Who started it.
    pub started_by: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last made a step.
    pub updated_at: Timestamp,
    /// When it was completed.
    pub finished_at: Option<Timestamp>,
    /// Counts the changes of this row.
    pub generation: u64,
    /// Whether plaintext was overwritten, or is about to be, that the database's files may hold until they are scrubbed.
    pub scrub_due: bool,
    /// What the last scrub could not remove, and why.
    pub not_scrubbed: Vec<String>,
    /// Who resumed it last.
    pub resumed_by: Option<String>,
}

impl Campaign {
    /// Whether the database's files are to be scrubbed before it ends.
    ///
    /// Stores before schema 3 did not note it: a campaign that protects, is unfinished and never was scrubbed is due
    /// whatever its row says. No other kind is due by that alone: to scrub locks out the application's writers and takes
    /// room on its disk.
    pub fn is_scrub_due(&self) -> bool {
        let protects = self.kind == CampaignKind::Protect && self.state != CampaignState::Completed;
        self.scrub_due || (protects && self.not_scrubbed.is_empty())
    }
}

/// What a campaign counted so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CampaignCounts {
    /// Rows of the table when it started, for the progress bar.
    pub rows_total: u64,
    /// Rows visited in this pass.
    pub rows: u64,
    /// Cells that were changed.
    pub cells_moved: u64,
    /// Cells that a writer had changed in between; they were read again.
    pub cas_lost: u64,
    /// Cells that do not open.
    pub damaged: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Passes over the table, the present one included.
    pub passes: u32,
    /// Time spent working, in milliseconds.
    pub busy_millis: u64,
}

#[cfg(test)]
mod tests {
    use super::CampaignEvent as E;
    use super::CampaignState as S;
    use super::*;

    #[test]
    fn every_pair_of_state_and_event_is_decided() {
        let moves = [
            (S::Running, E::Complete, S::Completed),
            (S::Running, E::Fail, S::Stopped),
            (S::Running, E::FindLeft, S::Incomplete),
            (S::Running, E::Pause, S::Paused),
            (S::Paused, E::Resume, S::Running),
            (S::Stopped, E::Resume, S::Running),
            (S::Incomplete, E::Resume, S::Running),
        ];
        for &state in S::ALL {
            for &event in E::ALL {
                let want = moves.iter().find(|row| row.0 == state && row.1 == event).map(|row| row.2);
                assert_eq!(transition(state, event).ok(), want, "{state} × {event}");
            }
        }
    }

    fn version(state: VersionState, fenced_at: Option<i64>) -> DataKeyVersion {
        DataKeyVersion {
            kid: Kid::from_bytes([1; 16]),
            key: crate::id::DataKeyId::from_bytes([2; 16]),
            version: crate::name::VersionNumber::FIRST,
            state,
            suite: keyrail_crypto::suite::Suite::default(),
            wrapped: None,
            wrapped_by: crate::id::MasterVersionId::from_bytes([3; 16]),
            wrap_generation: 1,
            created_at: Timestamp::from_millis(0),
            activated_at: None,
            state_changed_at: Timestamp::from_millis(0),
            fenced_at: fenced_at.map(Timestamp::from_millis),
            fenced_window_seconds: None,
            destroy: None,
            generation: 1,
        }
    }

    fn campaign(state: CampaignState, target: Option<u8>) -> Campaign {
        Campaign {
            id: CampaignId::from_bytes([1; 16]),
            asset: AssetId::from_bytes([2; 16]),
            kind: CampaignKind::Reencrypt,
            target: target.map(|byte| Kid::from_bytes([byte; 16])),
            state,
            cursor: None,
            rows_per_second_max: None,
            counts: CampaignCounts::default(),
            error_code: None,
            started_by: "system".to_owned(),
            started_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
            finished_at: None,
            generation: 1,
            scrub_due: false,
            not_scrubbed: Vec::new(),
            resumed_by: None,
        }
    }

    #[test]
    fn a_campaign_is_due_its_deadline_after_the_fence() {
        let at = |millis| Some(Timestamp::from_millis(millis));
        let rows = [
            ("deactivated", version(VersionState::Deactivated, Some(1_000)), Some(5), at(6_000)),
            ("compromised", version(VersionState::Compromised, Some(1_000)), Some(5), at(6_000)),
            ("no deadline", version(VersionState::Deactivated, Some(1_000)), None, None),
            ("active", version(VersionState::Active, None), Some(5), None),
            ("retired", version(VersionState::Retired, Some(1_000)), Some(5), None),
            ("destroyed", version(VersionState::Destroyed, Some(1_000)), Some(5), None),
        ];
        for (name, version, deadline, want) in rows {
            assert_eq!(due_at(&version, deadline), want, "{name}");
        }
    }

    #[test]
    fn a_campaign_that_protects_and_never_was_scrubbed_is_due() {
        let row = |kind, state| Campaign { kind, ..campaign(state, Some(9)) };
        for &state in S::ALL {
            // As a row of a former schema reads.
            assert_eq!(row(CampaignKind::Protect, state).is_scrub_due(), state != S::Completed, "{state}");
            let scrubbed = Campaign { not_scrubbed: vec!["copies".to_owned()], ..row(CampaignKind::Protect, state) };
            assert!(!scrubbed.is_scrub_due(), "{state}");
            // A rollback stores its place at the end of each pass, whatever it goes back from.
            let further = Campaign { generation: 2, ..row(CampaignKind::Rollback, state) };
            assert!(!further.is_scrub_due(), "{state}");
            for kind in [CampaignKind::Reencrypt, CampaignKind::Rollback, CampaignKind::Unprotect] {
                assert!(!row(kind, state).is_scrub_due(), "{kind} {state}");
                assert!(Campaign { scrub_due: true, ..row(kind, state) }.is_scrub_due(), "{kind} {state}");
            }
        }
    }

    #[test]
    fn data_is_late_until_a_campaign_brought_it_under_the_active_version() {
        let (active, due) = (Kid::from_bytes([9; 16]), Some(Timestamp::from_millis(10)));
        let (before, after) = (Timestamp::from_millis(9), Timestamp::from_millis(10));
        assert!(!is_overdue(due, Some(&active), &[], before));
        assert!(!is_overdue(None, Some(&active), &[], after));
        assert!(is_overdue(due, Some(&active), &[], after));
        assert!(is_overdue(due, Some(&active), &[campaign(S::Running, Some(9))], after));
        assert!(is_overdue(due, Some(&active), &[campaign(S::Completed, Some(8))], after));
        assert!(is_overdue(due, None, &[campaign(S::Completed, None)], after));
        assert!(!is_overdue(due, Some(&active), &[campaign(S::Completed, Some(9))], after));
    }
}

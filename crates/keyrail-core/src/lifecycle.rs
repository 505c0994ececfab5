//! The lifecycle of a key version: states after NIST SP 800-57 part 1 rev. 5, section 7, and the one
//! function that moves between them.

use crate::text::text_enum;

text_enum! {
    /// What may be done with a key version.
    VersionState, "key version state" {
        /// Made, not yet used.
        PreActive = "pre-active",
        /// Encrypts and decrypts. At most one version of a key.
        Active = "active",
        /// Neither encrypts nor decrypts until it is resumed.
        Suspended = "suspended",
        /// Decrypts only.
        Deactivated = "deactivated",
        /// Opens nothing; can be reinstated until it is destroyed.
        Retired = "retired",
        /// Exposed or suspected to be: decrypts only, so that its data can be carried away, and never comes back.
        Compromised = "compromised",
        /// The key material is gone.
        Destroyed = "destroyed",
    }
}

text_enum! {
    /// What happens to a key version.
    VersionEvent, "key version event" {
        /// Becomes the version that encrypts.
        Activate = "activate",
        /// Is declared exposed.
        Compromise = "compromise",
        /// Stops encrypting, because another version became active.
        Deactivate = "deactivate",
        /// Loses its key material.
        Destroy = "destroy",
        /// Comes back from retirement.
        Reinstate = "reinstate",
        /// Comes back from suspension.
        Resume = "resume",
        /// Stops decrypting.
        Retire = "retire",
        /// Stops for a while.
        Suspend = "suspend",
    }
}

impl VersionState {
    /// Whether new data may be encrypted.
    pub const fn encrypts(self) -> bool {
        matches!(self, Self::Active)
    }

    /// Whether data may be decrypted.
    pub const fn decrypts(self) -> bool {
        matches!(self, Self::Active | Self::Deactivated | Self::Compromised)
    }
}

/// Where `event` takes a version in `state`.
///
/// # Errors
/// [`LifecycleError`] when the event does not belong to the state; nothing else decides this.
pub const fn transition(state: VersionState, event: VersionEvent) -> Result<VersionState, LifecycleError> {
    use VersionEvent as Event;
    use VersionState as State;
    match (state, event) {
        (State::PreActive | State::Deactivated, Event::Activate) => Ok(State::Active),
        (State::Active, Event::Deactivate) | (State::Suspended, Event::Resume) | (State::Retired, Event::Reinstate) => {
            Ok(State::Deactivated)
        }
        (State::Active | State::Deactivated, Event::Suspend) => Ok(State::Suspended),
        (State::Deactivated, Event::Retire) => Ok(State::Retired),
        (
            State::PreActive | State::Active | State::Suspended | State::Deactivated | State::Retired,
            Event::Compromise,
        ) => Ok(State::Compromised),
        (State::PreActive | State::Retired | State::Compromised, Event::Destroy) => Ok(State::Destroyed),
        (State::PreActive, Event::Deactivate | Event::Reinstate | Event::Resume | Event::Retire | Event::Suspend)
        | (State::Active, Event::Activate | Event::Destroy | Event::Reinstate | Event::Resume | Event::Retire)
        | (
            State::Suspended,
            Event::Activate | Event::Deactivate | Event::Destroy | Event::Reinstate | Event::Retire | Event::Suspend,
        )
        | (State::Deactivated, Event::Deactivate | Event::Destroy | Event::Reinstate | Event::Resume)
        | (State::Retired, Event::Activate | Event::Deactivate | Event::Resume | Event::Retire | Event::Suspend)
        | (
            State::Compromised,
            Event::Activate
            | Event::Compromise
            | Event::Deactivate
            | Event::Reinstate
            | Event::Resume
            | Event::Retire
            | Event::Suspend,
        )
        | (
            State::Destroyed,
            Event::Activate
            | Event::Compromise
            | Event::Deactivate
            | Event::Destroy
            | Event::Reinstate
            | Event::Resume
            | Event::Retire
            | Event::Suspend,
        ) => Err(LifecycleError { state, event }),
    }
}

/// What brings a version that was put back from a backup nearer to the state that a later log shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Toward {
    /// Another version becomes the active one.
    Replace,
    /// This happens to it.
    Happens(VersionEvent),
    /// It is as strict as it has to be.
    Done,
}

/// The next step of a version in `state` toward `logged`. No step gives back what was taken away.
pub const fn toward(state: VersionState, logged: VersionState) -> Toward {
    use VersionState as State;
    match (state, logged) {
        (State::Destroyed, _)
        | (_, State::PreActive | State::Active)
        | (State::Compromised, State::Suspended | State::Deactivated | State::Retired | State::Compromised)
        | (State::Retired, State::Suspended | State::Deactivated | State::Retired)
        | (State::Suspended, State::Suspended | State::Deactivated)
        | (State::Deactivated, State::Deactivated)
        | (State::PreActive, State::Suspended | State::Deactivated | State::Retired) => Toward::Done,
        (State::PreActive | State::Retired | State::Compromised, State::Destroyed) => {
            Toward::Happens(VersionEvent::Destroy)
        }
        (
            State::PreActive | State::Active | State::Suspended | State::Deactivated | State::Retired,
            State::Compromised,
        ) => Toward::Happens(VersionEvent::Compromise),
        (State::Suspended, State::Retired | State::Destroyed) => Toward::Happens(VersionEvent::Resume),
        (State::Active, State::Suspended) | (State::Deactivated, State::Suspended) => {
            Toward::Happens(VersionEvent::Suspend)
        }
        (State::Active, State::Deactivated | State::Retired | State::Destroyed) => Toward::Replace,
        (State::Deactivated, State::Retired | State::Destroyed) => Toward::Happens(VersionEvent::Retire),
    }
}

/// An event that does not belong to the state of the key version.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a key version that is {state} cannot {event}")]
pub struct LifecycleError {
    /// The state the version is in.
    pub state: VersionState,
    /// What was asked of it.
    pub event: VersionEvent,
}

impl LifecycleError {
    /// What to do instead.
    pub const fn hint(&self) -> &'static str {
        match (self.state, self.event) {
            (VersionState::Active, VersionEvent::Retire | VersionEvent::Destroy) => {
                "rotate the key first, then move its data with a campaign"
            }
            (VersionState::Deactivated, VersionEvent::Destroy) => "retire the version first",
            (VersionState::Destroyed, _) => "the key material is gone; a backup of the store may still hold it",
            (VersionState::Compromised, _) => "move its data with a campaign, then destroy it",
            (VersionState::Retired, _) => "reinstate the version first",
            (VersionState::Suspended, _) => "resume the version first",
            _ => "`keyrail key show` tells the state of each version",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::VersionEvent as E;
    use super::VersionState as S;
    use super::*;

    /// Every allowed move, written out; every other pair of the 56 must be refused.
    const MOVES: &[(S, E, S)] = &[
        (S::PreActive, E::Activate, S::Active),
        (S::PreActive, E::Compromise, S::Compromised),
        (S::PreActive, E::Destroy, S::Destroyed),
        (S::Active, E::Deactivate, S::Deactivated),
        (S::Active, E::Suspend, S::Suspended),
        (S::Active, E::Compromise, S::Compromised),
        (S::Suspended, E::Resume, S::Deactivated),
        (S::Suspended, E::Compromise, S::Compromised),
        (S::Deactivated, E::Activate, S::Active),
        (S::Deactivated, E::Suspend, S::Suspended),
        (S::Deactivated, E::Retire, S::Retired),
        (S::Deactivated, E::Compromise, S::Compromised),
        (S::Retired, E::Reinstate, S::Deactivated),
        (S::Retired, E::Compromise, S::Compromised),
        (S::Retired, E::Destroy, S::Destroyed),
        (S::Compromised, E::Destroy, S::Destroyed),
    ];

    #[test]
    fn every_pair_of_state_and_event_is_decided() {
        let mut pairs = 0;
        for &state in S::ALL {
            for &event in E::ALL {
                let want = MOVES.iter().find(|row| row.0 == state && row.1 == event).map(|row| row.2);
                assert_eq!(transition(state, event).ok(), want, "{state} × {event}");
                pairs += 1;
            }
        }
        assert_eq!(pairs, 56);
    }

    /// From every state, whatever the log says: steps that are moves, to an end that opens no more than either.
    #[test]
    fn a_restored_version_becomes_no_looser_than_the_log_says() {
        for &restored in S::ALL {
            for &logged in S::ALL {
                let (mut state, mut steps) = (restored, 0);
                loop {
                    state = match toward(state, logged) {
                        Toward::Done => break,
                        Toward::Replace => transition(state, E::Deactivate).unwrap(),
                        Toward::Happens(event) => transition(state, event).unwrap(),
                    };
                    steps += 1;
                    assert!(steps < 5, "{restored} toward {logged} has no end");
                }
                let unsaid = [S::PreActive, S::Active].contains(&logged);
                assert!(unsaid || !state.encrypts(), "{restored} toward {logged} is {state}");
                assert!(unsaid || logged.decrypts() || !state.decrypts() || restored == S::Compromised);
                assert!(logged != S::Destroyed || state == S::Destroyed, "{restored} toward {logged} is {state}");
                assert!(logged != S::Compromised || [S::Compromised, S::Destroyed].contains(&state));
            }
        }
    }

    #[test]
    fn what_a_state_permits() {
        let rows = [
            (S::PreActive, false, false),
            (S::Active, true, true),
            (S::Suspended, false, false),
            (S::Deactivated, false, true),
            (S::Retired, false, false),
            (S::Compromised, false, true),
            (S::Destroyed, false, false),
        ];
        for (state, encrypts, decrypts) in rows {
            assert_eq!((state.encrypts(), state.decrypts()), (encrypts, decrypts), "{state}");
        }
    }

    #[test]
    fn nothing_leaves_destroyed_or_returns_from_compromised() {
        assert!(E::ALL.iter().all(|&event| transition(S::Destroyed, event).is_err()));
        let from_compromised: Vec<_> =
            E::ALL.iter().filter_map(|&event| transition(S::Compromised, event).ok()).collect();
        assert_eq!(from_compromised, [S::Destroyed]);
    }
}

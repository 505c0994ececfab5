//! The parts of the model: what each of them knows, and nothing that it could not know.

use keyrail_core::fence::{Drift, Epoch};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::retirement::Progress;

/// What one run of the checker looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    pub(crate) place: Place,
    pub(crate) verb: Verb,
    /// Who decides: nodes over one database, or threads of the one process over its own store.
    pub(crate) nodes: usize,
    /// Whether the clock of each node goes slower than the revoker's, by all of the drift.
    pub(crate) slow: [bool; 2],
    /// Writers that abide by the window, all with slow clocks.
    pub(crate) abiding: usize,
    /// Writers that do not.
    pub(crate) unbounded: usize,
    /// How many renewals a node may give up.
    pub(crate) given_up: usize,
    pub(crate) crashes: u8,
    pub(crate) fault: Fault,
}

/// Where the epoch lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// In the process that alone writes to the store: a change commits, and then the epoch is raised.
    Process,
    /// In the database, raised in the change's own transaction; nodes work under leases.
    Database,
}

/// Whose return is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb {
    Retire,
    Suspend,
    Compromise,
    RevokeToken,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    None,
    /// The epoch is compared when something is decided, and not when its record is appended.
    AppendUnconditional,
    /// The epoch is raised before the change commits.
    FenceBeforeCommit,
    /// A row says what was granted, and not what its node worked under when it asked.
    RowSaysGranted,
    /// A renewal that was given up is granted all the same.
    RenewalUnconditional,
    /// A lease counts from when its grant arrives.
    LeaseFromArrival,
    /// The revoker waits for leases, and not for slow clocks.
    LeaseWithoutDrift,
    /// The window is not waited out before the last count.
    CountBeforeWindowCloses,
    /// The window is waited out on our clock alone.
    WindowWithoutDrift,
    /// The window counts from when the version was to be fenced, and not from when it was.
    WindowFromDecision,
    /// Writers count from when the answer came.
    WriterCountsFromAnswer,
}

/// All there is, at one moment.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct World {
    /// The state in the store, and the epoch stored with it.
    pub(crate) stored: View,
    pub(crate) epoch: Epoch,
    /// The epoch of the log's head, and the state that was current when it was raised.
    pub(crate) head: Epoch,
    pub(crate) fenced: View,
    /// What the store knows of each node's lease: its epoch.
    pub(crate) rows: Vec<Option<Epoch>>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) writers: Vec<Writer>,
    pub(crate) asset: Asset,
    pub(crate) revoker: Revoker,
    pub(crate) crashes_left: u8,
    pub(crate) seen: Seen,
}

/// What decisions depend on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct View {
    /// Of the version that is to go.
    pub(crate) old: VersionState,
    /// Whether another version is active.
    pub(crate) replaced: bool,
    pub(crate) token_revoked: bool,
}

/// A node that decides, or a thread of the one process that does.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Node {
    /// The epoch of its lease, and how long ago it was asked for.
    pub(crate) lease: Option<(Epoch, u8)>,
    /// Its renewal, and those that it gave up and the store may still come to.
    pub(crate) renewal: Option<UnderWay>,
    pub(crate) given_up: Vec<UnderWay>,
    /// What it loaded, and under which epoch.
    pub(crate) cache: Option<(Epoch, View)>,
    pub(crate) request: Option<Request>,
}

/// A renewal under way, and how long ago it was sent.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct UnderWay {
    pub(crate) age: u8,
    /// What its node worked under when it asked.
    pub(crate) held: Option<Epoch>,
    /// Whether another one was granted since it was sent.
    pub(crate) superseded: bool,
    /// The epoch that it was granted, once it was.
    pub(crate) granted: Option<Epoch>,
}

/// A request that was decided and not answered.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Request {
    pub(crate) kind: Kind,
    pub(crate) epoch: Epoch,
    /// Whether its record is in the log.
    pub(crate) recorded: bool,
}

/// What is asked for under the version that is to go. What goes under another one is no matter here.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    /// For a writer, by its number.
    Encrypt(usize),
    Decrypt,
    /// Re-encrypt a value of the asset under the version that is active.
    Move,
}

/// Somebody who encrypts once and stores the ciphertext in the asset.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Writer {
    Idle,
    /// It sent its request so long ago.
    Asked(u8),
    /// It has the ciphertext, and counts so much since it asked.
    Holds(u8),
    Done,
}

/// Values under the version, by who stored them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Asset {
    pub(crate) abiding: u8,
    pub(crate) unbounded: u8,
}

impl Asset {
    pub(crate) fn values(self) -> u64 {
        u64::from(self.abiding) + u64::from(self.unbounded)
    }
}

/// Whoever rotates and then makes the change, and how long ago its fences were.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Revoker {
    pub(crate) phase: Phase,
    pub(crate) progress: Progress,
    /// Since the version stopped encrypting.
    pub(crate) window_age: u8,
    /// Since the change was fenced.
    pub(crate) waited: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Begun,
    /// The rotation is committed, or about to be, and not fenced.
    Rotating,
    Rotated,
    /// The same of the change.
    Changing,
    /// It is fenced, and waits for leases.
    Changed,
    Returned,
    Destroyed,
}

/// What must not be, and what must be possible.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Seen {
    /// A record under a state that was over when its change was fenced.
    pub(crate) late_record: bool,
    /// Something begun under it after the change returned.
    pub(crate) late_begin: bool,
    /// A value that the version's destruction took along.
    pub(crate) lost: bool,
    /// The census after the return found what an unbounded writer left, and destruction is refused.
    pub(crate) found: bool,
}

impl View {
    /// Whether something may be done under the version that is to go.
    pub(crate) fn permits(self, kind: Kind) -> bool {
        let state = match kind {
            Kind::Encrypt(_) => self.old.encrypts(),
            Kind::Decrypt => self.old.decrypts(),
            Kind::Move => self.old.decrypts() && self.replaced,
        };
        state && !self.token_revoked
    }
}

/// How long a lease and a window are, in seconds; a second is a tick.
pub(crate) const LEASE_SECONDS: u8 = 2;
pub(crate) const WINDOW_SECONDS: u8 = 2;

/// A coarse drift, so that it shows in so few ticks: half as much again.
pub(crate) const DRIFT: Drift = Drift { per_mille: 500 };

/// Ages beyond this are all alike: everything that is waited for is over.
pub(crate) const AGE_MAX: u8 = 3;

/// What a clock shows after so many ticks of the revoker's, in milliseconds.
pub(crate) fn shown_millis(ticks: u8, slow: bool) -> u64 {
    let millis = u64::from(ticks) * 1000;
    if slow { millis * 1000 / (1000 + DRIFT.per_mille) } else { millis }
}

//! The moves of the model. Whatever Keyrail decides is decided by the functions that the engine and the log call.

use keyrail_core::fence::{Drift, Epoch, Lease, LeaseRow, Renewal, may_append, revoker_wait_millis};
use keyrail_core::id::{DataKeyId, MasterVersionId, NodeId};
use keyrail_core::key::DataKeyVersion;
use keyrail_core::lifecycle::{VersionEvent, VersionState, transition};
use keyrail_core::name::VersionNumber;
use keyrail_core::retirement::{AssetCount, AssetEvidence, Progress, Step, WriteWindow, destroy_obstacles, obstacles};
use keyrail_core::time::{BootId, BootTime, Observation, Timestamp};
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::suite::Suite;
use stateright::{Model, Property};

use super::world::*;

/// Who does what next. Whoever does nothing is stopped for as long as the others like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Move {
    /// A second passes.
    Tick,
    /// A node asks for its lease.
    Renew(usize),
    /// It gives its renewal up; the store may come to it all the same.
    GiveUp(usize),
    /// The store grants it.
    Grant(usize, Which),
    /// The grant arrives.
    Arrive(usize),
    Load(usize),
    Decide(usize, Kind),
    Append(usize),
    Answer(usize),
    /// A node, or the one process, ends the hard way.
    Crash(usize),
    Ask(usize),
    Store(usize),
    Rotate,
    /// The next step of the revoker, after the rotation.
    Advance,
    /// Counts again after the return, and destroys if nothing is in the way.
    Destroy,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    UnderWay,
    GivenUp,
}

impl Scope {
    fn lease_drift(&self) -> Drift {
        if self.fault == Fault::LeaseWithoutDrift { Drift { per_mille: 0 } } else { DRIFT }
    }

    fn window_drift(&self) -> Drift {
        if self.fault == Fault::WindowWithoutDrift { Drift { per_mille: 0 } } else { DRIFT }
    }

    fn is_abiding(&self, writer: usize) -> bool {
        writer < self.abiding
    }

    /// The epoch that a node may decide under now, on its own clock.
    fn epoch_of(&self, world: &World, node: usize) -> Option<Epoch> {
        match self.place {
            // A request that began before a fence may come to its decision after it.
            Place::Process => world.nodes[node].cache.map(|(epoch, _)| epoch),
            Place::Database => {
                let (lease, now) = self.lease_of(world, node)?;
                lease.epoch_at(now)
            }
        }
    }

    /// A node's lease, and what its clock shows: the moment zero is when its renewal was sent.
    fn lease_of(&self, world: &World, node: usize) -> Option<(Lease, BootTime)> {
        let (epoch, age) = world.nodes[node].lease?;
        Some((Lease::granted(epoch, &row(node, epoch), boot(0)), boot(shown_millis(age, self.slow[node]))))
    }

    fn window_left_millis(&self, world: &World) -> u64 {
        let fenced_at = Timestamp::from_millis(0);
        let window = WriteWindow { fenced_at, fenced_boot: Some(boot(0)), seconds: u64::from(WINDOW_SECONDS) };
        let uptime_millis = u64::from(world.revoker.window_age) * 1000;
        let wall = fenced_at.plus_seconds(u64::from(world.revoker.window_age));
        let now = Observation { boot: boot(0).boot, wall, uptime_millis };
        window.left_millis(now, None, self.window_drift())
    }

    fn may_store(&self, writer: usize, age: u8) -> bool {
        !self.is_abiding(writer) || WriteWindow::may_store(u64::from(WINDOW_SECONDS), shown_millis(age, true))
    }
}

fn boot(millis: u64) -> BootTime {
    BootTime { boot: BootId([1; 16]), millis }
}

/// What a node asks for, when its row is of this generation.
fn asked(node: usize, held: Option<Epoch>, generation: u64) -> Renewal {
    let node = NodeId::from_bytes([u8::try_from(node).unwrap(); 16]);
    Renewal { node, held, generation, millis: u64::from(LEASE_SECONDS) * 1000 }
}

/// A row as it is after a renewal. Its generation is always 1 here: what counts is who is behind it.
fn row(node: usize, epoch: Epoch) -> LeaseRow {
    LeaseRow::renewed(None, &asked(node, None, 0), epoch).unwrap()
}

fn version(state: VersionState) -> DataKeyVersion {
    DataKeyVersion {
        kid: Kid::from_bytes([1; 16]),
        key: DataKeyId::from_bytes([2; 16]),
        version: VersionNumber::FIRST,
        state,
        suite: Suite::default(),
        wrapped: None,
        wrapped_by: MasterVersionId::from_bytes([3; 16]),
        wrap_generation: 1,
        created_at: Timestamp::from_millis(0),
        activated_at: None,
        state_changed_at: Timestamp::from_millis(0),
        fenced_at: None,
        fenced_window_seconds: None,
        destroy: None,
        generation: 1,
    }
}

fn census(asset: Asset) -> [AssetEvidence; 1] {
    let census = Ok(AssetCount { left: asset.values(), damaged: 0 });
    [AssetEvidence { asset: "people".parse().unwrap(), census, open_campaign: None }]
}

impl Model for Scope {
    type State = World;
    type Action = Move;

    fn init_states(&self) -> Vec<World> {
        let view = View { old: VersionState::Active, replaced: false, token_revoked: false };
        vec![World {
            stored: view,
            epoch: Epoch(1),
            head: Epoch(1),
            fenced: view,
            rows: vec![None; self.nodes],
            nodes: vec![Node::default(); self.nodes],
            writers: vec![Writer::Idle; self.abiding + self.unbounded],
            asset: Asset { abiding: u8::from(self.verb == Verb::Retire), unbounded: 0 },
            revoker: Revoker { phase: Phase::Begun, progress: Progress::Begun, window_age: 0, waited: 0 },
            crashes_left: self.crashes,
            seen: Seen::default(),
        }]
    }

    fn actions(&self, world: &World, moves: &mut Vec<Move>) {
        moves.extend([Move::Tick, Move::Advance]);
        if self.verb == Verb::Retire {
            moves.extend([Move::Rotate, Move::Destroy]);
        }
        for (number, writer) in world.writers.iter().enumerate() {
            match writer {
                Writer::Idle => moves.push(Move::Ask(number)),
                Writer::Holds(_) => moves.push(Move::Store(number)),
                Writer::Asked(_) | Writer::Done => {}
            }
        }
        for (number, node) in world.nodes.iter().enumerate() {
            self.moves_of(world, number, node, moves);
        }
    }

    fn next_state(&self, world: &World, made: Move) -> Option<World> {
        let mut next = world.clone();
        match made {
            Move::Tick => self.tick(&mut next),
            Move::Renew(node) => self.renew(&mut next, node)?,
            Move::GiveUp(node) => self.give_up(&mut next, node)?,
            Move::Grant(node, which) => self.grant(&mut next, node, which)?,
            Move::Arrive(node) => self.arrive(&mut next, node)?,
            Move::Load(node) => self.load(&mut next, node)?,
            Move::Decide(node, kind) => self.decide(&mut next, node, kind)?,
            Move::Append(node) => self.append(&mut next, node)?,
            Move::Answer(node) => self.answer(&mut next, node)?,
            Move::Crash(node) => self.crash(&mut next, node)?,
            Move::Ask(writer) => {
                (next.writers[writer] == Writer::Idle).then_some(())?;
                next.writers[writer] = Writer::Asked(0);
            }
            Move::Store(writer) => self.store(&mut next, writer)?,
            Move::Rotate => self.rotate(&mut next)?,
            Move::Advance => self.advance(&mut next)?,
            Move::Destroy => destroy(&mut next)?,
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NO_LATE_RECORD, |_, world: &World| !world.seen.late_record),
            Property::always(NO_LATE_BEGIN, |_, world: &World| !world.seen.late_begin),
            Property::always(NOTHING_STRANDED, |_, world: &World| {
                world.stored.old.decrypts() || world.asset.abiding == 0
            }),
            Property::always(NOTHING_LOST, |_, world: &World| !world.seen.lost),
            Property::sometimes(RETURNS, |_, world: &World| world.revoker.phase >= Phase::Returned),
        ];
        if self.verb == Verb::Retire && self.unbounded > 0 {
            properties.push(Property::sometimes(FOUND, |_, world: &World| world.seen.found));
        }
        properties
    }
}

pub(crate) const NO_LATE_RECORD: &str = "no record under a former state follows its fence";
pub(crate) const NO_LATE_BEGIN: &str = "no node begins under a former state after the change returned";
pub(crate) const NOTHING_STRANDED: &str = "what was stored within the window can be read";
pub(crate) const NOTHING_LOST: &str = "destruction takes nothing that was stored before";
pub(crate) const RETURNS: &str = "the change can return";
pub(crate) const FOUND: &str = "the next census finds what an unbounded writer left";

impl Scope {
    /// What a node can do, and what can happen to it, as far as that is told by a look at it.
    fn moves_of(&self, world: &World, number: usize, node: &Node, moves: &mut Vec<Move>) {
        moves.push(Move::Load(number));
        match node.request {
            None if node.cache.is_some() => {
                moves.extend([Move::Decide(number, Kind::Decrypt), Move::Decide(number, Kind::Move)]);
                moves.extend((0..world.writers.len()).map(|writer| Move::Decide(number, Kind::Encrypt(writer))));
            }
            None => {}
            Some(request) if request.recorded => moves.push(Move::Answer(number)),
            Some(_) => moves.push(Move::Append(number)),
        }
        match node.renewal {
            None if self.place == Place::Database => moves.push(Move::Renew(number)),
            None => {}
            Some(renewal) if renewal.granted.is_some() => moves.push(Move::Arrive(number)),
            Some(_) => moves.extend([Move::Grant(number, Which::UnderWay), Move::GiveUp(number)]),
        }
        if !node.given_up.is_empty() {
            moves.push(Move::Grant(number, Which::GivenUp));
        }
        if world.crashes_left > 0 {
            moves.push(Move::Crash(number));
        }
    }

    fn tick(&self, world: &mut World) {
        let older = |age: u8| AGE_MAX.min(age + 1);
        for node in 0..self.nodes {
            let state = &mut world.nodes[node];
            state.lease = state.lease.map(|(epoch, age)| (epoch, older(age)));
            state.renewal.iter_mut().for_each(|renewal| renewal.age = older(renewal.age));
            self.drop_what_is_over(world, node);
        }
        for writer in &mut world.writers {
            *writer = match *writer {
                Writer::Asked(age) => Writer::Asked(older(age)),
                Writer::Holds(age) => Writer::Holds(older(age)),
                same => same,
            };
        }
        let revoker = &mut world.revoker;
        let window_runs = match revoker.phase {
            Phase::Begun => false,
            Phase::Rotating => self.fault == Fault::WindowFromDecision,
            _ => true,
        };
        revoker.window_age = if window_runs { older(revoker.window_age) } else { revoker.window_age };
        if revoker.phase == Phase::Changed {
            revoker.waited = older(revoker.waited);
        }
    }

    fn renew(&self, world: &mut World, node: usize) -> Option<()> {
        let held = self.epoch_of(world, node);
        let state = &mut world.nodes[node];
        (self.place == Place::Database && state.renewal.is_none()).then_some(())?;
        state.renewal = Some(UnderWay { age: 0, held, superseded: false, granted: None });
        Some(())
    }

    fn give_up(&self, world: &mut World, node: usize) -> Option<()> {
        let state = &mut world.nodes[node];
        (state.given_up.len() < self.given_up).then_some(())?;
        state.given_up.push(state.renewal.take().filter(|renewal| renewal.granted.is_none())?);
        Some(())
    }

    fn grant(&self, world: &mut World, node: usize, which: Which) -> Option<()> {
        let epoch = world.epoch;
        let state = &mut world.nodes[node];
        let mut renewal = match which {
            Which::UnderWay => state.renewal.filter(|renewal| renewal.granted.is_none())?,
            Which::GivenUp => state.given_up.pop()?,
        };
        let held = renewal.held.filter(|_| self.fault != Fault::RowSaysGranted);
        let known = u64::from(!renewal.superseded || self.fault == Fault::RenewalUnconditional);
        let former = world.rows[node].map(|epoch| row(node, epoch));
        let generation = former.map_or(0, |_| known);
        let renewed = LeaseRow::renewed(former.as_ref(), &asked(node, held, generation), epoch).ok();
        if let Some(renewed) = renewed {
            world.rows[node] = Some(renewed.epoch);
            renewal.granted = Some(epoch);
            state.given_up.iter_mut().for_each(|other| other.superseded = true);
        }
        let is_granted = renewed.is_some();
        if which == Which::UnderWay {
            state.renewal = is_granted.then_some(renewal);
        } else if let Some(other) = state.renewal.as_mut().filter(|other| is_granted && other.granted.is_none()) {
            other.superseded = true;
        }
        Some(())
    }

    fn arrive(&self, world: &mut World, node: usize) -> Option<()> {
        let state = &mut world.nodes[node];
        let UnderWay { age, granted, .. } = state.renewal?;
        let epoch = granted?;
        state.renewal = None;
        state.lease = Some((epoch, if self.fault == Fault::LeaseFromArrival { 0 } else { age }));
        // Another epoch voids what was loaded under the former one.
        state.cache = state.cache.filter(|(loaded, _)| *loaded == epoch);
        self.drop_what_is_over(world, node);
        Some(())
    }

    /// A lease that is over is as good as none, and a cache without a lease.
    fn drop_what_is_over(&self, world: &mut World, node: usize) {
        if self.place == Place::Database && self.epoch_of(world, node).is_none() {
            (world.nodes[node].lease, world.nodes[node].cache) = (None, None);
        }
    }

    fn load(&self, world: &mut World, node: usize) -> Option<()> {
        let epoch = match self.place {
            Place::Process => world.head,
            Place::Database => self.epoch_of(world, node)?,
        };
        // The same once more is the same, or of a newer state under a former epoch, which is refused.
        (world.nodes[node].cache.is_none_or(|(loaded, _)| loaded != epoch)).then_some(())?;
        world.nodes[node].cache = Some((epoch, world.stored));
        Some(())
    }

    fn decide(&self, world: &mut World, node: usize, kind: Kind) -> Option<()> {
        let epoch = self.epoch_of(world, node)?;
        let (_, view) = world.nodes[node].cache?;
        let wanted = match kind {
            Kind::Encrypt(writer) => matches!(world.writers[writer], Writer::Asked(_)),
            Kind::Decrypt => true,
            Kind::Move => world.asset.values() > 0,
        };
        let twice = world.nodes.iter().any(|node| node.request.is_some_and(|request| request.kind == kind));
        (world.nodes[node].request.is_none() && wanted && view.permits(kind)).then_some(())?;
        // A writer asks one node; of other requests two at a time show nothing new.
        (!twice || kind == Kind::Decrypt).then_some(())?;
        let returned = world.revoker.phase >= Phase::Returned && self.place == Place::Database;
        world.seen.late_begin |= returned && !world.stored.permits(kind);
        world.nodes[node].request = Some(Request { kind, epoch, recorded: false });
        Some(())
    }

    fn append(&self, world: &mut World, node: usize) -> Option<()> {
        let request = world.nodes[node].request.filter(|request| !request.recorded)?;
        let fresh = may_append(request.epoch, world.head) || self.fault == Fault::AppendUnconditional;
        if fresh {
            // What is committed and not fenced yet may be worked under already.
            world.seen.late_record |= ![world.fenced, world.stored].iter().any(|view| view.permits(request.kind));
        }
        // What is refused begins anew, if it is asked for again; and the answer of a decrypt changes nothing here.
        let goes_on = fresh && request.kind != Kind::Decrypt;
        world.nodes[node].request = goes_on.then_some(Request { recorded: true, ..request });
        Some(())
    }

    fn answer(&self, world: &mut World, node: usize) -> Option<()> {
        let request = world.nodes[node].request.filter(|request| request.recorded)?;
        world.nodes[node].request = None;
        match request.kind {
            Kind::Encrypt(writer) => {
                if let Writer::Asked(age) = world.writers[writer] {
                    let from_answer = self.fault == Fault::WriterCountsFromAnswer;
                    world.writers[writer] = Writer::Holds(if from_answer { 0 } else { age });
                }
            }
            Kind::Decrypt => {}
            Kind::Move if world.asset.abiding > 0 => world.asset.abiding -= 1,
            Kind::Move => world.asset.unbounded = world.asset.unbounded.saturating_sub(1),
        }
        Some(())
    }

    fn store(&self, world: &mut World, writer: usize) -> Option<()> {
        let Writer::Holds(age) = world.writers[writer] else { return None };
        self.may_store(writer, age).then_some(())?;
        world.writers[writer] = Writer::Done;
        if self.is_abiding(writer) {
            world.asset.abiding += 1;
        } else {
            world.asset.unbounded += 1;
        }
        Some(())
    }

    fn crash(&self, world: &mut World, node: usize) -> Option<()> {
        world.crashes_left = world.crashes_left.checked_sub(1)?;
        match self.place {
            // What was started anew is another node: nobody waits for the former one here, which is the worst case.
            Place::Database => (world.nodes[node], world.rows[node]) = (Node::default(), None),
            // Everything under way is gone, and the next process begins from what is stored.
            Place::Process => {
                world.nodes.fill(Node::default());
                (world.head, world.fenced) = (world.epoch, world.stored);
                world.revoker = match world.revoker.phase {
                    Phase::Rotating => Revoker { phase: Phase::Rotated, window_age: 0, ..world.revoker },
                    Phase::Changing => Revoker { phase: Phase::Changed, waited: 0, ..world.revoker },
                    _ => Revoker { progress: Progress::Begun, ..world.revoker },
                };
            }
        }
        Some(())
    }

    fn rotate(&self, world: &mut World) -> Option<()> {
        match world.revoker.phase {
            Phase::Begun => {
                let old = transition(world.stored.old, VersionEvent::Deactivate).ok()?;
                self.begin_change(world, View { old, replaced: true, ..world.stored }, Phase::Rotating);
            }
            Phase::Rotating => self.end_change(world, Phase::Rotated),
            _ => return None,
        }
        if self.place == Place::Database {
            self.end_change(world, Phase::Rotated);
        }
        Some(())
    }

    /// The rows commit with the next epoch.
    fn begin_change(&self, world: &mut World, view: View, phase: Phase) {
        world.epoch = world.epoch.next();
        world.revoker.phase = phase;
        match self.fault {
            Fault::FenceBeforeCommit => (world.head, world.fenced) = (world.epoch, view),
            _ => world.stored = view,
        }
    }

    /// The log's head has it, too.
    fn end_change(&self, world: &mut World, phase: Phase) {
        world.revoker.phase = phase;
        match self.fault {
            Fault::FenceBeforeCommit => world.stored = world.fenced,
            _ => (world.head, world.fenced) = (world.epoch, world.stored),
        }
    }

    fn advance(&self, world: &mut World) -> Option<()> {
        match world.revoker.phase {
            Phase::Begun if self.verb != Verb::Retire => self.change(world),
            Phase::Rotated => self.retire_step(world),
            Phase::Changing => {
                self.end_change(world, Phase::Changed);
                Some(())
            }
            Phase::Changed => {
                let rows = world.rows.iter().enumerate();
                let rows: Vec<_> = rows.filter_map(|(node, epoch)| epoch.map(|epoch| row(node, epoch))).collect();
                let waited = u64::from(world.revoker.waited) * 1000;
                (revoker_wait_millis(&rows, world.epoch, waited, self.lease_drift()) == 0).then_some(())?;
                world.revoker.phase = Phase::Returned;
                Some(())
            }
            _ => None,
        }
    }

    fn retire_step(&self, world: &mut World) -> Option<()> {
        let waits = self.fault != Fault::CountBeforeWindowCloses;
        let left = if waits { self.window_left_millis(world) } else { 0 };
        let step = world.revoker.progress.next(left);
        match step {
            Step::Look | Step::Count => {
                let in_the_way = obstacles(&version(world.stored.old), &census(world.asset), &[], &[]);
                let after = world.revoker.progress.after(step);
                world.revoker.progress = if in_the_way.is_empty() { after } else { Progress::Begun };
                Some(())
            }
            Step::Wait { .. } => None,
            Step::Retire => self.change(world),
        }
    }

    fn change(&self, world: &mut World) -> Option<()> {
        let view = world.stored;
        let moved = |event| transition(view.old, event).ok();
        let view = match self.verb {
            Verb::Retire => View { old: moved(VersionEvent::Retire)?, ..view },
            Verb::Suspend => View { old: moved(VersionEvent::Suspend)?, ..view },
            Verb::Compromise => View { old: moved(VersionEvent::Compromise)?, replaced: true, ..view },
            Verb::RevokeToken => View { token_revoked: true, ..view },
        };
        self.begin_change(world, view, Phase::Changing);
        if self.place == Place::Database {
            self.end_change(world, Phase::Changed);
        }
        Some(())
    }
}

/// After the return: another count, which destruction rests on.
fn destroy(world: &mut World) -> Option<()> {
    (world.revoker.phase == Phase::Returned).then_some(())?;
    let old = transition(world.stored.old, VersionEvent::Destroy).ok()?;
    if !destroy_obstacles(&version(world.stored.old), &census(world.asset), &[], &[]).is_empty() {
        world.seen.found |= world.asset.unbounded > 0;
        return Some(());
    }
    world.seen.lost |= world.asset.values() > 0;
    world.stored.old = old;
    world.revoker.phase = Phase::Destroyed;
    Some(())
}

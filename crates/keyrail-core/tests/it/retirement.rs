//! The protocol of `spec/retirement.md`, over every order in which its parties can act.
//!
//! A second is a tick, leases and windows are two of them, and the drift is a half instead of a hundredth, so that it
//! shows. Within the bounds of a scope the checker visits every state there is.

mod model;
mod world;

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use keyrail_testkit::scale;
use stateright::{Checker, HasDiscoveries, Model};

use model::*;
use world::*;

/// Two nodes over one database, both with slow clocks, and nobody who writes.
const DATABASE: Scope = Scope {
    place: Place::Database,
    verb: Verb::Suspend,
    nodes: 2,
    slow: [true, true],
    abiding: 0,
    unbounded: 0,
    given_up: 0,
    crashes: 0,
    fault: Fault::None,
};

/// One node, with writers of both kinds.
const RETIREMENT: Scope = Scope { verb: Verb::Retire, nodes: 1, abiding: 1, unbounded: 1, ..DATABASE };

/// Two requests at a time in the one process over its own store.
const PROCESS: Scope = Scope { place: Place::Process, nodes: 2, ..RETIREMENT };

fn is_full() -> bool {
    scale(20) == 20
}

/// Visits every state of a scope: no property fails, and what must be possible is.
fn holds(name: &str, scope: Scope) {
    let began = Instant::now();
    let checker = scope.checker().threads(2);
    // Nodes whose clocks differ do not stand for each other.
    let checker = if scope.slow[0] == scope.slow[1] { checker.symmetry_fn(ordered) } else { checker };
    let checker = checker.spawn_dfs().join();
    checker.assert_properties();
    println!(
        "{name}: {} states, up to {} moves deep, in {:.0?}",
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
}

#[test]
fn nothing_begins_or_is_recorded_under_a_former_state_once_a_change_returned() {
    holds("suspend, two nodes", DATABASE);
    let one = Scope { nodes: 1, ..DATABASE };
    holds(
        "token revoke, one node that gives renewals up",
        Scope { verb: Verb::RevokeToken, given_up: 1, crashes: 1, ..one },
    );
    holds("compromise, one node and a writer", Scope { verb: Verb::Compromise, abiding: 1, ..one });
    if is_full() {
        let unlike = Scope { slow: [true, false], crashes: 1, ..DATABASE };
        holds("suspend, two nodes with unlike clocks and a crash", unlike);
        holds("token revoke, the same", Scope { verb: Verb::RevokeToken, ..unlike });
        holds("suspend, one node that gives two renewals up", Scope { given_up: 2, crashes: 1, ..one });
    }
}

#[test]
fn writers_within_the_window_strand_nothing_and_the_next_census_finds_the_others() {
    holds("retire, one process with two requests at a time", PROCESS);
    holds("retire, one node under a lease", RETIREMENT);
    if is_full() {
        holds("retire, one process that crashes", Scope { abiding: 2, crashes: 1, ..PROCESS });
        holds("retire, one node that crashes", Scope { crashes: 1, ..RETIREMENT });
        holds("retire, two nodes", Scope { nodes: 2, unbounded: 0, ..RETIREMENT });
    }
}

/// Each variant that is broken on purpose fails, and the shortest way there is told.
#[test]
fn what_is_broken_on_purpose_fails_with_a_trace() {
    let one = Scope { nodes: 1, ..DATABASE };
    let abiding = Scope { unbounded: 0, ..RETIREMENT };
    let rows = [
        (Fault::AppendUnconditional, one, NO_LATE_RECORD),
        (Fault::FenceBeforeCommit, Scope { verb: Verb::Suspend, abiding: 0, unbounded: 0, ..PROCESS }, NO_LATE_RECORD),
        (Fault::LeaseFromArrival, one, NO_LATE_BEGIN),
        (Fault::LeaseWithoutDrift, one, NO_LATE_BEGIN),
        (Fault::RowSaysGranted, one, NO_LATE_BEGIN),
        (Fault::RenewalUnconditional, Scope { given_up: 1, ..one }, NO_LATE_BEGIN),
        (Fault::CountBeforeWindowCloses, abiding, NOTHING_STRANDED),
        (Fault::WindowWithoutDrift, abiding, NOTHING_STRANDED),
        (Fault::WindowFromDecision, Scope { unbounded: 0, ..PROCESS }, NOTHING_STRANDED),
        (Fault::WriterCountsFromAnswer, abiding, NOTHING_STRANDED),
    ];
    for (fault, scope, property) in rows {
        let scope = Scope { fault, ..scope };
        let checker = scope.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let failed: Vec<_> =
            checker.discoveries().into_keys().filter(|name| *name != RETURNS && *name != FOUND).collect();
        assert_eq!(failed, [property], "{fault:?}");
        let fails = |world: &World| !(scope.property(property).condition)(&scope, world);
        let path = checker.assert_any_discovery(property).into_vec();
        let at = path.iter().position(|(world, _)| fails(world)).expect("a state that the property does not hold in");
        let trace: Vec<_> = path.iter().take(at).filter_map(|(_, made)| *made).collect();
        println!("{fault:?}, after {} states: not so that {property}\n    {trace:?}", checker.unique_state_count());
    }
}

/// From every state there is a way on which the retirement returns: nothing that happens stops it for good.
#[test]
fn whatever_happened_a_retirement_can_still_complete() {
    let scopes = [
        ("one process that crashes", Scope { crashes: 1, ..PROCESS }),
        ("one node under a lease", Scope { crashes: 1, unbounded: 0, ..RETIREMENT }),
    ];
    for (name, scope) in scopes {
        let scope = if is_full() { scope } else { Scope { nodes: 1, ..scope } };
        let (states, stuck) = stuck(&scope);
        println!("{name}: {states} states, each with a way to the end");
        assert_eq!(stuck, None, "{name}");
    }
}

/// The number of states, and the first from which no way leads to the change's return.
fn stuck(scope: &Scope) -> (usize, Option<World>) {
    let mut known: HashMap<World, usize> = HashMap::new();
    let (mut former, mut done, mut queue) = (Vec::<Vec<usize>>::new(), Vec::new(), VecDeque::new());
    for world in scope.init_states() {
        known.insert(world.clone(), former.len());
        former.push(Vec::new());
        queue.push_back(world);
    }
    while let Some(world) = queue.pop_front() {
        let at = known[&world];
        if world.revoker.phase >= Phase::Returned {
            done.push(at);
            continue;
        }
        for next in scope.next_states(&world) {
            let place = *known.entry(next.clone()).or_insert_with(|| {
                former.push(Vec::new());
                queue.push_back(next);
                former.len() - 1
            });
            former[place].push(at);
        }
    }
    let mut reaches = vec![false; former.len()];
    while let Some(at) = done.pop() {
        if !std::mem::replace(&mut reaches[at], true) {
            done.extend(&former[at]);
        }
    }
    let stuck = known.into_iter().find(|(_, at)| !reaches[*at]).map(|(world, _)| world);
    (reaches.len(), stuck)
}

/// Nodes with like clocks are alike: one order of them stands for the others.
fn ordered(world: &World) -> World {
    let mut next = world.clone();
    let mut nodes: Vec<_> = next.nodes.into_iter().zip(next.rows).collect();
    nodes.sort();
    (next.nodes, next.rows) = nodes.into_iter().unzip();
    next
}

//! SIGKILL after acknowledged steps: nothing acknowledged is lost, nothing is half done, the log verifies.

mod changes;
mod database;
mod init;
mod left;
mod table;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyrail_testkit::scale;
use keyrail_testkit::softhsm::{P11Server, SoftHsm};

use self::init::Init;
use self::world::World;
use crate::place::Place;

/// How often the binary is killed at full scale.
const KILLS: usize = 300;

/// How many of them must hit each phase at full scale.
const HITS_MIN: usize = 20;

/// What the binary is doing when it is killed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Init,
    KeyChange,
    Rewrap,
    CampaignBatch,
    Checkpoint,
}

const PHASES: [Phase; 5] = [Phase::Init, Phase::KeyChange, Phase::Rewrap, Phase::CampaignBatch, Phase::Checkpoint];

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    kill_it(World::new(Place::new()), Init::new(Place::new));
}

/// Each store has a key of its own on the token, so that `init` is killed while it makes one, too. The token stands behind a
/// server, as a device does that goes on when its caller is killed: SoftHSM2 itself rewrites its files in place, and whoever
/// is killed with it in his process in the middle of that is left without a token.
#[test]
fn killed_at_any_moment_with_its_root_on_a_token_it_loses_nothing() {
    let hsm = SoftHsm::new().unwrap();
    let made = AtomicUsize::new(0);
    let (_front, module) = (hsm.serve().unwrap(), P11Server::module().unwrap());
    let place = || Place::on_token(&hsm, &module, &format!("root{}", made.fetch_add(1, Ordering::Relaxed)));
    kill_it(World::new(place()), Init::new(place));
}

fn kill_it(mut world: World, mut init: Init<'_>) {
    let kills = scale(KILLS);
    let hits_min = (HITS_MIN * kills / KILLS).max(1);
    let mut hits: BTreeMap<Phase, usize> = PHASES.into_iter().map(|phase| (phase, 0)).collect();
    let mut killed = 0;
    // The phases take turns; one that was missed too often has more turns at the end.
    for phase in PHASES.into_iter().cycle() {
        if killed >= kills && hits[&phase] >= hits_min {
            if hits.values().all(|count| *count >= hits_min) {
                break;
            }
            continue;
        }
        assert!(killed < kills * 3, "too few of {killed} kills hit: {hits:?}");
        killed += 1;
        let hit = match phase {
            Phase::Init => init.kill(),
            _ => world.kill_in(phase),
        };
        *hits.get_mut(&phase).unwrap() += usize::from(hit);
    }
    println!("{killed} kills, of which hit {hits:?}; at least {hits_min} each; {}", world.told());
    world.require_faults_are_seen();
}

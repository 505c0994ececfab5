//! SIGKILL after acknowledged steps: nothing acknowledged is lost, nothing is half done, the log verifies.

mod changes;
mod init;
mod left;
mod table;
mod world;

use std::collections::BTreeMap;

use keyrail_testkit::scale;

use self::init::Init;
use self::world::World;

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
    let kills = scale(KILLS);
    let hits_min = (HITS_MIN * kills / KILLS).max(1);
    let mut world = World::new();
    let mut init = Init::new();
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

//! Random changes against a model that holds rows in a map.

use std::collections::BTreeMap;

use keyrail_core::id::DomainId;
use keyrail_core::key::Domain;
use keyrail_store::{Change, StoreError};
use keyrail_testkit::postgres::Version;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::rows::{AT, outbox};
use crate::stores::TestStore;

/// One step of a change: ids and names from a few, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        id: u8,
        name: u8,
    },
    /// An update of a row as it was so many generations ago.
    Update {
        id: u8,
        name: u8,
        behind: u64,
    },
    /// A delete of a row as it is, or as it was before it was written again.
    Delete {
        id: u8,
        late: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..5_u8, 0..6_u8).prop_map(|(id, name)| Step::Insert { id, name }),
        (0..5_u8, 0..6_u8, 0..3_u64).prop_map(|(id, name, late)| Step::Update { id, name, behind: late / 2 }),
        (0..5_u8, 0..4_u8).prop_map(|(id, late)| Step::Delete { id, late: late == 0 }),
    ]
}

fn row(id: u8, name: u8, generation: u64) -> Domain {
    let name = format!("n{name}").parse().unwrap();
    Domain { id: DomainId::from_bytes([id; 16]), name, created_at: AT, generation }
}

#[derive(Debug, Eq, PartialEq)]
enum Outcome {
    Done,
    Conflict,
    Exists,
}

type Model = BTreeMap<u8, (u8, u64)>;

/// What a change does to the model: all of it, or nothing.
fn apply(model: &mut Model, steps: &[Step], change: &mut Change) -> Outcome {
    let mut next = model.clone();
    let mut outcome = Outcome::Done;
    for step in steps {
        let taken = |next: &Model, id, name| next.iter().any(|(other, (used, _))| *other != id && *used == name);
        let before = next.len();
        let failed = match *step {
            Step::Insert { id, name } => {
                change.insert(&row(id, name, 1));
                let exists = next.contains_key(&id) || taken(&next, id, name);
                next.entry(id).or_insert((name, 1));
                exists.then_some(Outcome::Exists)
            }
            Step::Update { id, name, behind } => {
                let found = next.get(&id).map_or(1, |(_, generation)| *generation);
                let generation = (found + 1).saturating_sub(behind);
                change.update(&row(id, name, generation));
                if !next.contains_key(&id) || generation != found + 1 {
                    Some(Outcome::Conflict)
                } else if taken(&next, id, name) {
                    Some(Outcome::Exists)
                } else {
                    next.insert(id, (name, generation));
                    None
                }
            }
            Step::Delete { id, late } => {
                let (name, generation) = next.remove(&id).unwrap_or((0, 1));
                let found = next.len() < before;
                change.delete(&row(id, name, generation + u64::from(late)));
                (found && late).then_some(Outcome::Conflict)
            }
        };
        if let (Some(failed), Outcome::Done) = (failed, &outcome) {
            outcome = failed;
        }
    }
    if outcome == Outcome::Done {
        *model = next;
    }
    outcome
}

async fn history(store: &TestStore, changes: Vec<Vec<Step>>) {
    let state = store.state().await;
    let (mut model, mut records) = (Model::new(), 0);
    for (place, steps) in changes.into_iter().enumerate() {
        let mut change = Change::new();
        let expected = apply(&mut model, &steps, &mut change);
        let committed = state.commit(change.recorded(outbox(u8::try_from(place).unwrap()))).await;
        let found = match committed {
            Ok(()) => Outcome::Done,
            Err(StoreError::Conflict { table: "domain" }) => Outcome::Conflict,
            Err(StoreError::Exists { table: "domain" }) => Outcome::Exists,
            Err(error) => panic!("{steps:?}: {error}"),
        };
        // What deletes compare with is known before the database refuses an insert, so theirs may be told first.
        let deletes = steps.iter().any(|step| matches!(step, Step::Delete { .. }));
        let told_first = deletes && (&found, &expected) == (&Outcome::Conflict, &Outcome::Exists);
        assert!(found == expected || told_first, "{found:?}, {expected:?}: {steps:?}");
        records += usize::from(expected == Outcome::Done);
        let rows: Vec<Domain> = model.iter().map(|(id, (name, generation))| row(*id, *name, *generation)).collect();
        assert_eq!(state.domains().await.unwrap(), rows, "{steps:?}");
        assert_eq!(state.pending_outbox().await.unwrap().len(), records);
    }
    assert_eq!(state.verify_all().await.unwrap(), []);
    drop(state);
    assert_eq!(store.state().await.domains().await.unwrap().len(), model.len());
}

fn changes_do_what_a_map_would(cases: usize, store: impl Fn() -> TestStore) {
    let config = ProptestConfig {
        cases: u32::try_from(cases).unwrap(),
        rng_seed: RngSeed::Fixed(11),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let histories = proptest::collection::vec(proptest::collection::vec(step(), 1..4), 1..25);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let result = TestRunner::new(config).run(&histories, |changes| {
        runtime.block_on(history(&store(), changes));
        Ok(())
    });
    result.unwrap();
}

#[test]
fn changes_do_what_a_map_would_on_sqlite() {
    changes_do_what_a_map_would(keyrail_testkit::scale(600), TestStore::sqlite);
}

#[test]
fn changes_do_what_a_map_would_on_postgres() {
    for version in Version::ALL {
        changes_do_what_a_map_would(keyrail_testkit::scale(120), || TestStore::postgres(version));
    }
}

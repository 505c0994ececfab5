//! The fence: after `set_epoch` returned, nothing of an older epoch gets into the log behind what came later.

use keyrail_audit::{AppendError, Log};
use keyrail_core::fence::Epoch;
use proptest::prelude::*;

use crate::support::TestLog;

#[test]
fn an_append_under_an_older_epoch_is_refused() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(b"one".to_vec(), Epoch(1)).unwrap();
    log.set_epoch(Epoch(2));
    assert_eq!(log.append_blocking(b"late".to_vec(), Epoch(1)), Err(AppendError::Fenced));
    log.append_blocking(b"two".to_vec(), Epoch(2)).unwrap();
    assert_eq!(log.size(), 2);
}

/// What one step of a history does.
#[derive(Clone, Debug)]
enum Step {
    /// Begins an append under the epoch so many behind the newest, and does not wait for it.
    Begin(u64),
    /// Waits for the append that was begun so many steps ago.
    Await(usize),
    /// Moves the fence.
    Fence,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..3_u64).prop_map(Step::Begin),
        2 => (0..4_usize).prop_map(Step::Await),
        1 => Just(Step::Fence),
    ]
}

type Running = tokio::task::JoinHandle<Result<keyrail_audit::Position, AppendError>>;

/// No two are alike.
fn body(epoch: u64, number: u64) -> Vec<u8> {
    [epoch.to_be_bytes(), number.to_be_bytes()].concat()
}

async fn history(log: &Log, steps: Vec<Step>) {
    let mut newest = 3;
    log.set_epoch(Epoch(newest));
    let (mut running, mut bodies): (Vec<(u64, Vec<u8>, Running)>, u64) = (Vec::new(), 0);
    let mut ended = Vec::new();
    for step in steps {
        match step {
            Step::Begin(behind) => {
                let (log, epoch) = (log.clone(), newest - behind);
                let body = body(epoch, bodies);
                bodies += 1;
                let appended = body.clone();
                let begun = tokio::spawn(async move { log.append(appended, Epoch(epoch)).await });
                // Lets it reach the queue or not, as the scheduler likes.
                tokio::task::yield_now().await;
                running.push((epoch, body, begun));
            }
            Step::Await(ago) if ago < running.len() => {
                let (epoch, body, begun) = running.remove(running.len() - 1 - ago);
                ended.push((epoch, body, begun.await.unwrap()));
            }
            Step::Await(_) => {}
            Step::Fence => {
                newest += 1;
                log.set_epoch(Epoch(newest));
                // Nothing of an older epoch that begins now is recorded.
                let late = log.append((newest - 1).to_be_bytes().to_vec(), Epoch(newest - 1)).await;
                assert_eq!(late, Err(AppendError::Fenced));
            }
        }
    }
    for (epoch, body, begun) in running {
        ended.push((epoch, body, begun.await.unwrap()));
    }
    let records = log.read(0, usize::MAX).unwrap();
    let mut acknowledged = 0;
    for (epoch, body, result) in ended {
        match result {
            Ok(position) => {
                let found = &records[usize::try_from(position.index).unwrap()].body;
                assert_eq!(*found, body, "another record is at its place");
                acknowledged += 1;
            }
            Err(error) => assert!(error == AppendError::Fenced && epoch < newest, "{error} under {epoch}"),
        }
    }
    assert_eq!(records.len(), acknowledged, "who was refused has a record");
    let epochs: Vec<u64> =
        records.iter().map(|record| u64::from_be_bytes(record.body[..8].try_into().unwrap())).collect();
    assert!(epochs.is_sorted(), "a record of an older epoch stands behind a newer one: {epochs:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: keyrail_testkit::scale(400) as u32,
        rng_seed: proptest::test_runner::RngSeed::Fixed(7),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]
    #[test]
    fn no_record_of_an_older_epoch_follows_a_newer_one(steps in proptest::collection::vec(step(), 1..60)) {
        let test = TestLog::create();
        let (log, _) = test.open();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
        runtime.block_on(history(&log, steps));
    }
}

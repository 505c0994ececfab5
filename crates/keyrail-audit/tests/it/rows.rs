//! A log in a database that is in memory: the suite, and every fault of every call.

use std::time::Duration;

use keyrail_audit::{AppendError, Log, LogError};
use keyrail_core::fence::Epoch;

use crate::memory::{Call, Fault, Memory};
use crate::suite::{self, Admitted, Rows, all, crowd, require_once};

#[test]
fn two_nodes_make_one_dense_sequence() {
    suite::two_nodes_make_one_dense_sequence(Memory::default(), 2_000);
}

#[test]
fn no_node_appends_under_an_older_epoch() {
    suite::no_node_appends_under_an_older_epoch(Memory::default());
}

#[test]
fn epochs_are_in_their_order() {
    suite::epochs_are_in_their_order(Memory::default(), 40);
}

const FAULTS: [Fault; 5] =
    [Fault::NotStored, Fault::LostNotStored, Fault::LostStored, Fault::StoredWhenSettled, Fault::StoredAfterSettled];

/// Each fault of an append, then one of what settles it: nothing is lost, nothing stands twice, and nobody is told
/// wrong. With another node beside it or alone.
#[test]
fn whatever_fails_everything_acknowledged_stands_once() {
    for append in FAULTS {
        for (call, fault) in [
            (Call::Fence, Fault::NotStored),
            (Call::Fence, Fault::LostNotStored),
            (Call::Fence, Fault::LostStored),
            (Call::Find, Fault::NotStored),
            (Call::Head, Fault::NotStored),
            (Call::Publish, Fault::NotStored),
            (Call::Publish, Fault::LostStored),
        ] {
            for nodes in [1, 2] {
                let memory = Memory::default();
                let rows = Rows::create(memory.clone());
                let nodes: Vec<_> = (0..nodes).map(|_| rows.node()).collect();
                memory.plan([(Call::Append, 0, append), (Call::Append, 1, append), (call, 0, fault)]);
                let answered = crowd(&nodes, 10, 60, Epoch(0));
                // Each was over soon: everybody waited for that, and was told it is stored.
                assert!(answered.iter().all(|(_, answer)| answer.is_ok()), "{append:?}, {call:?} {fault:?}");
                // What fails when it is published may not have been asked for yet: it is met here, and not by who looks.
                nodes.iter().for_each(publish);
                require_once(&rows.records(), &answered);
                for node in &nodes {
                    node.close().unwrap();
                    assert_eq!(node.health().failure, None);
                }
                let met = if matches!(call, Call::Head | Call::Publish) { 3 } else { 2 };
                assert!(memory.0.lock().hits >= met, "{append:?}, {call:?} {fault:?}");
            }
        }
    }
}

/// Publishes what is durable, as often as it takes.
fn publish(log: &Log) {
    let since = std::time::Instant::now();
    while suite::runtime().block_on(log.publish()).is_err() {
        assert!(since.elapsed().as_secs() < 60, "it is not published: {:?}", log.health());
    }
}

/// A database that fails for long: who waits is told in time, who comes is refused at once, and work goes on by itself.
#[test]
fn a_database_that_fails_for_long_is_given_up_and_comes_back() {
    for (append, told) in [
        (Fault::NotStored, AppendError::Unavailable),
        (Fault::LostStored, AppendError::Indeterminate),
        (Fault::StoredAfterSettled, AppendError::Indeterminate),
    ] {
        let memory = Memory::default();
        let rows = Rows::create(memory.clone());
        let mut options = Rows::<Memory>::options();
        (options.patience, options.limits.append_wait_max) = (Duration::from_millis(60), Duration::from_millis(120));
        let node = rows.node_with(&options).unwrap();
        node.append_blocking(b"before".to_vec(), Epoch(0)).unwrap();
        memory.plan([(Call::Append, 0, append)]);
        memory.plan([Call::Fence, Call::Head].into_iter().flat_map(|call| [(call, 0, Fault::NotStored); 10]));
        assert_eq!(node.append_blocking(b"first".to_vec(), Epoch(0)), Err(told), "{append:?}");
        let failure = node.health().failure.unwrap();
        assert!(failure.contains("database"), "{failure}");
        // Nobody waits for a database that is away.
        assert_eq!(node.append_blocking(b"second".to_vec(), Epoch(0)), Err(AppendError::Unavailable));
        node.append_reserved_blocking_until_admitted(b"after".to_vec(), Epoch(0));
        assert_eq!(node.health().failure, None);
        let bodies: Vec<_> = all(&node).into_iter().map(|record| record.body).collect();
        let first = (append == Fault::LostStored).then(|| b"first".to_vec());
        let expected: Vec<_> =
            [Some(b"before".to_vec()), first, Some(b"after".to_vec())].into_iter().flatten().collect();
        assert_eq!(bodies, expected, "{append:?}");
    }
}

/// A database that was taken back to a former state takes nothing from who knows better.
#[test]
fn a_database_that_was_taken_back_is_told() {
    let memory = Memory::default();
    let rows = Rows::create(memory.clone());
    let mut options = Rows::<Memory>::options();
    options.patience = Duration::from_millis(50);
    let node = rows.node_with(&options).unwrap();
    node.append_blocking(b"kept".to_vec(), Epoch(0)).unwrap();
    let former = {
        let inner = memory.0.lock();
        (inner.head.clone(), inner.batches.clone())
    };
    node.append_blocking(b"lost".to_vec(), Epoch(0)).unwrap();
    {
        let mut inner = memory.0.lock();
        (inner.head, inner.batches) = former;
    }
    assert_eq!(node.append_blocking(b"more".to_vec(), Epoch(0)), Err(AppendError::Unavailable));
    let failure = node.health().failure.unwrap();
    assert!(failure.contains("has 1 records, and had 2 before"), "{failure}");
}

/// Rows that somebody changed are refused when they are read, and a head when the log is opened.
#[test]
fn altered_rows_are_refused_when_they_are_read() {
    let memory = Memory::default();
    let rows = Rows::create(memory.clone());
    let node = rows.node();
    for number in 0..4_u8 {
        node.append_blocking(vec![number; 10], Epoch(0)).unwrap();
    }
    node.close().unwrap();
    let whole = memory.0.lock().batches.clone();
    let changes: [fn(&mut Vec<keyrail_audit::Batch<'static>>); 5] = [
        |batches| batches[2].records.to_mut()[25] ^= 1,
        |batches| drop(batches.remove(2)),
        |batches| batches.swap(1, 2),
        |batches| {
            let (first, second) = (batches[1].records.clone(), batches[2].records.clone());
            (batches[1].records, batches[2].records) = (second, first);
        },
        |batches| drop(batches.split_off(2)),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut batches = whole.clone();
        change(&mut batches);
        memory.0.lock().batches = batches;
        // The last batch is looked at when the log is opened.
        let read =
            rows.node_with(&Rows::<Memory>::options()).and_then(|node| {
                node.read(0, 10).and_then(|records| {
                    if records.len() < 4 { node.read(records.len() as u64, 10) } else { Ok(records) }
                })
            });
        let told = matches!(read, Err(LogError::RecordsAltered { .. } | LogError::RecordsMissing { .. }));
        assert!(told, "change {number}: {read:?}");
        let verified = rows.verify(&[]);
        let told = matches!(verified, Err(LogError::RecordsAltered { .. } | LogError::RecordsMissing { .. }));
        assert!(told, "change {number}: {verified:?}");
    }
    memory.0.lock().batches = whole.clone();
    assert_eq!(rows.verify(&[]).unwrap().records, 4);
    // What lies beyond the head is none of the log's.
    let mut beyond = whole[3].clone();
    beyond.first = 4;
    memory.0.lock().batches.push(beyond);
    assert!(matches!(rows.verify(&[]), Err(LogError::RecordsAltered { first: 4, count: 1 })));
    memory.0.lock().batches = whole.clone();
    memory.0.lock().head.as_mut().unwrap().tag[0] ^= 1;
    assert!(matches!(rows.node_with(&Rows::<Memory>::options()).map(drop), Err(LogError::HeadAltered)));
}

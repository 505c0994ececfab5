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
fn who_was_fenced_holds_up_nobody() {
    suite::who_was_fenced_holds_up_nobody(Memory::default());
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
                // What was surely not stored needs no settling.
                let settles = append != Fault::NotStored;
                let met = if settles || matches!(call, Call::Head | Call::Publish) { 3 } else { 2 };
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

/// Whoever can write rows puts one where a node looks for what became of its own: it believes none but that.
#[test]
fn a_row_that_somebody_else_put_there_is_not_taken_for_the_nodes_own() {
    let memory = Memory::default();
    let rows = Rows::create(memory.clone());
    let mut options = Rows::<Memory>::options();
    (options.patience, options.limits.append_wait_max) = (Duration::from_millis(60), Duration::from_millis(120));
    let node = rows.node_with(&options).unwrap();
    node.append_blocking(b"before".to_vec(), Epoch(0)).unwrap();
    memory.plan([(Call::Append, 0, Fault::Planted)]);
    let failure = suite::failure_during(&node, || {
        assert_eq!(node.append_blocking(b"lost".to_vec(), Epoch(0)), Err(AppendError::Indeterminate));
    });
    assert!(failure.is_some_and(|failure| failure.contains("the database") || failure.contains("were altered")));
    assert_eq!(node.size(), 1);
    assert!(matches!(rows.verify(&[]), Err(LogError::RecordsAltered { first, .. }) if first == 1 << 40));
    let failure = node.health().failure.unwrap();
    assert!(failure.contains("were altered"), "{failure}");
    memory.0.lock().batches.retain(|batch| batch.first < 1 << 40);
    node.append_reserved_blocking_until_admitted(b"after".to_vec(), Epoch(0));
    assert_eq!(rows.verify(&[]).unwrap().records, 2);
}

/// A signed head that was taken back is told, and one of the same records is no reason to believe that it was published.
#[test]
fn a_signed_head_that_was_taken_back_is_told() {
    let memory = Memory::default();
    let rows = Rows::create(memory.clone());
    let node = rows.node();
    let former = node.checkpoint().unwrap();
    node.append_blocking(b"first".to_vec(), Epoch(0)).unwrap();
    publish(&node);
    assert_eq!(rows.verify(&[]).unwrap().tail.unwrap().records, 0);
    memory.0.lock().note = former;
    assert_eq!(rows.verify(&[]).unwrap().tail.unwrap().records, 1);
    node.append_blocking(b"second".to_vec(), Epoch(0)).unwrap();
    assert!(suite::runtime().block_on(node.publish()).is_err());
    let failure = node.health().failure.unwrap();
    assert!(failure.contains("signed head is of 0 records, and was of 1"), "{failure}");
}

/// What is appended while others' records are published is published by itself afterwards.
#[test]
fn what_comes_while_something_is_published_is_published_by_itself() {
    let memory = Memory::default();
    let rows = Rows::create(memory.clone());
    let [node, other] = [rows.node(), rows.node()];
    let mut never = Rows::<Memory>::options();
    never.limits.publish_interval = Duration::from_secs(3_600);
    let silent = rows.node_with(&never).unwrap();
    silent.append_blocking(b"of another".to_vec(), Epoch(0)).unwrap();
    let appending = node.clone();
    let append = move || assert_eq!(appending.append_blocking(b"meanwhile".to_vec(), Epoch(0)).unwrap().index, 1);
    memory.0.lock().before_publish = Some(Box::new(append));
    publish(&node);
    assert_eq!(other.size(), 0);
    until(|| node.published().size == 2, "what came meanwhile is not published");
}

/// Whoever reads all the time does not put off what is to be published.
#[test]
fn a_flood_of_reads_does_not_put_off_publishing() {
    let rows = Rows::create(Memory::default());
    let node = rows.node();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    node.read(0, 1_000).unwrap();
                }
            });
        }
        for number in 0..300_u64 {
            node.append_blocking(vec![7; 1_000], Epoch(0)).unwrap();
            assert_eq!(node.size(), number + 1);
        }
        let since = std::time::Instant::now();
        while node.published().size < 300 && since.elapsed().as_secs() < 60 {
            std::thread::yield_now();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(node.published().size, 300);
    });
}

fn until(mut is_so: impl FnMut() -> bool, else_told: &str) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed().as_secs() < 60, "{else_told}");
        std::thread::yield_now();
    }
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
    // However far: the log would come to it.
    memory.0.lock().batches[4].first = 1_000_000;
    assert!(matches!(rows.verify(&[]), Err(LogError::RecordsAltered { first: 1_000_000, count: 1 })));
    memory.0.lock().batches = whole.clone();
    memory.0.lock().head.as_mut().unwrap().tag[0] ^= 1;
    assert!(matches!(rows.node_with(&Rows::<Memory>::options()).map(drop), Err(LogError::HeadAltered)));
}

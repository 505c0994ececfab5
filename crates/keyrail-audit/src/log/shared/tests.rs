//! How the writer waits for records to come together.

use std::sync::mpsc::{self, Receiver, TryRecvError};

use tokio::sync::oneshot;

use super::*;
use crate::log::queue::GATHERED_LEN;

/// So long that nothing but what is tried ends it.
const LONG: Duration = Duration::from_secs(3_600);

/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn shared() -> Arc<Shared> {
    Arc::new(Shared::new(Limits::default(), Head { size: 0, root: [0; 32] }))
}

fn push(shared: &Shared, count: usize) {
    push_to(shared, count, Place::Usual);
}

fn push_to(shared: &Shared, count: usize, place: Place) {
    let record = Record { salt: [0; 16], body: b"x".to_vec() };
    for _ in 0..count {
        let waiting = Waiting { epoch: Epoch(0), room: crate::journal::Room::Usual, answer: oneshot::channel().0 };
        shared.push((&record, Hashes::of(&record)), waiting, place).unwrap();
    }
}

/// Lets a writer take work once.
fn writer(shared: &Arc<Shared>, gather_max: Duration) -> Receiver<Work> {
    let (give, given) = mpsc::channel();
    let shared = shared.clone();
    std::thread::spawn(move || give.send(shared.take_work_gathered(gather_max)));
    given
}

/// What the writer takes.
fn taken(given: &Receiver<Work>) -> Work {
    given.recv_timeout(PATIENCE).expect("the writer waits for more")
}

fn records(work: Work) -> usize {
    match work {
        Work::Append { records, .. } => records.len(),
        Work::Publish(_) => panic!("to publish"),
        Work::Look | Work::Close => panic!("no records"),
    }
}

/// Returns when the writer, woken for nothing, has looked at the queue and waits again.
fn waits(shared: &Shared, given: &Receiver<Work>) {
    let begun = Instant::now();
    let mut woken = 0;
    while woken < 2 {
        woken += usize::from(shared.work.notify_one());
        assert_eq!(given.try_recv().err(), Some(TryRecvError::Empty), "the writer did not wait");
        assert!(begun.elapsed() < PATIENCE, "the writer does not wait for records");
        std::thread::yield_now();
    }
}

/// A log whose threads tell when they rest, and all work.
fn busy() -> Arc<Shared> {
    let shared = shared();
    shared.rest();
    push(&shared, 1);
    assert_eq!(records(taken(&writer(&shared, Duration::ZERO))), 1);
    shared
}

#[test]
fn where_nobody_tells_that_he_rests_nobody_is_kept_waiting() {
    let shared = shared();
    push_to(&shared, 1, Place::AtOnce);
    assert_eq!(records(taken(&writer(&shared, LONG))), 1);
    for count in [1, GATHERED_LEN - 1, 1] {
        push(&shared, count);
        assert_eq!(records(taken(&writer(&shared, LONG))), count);
        // Nor if the writer waited already.
        let given = writer(&shared, LONG);
        waits(&shared, &given);
        push(&shared, 1);
        assert_eq!(records(taken(&given)), 1);
    }
}

#[test]
fn while_all_work_records_come_together_until_there_are_enough() {
    let shared = busy();
    for waits_before in [false, true, true] {
        let mut given = waits_before.then(|| writer(&shared, LONG));
        if let Some(given) = &given {
            waits(&shared, given);
        }
        push(&shared, 1);
        let given = given.take().unwrap_or_else(|| writer(&shared, LONG));
        waits(&shared, &given);
        push(&shared, GATHERED_LEN - 2);
        waits(&shared, &given);
        push(&shared, 1);
        assert_eq!(records(taken(&given)), GATHERED_LEN);
    }
}

#[test]
fn when_somebody_rests_the_writer_takes_what_there_is() {
    let shared = busy();
    // While it waits for more, or before it comes.
    push(&shared, 2);
    let given = writer(&shared, LONG);
    waits(&shared, &given);
    shared.rest();
    assert_eq!(records(taken(&given)), 2);
    push(&shared, 3);
    shared.rest();
    assert_eq!(records(taken(&writer(&shared, LONG))), 3);
    // A record that waits for no others takes those along that do.
    push(&shared, 1);
    let given = writer(&shared, LONG);
    waits(&shared, &given);
    push_to(&shared, 1, Place::AtOnce);
    assert_eq!(records(taken(&given)), 2);
    // So it does if more come before the writer looks.
    for place in [Place::AtOnce, Place::Reserved] {
        push_to(&shared, 1, place);
        push(&shared, 1);
        assert_eq!(records(taken(&writer(&shared, LONG))), 2);
    }
    // Who rested before the record came works again.
    shared.rest();
    push(&shared, 1);
    let given = writer(&shared, LONG);
    waits(&shared, &given);
    shared.rest();
    assert_eq!(records(taken(&given)), 1);
}

#[test]
fn the_end_and_who_wants_all_to_be_published_do_not_wait_for_records() {
    for closes in [true, false] {
        let shared = busy();
        push(&shared, 1);
        let given = writer(&shared, LONG);
        waits(&shared, &given);
        if closes {
            shared.request_close();
        } else {
            shared.push_publish(oneshot::channel().0).unwrap();
        }
        assert_eq!(records(taken(&given)), 1);
        let next = taken(&writer(&shared, LONG));
        assert!(if closes { matches!(next, Work::Close) } else { matches!(next, Work::Publish(_)) });
    }
}

#[test]
fn when_its_time_is_over_the_writer_takes_what_there_is() {
    let shared = busy();
    push(&shared, 1);
    assert_eq!(records(shared.take_work()), 1);
    // However often it is woken meanwhile: its time counts from when it began.
    let shared = busy();
    push(&shared, 1);
    let given = writer(&shared, 200 * GATHER_MAX);
    let begun = Instant::now();
    let work = loop {
        match given.try_recv() {
            Ok(work) => break work,
            Err(_) => assert!(begun.elapsed() < PATIENCE, "its time does not end"),
        }
        shared.work.notify_one();
    };
    assert_eq!(records(work), 1);
    // What comes after its time is taken at once, and waits for nobody.
    for _ in 0..10 {
        let shared = busy();
        let given = writer(&shared, Duration::ZERO);
        waits(&shared, &given);
        push(&shared, 1);
        assert_eq!(records(taken(&given)), 1);
    }
}

//! The fault table: every step that writes fails, not done or done and reported as failed, once, a few times and
//! for long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

use super::*;
use crate::body::Records;
use crate::files::Step;
use crate::files::faults::{Fault, Faults, Plan};
use crate::support::{self, TestLog, body};

mod failing;

const STEPS: [Step; 10] = [
    Step::Append,
    Step::Create,
    Step::MakeDir,
    Step::Remove,
    Step::Rename,
    Step::Room,
    Step::Sync,
    Step::SyncDir,
    Step::SyncFileSystem,
    Step::Write,
];

const RECORDS: usize = 40;

fn options(test: &TestLog) -> LogOptions {
    let limits = Limits { publish_interval: Duration::from_millis(1), ..test.options().limits };
    LogOptions { journal_len_max: 1_500, limits, ..test.options() }
}

/// The log has what was acknowledged, each at its place, in the order of the appends and nothing twice.
fn require_whole(log: &Log, acknowledged: &[(u64, usize)], tried: usize, what: &str) {
    let records = log.read(0, usize::MAX).unwrap();
    assert_eq!(records.len() as u64, log.size(), "{what}");
    let found: Vec<&[u8]> = records.iter().map(|record| record.body.as_slice()).collect();
    for (index, number) in acknowledged {
        assert_eq!(found[usize::try_from(*index).unwrap()], body(*number), "{what}: record {index}");
    }
    let all: Vec<Vec<u8>> = (0..tried).map(body).collect();
    let mut rest = all.iter();
    for record in found {
        assert!(rest.any(|body| body == record), "{what}: a record stands twice, or at another place");
    }
}

fn live_through(kind: Step, fault: Fault, skip: usize, count: usize, error: Errno) -> usize {
    let what = format!("{kind:?} {fault:?} after {skip}, {count} times, {error}");
    let test = TestLog::create();
    let (log, _) = test.open_with(options(&test)).unwrap();
    let faults = Faults::plan(test.dir.path(), Plan { kind, fault, skip, count, error });
    let (mut acknowledged, mut refused, mut open) = (Vec::new(), 0, 0);
    for number in 0..RECORDS {
        match log.append_blocking(body(number), Epoch(0)) {
            Ok(position) => acknowledged.push((position.index, number)),
            Err(AppendError::Unavailable) => refused += 1,
            Err(AppendError::Indeterminate) => open += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    let at_fault = test.copied();
    let hit = faults.hit();
    drop(faults);
    // The disk works again, and so does the log, without a restart.
    acknowledged.push((log.append_blocking(body(RECORDS), Epoch(0)).unwrap().index, RECORDS));
    require_whole(&log, &acknowledged, RECORDS + 1, &what);
    assert_eq!(log.size(), acknowledged.len() as u64, "{what}: what was refused is not there");
    assert!(count < 100 || hit == 0 || refused + open + acknowledged.len() == RECORDS + 1);
    let closed = log.close();
    drop(log);
    // Killed at the fault, or ended after it: nothing that was acknowledged is lost.
    let (log, _) = at_fault.open_with(options(&at_fault)).unwrap_or_else(|error| panic!("{what}: {error}"));
    require_whole(&log, &acknowledged[..acknowledged.len() - 1], RECORDS, &what);
    log.close().unwrap();
    at_fault.verify().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    if closed.is_ok() {
        test.verify().unwrap_or_else(|failure| panic!("{what}: {failure}"));
    }
    let (log, recovered) = test.open_with(options(&test)).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(recovered.clean, closed.is_ok(), "{what}");
    require_whole(&log, &acknowledged, RECORDS + 1, &what);
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, acknowledged.len() as u64, "{what}");
    hit
}

#[test]
fn nothing_acknowledged_is_lost_whatever_step_fails() {
    for kind in STEPS {
        let mut hit = 0;
        for fault in [Fault::NotStored, Fault::StoredButFailed, Fault::HalfStored] {
            for (skip, count) in [(0, 1), (1, 1), (3, 2), (0, 1_000), (5, 1_000)] {
                hit += live_through(kind, fault, skip, count, Errno::IO);
            }
        }
        for fault in [Fault::NotStored, Fault::HalfStored] {
            hit += live_through(kind, fault, 2, 1_000, Errno::NOSPC);
        }
        assert!(hit > 0, "{kind:?} never failed");
    }
}

/// After a failed sync the file is closed for good: no later record is trusted to it.
#[test]
fn a_file_whose_sync_failed_is_never_written_again() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let former = test.journal_files().remove(0);
    let plan = Plan { kind: Step::Sync, fault: Fault::StoredButFailed, skip: 0, count: 1, error: Errno::IO };
    let faults = Faults::plan(test.dir.path(), plan);
    assert_eq!(log.append_blocking(body(1), Epoch(0)), Err(AppendError::Unavailable));
    assert_eq!(faults.hit(), 1);
    assert!(test.journal_files().iter().all(|path| *path != former), "{former:?}");
    assert_eq!(log.append_blocking(body(2), Epoch(0)).unwrap().index, 1);
    assert_eq!(log.health().failure, None);
}

/// As long as the next file cannot begin, nobody knows what the last one holds.
#[test]
fn a_record_whose_fate_is_open_is_called_so() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let plan = Plan { kind: Step::Sync, fault: Fault::StoredButFailed, skip: 0, count: 1, error: Errno::IO };
    let faults = Faults::plan(test.dir.path(), plan.clone());
    let _next = Faults::plan(test.dir.path(), Plan { kind: Step::Create, fault: Fault::NotStored, ..plan });
    assert_eq!(log.append_blocking(body(1), Epoch(0)), Err(AppendError::Indeterminate));
    assert!(log.health().failure.unwrap().contains("os error 5"));
    let killed = test.copied();
    drop(faults);
    // Killed now, the record is there, which is one of the two things that may be.
    assert_eq!(killed.open().0.size(), 2);
    assert_eq!(log.append_blocking(body(2), Epoch(0)).unwrap().index, 1);
    assert_eq!(log.size(), 2);
}

/// Evidence that the disk lost is written anew by the next start: until then its journal files stay.
#[test]
fn evidence_that_was_lost_is_written_anew() {
    let test = TestLog::create();
    let (log, _) = test.open_with(options(&test)).unwrap();
    let plan = Plan { kind: Step::SyncFileSystem, fault: Fault::NotStored, skip: 0, count: 1, error: Errno::IO };
    let faults = Faults::plan(test.dir.path(), plan);
    for number in 0..RECORDS * 3 {
        log.append_blocking(body(number), Epoch(0)).unwrap();
    }
    assert_eq!(faults.hit(), 1);
    assert!(log.health().failure.is_some());
    assert!(log.close().is_err());
    drop(log);
    assert!(test.journal_files().len() > 2);
    std::fs::remove_dir_all(test.audit().join("tile")).unwrap();
    let (log, _) = test.open_with(options(&test)).unwrap();
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, RECORDS as u64 * 3);
    assert_eq!(test.journal_files().len(), 1);
}

/// The evidence: each file with its bytes.
fn evidence(test: &TestLog) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut found = Vec::new();
    crate::publish::walk(&test.audit(), Path::new(""), &mut |path, kind| {
        if kind == crate::publish::Found::File {
            found.push(path.to_owned());
        }
    })
    .unwrap();
    for path in found {
        let bytes = std::fs::read(test.audit().join(&path)).unwrap();
        files.insert(path, bytes);
    }
    files
}

fn publish(log: &Log) -> Result<Head, LogError> {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(log.publish())
}

/// A start after a kill writes tiles that a checkpoint covers already: wherever it fails, they are whole.
#[test]
fn a_start_that_fails_leaves_signed_evidence_whole() {
    let test = TestLog::create();
    let (log, _) = test.open();
    support::append(&log, 600);
    publish(&log).unwrap();
    let killed = test.copied();
    log.close().unwrap();
    let signed = evidence(&killed);
    for fault in [Fault::HalfStored, Fault::NotStored] {
        let mut skip = 0;
        loop {
            let again = killed.copied();
            let plan = Plan { kind: Step::Write, fault, skip, count: 1, error: Errno::NOSPC };
            let faults = Faults::plan(again.dir.path(), plan);
            let opened = again.open_with(again.options());
            if faults.hit() == 0 {
                opened.unwrap();
                break;
            }
            assert!(opened.is_err());
            assert!(evidence(&again) == signed, "{fault:?} after {skip}: a signed file was changed");
            again.verify().unwrap();
            skip += 1;
        }
        assert!(skip > 6, "{fault:?}: only {skip} files were written");
    }
}

/// A checkpoint that was reported as failed may stand: the next attempt must not cut what it covers.
#[test]
fn a_checkpoint_that_stands_unknown_keeps_its_tiles() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let plan = Plan { kind: Step::Rename, fault: Fault::StoredButFailed, skip: 0, count: 1, error: Errno::IO };
    let faults = Faults::plan(test.dir.path(), plan.clone());
    assert!(publish(&log).is_err());
    assert_eq!(faults.hit(), 1);
    assert_eq!(test.verify().unwrap().records, 1);
    let _full = Faults::plan(test.dir.path(), Plan { kind: Step::Write, fault: Fault::HalfStored, ..plan });
    assert!(publish(&log).is_err());
    assert_eq!(faults.hit(), 2);
    assert_eq!(test.verify().unwrap().records, 1);
    drop(faults);
    publish(&log).unwrap();
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, 1);
}

/// What lies at a tile's place is neither followed nor waited for.
#[test]
fn links_and_pipes_make_way_for_tiles() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let elsewhere = test.dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "not the log's").unwrap();
    let (entries, hashes) = (test.audit().join("tile/entries/000.p"), test.audit().join("tile/0/000.p"));
    for dir in [&entries, &hashes] {
        std::fs::create_dir_all(dir).unwrap();
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        entries.join("1"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink(&elsewhere, hashes.join("1")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, test.journal().join("publishing")).unwrap();
    publish(&log).unwrap();
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "not the log's");
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, 1);
}

#[test]
fn a_directory_that_is_gone_refuses_and_comes_back() {
    let test = TestLog::create();
    let (log, _) = test.open_with(options(&test)).unwrap();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let (journal, aside) = (test.journal(), test.dir.path().join("aside"));
    std::fs::rename(&journal, &aside).unwrap();
    // The open file takes records until it is full; then there is no place for the next one.
    let mut refused = 0;
    for number in 1..60 {
        refused += usize::from(log.append_blocking(body(number), Epoch(0)).is_err());
    }
    assert!(refused > 0);
    assert!(log.health().failure.is_some());
    std::fs::rename(&aside, &journal).unwrap();
    log.append_blocking(body(60), Epoch(0)).unwrap();
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, 61 - refused as u64);
}

/// An appender whose disk does not answer gets an answer all the same.
#[test]
fn an_appender_is_not_left_waiting_for_the_disk() {
    let test = TestLog::create();
    let limits = Limits { append_wait_max: Duration::from_millis(1), ..test.options().limits };
    let (log, _) = test.open_with(LogOptions { limits, ..test.options() }).unwrap();
    // The writer cannot report while somebody holds what it reports to.
    let held = log.0.shared.state.lock();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    assert_eq!(runtime.block_on(log.append(body(0), Epoch(0))), Err(AppendError::Indeterminate));
    drop(held);
    log.close().unwrap();
}

/// Who waits when the writer ends is told so, and who comes later is refused.
#[test]
fn nobody_waits_for_a_writer_that_is_gone() {
    let shared = Shared::new(Limits::default(), Head { size: 0, root: [0; 32] });
    let (answer, receiver) = oneshot::channel();
    let record = Record { salt: [0; 16], body: body(0) };
    let logged = (&record, Hashes::of(&record));
    shared.push(logged, Waiting { epoch: Epoch(0), room: Room::Usual, answer }, Place::Usual).unwrap();
    shared.end_work();
    assert_eq!(receiver.blocking_recv().unwrap(), Err(AppendError::Unavailable));
    let (answer, _receiver) = oneshot::channel();
    let late = shared.push(logged, Waiting { epoch: Epoch(0), room: Room::Usual, answer }, Place::Usual);
    assert_eq!(late, Err(AppendError::Unavailable));
}

/// A file whose edge could not be read back is not begun: the one before it would be removed all the same.
#[test]
fn an_edge_that_could_not_be_read_back_is_not_written() {
    let test = TestLog::create();
    let edge_with = |body_len| {
        let record = Record { salt: [0; 16], body: vec![b'x'; body_len] };
        let mut edge = RightEdge::default();
        Records::from_iter([record]).iter().for_each(|logged| drop(edge.push(logged)));
        edge
    };
    let edge = edge_with(BODY_LEN_MAX + 1);
    let begun = JournalFile::create(&test.journal(), 2, &edge, &test.keys().journal);
    assert!(matches!(begun, Err(LogError::File { .. })));
    assert_eq!(test.journal_files().len(), 1);
    let edge = edge_with(BODY_LEN_MAX);
    JournalFile::create(&test.journal(), 2, &edge, &test.keys().journal).unwrap();
    let read = journal::replay(&test.journal_files()[1], 2, Some(&test.keys().journal)).unwrap().unwrap();
    assert_eq!(read.edge.root(), edge.root());
}

/// A frame that no writer makes is not taken for one that was not finished, although it ends early.
#[test]
fn a_frame_longer_than_its_kind_is_refused() {
    let key = TestLog::create().keys().journal;
    let edge = RightEdge::default().encode();
    let first = [(1, 0, edge.as_slice())];
    let end = journal::assemble(&first, 1, &key).len();
    let longest = journal::FRAME_LEN_MAX;
    for (kind, len, is_refused) in [(2, longest, false), (2, longest + 1, true), (3, 1, true), (4, 1, true)] {
        let content = vec![1; len];
        let mut bytes = journal::assemble(&[first[0], (kind, 0, &content)], 1, &key);
        bytes.truncate(end + 29);
        for key in [Some(&key), None] {
            let read = journal::replay_bytes(&bytes, Path::new("journal"), 1, key);
            let what = format!("kind {kind}, {len} bytes, key: {}", key.is_some());
            match read {
                Err(LogError::JournalAltered { offset, .. }) => assert!(is_refused && offset == end as u64, "{what}"),
                Err(error) => panic!("{what}: {error}"),
                Ok(read) => assert!(!is_refused && read.unwrap().torn_len == 29, "{what}"),
            }
        }
    }
}

/// A journal file that a killed writer did not come to name has bodies in it, and is nobody's.
#[test]
fn a_start_removes_a_journal_file_that_was_begun_only() {
    for clean in [true, false] {
        let test = TestLog::create();
        let (log, _) = test.open();
        log.append_blocking(body(0), Epoch(0)).unwrap();
        let killed = test.copied();
        log.close().unwrap();
        let test = if clean { test } else { killed };
        let begun = test.journal().join("beginning");
        std::fs::write(&begun, body(0)).unwrap();
        test.verify().unwrap();
        assert!(begun.exists(), "who only reads leaves it");
        let (log, recovered) = test.open();
        assert_eq!((recovered.clean, log.size(), begun.exists()), (clean, 1, false));
    }
}

/// A batch of several frames, in which every third record is of an epoch that is over: each who waits hears of his own
/// record.
#[test]
fn a_batch_of_frames_and_epochs_is_answered_record_by_record() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.set_epoch(Epoch(1));
    // The writer takes the first record and cannot go on; meanwhile the others come together.
    let held = log.0.shared.state.lock();
    let first = log.enqueue(body(0), Epoch(1), Place::Usual).unwrap();
    while log.0.shared.queue_len() > 0 {
        std::thread::yield_now();
    }
    let long = |number: u8| vec![number; BODY_LEN_MAX - usize::from(number)];
    let begin = |number: u8| {
        let epoch = Epoch(if number.is_multiple_of(3) { 1 } else { 2 });
        (number, log.enqueue(long(number), epoch, Place::Usual).unwrap())
    };
    let waiting: Vec<_> = (1..=20).map(begin).collect();
    log.set_epoch(Epoch(2));
    drop(held);
    assert_eq!(first.blocking_recv().unwrap().unwrap().index, 0);
    let mut acknowledged = 1;
    for (number, receiver) in waiting {
        let answer = receiver.blocking_recv().unwrap();
        if number.is_multiple_of(3) {
            assert_eq!(answer, Err(AppendError::Fenced), "{number}");
        } else {
            let index = answer.unwrap().index;
            assert_eq!(index, acknowledged, "{number}");
            assert!(log.read(index, 1).unwrap()[0].body == long(number), "{number}: another record is at its place");
            acknowledged += 1;
        }
    }
    assert_eq!((acknowledged, log.size()), (15, 15));
    // The edge, the mark of the clean end, the first record, and 14 MiB in frames of 8; the last place is the end.
    assert_eq!(test.frames().len(), 6);
}

/// What was read from the journal of a killed log is made durable before any of it is published.
#[test]
fn a_start_after_a_kill_syncs_the_journal_before_it_publishes() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let killed = test.copied();
    drop(log);
    let before = evidence(&killed);
    for kind in [Step::Sync, Step::SyncDir] {
        let plan = Plan { kind, fault: Fault::NotStored, skip: 0, count: 1, error: Errno::IO };
        let faults = Faults::plan(&killed.journal(), plan);
        assert!(matches!(killed.open_with(killed.options()), Err(LogError::File { action: "sync", .. })), "{kind:?}");
        assert_eq!(faults.hit(), 1, "{kind:?}");
        assert!(evidence(&killed) == before, "{kind:?}: something was published");
    }
    let (log, recovered) = killed.open();
    assert_eq!((recovered.published, recovered.clean), (1, false));
    log.close().unwrap();
    assert_eq!(killed.verify().unwrap().records, 1);
}

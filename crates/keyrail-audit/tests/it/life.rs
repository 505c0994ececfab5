//! What a log goes through: records, restarts, crashes, fences.

use keyrail_audit::{AppendError, Epoch, Reader, verify};

use crate::support::TestLog;

#[test]
fn records_survive_restarts_and_verify() {
    let log = TestLog::create();
    assert_eq!(verify(&log.audit(), &log.key, &[]).unwrap().records, 0);
    let mut total = 0;
    for count in [1, 2, 254, 300, 0, 600] {
        log.fill(count);
        total += count;
        assert_eq!(verify(&log.audit(), &log.key, &[]).unwrap().records, total as u64);
    }
    let reader = Reader::open(&log.audit()).unwrap();
    let records = reader.read(250, 20).unwrap();
    let bodies: Vec<_> = records.iter().map(|record| String::from_utf8(record.body.clone()).unwrap()).collect();
    let expected: Vec<_> = (250..270).map(|index| format!("record {index}")).collect();
    assert_eq!(bodies, expected);
}

#[test]
fn an_append_under_an_older_epoch_is_refused() {
    let log = TestLog::create();
    let (log, _) = log.open();
    log.append_blocking(b"one".to_vec(), Epoch(1)).unwrap();
    log.set_epoch(Epoch(2));
    assert_eq!(log.append_blocking(b"late".to_vec(), Epoch(1)), Err(AppendError::Fenced));
    log.append_blocking(b"two".to_vec(), Epoch(2)).unwrap();
    assert_eq!(log.size(), 2);
}

/// What a killed process leaves behind: the journal, and whatever was published before.
#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let test = TestLog::create();
    test.fill(260);
    let (log, _) = test.open();
    for index in 0..300 {
        log.append_blocking(format!("late {index}").into_bytes(), Epoch(0)).unwrap();
    }
    let copied = copy(test.dir.path());
    drop(log);
    let crashed = test.moved_to(copied);
    let (log, recovered) = crashed.open();
    assert_eq!((recovered.published, recovered.clean), (560, false));
    assert_eq!(log.size(), 560);
    assert_eq!(log.read(555, 10).unwrap().len(), 5);
    log.close().unwrap();
    assert_eq!(verify(&crashed.audit(), &crashed.key, &[]).unwrap().records, 560);
}

fn copy(from: &std::path::Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status().unwrap();
    assert!(status.success());
    to
}

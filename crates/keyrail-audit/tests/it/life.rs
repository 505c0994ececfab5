//! What a log goes through: records, restarts, crashes, limits.

use std::time::Duration;

use keyrail_audit::{AppendError, Head, LogError, Reader};
use keyrail_core::fence::Epoch;

use crate::support::{TestLog, append, body};

#[test]
fn equal_bodies_have_different_entries() {
    let test = TestLog::create();
    let (log, _) = test.open();
    for _ in 0..3 {
        log.append_blocking(b"the same".to_vec(), Epoch(0)).unwrap();
    }
    let entries: std::collections::BTreeSet<_> = log.read(0, 3).unwrap().iter().map(|record| record.entry()).collect();
    assert_eq!(entries.len(), 3);
}

#[test]
fn records_survive_restarts_and_verify() {
    let log = TestLog::create();
    assert_eq!(log.verify().unwrap().records, 0);
    let mut total = 0;
    for count in [1, 2, 254, 300, 0, 600] {
        log.fill(count);
        total += count;
        assert_eq!(log.verify().unwrap().records, total as u64);
    }
    let records = Reader::open(&log.audit()).unwrap().read(250, 20).unwrap();
    let bodies: Vec<_> = records.into_iter().map(|record| record.body).collect();
    assert_eq!(bodies, (250..270).map(body).collect::<Vec<_>>());
}

#[test]
fn what_was_acknowledged_is_there_after_a_crash() {
    let test = TestLog::of(260);
    let (log, _) = test.open();
    append(&log, 300);
    let crashed = test.copied();
    drop(log);
    let (log, recovered) = crashed.open();
    assert_eq!((recovered.published, recovered.clean), (560, false));
    assert_eq!(log.size(), 560);
    assert_eq!(log.read(555, 10).unwrap().len(), 5);
    log.close().unwrap();
    assert_eq!(crashed.verify().unwrap().records, 560);
}

/// A crash between any two steps of publishing leaves files that the checkpoint does not cover; the next start
/// settles that.
#[test]
fn leftovers_of_a_crash_are_settled_by_the_next_start() {
    let test = TestLog::of(300);
    let (log, _) = test.open();
    append(&log, 500);
    let crashed = test.copied();
    drop(log);
    // The checkpoint of 300 stands; these are of the next one, or of one before that was not removed yet.
    let entry = |path: &str| crashed.audit().join(path);
    for (path, content) in [("tile/entries/001.p/9", "torn"), ("tile/0/002", ""), ("tile/0/003.p/32", "torn")] {
        std::fs::create_dir_all(entry(path).parent().unwrap()).unwrap();
        std::fs::write(entry(path), content).unwrap();
    }
    std::fs::create_dir(entry("body/002.p")).unwrap();
    assert!(crashed.verify().is_err());
    let (log, _) = crashed.open();
    log.close().unwrap();
    assert_eq!(crashed.verify().unwrap().records, 800);
}

#[test]
fn the_queue_has_a_limit_in_records_and_bytes_and_a_record_in_bytes() {
    let test = TestLog::create();
    let mut options = test.options();
    (options.limits.queue_len_max, options.limits.queue_bytes_max) = (0, 1 << 20);
    let (log, _) = test.open_with(options.clone()).unwrap();
    assert_eq!(log.append_blocking(body(0), Epoch(0)), Err(AppendError::QueueFull));
    drop(log);
    (options.limits.queue_len_max, options.limits.queue_bytes_max) = (10, 1 << 20);
    let (log, _) = test.open_with(options).unwrap();
    assert_eq!(log.append_blocking(vec![0; 1 << 20], Epoch(0)), Err(AppendError::QueueFull));
    let longer = vec![0; (1 << 20) + 1];
    assert_eq!(log.append_blocking(longer, Epoch(0)), Err(AppendError::TooLong { max: 1 << 20 }));
    log.append_blocking(vec![0; (1 << 20) - 20], Epoch(0)).unwrap();
    log.close().unwrap();
    assert_eq!(log.append_blocking(body(0), Epoch(0)), Err(AppendError::Unavailable));
    assert_eq!(test.verify().unwrap().records, 1);
}

/// What must get through has room when there is none for others, and that room has an end too.
#[tokio::test]
async fn room_is_kept_for_records_that_must_get_through() {
    let test = TestLog::create();
    let mut options = test.options();
    options.limits.queue_len_max = 0;
    let (log, _) = test.open_with(options).unwrap();
    assert_eq!(log.append(body(0), Epoch(0)).await, Err(AppendError::QueueFull));
    assert_eq!(log.append_reserved(body(0), Epoch(0)).await.unwrap().index, 0);
    log.set_epoch(Epoch(1));
    assert_eq!(log.append_reserved(body(0), Epoch(0)).await, Err(AppendError::Fenced));
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, 1);
}

/// The journal is bounded: a new file begins, and the former ones go once the evidence is durable.
#[test]
fn journal_files_follow_each_other() {
    let test = TestLog::create();
    let mut options = test.options();
    options.journal_len_max = 10_000;
    let (log, _) = test.open_with(options).unwrap();
    for _ in 0..20 {
        append(&log, 100);
    }
    let crashed = test.copied();
    let files = test.journal_files();
    assert_eq!(files.len(), 1);
    assert!(files[0].file_name().unwrap() > std::ffi::OsStr::new("journal-00000000000000000005"), "{files:?}");
    drop(log);
    let (log, _) = crashed.open();
    assert_eq!(log.size(), 2_000);
    log.close().unwrap();
    assert_eq!(crashed.verify().unwrap().records, 2_000);
}

/// A journal file begins with the records of the bundle that is not full, however long they are.
#[test]
fn long_records_outlive_the_journal_file_that_they_were_in() {
    let test = TestLog::create();
    let mut options = test.options();
    options.journal_len_max = 24_000_000;
    let (log, _) = test.open_with(options).unwrap();
    let long = |index: usize| vec![b'a' + (index % 26) as u8; if index < 256 { 32 * 1024 } else { 64 * 1024 }];
    for index in 0..506 {
        log.append_blocking(long(index), Epoch(0)).unwrap();
    }
    let killed = test.copied();
    drop(log);
    let files = killed.journal_files();
    assert!(files.len() == 1 && files[0].ends_with("journal-00000000000000000002"), "{files:?}");
    let frames = killed.frames();
    assert!(frames[1] - frames[0] > 12 * 1024 * 1024, "an edge of {} bytes", frames[1] - frames[0]);
    let (log, _) = killed.open();
    assert_eq!(log.size(), 506);
    for index in [0, 255, 256, 400, 505] {
        assert!(log.read(index as u64, 1).unwrap()[0].body == long(index), "record {index}");
    }
    log.close().unwrap();
    assert_eq!(killed.verify().unwrap().records, 506);
}

/// What a file begins with does not count against its length: else one that begins with more than it may grow by would be
/// followed by another after every record.
#[test]
fn a_long_edge_does_not_end_the_file_that_it_begins() {
    let test = TestLog::create();
    let mut options = test.options();
    options.journal_len_max = 100_000;
    let (log, _) = test.open_with(options.clone()).unwrap();
    for index in 0..150 {
        log.append_blocking(vec![b'a' + (index % 26) as u8; 1_000], Epoch(0)).unwrap();
    }
    let second = test.journal().join("journal-00000000000000000002");
    assert_eq!(test.journal_files(), std::slice::from_ref(&second));
    let frames = test.frames();
    assert!(frames[1] > 90_000, "an edge of {} bytes", frames[1]);
    // The same after a start.
    let killed = test.copied();
    drop(log);
    options.audit_dir = killed.audit();
    options.journal_dir = killed.journal();
    let (log, _) = killed.open_with(options).unwrap();
    for _ in 0..30 {
        log.append_blocking(vec![b'z'; 1_000], Epoch(0)).unwrap();
    }
    assert_eq!(killed.journal_files(), [killed.journal().join(second.file_name().unwrap())]);
    log.close().unwrap();
    assert_eq!(killed.verify().unwrap().records, 180);
}

/// While records keep coming, full bundles alone are published: what is left over follows when they are asked for.
#[test]
fn a_busy_log_publishes_full_bundles() {
    let test = TestLog::create();
    let (log, _) = test.open();
    append(&log, 16_500);
    while log.published().size == 0 {
        std::thread::yield_now();
    }
    let published = log.published().size;
    assert_eq!((published / 256 > 4, published % 256), (true, 0), "{published}");
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, 16_500);
}

/// A file that was begun and never used is removed under its own name, never together with one that is in use.
/// Former builds named a file before its edge was durable.
#[test]
fn a_journal_file_that_was_begun_only_does_no_harm() {
    let test = TestLog::of(10);
    let begun = test.journal().join("journal-00000000000000000002");
    std::fs::write(&begun, b"keyrail audit").unwrap();
    let mut options = test.options();
    options.journal_len_max = 1_000;
    let (log, _) = test.open_with(options).unwrap();
    append(&log, 100);
    append(&log, 1);
    let crashed = test.copied();
    drop(log);
    assert!(!begun.exists());
    let (log, _) = crashed.open();
    assert_eq!(log.size(), 111);
}

/// Who wants everything published does not wait for a pause of the writers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_goes_on_while_others_append() {
    let test = TestLog::create();
    let (log, _) = test.open();
    let (stop, stopped) = tokio::sync::watch::channel(());
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let (log, stopped) = (log.clone(), stopped.clone());
            tokio::spawn(async move {
                while stopped.has_changed().is_ok() {
                    log.append(body(0), Epoch(0)).await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let durable = log.size();
        let published = tokio::time::timeout(Duration::from_secs(20), log.publish()).await.unwrap().unwrap();
        assert!(published.size >= durable);
    }
    drop(stop);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// A journal that ends before the evidence does was cut; the evidence is left as it is.
#[test]
fn a_cut_journal_does_not_take_the_evidence_back() {
    let test = TestLog::create();
    let (log, _) = test.open();
    append(&log, 20);
    let cut = test.frames().pop().unwrap() as u64;
    append(&log, 20);
    log.close().unwrap();
    let head = test.verify().unwrap();
    let journal = std::fs::OpenOptions::new().write(true).open(&test.journal_files()[0]).unwrap();
    journal.set_len(cut).unwrap();
    assert!(matches!(test.open_with(test.options()), Err(LogError::Mismatch)));
    assert_eq!(test.verify().unwrap(), head);
}

/// Evidence that changed while the log was closed is not put right by starting it.
#[test]
fn a_clean_start_does_not_heal_evidence() {
    let test = TestLog::of(300);
    let altered = test.audit().join("tile/entries/000");
    std::fs::write(&altered, b"altered").unwrap();
    test.fill(300);
    let failure = test.verify().unwrap_err();
    assert_eq!(failure.file.unwrap(), std::path::Path::new("tile/entries/000"));
}

#[test]
fn an_older_or_another_log_than_the_remembered_one_is_not_opened() {
    let test = TestLog::of(300);
    let older = test.copied();
    test.fill(5);
    let head = test.verify().unwrap();
    let remembering = |log: &TestLog, root| {
        let mut options = log.options();
        options.remembered = Some(Head { size: 305, root });
        log.open_with(options)
    };
    let before = older.verify().unwrap();
    assert!(matches!(remembering(&older, head.root), Err(LogError::Older { found: 300, remembered: 305 })));
    assert_eq!(older.verify().unwrap(), before);
    older.fill(5);
    assert!(matches!(remembering(&older, head.root), Err(LogError::Fork { size: 305 })));
    remembering(&test, head.root).unwrap();
}

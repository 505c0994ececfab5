//! Every file under the log's directory is evidence: whatever is done to one is found, and the file is named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use keyrail_audit::{Remembered, VerifyFailure, VerifyProblem, verify};
use keyrail_testkit::{scale, seeded};
use rand::RngExt;

use crate::support::{TestLog, append};

/// The files of a log, relative to its directory.
fn files(log: &TestLog) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&log.audit(), &mut found);
    found.sort();
    found.into_iter().map(|path| path.strip_prefix(log.audit()).unwrap().to_owned()).collect()
}

/// Does something to the log that `undo` puts right, and looks at what verification says meanwhile.
fn failure_of(log: &TestLog, what: &str, undo: impl FnOnce()) -> VerifyFailure {
    let failure = log.verify();
    undo();
    match failure {
        Ok(report) => panic!("{what}: {} records verify", report.records),
        Err(failure) => {
            assert!(failure.file.is_some() || failure.record.is_some(), "{what}: {failure}");
            failure
        }
    }
}

fn named(log: &TestLog, file: &Path, what: &str, content: &[u8], whole: &[u8]) {
    let path = log.audit().join(file);
    std::fs::write(&path, content).unwrap();
    let what = format!("{}: {what}", file.display());
    let failure = failure_of(log, &what, || std::fs::write(&path, whole).unwrap());
    assert_eq!(failure.file.as_deref(), Some(file), "{what}: {failure}");
}

/// One byte changed: `None` changes every one of them, otherwise a sample of so many per file.
fn change_bytes(log: &TestLog, file: &Path, sample: Option<usize>) -> usize {
    let whole = std::fs::read(log.audit().join(file)).unwrap();
    let mut random = seeded(file.to_str().unwrap());
    let places: Vec<usize> = match sample {
        None => (0..whole.len()).collect(),
        Some(count) => (0..count).map(|_| random.random_range(0..whole.len())).collect(),
    };
    for place in &places {
        let mut content = whole.clone();
        content[*place] ^= random.random_range(1..=255_u8);
        named(log, file, &format!("byte {place}"), &content, &whole);
    }
    places.len()
}

fn alter(log: &TestLog, file: &Path) {
    let whole = std::fs::read(log.audit().join(file)).unwrap();
    named(log, file, "cut by a byte", &whole[..whole.len() - 1], &whole);
    named(log, file, "cut in half", &whole[..whole.len() / 2], &whole);
    named(log, file, "without its first byte", &whole[1..], &whole);
    named(log, file, "emptied", &[], &whole);
    named(log, file, "extended by a zero", &[&whole[..], &[0]].concat(), &whole);
    named(log, file, "twice", &[&whole[..], &whole].concat(), &whole);
    let (path, elsewhere) = (log.audit().join(file), log.dir.path().join("elsewhere"));
    let what = format!("{} removed", file.display());
    std::fs::rename(&path, &elsewhere).unwrap();
    let failure = failure_of(log, &what, || {});
    assert_eq!(failure.file.as_deref(), Some(file), "{what}: {failure}");
    // A link to the same bytes is no file of the log.
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let failure = failure_of(log, &format!("{} is a link", file.display()), || std::fs::remove_file(&path).unwrap());
    assert_eq!(failure.file.as_deref(), Some(file));
    let renamed = path.with_extension("renamed");
    std::fs::rename(&elsewhere, &renamed).unwrap();
    failure_of(log, &format!("{} renamed", file.display()), || std::fs::rename(&renamed, &path).unwrap());
}

fn swap(log: &TestLog, one: &Path, other: &Path) {
    let (first, second) = (log.audit().join(one), log.audit().join(other));
    let (left, right) = (std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
    std::fs::write(&first, &right).unwrap();
    std::fs::write(&second, &left).unwrap();
    let what = format!("{} and {} swapped", one.display(), other.display());
    let failure = failure_of(log, &what, || {
        std::fs::write(&first, &left).unwrap();
        std::fs::write(&second, &right).unwrap();
    });
    let file = failure.file.as_deref().unwrap();
    assert!(file == one || file == other, "{what}: {failure}");
}

#[test]
fn every_byte_of_a_small_log_counts() {
    let log = TestLog::of(3);
    let files = files(&log);
    assert_eq!(files.len(), 4);
    let changed: usize = files.iter().map(|file| change_bytes(&log, file, None)).sum();
    assert!(changed > 400, "{changed}");
    assert_eq!(log.verify().unwrap().records, 3);
}

#[test]
fn every_file_counts_whatever_is_done_to_it() {
    for size in [0, 1, 256, 300, 700] {
        let log = TestLog::of(size);
        let files = files(&log);
        for (place, file) in files.iter().enumerate() {
            change_bytes(&log, file, Some(scale(400)));
            alter(&log, file);
            files[..place].iter().for_each(|other| swap(&log, file, other));
        }
        assert_eq!(log.verify().unwrap().records, size as u64);
    }
}

/// At full scale a log with a tile of the third level; a sample of its files.
#[test]
fn files_of_a_big_log_count() {
    let size = scale(66_000);
    let log = TestLog::of(size);
    let files = files(&log);
    let mut random = seeded("files_of_a_big_log_count");
    // Every partial file and every upper level; of the others a sample.
    let upper =
        |file: &Path| !file.starts_with("body") && !file.starts_with("tile/entries") && !file.starts_with("tile/0");
    let partial = |file: &Path| file.to_str().unwrap().contains(".p/");
    let chosen: Vec<_> = files.iter().filter(|file| upper(file) || partial(file) || random.random_bool(0.05)).collect();
    assert!(chosen.len() > 6, "{chosen:?}");
    for file in &chosen {
        change_bytes(&log, file, Some(3));
        let (path, elsewhere) = (log.audit().join(file), log.dir.path().join("elsewhere"));
        std::fs::rename(&path, &elsewhere).unwrap();
        let failure = failure_of(&log, "removed", || std::fs::rename(&elsewhere, &path).unwrap());
        assert_eq!(failure.file.as_deref(), Some(file.as_path()));
    }
    assert_eq!(log.verify().unwrap().records, size as u64);
}

#[test]
fn what_does_not_belong_to_the_log_is_named() {
    let log = TestLog::of(300);
    let whole = |file: &str| std::fs::read(log.audit().join(file)).unwrap();
    let full = whole("tile/0/000");
    let hashes = whole("tile/0/001.p/44");
    let cases: [(&str, &[u8]); 9] = [
        ("note", b"a note"),
        (".lock", b""),
        ("tile/0/note", b""),
        ("tile/0/1", &full),
        ("tile/7/note", b""),
        // A future full tile, a future partial tile, a stale one that is a true prefix, one of a full tile.
        ("tile/0/002", &full),
        ("tile/0/001.p/45", &full[..45 * 32]),
        ("tile/0/001.p/43", &hashes[..43 * 32]),
        ("tile/0/000.p/9", &full[..9 * 32]),
    ];
    for (file, content) in cases {
        let path = log.audit().join(file);
        let made = !path.parent().unwrap().exists();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        let failure = failure_of(&log, file, || {
            std::fs::remove_file(&path).unwrap();
            if made {
                std::fs::remove_dir(path.parent().unwrap()).unwrap();
            }
        });
        assert!(matches!(failure.problem, VerifyProblem::Stray | VerifyProblem::Uncovered), "{file}: {failure}");
        assert_eq!(failure.file.as_deref(), Some(Path::new(file)), "{failure}");
    }
    for dir in ["extra", "tile/0/003.p", "body/x001"] {
        let path = log.audit().join(dir);
        std::fs::create_dir(&path).unwrap();
        let failure = failure_of(&log, dir, || std::fs::remove_dir(&path).unwrap());
        assert_eq!(failure.file.as_deref(), Some(Path::new(dir)), "{failure}");
    }
    let (dir, elsewhere) = (log.audit().join("body"), log.dir.path().join("elsewhere"));
    std::fs::rename(&dir, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &dir).unwrap();
    assert_eq!(failure_of(&log, "a linked directory", || {}).file.as_deref(), Some(Path::new("body")));
    std::fs::remove_file(&dir).unwrap();
    std::fs::rename(&elsewhere, &dir).unwrap();
    // A pipe in the place of a file is named, and nobody waits for its other end.
    let path = log.audit().join("tile/entries/000");
    std::fs::rename(&path, &elsewhere).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(failure_of(&log, "a pipe", || {}).problem, VerifyProblem::Stray));
}

#[test]
fn an_altered_record_is_named_by_its_index() {
    let log = TestLog::of(300);
    for (file, index) in [("body/000", 17_u64), ("body/001.p/44", 256 + 17)] {
        let path = log.audit().join(file);
        let whole = std::fs::read(&path).unwrap();
        let text = format!("record {index}");
        let place = whole.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let mut content = whole.clone();
        content[place] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let failure = failure_of(&log, file, || std::fs::write(&path, &whole).unwrap());
        assert_eq!((failure.record, failure.file.as_deref()), (Some(index), Some(Path::new(file))));
        assert!(failure.to_string().contains(&format!("record {index}")), "{failure}");
    }
}

/// An older copy is consistent in itself; only who remembers a newer head sees it. So is a log that goes on
/// from an older copy with other records.
#[test]
fn an_older_and_a_forked_log_are_told_by_a_remembered_head() {
    let log = TestLog::of(300);
    let older = log.copied();
    let early = Remembered { size: 300, root: log.verify().unwrap().root };
    log.fill(300);
    let head = log.verify().unwrap();
    let remembered = [early, Remembered { size: head.records, root: head.root }];
    verify(&log.audit(), &log.key, &remembered).unwrap();
    let told = |copy: &TestLog| verify(&copy.audit(), &log.key, &remembered).unwrap_err().problem;
    older.verify().unwrap();
    assert!(matches!(told(&older), VerifyProblem::Older { found: 300, remembered: 600 }));
    older.fill(400);
    older.verify().unwrap();
    assert!(matches!(told(&older), VerifyProblem::Fork { size: 600 }));
    let another = TestLog::of(600);
    let wrong = [Remembered { size: 0, root: [1; 32] }];
    assert!(matches!(verify(&log.audit(), &another.key, &[]).unwrap_err().problem, VerifyProblem::Checkpoint(_)));
    assert!(matches!(verify(&log.audit(), &log.key, &wrong).unwrap_err().problem, VerifyProblem::Fork { size: 0 }));
}

/// Verification beside a writer that publishes as fast as it can: never a false alarm, and what was altered
/// before is still found.
#[test]
fn a_log_that_grows_meanwhile_verifies() {
    let log = TestLog::of(600);
    let mut options = log.options();
    options.limits.publish_interval = Duration::from_millis(1);
    let (writer, _) = log.open_with(options).unwrap();
    let (more, until) = std::sync::mpsc::channel::<()>();
    let appending = std::thread::spawn(move || {
        // At most one batch for each verification, so that it does not run away from them.
        while until.recv().is_ok() {
            append(&writer, 37);
        }
        writer.close().unwrap();
    });
    let mut last = 600;
    for round in 0..scale(1_000) {
        more.send(()).unwrap();
        let records = log.verify().unwrap_or_else(|failure| panic!("round {round}: {failure}")).records;
        assert!(records >= last);
        last = records;
    }
    let altered = log.audit().join("body/000");
    let whole = std::fs::read(&altered).unwrap();
    std::fs::write(&altered, &whole[1..]).unwrap();
    assert_eq!(log.verify().unwrap_err().file.unwrap(), Path::new("body/000"));
    std::fs::write(&altered, &whole).unwrap();
    drop(more);
    appending.join().unwrap();
    assert!(log.verify().unwrap().records > 600);
}

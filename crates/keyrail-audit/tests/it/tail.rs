//! A log whose writer was killed verifies with its journal at once, and nothing can be done to either unseen.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use keyrail_audit::{JournalPlace, Remembered, Report, Tail, VerifyFailure, VerifyProblem, verify_with_journal};
use keyrail_core::fence::Epoch;
use keyrail_testkit::{scale, seeded};
use rand::RngExt;

use crate::support::{TestLog, append, body, copy_dir};

/// A log of 300 published records that was killed with 500 more in its journal, and what it would have published.
struct Killed {
    log: TestLog,
    whole: TestLog,
    head: Remembered,
}

impl Killed {
    fn new() -> Self {
        let whole = TestLog::of(300);
        let (writer, _) = whole.open();
        append(&writer, 500);
        let log = whole.copied();
        writer.close().unwrap();
        let report = whole.verify().unwrap();
        Self { log, whole, head: Remembered { size: report.records, root: report.root } }
    }

    fn verify(&self, remembered: &[Remembered]) -> Result<Report, VerifyFailure> {
        let guard = self.log.keys().journal;
        let place = JournalPlace { dir: &self.log.journal(), key: Some(&guard) };
        verify_with_journal(&self.log.audit(), &place, &self.log.key, remembered)
    }

    fn refused(&self, what: &str) -> VerifyFailure {
        match self.verify(&[self.head]) {
            Ok(report) => panic!("{what}: {} records verify", report.records),
            Err(failure) => failure,
        }
    }

    /// The files that the writer would have written next, in an order in which it does.
    fn next_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        for kind in ["body", "tile/entries", "tile/0"] {
            files.extend(["001", "002"].map(|index| PathBuf::from(format!("{kind}/{index}"))));
        }
        for kind in ["body", "tile/entries", "tile/0"] {
            files.push(PathBuf::from(format!("{kind}/003.p/32")));
        }
        files.push("tile/1/000.p/3".into());
        files
    }
}

#[test]
fn a_killed_log_verifies_with_its_journal() {
    let killed = Killed::new();
    assert_eq!(killed.log.verify().unwrap().records, 300, "what is signed alone");
    let report = killed.verify(&[killed.head]).unwrap();
    assert_eq!((report.records, report.root), (800, killed.head.root));
    assert_eq!(report.tail, Some(Tail { records: 500, torn_len: 0, guarded: true }));
    // Who has no journal key sees as many.
    let place = JournalPlace { dir: &killed.log.journal(), key: None };
    let report = verify_with_journal(&killed.log.audit(), &place, &killed.log.key, &[killed.head]).unwrap();
    assert_eq!(report.tail, Some(Tail { records: 500, torn_len: 0, guarded: false }));
    // Nothing was changed by looking: the next start goes on as if nobody had looked.
    let (log, recovered) = killed.log.open();
    assert_eq!((log.size(), recovered.torn_len), (800, 0));
}

/// A publication that was stopped after any of its files, or in the middle of one, is no damage; any other content is.
#[test]
fn what_a_stopped_publication_leaves_must_be_what_the_journal_says() {
    let killed = Killed::new();
    let mut random = seeded("what_a_stopped_publication_leaves");
    for file in killed.next_files() {
        let (from, to) = (killed.whole.audit().join(&file), killed.log.audit().join(&file));
        let made = !to.parent().unwrap().exists();
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        if made {
            assert_eq!(
                killed.verify(&[killed.head]).unwrap().records,
                800,
                "an empty directory for {}",
                file.display()
            );
        }
        let content = std::fs::read(&from).unwrap();
        let pages = (0..content.len()).step_by(4096);
        for torn in pages {
            std::fs::write(&to, &content[..torn]).unwrap();
            assert_eq!(killed.verify(&[killed.head]).unwrap().records, 800, "{} until {torn}", file.display());
        }
        let mut altered =
            vec![content[1..].to_vec(), content[..content.len() - 1].to_vec(), [&content[..], &[0]].concat()];
        for _ in 0..scale(400) {
            let mut one = content.clone();
            let place = random.random_range(0..one.len());
            one[place] ^= random.random_range(1..=255_u8);
            altered.push(one);
        }
        for one in altered {
            std::fs::write(&to, one).unwrap();
            let failure = killed.refused(&file.display().to_string());
            assert_eq!(failure.file.as_deref(), Some(file.as_path()), "{failure}");
        }
        std::fs::write(&to, &content).unwrap();
        assert_eq!(killed.verify(&[killed.head]).unwrap().records, 800, "{}", file.display());
    }
    // The checkpoint came, and nothing of the one before was removed yet.
    std::fs::copy(killed.whole.audit().join("checkpoint"), killed.log.audit().join("checkpoint")).unwrap();
    let report = killed.verify(&[killed.head]).unwrap();
    assert_eq!(report.tail.unwrap().records, 0);
    // Two files that end early are not the work of one stop, and what the journal does not explain is a stranger's.
    std::fs::copy(killed.log.audit().join("tile/0/000"), killed.log.audit().join("tile/0/004")).unwrap();
    let failure = killed.refused("a file beyond the journal");
    assert!(matches!(failure.problem, VerifyProblem::Uncovered), "{failure}");
}

#[test]
fn two_files_that_end_early_are_told() {
    let killed = Killed::new();
    for file in ["body/001", "body/002"] {
        std::fs::write(killed.log.audit().join(file), b"").unwrap();
    }
    assert!(matches!(killed.refused("two torn files").problem, VerifyProblem::Uncovered));
}

/// The signed part of a killed log counts as that of any other.
#[test]
fn every_file_of_a_killed_log_counts() {
    let killed = Killed::new();
    let mut random = seeded("every_file_of_a_killed_log_counts");
    let files = [
        "checkpoint",
        "body/000",
        "tile/entries/000",
        "tile/0/000",
        "body/001.p/44",
        "tile/entries/001.p/44",
        "tile/0/001.p/44",
        "tile/1/000.p/1",
    ];
    for file in files {
        let path = killed.log.audit().join(file);
        let whole = std::fs::read(&path).unwrap();
        let mut contents = vec![Vec::new(), whole[..whole.len() - 1].to_vec(), whole[1..].to_vec()];
        for _ in 0..scale(200) {
            let mut one = whole.clone();
            let place = random.random_range(0..one.len());
            one[place] ^= random.random_range(1..=255_u8);
            contents.push(one);
        }
        for content in contents {
            std::fs::write(&path, content).unwrap();
            assert_eq!(killed.refused(file).file.as_deref(), Some(Path::new(file)));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(killed.refused(file).file.as_deref(), Some(Path::new(file)), "removed");
        std::fs::write(&path, whole).unwrap();
    }
    killed.verify(&[killed.head]).unwrap();
}

/// With the journal key and a remembered head no byte of the journal can be changed, cut or removed unseen.
#[test]
fn every_byte_of_the_journal_counts() {
    let killed = Killed::new();
    let journal = killed.log.journal_files().remove(0);
    let whole = std::fs::read(&journal).unwrap();
    let end = killed.log.frames().pop().unwrap();
    let mut random = seeded("every_byte_of_the_journal_counts");
    // What looks like a running writer is looked at for a second before it is refused, so these are few.
    for _ in 0..scale(160) {
        let mut content = whole.clone();
        let place = random.random_range(0..end);
        content[place] ^= random.random_range(1..=255_u8);
        std::fs::write(&journal, content).unwrap();
        killed.refused(&format!("byte {place} of the journal"));
    }
    for cut in [0, end / 2, end - 1] {
        std::fs::write(&journal, &whole[..cut]).unwrap();
        killed.refused(&format!("the journal until {cut}"));
    }
    std::fs::remove_file(&journal).unwrap();
    assert!(matches!(killed.refused("no journal").problem, VerifyProblem::Missing));
    std::fs::write(&journal, &whole).unwrap();
    killed.verify(&[killed.head]).unwrap();
}

/// A record that was not finished was never acknowledged: it is told, and is no damage.
#[test]
fn a_torn_tail_is_no_damage() {
    let killed = Killed::new();
    let journal = killed.log.journal_files().remove(0);
    let whole = std::fs::read(&journal).unwrap();
    let end = killed.log.frames().pop().unwrap();
    std::fs::write(&journal, &whole[..end - 7]).unwrap();
    let report = killed.verify(&[]).unwrap();
    let tail = report.tail.unwrap();
    assert!(tail.torn_len > 0 && tail.records < 500, "{tail:?}");
    assert_eq!(report.records, 300 + tail.records);
}

/// What is read of a file that grows can be older in its first half than in its second: then it is looked at again, and
/// whoever altered it is found out by the same frame.
#[test]
fn a_frame_that_was_read_half_way_is_read_again() {
    let killed = TestLog::create();
    let (writer, _) = killed.open();
    for index in 0..4 {
        writer.append_blocking(body(index), Epoch(0)).unwrap();
    }
    let log = killed.copied();
    drop(writer);
    let journal = log.journal_files().remove(0);
    let whole = std::fs::read(&journal).unwrap();
    let frames = log.frames();
    let half_way = |frame: usize| {
        let mut content = whole.clone();
        content[frames[frame] + 29 + 10..frames[frame + 1]].fill(0);
        content
    };
    let (second, third) = (half_way(3), half_way(4));
    // Each look but the last finds a pipe of its own, so that what it reads is known.
    let verify = |looks: &[&[u8]]| {
        let put = |look: Option<&[u8]>, next: &Path, journal: &Path| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            match look {
                Some(content) => std::fs::write(next, content).unwrap(),
                None => rustix::fs::mknodat(rustix::fs::CWD, next, rustix::fs::FileType::Fifo, mode, 0).unwrap(),
            }
            std::fs::rename(next, journal).unwrap();
        };
        let (journal, next) = (journal.clone(), log.dir.path().join("next"));
        let mut looks: Vec<Vec<u8>> = looks.iter().map(|look| look.to_vec()).collect();
        let last = looks.pop().unwrap();
        put(None, &next, &journal);
        // Not waited for: it hangs if a look is left out.
        std::thread::spawn(move || {
            for (index, look) in looks.iter().enumerate() {
                let mut reader = std::fs::OpenOptions::new().write(true).open(&journal).unwrap();
                put((index + 1 == looks.len()).then_some(&last), &next, &journal);
                reader.write_all(look).unwrap();
            }
        });
        let (guard, dir) = (log.keys().journal, log.journal());
        let place = JournalPlace { dir: &dir, key: Some(&guard) };
        verify_with_journal(&log.audit(), &place, &log.key, &[])
    };
    assert_eq!(verify(&[&second, &whole]).unwrap().records, 4);
    assert_eq!(verify(&[&second, &third, &whole]).unwrap().records, 4);
    for looks in [&[&*second, &second][..], &[&third, &second, &second]] {
        let failure = verify(looks).unwrap_err();
        assert!(
            matches!(failure.problem, VerifyProblem::JournalAltered { offset } if offset == frames[3] as u64),
            "{failure}"
        );
    }
}

/// Evidence and journal are of one log and one time.
#[test]
fn a_journal_that_is_not_the_logs_is_told() {
    let killed = Killed::new();
    let other = Killed::new();
    std::fs::remove_dir_all(killed.log.journal()).unwrap();
    copy_dir(&other.log.journal(), &killed.log.journal());
    assert!(matches!(killed.refused("another log's").problem, VerifyProblem::JournalAltered { .. }));
    let place = JournalPlace { dir: &killed.log.journal(), key: None };
    let failure = verify_with_journal(&killed.log.audit(), &place, &killed.log.key, &[]).unwrap_err();
    assert!(matches!(failure.problem, VerifyProblem::Mismatch), "{failure}");
    // The evidence of before, beside the journal of a log that was closed since.
    let older = Killed::new();
    std::fs::remove_dir_all(older.log.journal()).unwrap();
    copy_dir(&older.whole.journal(), &older.log.journal());
    assert!(matches!(older.refused("older evidence").problem, VerifyProblem::Mismatch));
}

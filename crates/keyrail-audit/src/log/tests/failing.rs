//! Files that somebody else takes away, and disks without room.

use std::time::Instant;

use super::*;

/// Waits until the writer has looked.
fn look_until(log: &Log, is_seen: impl Fn(&LogHealth) -> bool) {
    let since = Instant::now();
    while !is_seen(&log.health()) {
        log.look();
        assert!(since.elapsed().as_secs() < 60, "it is never seen: {:?}", log.health());
        std::thread::yield_now();
    }
}

type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 5] = [
    ("deleted", |path| std::fs::remove_file(path).unwrap()),
    ("emptied", |path| std::fs::write(path, "").unwrap()),
    ("cut", |path| std::fs::File::options().write(true).open(path).unwrap().set_len(400).unwrap()),
    ("moved away", |path| std::fs::rename(path, path.with_file_name("aside")).unwrap()),
    ("exchanged", |path| {
        let copy = path.with_file_name("copy");
        std::fs::copy(path, &copy).unwrap();
        std::fs::rename(&copy, path).unwrap();
    }),
];

/// What is written to a file that is gone is gone with it: nothing is acknowledged there, and what was is kept elsewhere.
#[test]
fn a_file_that_is_taken_away_is_told_and_followed_by_another() {
    for (what, damage) in DAMAGES {
        let test = TestLog::create();
        let limits = Limits { publish_interval: Duration::from_secs(3_600), ..test.options().limits };
        let (log, _) = test.open_with(LogOptions { limits, ..test.options() }).unwrap();
        let mut acknowledged: Vec<(u64, usize)> = Vec::new();
        let append =
            |number: usize| log.append_blocking(body(number), Epoch(0)).map(|position| (position.index, number));
        (0..5).for_each(|number| acknowledged.push(append(number).unwrap()));
        damage(&test.journal_files()[0]);
        assert_eq!(append(5), Err(AppendError::Unavailable), "{what}");
        let health = log.health();
        assert_eq!((health.given_up, health.failure), (1, None), "{what}");
        assert!(health.why.unwrap().contains("deleted, replaced or cut"), "{what}");
        acknowledged.push(append(6).unwrap());
        // Killed there, nothing is missing.
        let killed = test.copied();
        let (again, _) = killed.open_with(killed.options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        require_whole(&again, &acknowledged, 7, what);
        // It is seen, too, if nobody writes.
        damage(test.journal_files().last().unwrap());
        look_until(&log, |health| health.given_up == 2);
        let killed = test.copied();
        let (again, _) = killed.open_with(killed.options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        require_whole(&again, &acknowledged, 7, what);
        log.close().unwrap();
        assert_eq!(test.verify().unwrap().records, 6, "{what}");
    }
}

fn reserved(log: &Log, number: usize) -> Result<(u64, usize), AppendError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(log.append_reserved(body(number), Epoch(0))).map(|position| (position.index, number))
}

/// The steps that a full disk fails.
fn fill(test: &TestLog) -> Vec<Faults> {
    let plan = |kind| Plan { kind, fault: Fault::HalfStored, skip: 0, count: usize::MAX, error: Errno::NOSPC };
    [Step::Room, Step::Create, Step::MakeDir, Step::Write].map(|kind| Faults::plan(test.dir.path(), plan(kind))).into()
}

/// On a full disk the usual records are refused and the file stays good; those that must get through do.
#[test]
fn a_full_disk_takes_what_must_get_through() {
    for journal_len_max in [1_500, JOURNAL_LEN_MAX] {
        let test = TestLog::create();
        let limits = Limits { publish_interval: Duration::from_millis(1), ..test.options().limits };
        let (log, _) = test.open_with(LogOptions { journal_len_max, limits, ..test.options() }).unwrap();
        let (mut acknowledged, mut tried) = (Vec::new(), 0);
        let full = fill(&test);
        loop {
            let appended = log.append_blocking(vec![b'x'; 5_000], Epoch(0));
            tried += 1;
            match appended {
                Ok(_) => assert!(tried < 1_000, "the disk is full, and everything is taken"),
                Err(error) => break assert_eq!(error, AppendError::Unavailable),
            }
        }
        let usual = log.size();
        assert!(log.is_short());
        let failure = log.health().failure.unwrap();
        assert!(failure.contains("os error 28"), "{failure}");
        for number in 0..200 {
            acknowledged.push(reserved(&log, number).unwrap());
            assert_eq!(log.append_blocking(vec![b'x'; 5_000], Epoch(0)), Err(AppendError::Unavailable));
        }
        assert_eq!((log.size(), log.health().given_up), (usual + 200, 0));
        // Killed on the full disk, or going on once there is room.
        let killed = test.copied();
        drop(full);
        look_until(&log, |health| health.failure.is_none());
        assert!(!log.is_short());
        acknowledged.push((log.append_blocking(body(200), Epoch(0)).unwrap().index, 200));
        log.close().unwrap();
        let (again, _) = killed.open_with(killed.options()).unwrap();
        for (log, acknowledged) in [(again, &acknowledged[..200]), (test.open().0, &acknowledged)] {
            let records = log.read(0, usize::MAX).unwrap();
            for (index, number) in acknowledged {
                assert_eq!(records[usize::try_from(*index).unwrap()].body, body(*number));
            }
        }
    }
}

/// The reserve has an end, which is told as well.
#[test]
fn a_reserve_that_is_used_up_refuses() {
    let test = TestLog::create();
    let (log, _) = test.open();
    log.append_blocking(body(0), Epoch(0)).unwrap();
    let full = fill(&test);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let append = || runtime.block_on(log.append_reserved(vec![b'x'; 5_000], Epoch(0)));
    let taken = (0..1_000).take_while(|_| append().is_ok()).count() as u64;
    assert!(taken * 5_000 >= journal::RESERVE_LEN - 10_000, "{taken}");
    assert_eq!(append(), Err(AppendError::Unavailable));
    drop(full);
    append().unwrap();
    log.close().unwrap();
    assert_eq!(test.verify().unwrap().records, taken + 2);
}

/// Nothing is trusted to a file that a start would take for a former one.
#[test]
fn a_full_file_is_not_gone_on_with_once_the_next_may_be_there() {
    let test = TestLog::create();
    let (log, _) = test.open_with(options(&test)).unwrap();
    let plan = Plan { kind: Step::SyncDir, fault: Fault::NotStored, skip: 0, count: usize::MAX, error: Errno::IO };
    let _faults = Faults::plan(test.dir.path(), plan);
    while log.append_blocking(body(0), Epoch(0)).is_ok() {}
    let acknowledged: Vec<_> = (0..20).filter_map(|number| reserved(&log, number).ok()).collect();
    let killed = test.copied();
    let records = killed.open().0.read(0, usize::MAX).unwrap();
    assert_eq!(records.len() as u64, log.size());
    for (index, number) in acknowledged {
        assert_eq!(records[usize::try_from(index).unwrap()].body, body(number));
    }
}

/// Evidence that is taken away under a running writer is told. What it still knows it writes again; what it does not, it
/// goes on telling until it is back.
#[test]
fn evidence_that_is_taken_away_is_told() {
    let test = TestLog::create();
    let (log, _) = test.open();
    // Two steps of the patrol, and a tile that is not full.
    support::append(&log, 40 * 256 + 100);
    publish(&log).unwrap();
    let file = |path: &str| test.audit().join(path);
    for (count, path) in (1..).zip(["checkpoint", "tile/entries/040.p/100", "tile/0/040.p/100", "body/040.p/100"]) {
        std::fs::remove_file(file(path)).unwrap();
        look_until(&log, |health| health.given_up == count);
        let health = log.health();
        assert!(health.why.unwrap().contains(path) && health.failure.is_none(), "{path}");
        assert_eq!(test.verify().unwrap().records, 40 * 256 + 100, "{path}");
    }
    for path in ["tile/0/000", "tile/0/039", "tile/entries/033", "body/007"] {
        for damage in [DAMAGES[0].1, DAMAGES[1].1] {
            let whole = std::fs::read(file(path)).unwrap();
            damage(&file(path));
            look_until(&log, |health| health.failure.as_ref().is_some_and(|failure| failure.contains(path)));
            log.append_blocking(body(0), Epoch(0)).unwrap();
            std::fs::write(file(path), whole).unwrap();
            publish(&log).unwrap();
            look_until(&log, |health| health.failure.is_none());
        }
    }
    log.close().unwrap();
    test.verify().unwrap();
}

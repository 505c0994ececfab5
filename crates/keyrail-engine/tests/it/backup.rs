//! Backups: beside running work, of a store that is whole, as many as are kept, and by themselves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyrail_core::access::Action;
use keyrail_core::record::Outcome;
use keyrail_crypto::digest::sha256;
use keyrail_engine::ops::backup::MakeBackup;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::{Access, BackupPlan, BackupView, Engine, EngineError, backups_in, configured_root};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::support::{TestClock, details, encrypt, open, records_of, rotate, run, with_key};

/// How long a test waits for what happens by itself.
const SOON: Duration = Duration::from_secs(60);

/// A store with a key, and a directory for backups beside it.
struct Made {
    dir: TempDir,
    clock: Arc<TestClock>,
    engine: Engine,
}

impl Made {
    async fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
        std::fs::create_dir(dir.path().join("store")).unwrap();
        let engine = with_key(&dir.path().join("store"), &clock, "internal").await;
        Self { dir, clock, engine }
    }

    fn backups(&self) -> PathBuf {
        self.dir.path().join("backups")
    }

    async fn backup(&self, keep: Option<u32>) -> Result<BackupView, EngineError> {
        run(&self.engine, MakeBackup::new(self.backups(), keep).unwrap()).await
    }

    fn check(&self, file: &str) -> keyrail_engine::BackupCheck {
        let root = configured_root(&self.dir.path().join("store")).unwrap().resolve().unwrap();
        Engine::check_backup(Path::new(file), root.as_ref()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_whole_while_others_write() {
    let made = Made::new().await;
    let stop = AtomicBool::new(false);
    let sizes = std::thread::scope(|threads| {
        let runtime = tokio::runtime::Handle::current();
        for writer in 0..2 {
            let (runtime, engine, stop) = (runtime.clone(), &made.engine, &stop);
            threads.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    let name = format!("d{writer}-{number}").parse().unwrap();
                    number += 1;
                    runtime.block_on(async {
                        encrypt(engine, "x").await;
                        run(engine, CreateDomain { name }).await.unwrap();
                        // The operation that was overtaken too often says so, and is asked for again.
                    });
                }
            });
        }
        let made: Vec<BackupView> = tokio::task::block_in_place(|| {
            let backup = || {
                made.clock.pass(1);
                loop {
                    match runtime.block_on(made.backup(None)) {
                        Err(EngineError::Contended) => {}
                        other => break other.unwrap(),
                    }
                }
            };
            (0..6).map(|_| backup()).collect()
        });
        stop.store(true, Ordering::Relaxed);
        made
    });
    assert!(sizes.windows(2).all(|pair| pair[0].log_size < pair[1].log_size), "{sizes:?}");
    assert!(sizes.windows(2).any(|pair| pair[0].rows < pair[1].rows), "somebody wrote meanwhile");
    for view in &sizes {
        let check = made.check(&view.file);
        assert_eq!((check.log_size, check.rows, check.whole), (view.log_size, view.rows, true));
    }
    // The log tells of each, and what it tells is true.
    let records = records_of(&made.engine, Action::SystemBackup);
    for view in &sizes {
        let bytes = std::fs::read(&view.file).unwrap();
        assert_eq!((view.bytes, &view.sha256), (bytes.len() as u64, &hex::encode(sha256(&bytes))));
        let told = records.iter().find(|record| details(record, "sha256") == [&view.sha256]).unwrap();
        assert_eq!(details(told, "log_size"), [view.log_size.to_string()]);
        assert_eq!(told.outcome, Outcome::Done);
    }
}

/// A copy of what is wrong already would take the place of a good one.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_store_that_was_altered_there_is_no_backup() {
    let made = Made::new().await;
    rotate(&made.engine).await;
    let sql = Connection::open(made.dir.path().join("store/store.sqlite")).unwrap();
    sql.execute("DELETE FROM data_key_version WHERE version = 1", []).unwrap();
    let refused = made.backup(None).await.unwrap_err();
    assert_eq!(refused.code(), "store_damaged", "{refused}");
    assert_eq!(backups_in(&made.backups()).unwrap(), [] as [PathBuf; 0]);
    let failed = records_of(&made.engine, Action::SystemBackup).pop().unwrap();
    assert_eq!((failed.outcome, failed.code.as_deref()), (Outcome::Failed, Some("store_damaged")));
    assert_eq!(made.engine.backup_health().unwrap().error, Some("store_damaged"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_are_kept() {
    let made = Made::new().await;
    let mut files = Vec::new();
    for _ in 0..4 {
        made.clock.pass(1);
        files.push(made.backup(Some(2)).await.unwrap());
    }
    let left: Vec<_> = backups_in(&made.backups()).unwrap().iter().map(|path| path.display().to_string()).collect();
    assert_eq!(left, [files[2].file.clone(), files[3].file.clone()]);
    assert_eq!(files.iter().map(|view| view.removed).collect::<Vec<_>>(), [0, 0, 1, 1]);
    let health = made.engine.backup_health().unwrap();
    assert_eq!((health.last_at, health.log_size), (Some(files[3].time), Some(files[3].log_size)));
    assert!(MakeBackup::new(made.backups(), Some(0)).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_would_be_lost_with_the_store_is_refused() {
    let made = Made::new().await;
    for dir in ["store", "store/audit", "store/backups"] {
        let refused = run(&made.engine, MakeBackup::new(made.dir.path().join(dir), None).unwrap()).await.unwrap_err();
        assert!(refused.to_string().ends_with("lies in the data directory"), "{refused}");
    }
    let relative = run(&made.engine, MakeBackup::new("backups".into(), None).unwrap()).await.unwrap_err();
    assert!(relative.to_string().ends_with("is no absolute path"), "{relative}");
    let nowhere = run(&made.engine, MakeBackup::new(made.dir.path().join("a/b"), None).unwrap()).await.unwrap_err();
    assert_eq!(nowhere.code(), "file_failed");
}

async fn until(engine: &Engine, what: &str, fits: impl Fn(&keyrail_engine::BackupHealth) -> bool) {
    let waited = tokio::time::timeout(SOON, async {
        while !engine.backup_health().is_some_and(|health| fits(&health)) {
            // The one before may not have its record yet.
            engine.tick().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}: {:?}", engine.backup_health()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_makes_them_by_itself() {
    let made = Made::new().await;
    let (backups, away) = (made.backups(), made.dir.path().join("away"));
    let plan = |dir: &Path| BackupPlan { dir: dir.to_owned(), every_seconds: 3600, keep: 2 };
    assert!(made.engine.schedule_backups(BackupPlan { every_seconds: 59, ..plan(&backups) }).is_err());
    assert!(made.engine.schedule_backups(BackupPlan { keep: 0, ..plan(&backups) }).is_err());
    made.engine.schedule_backups(plan(&backups)).unwrap();
    assert!(made.engine.backup_health().unwrap().overdue, "there is none yet");
    for number in 1..=3_usize {
        let before = made.engine.backup_health().unwrap().log_size;
        made.engine.tick().await.unwrap();
        until(&made.engine, "a backup is made", |health| health.log_size > before && !health.overdue).await;
        assert_eq!(backups_in(&backups).unwrap().len(), number.min(2));
        made.clock.pass(3599);
        made.engine.tick().await.unwrap();
        made.clock.pass(1);
    }
    let told = tokio::time::timeout(SOON, async {
        loop {
            let told = records_of(&made.engine, Action::SystemBackup);
            if told.len() >= 3 {
                return told;
            }
            tokio::task::yield_now().await;
        }
    });
    let told = told.await.unwrap();
    assert!(told.len() == 3 && told.iter().all(|record| record.principal == "system"));

    // The disk is away: it is told, tried again, and good again with the disk.
    std::fs::rename(&backups, &away).unwrap();
    std::fs::write(&backups, "no directory").unwrap();
    made.engine.tick().await.unwrap();
    until(&made.engine, "it fails", |health| health.error == Some("file_failed") && health.failures == 1).await;
    made.clock.pass(7300);
    assert!(made.engine.backup_health().unwrap().overdue);
    assert!(made.engine.health().await.ready, "requests are served all the same");
    std::fs::remove_file(&backups).unwrap();
    std::fs::rename(&away, &backups).unwrap();
    made.engine.tick().await.unwrap();
    until(&made.engine, "it is well again", |health| health.error.is_none() && !health.overdue).await;

    // The next process knows the last one from its name.
    let last = made.engine.backup_health().unwrap();
    made.engine.close().await.unwrap();
    let Made { dir, clock, engine } = made;
    drop(engine);
    let engine = open(&dir.path().join("store"), &clock, Access::Write).await;
    engine.schedule_backups(plan(&backups)).unwrap();
    engine.tick().await.unwrap();
    let known = engine.backup_health().unwrap();
    assert_eq!((known.log_size, known.overdue), (last.log_size, false));
    engine.close().await.unwrap();
}

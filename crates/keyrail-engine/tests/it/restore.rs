//! Restoring: what was there opens, what was revoked since stays revoked, and what was made since is named.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use keyrail_core::access::{Action, Role};
use keyrail_core::record::Record;
use keyrail_engine::exposure::Exposure;
use keyrail_engine::ops::backup::MakeBackup;
use keyrail_engine::ops::domain::{CreateDomain, ListDomains};
use keyrail_engine::ops::key::{CompromiseVersion, CreateKey, SuspendVersion};
use keyrail_engine::ops::system::{SetLocalOperator, VerifyStore};
use keyrail_engine::ops::token::RevokeToken;
use keyrail_engine::{
    Access, BackupView, Caller, Credential, Engine, EngineError, FormerLog, RestoreAsk, RestoreReport,
};
use tempfile::TempDir;

use crate::support::{TestClock, decrypt, details, encrypt, open, records, rotate, run, run_as, show, token, with_key};

struct Made {
    dir: TempDir,
    clock: Arc<TestClock>,
}

impl Made {
    async fn new() -> (Self, Engine) {
        let made = Self { dir: tempfile::tempdir().unwrap(), clock: TestClock::new() };
        std::fs::create_dir(made.store()).unwrap();
        let engine = with_key(&made.store(), &made.clock, "internal").await;
        (made, engine)
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    async fn backup(&self, engine: &Engine) -> BackupView {
        self.clock.pass(1);
        run(engine, MakeBackup::new(self.dir.path().join("backups"), None).unwrap()).await.unwrap()
    }

    async fn open(&self) -> Engine {
        open(&self.store(), &self.clock, Access::Write).await
    }

    fn ask(&self, accept: Option<u64>) -> RestoreAsk {
        RestoreAsk {
            data_dir: self.store(),
            from: self.dir.path().join("backups"),
            root: None,
            accept,
            log: FormerLog::Beside,
        }
    }

    async fn restore(&self, ask: RestoreAsk) -> Result<RestoreReport, EngineError> {
        Engine::restore(&ask, &Caller::new(Credential::LocalOperator).unwrap(), self.clock.clone()).await
    }
}

async fn close(engine: Engine) {
    engine.close().await.unwrap();
}

fn first(engine: &Engine) -> Record {
    records(engine).remove(0).1
}

/// The entries of a directory, for telling that nothing was changed.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    // Whoever looks at a store leaves these.
    names.retain(|name| !name.ends_with("-shm") && !name.ends_with("-wal"));
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_opens_and_what_was_revoked_stays_revoked() {
    let (made, engine) = Made::new().await;
    let (old, _) = encrypt(&engine, "kept").await;
    let (kept_id, kept) = token(&engine, Role::Auditor, None).await;
    let (revoked_id, revoked) = token(&engine, Role::Auditor, None).await;
    run(&engine, CreateKey { name: "acme/prod/crm/two".parse().unwrap(), label: "internal".parse().unwrap() })
        .await
        .unwrap();
    run(&engine, CreateKey { name: "acme/prod/crm/three".parse().unwrap(), label: "internal".parse().unwrap() })
        .await
        .unwrap();
    let backup = made.backup(&engine).await;
    // What happens afterwards and is taken back.
    run(&engine, RevokeToken { id: revoked_id }).await.unwrap();
    rotate(&engine).await;
    let (lost, number) = encrypt(&engine, "lost").await;
    assert_eq!(number, 2);
    run(&engine, CompromiseVersion { name: "acme/prod/crm/two@1".parse().unwrap() }).await.unwrap();
    run(&engine, SuspendVersion { name: "acme/prod/crm/three@1".parse().unwrap() }).await.unwrap();
    run(&engine, CreateDomain { name: "later".parse().unwrap() }).await.unwrap();
    let key = engine.unsealed().unwrap().verifier_key().to_string();
    close(engine).await;
    let before = names(&made.store());

    // Nobody said that this may be lost: it is told what would be, and nothing is done.
    let told = made.restore(made.ask(None)).await.unwrap();
    assert!(!told.restored && told.log_size == backup.log_size);
    let wrong = made.restore(made.ask(Some(backup.log_size + 1))).await.unwrap_err();
    assert_eq!(wrong.code(), "rollback_not_accepted");
    assert_eq!(names(&made.store()), before);

    let report = made.restore(made.ask(Some(backup.log_size))).await.unwrap();
    assert!(report.restored);
    assert_eq!(report.changes_lost["key.rotate"], 1);
    assert_eq!(report.changes_lost["domain.create"], 1);
    assert_eq!(
        report.revoked_again,
        [
            &format!("token {revoked_id}")[..],
            "acme/prod/crm/three@1 is suspended",
            "acme/prod/crm/two@1 is compromised",
        ]
    );
    assert_eq!(report.rotated, ["acme/prod/crm/pii", "acme/prod/crm/two"]);
    let mut lost_names: Vec<_> = report.versions_lost.iter().map(|line| line.split(' ').next().unwrap()).collect();
    lost_names.sort_unstable();
    assert_eq!(lost_names, ["acme/prod/crm/pii@2", "acme/prod/crm/two@2"]);
    assert!(report.versions_lost.iter().any(|line| line.ends_with("used 1 times")), "{:?}", report.versions_lost);
    assert_eq!((&told.revoked_again, &told.versions_lost), (&report.revoked_again, &report.versions_lost));

    let engine = made.open().await;
    assert_eq!(decrypt(&engine, &old).await.unwrap(), b"kept");
    let refused = decrypt(&engine, &lost).await.unwrap_err();
    assert_eq!(refused.to_string(), "key version 2 is destroyed");
    assert_eq!(encrypt(&engine, "new").await.1, 3, "no number is given twice");
    let states: Vec<_> = show(&engine).await.versions.iter().map(|row| row.state.to_string()).collect();
    assert_eq!(states, ["deactivated", "destroyed", "active"]);
    assert_eq!(run_as(&engine, &revoked, ListDomains).await.unwrap_err().code(), "unauthenticated");
    assert_eq!(run_as(&engine, &kept, ListDomains).await.unwrap().len(), 1);
    let _kept = kept_id;
    let report_of_store = run(&engine, VerifyStore).await.unwrap();
    assert_eq!(report_of_store.findings.len(), 0);
    assert_eq!(report_of_store.restored.unwrap().versions_lost, report.versions_lost);

    // The log is another one, by the same signer, and begins with where the former one ended.
    let open = engine.unsealed().unwrap();
    assert_eq!(open.verifier_key().to_string(), report.public_key);
    assert_ne!(report.public_key, key);
    assert_eq!(report.public_key.rsplit('+').next(), key.rsplit('+').next());
    let record = first(&engine);
    assert_eq!(record.action, Action::SystemRestore);
    assert_eq!(details(&record, "former_origin"), [&report.former_origin]);
    assert_eq!(details(&record, "former_log_size"), [backup.log_size.to_string()]);
    assert_eq!(details(&record, "former_log_root"), [&backup.log_root]);
    let asked = &records(&engine)[1].1;
    assert_eq!((asked.action, asked.principal.as_str()), (Action::SystemRestore, "local-operator"));
    assert_eq!(details(asked, "accepted_rollback_to"), [backup.log_size.to_string()]);
    // The former store and its log are evidence.
    let former = PathBuf::from(report.former.unwrap());
    assert!(former.join("store.sqlite").exists() && former.join("audit/checkpoint").exists());
    close(engine).await;

    // A copy of the rows of the lost time is older than the new log.
    for name in ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"] {
        let _absent = std::fs::remove_file(made.store().join(name));
    }
    std::fs::copy(former.join("store.sqlite"), made.store().join("store.sqlite")).unwrap();
    let options = keyrail_engine::EngineOptions {
        data_dir: made.store(),
        access: Access::Write,
        clock: made.clock.clone(),
        assets: None,
    };
    assert!(Engine::open(options).unwrap().unseal().await.is_err());
}

/// A store that is gone, with its log beside it; the log alone; neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_comes_back_into_an_empty_place_and_beside_its_log() {
    let (made, engine) = Made::new().await;
    let (old, _) = encrypt(&engine, "kept").await;
    let backup = made.backup(&engine).await;
    rotate(&engine).await;
    close(engine).await;
    let root = made.dir.path().join("root.key");
    std::fs::copy(made.store().join("root.key"), &root).unwrap();
    for name in ["store.sqlite", "store.sqlite-wal", "store.sqlite-shm"] {
        let _absent = std::fs::remove_file(made.store().join(name));
    }
    let export = made.dir.path().join("export");
    std::fs::rename(made.store().join("audit"), &export).unwrap();
    // With its log somewhere else, and without any.
    let spec = format!("keyfile:{}", root.display());
    for (name, log, lost) in
        [("one", FormerLog::Exported(export), 1), ("two", FormerLog::Beside, 0), ("three", FormerLog::Gone, 0)]
    {
        let data_dir = made.dir.path().join(name);
        let root = Some(spec.parse().unwrap());
        let ask = RestoreAsk { data_dir: data_dir.clone(), root, log, ..made.ask(Some(backup.log_size)) };
        let report = made.restore(ask).await.unwrap();
        assert_eq!((report.versions_lost.len(), report.log_size_found.is_some()), (lost, lost > 0), "{name}");
        assert_eq!(report.former, None);
        let engine = open(&data_dir, &made.clock, Access::Write).await;
        assert_eq!(decrypt(&engine, &old).await.unwrap(), b"kept");
        assert_eq!(run(&engine, VerifyStore).await.unwrap().findings.len(), 0);
        close(engine).await;
    }
}

/// Whoever removes a file of the log takes no revocation back: that nothing is known of the time since has to be said.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_its_head_is_not_taken_for_none() {
    let (made, engine) = Made::new().await;
    let (id, _) = token(&engine, Role::Auditor, None).await;
    let backup = made.backup(&engine).await;
    run(&engine, RevokeToken { id }).await.unwrap();
    close(engine).await;
    let audit = made.store().join("audit");
    std::fs::remove_file(audit.join("checkpoint")).unwrap();
    assert_eq!(made.restore(made.ask(Some(backup.log_size))).await.unwrap_err().code(), "former_log");
    // The same without the rest of the log, and without the rows.
    let journal = made.store().join("journal");
    let aside = made.dir.path().join("aside");
    std::fs::rename(&audit, &aside).unwrap();
    std::fs::remove_dir_all(&journal).unwrap();
    assert_eq!(made.restore(made.ask(Some(backup.log_size))).await.unwrap_err().code(), "former_log");
    std::fs::rename(&aside, &audit).unwrap();
    std::fs::remove_file(made.store().join("store.sqlite")).unwrap();
    assert_eq!(made.restore(made.ask(Some(backup.log_size))).await.unwrap_err().code(), "former_log");
    let ask = RestoreAsk { log: FormerLog::Gone, ..made.ask(Some(backup.log_size)) };
    assert!(made.restore(ask).await.unwrap().restored);
}

/// It is not answered again by itself, and so it is told before anything is restored, and in the first record.
#[tokio::test(flavor = "multi_thread")]
async fn an_exposure_after_the_backup_is_told() {
    let (made, engine) = Made::new().await;
    let backup = made.backup(&engine).await;
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    engine.answer_exposure(&caller, Exposure { reason: None, recovery: None }).await.unwrap();
    let later = made.backup(&engine).await;
    close(engine).await;
    let told = made.restore(made.ask(None)).await.unwrap();
    assert_eq!((told.log_size, told.to_do.len()), (later.log_size, 0));
    let ask = |accept| RestoreAsk { from: PathBuf::from(&backup.file), ..made.ask(accept) };
    let told = made.restore(ask(None)).await.unwrap();
    assert!(told.to_do[0].contains("run `keyrail root exposed` again"), "{:?}", told.to_do);
    let report = made.restore(ask(Some(backup.log_size))).await.unwrap();
    assert_eq!(report.to_do, told.to_do);
    let engine = made.open().await;
    assert_eq!(details(&first(&engine), "to_do"), [&told.to_do[0]]);
    engine.answer_exposure(&caller, Exposure { reason: None, recovery: None }).await.unwrap();
    close(engine).await;
}

/// An older copy of the rows was put in place of the store: the present log tells what was revoked since the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_older_than_its_log_is_restored() {
    let (made, engine) = Made::new().await;
    close(engine).await;
    let sql = rusqlite::Connection::open(made.store().join("store.sqlite")).unwrap();
    sql.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(sql);
    let copy = std::fs::read(made.store().join("store.sqlite")).unwrap();
    let engine = made.open().await;
    let (id, text) = token(&engine, Role::Owner, None).await;
    let (_, owner) = token(&engine, Role::Owner, None).await;
    let backup = made.backup(&engine).await;
    run(&engine, RevokeToken { id }).await.unwrap();
    run(&engine, SetLocalOperator { allowed: false }).await.unwrap();
    close(engine).await;
    for name in ["store.sqlite-wal", "store.sqlite-shm"] {
        let _absent = std::fs::remove_file(made.store().join(name));
    }
    std::fs::write(made.store().join("store.sqlite"), copy).unwrap();
    let options = || keyrail_engine::EngineOptions {
        data_dir: made.store(),
        access: Access::Write,
        clock: made.clock.clone(),
        assets: None,
    };
    let engine = Engine::open(options()).unwrap();
    assert_eq!(engine.unseal().await.unwrap_err().code(), "state_older");
    drop(engine);
    // Acting without a token was switched off since: it is off again, and so it takes a token to restore.
    let refused = made.restore(made.ask(Some(backup.log_size))).await.unwrap_err();
    assert_eq!(refused.code(), "refused");
    assert!(!names(&made.store()).iter().any(|name| name.starts_with("restor")));
    let caller = Caller::new(Credential::Token(&text)).unwrap();
    let refused = Engine::restore(&made.ask(Some(backup.log_size)), &caller, made.clock.clone()).await.unwrap_err();
    assert_eq!(refused.code(), "unauthenticated", "it is revoked");
    let caller = Caller::new(Credential::Token(&owner)).unwrap();
    let report = Engine::restore(&made.ask(Some(backup.log_size)), &caller, made.clock.clone()).await.unwrap();
    assert_eq!(report.revoked_again, [format!("token {id}"), "acting without a token".to_owned()]);
    let engine = made.open().await;
    assert_eq!(run(&engine, ListDomains).await.unwrap_err().code(), "refused");
    assert_eq!(run_as(&engine, &owner, ListDomains).await.unwrap().len(), 1);
    close(engine).await;
}

/// Restored twice: what was revoked before the first time and between the two stays revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_repeated() {
    let (made, engine) = Made::new().await;
    let (first, first_text) = token(&engine, Role::Auditor, None).await;
    let (second, second_text) = token(&engine, Role::Auditor, None).await;
    let backup = made.backup(&engine).await;
    run(&engine, RevokeToken { id: first }).await.unwrap();
    close(engine).await;
    made.restore(made.ask(Some(backup.log_size))).await.unwrap();
    let engine = made.open().await;
    run(&engine, RevokeToken { id: second }).await.unwrap();
    rotate(&engine).await;
    close(engine).await;
    let report = made.restore(made.ask(Some(backup.log_size))).await.unwrap();
    assert_eq!(report.revoked_again, [format!("token {first}"), format!("token {second}")]);
    assert_eq!(report.versions_lost.len(), 1);
    let engine = made.open().await;
    for text in [&first_text, &second_text] {
        assert_eq!(run_as(&engine, text, ListDomains).await.unwrap_err().code(), "unauthenticated");
    }
    assert_eq!(run(&engine, VerifyStore).await.unwrap().findings.len(), 0);
    close(engine).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_together_is_refused() {
    let (made, engine) = Made::new().await;
    let backup = made.backup(&engine).await;
    close(engine).await;
    let (other, engine) = Made::new().await;
    let foreign = other.backup(&engine).await;
    close(engine).await;
    let before = names(&made.store());
    // A backup of another store, opened with its own root.
    let root = format!("keyfile:{}", other.store().join("root.key").display());
    let ask = RestoreAsk {
        from: PathBuf::from(&foreign.file),
        root: Some(root.parse().unwrap()),
        ..made.ask(Some(foreign.log_size))
    };
    assert_eq!(made.restore(ask).await.unwrap_err().code(), "backup_foreign");
    // The root of another store.
    let ask = RestoreAsk { from: PathBuf::from(&foreign.file), ..made.ask(Some(foreign.log_size)) };
    assert_eq!(made.restore(ask).await.unwrap_err().code(), "root_failed");
    // The log of another store.
    let log = FormerLog::Exported(other.store().join("audit"));
    let ask = RestoreAsk { log, ..made.ask(Some(backup.log_size)) };
    assert_eq!(made.restore(ask).await.unwrap_err().code(), "former_log");
    // One that was altered.
    let mut bytes = std::fs::read(&backup.file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&backup.file, bytes).unwrap();
    assert_eq!(made.restore(made.ask(Some(backup.log_size))).await.unwrap_err().code(), "backup_altered");
    assert_eq!(names(&made.store()), before);
    // While somebody uses the store.
    let engine = made.open().await;
    assert_eq!(made.restore(made.ask(Some(backup.log_size))).await.unwrap_err().code(), "data_dir_in_use");
    close(engine).await;
}

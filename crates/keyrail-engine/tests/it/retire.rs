//! Retirement behind its fence, what comes after it, and destruction.

use keyrail_core::access::Action;
use keyrail_core::id::DataKeyId;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::record::RecordKind;
use keyrail_core::retirement::{AssetCount, AssetEvidence, CensusFailure};
use keyrail_crypto::envelope::Kid;
use keyrail_engine::ops::data::{CiphertextItem, MakeDataKey, Reencrypt};
use keyrail_engine::ops::key::{
    CompromiseVersion, ExportVersion, ReinstateVersion, RelabelKey, ResumeVersion, SuspendVersion,
};
use keyrail_engine::ops::label::DemandsPatch;
use keyrail_engine::ops::retire::{DestroyVersion, RetireVersion, ShowEvidence};
use keyrail_engine::ports::AssetPort;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, EngineOptions};

use crate::support::{
    TestClock, context, decrypt, details, encrypt, key_name, open, records_of, retire_first, rotate, run, set_label,
    show, tick, version, with_key,
};

const DAY: u64 = 86_400;

fn acknowledged() -> Vec<String> {
    vec!["local-operator".to_owned()]
}

fn destroy() -> DestroyVersion {
    DestroyVersion { name: version(1), acknowledged: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_lists_every_kind_of_use_outside_assets() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let began = engine.unsealed().unwrap().now();
    let (first, _) = encrypt(&engine, "one").await;
    clock.pass(10);
    encrypt(&engine, "two").await;
    let last = engine.unsealed().unwrap().now();
    decrypt(&engine, &first).await.unwrap();
    run(&engine, MakeDataKey { key: key_name(), context: context(), len: 32 }).await.unwrap();
    run(&engine, ExportVersion { name: version(1) }).await.unwrap();
    rotate(&engine).await;
    let evidence = run(&engine, ShowEvidence { name: version(1) }).await.unwrap();
    let found: Vec<_> = evidence
        .outside
        .iter()
        .map(|row| (row.principal.as_str(), row.action, row.count, row.first_at, row.last_at))
        .collect();
    let row = |action, count, first_at| ("local-operator", action, count, first_at, last);
    let mut want = vec![
        row(Action::DataDataKey, 1, last),
        row(Action::DataDecrypt, 1, last),
        row(Action::DataEncrypt, 2, began),
        row(Action::KeyExport, 1, last),
    ];
    let mut found_sorted = found.clone();
    found_sorted.sort();
    want.sort();
    assert_eq!(found_sorted, want);
    assert_eq!(evidence.obstacles.len(), 4);
    // What the clocks of writers may lag behind by is waited out, too.
    assert_eq!(evidence.window_left_seconds, 61);

    // What somebody answers for by name stands in the record, with what it was.
    clock.pass(61);
    let wrong = RetireVersion { name: version(1), acknowledged: vec!["token:1".to_owned()] };
    assert_eq!(run(&engine, wrong).await.unwrap_err().code(), "retire_blocked");
    run(&engine, RetireVersion { name: version(1), acknowledged: acknowledged() }).await.unwrap();
    let records = records_of(&engine, Action::KeyRetire);
    let done = records.last().unwrap();
    assert_eq!(details(done, "acknowledged"), ["local-operator"]);
    assert_eq!(details(done, "used_outside").len(), 4);
    assert_eq!(records[0].code.as_deref(), Some("retire_blocked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_window_begins_with_the_fence_and_not_with_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    clock.drag(3);
    rotate(&engine).await;
    clock.drag(0);
    let open = engine.unsealed().unwrap();
    let keyring = open.state().keyring_by_name(&key_name()).await.unwrap().unwrap();
    let decided_at = keyring.versions[0].fenced_at.unwrap();
    let since_decision = open.now().seconds_since(decided_at);
    assert!((3..57).contains(&since_decision), "the rotation was slow: {since_decision}");
    let evidence = run(&engine, ShowEvidence { name: version(1) }).await.unwrap();
    assert!(evidence.window_left_seconds > 60 - since_decision, "{since_decision}: {}", evidence.window_left_seconds);
}

/// A step that is too small to be seen as one: the process knows by the machine's own clock how long ago the fence was.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_step_of_the_wall_clock_leaves_the_window_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    rotate(&engine).await;
    clock.pass(50);
    clock.jump(4);
    let evidence = run(&engine, ShowEvidence { name: version(1) }).await.unwrap();
    assert_eq!(evidence.window_left_seconds, 11);
}

/// What a former process knew of its fences is gone with it: the window is not the shorter for it, and not much longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_does_not_shorten_the_write_window() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let window_left = async |engine: &keyrail_engine::Engine| {
        run(engine, ShowEvidence { name: version(1) }).await.unwrap().window_left_seconds
    };
    clock.drag(3);
    rotate(&engine).await;
    clock.drag(0);
    let before = window_left(&engine).await;
    engine.close().await.unwrap();
    drop(engine);
    let engine = open(dir.path(), &clock, Access::Write).await;
    let after = window_left(&engine).await;
    assert!(after >= before, "{before} s, and {after} s after a restart");
    // Neither this process's first fence nor its start counts for what was fenced long ago.
    clock.pass(120);
    rotate(&engine).await;
    engine.close().await.unwrap();
    drop(engine);
    let engine = open(dir.path(), &clock, Access::Write).await;
    rotate(&engine).await;
    assert_eq!(window_left(&engine).await, 0);
}

/// Somebody was told an hour: another label, or another window of the label, does not take it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_was_promised_is_kept_under_another_label() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let window = |seconds| DemandsPatch { write_window_seconds: Some(seconds), ..DemandsPatch::default() };
    set_label(&engine, "internal", window(3_600)).await;
    let relabel = RelabelKey { name: key_name(), label: "restricted".parse().unwrap() };
    run(&engine, relabel).await.unwrap();
    clock.pass(61);
    let retire = || RetireVersion { name: version(1), acknowledged: vec![] };
    let left = |result: Result<_, EngineError>| match result {
        Err(EngineError::WriteWindowOpen { seconds_left }) => seconds_left,
        Err(other) => panic!("{other}"),
        Ok(_) => 0,
    };
    assert_eq!(left(run(&engine, retire()).await), 3_636 - 61);
    // A longer one of now counts, too.
    set_label(&engine, "restricted", window(7_200)).await;
    assert_eq!(left(run(&engine, retire()).await), 7_272 - 61);
    set_label(&engine, "restricted", window(0)).await;
    assert_eq!(left(run(&engine, retire()).await), 3_636 - 61);
    clock.pass(3_636 - 61);
    assert_eq!(left(run(&engine, retire()).await), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn retirement_waits_until_the_write_window_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = std::sync::Arc::new(with_key(dir.path(), &clock, "internal").await);
    let (first, _) = encrypt(&engine, "one").await;
    rotate(&engine).await;
    let retiring = {
        let engine = engine.clone();
        tokio::spawn(
            async move { run(&engine, RetireVersion { name: version(1), acknowledged: acknowledged() }).await },
        )
    };
    // Within the window the version still decrypts, and nothing is retired.
    clock.pass(59);
    tick(&engine, 3).await;
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"one");
    assert!(!retiring.is_finished());
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Deactivated);
    clock.pass(2);
    while !retiring.is_finished() {
        tick(&engine, 1).await;
        tokio::task::yield_now().await;
    }
    // The decrypt in between was counted, and the same name answers for it.
    let retired = retiring.await.unwrap().unwrap();
    assert_eq!(retired.key.versions[0].state, VersionState::Retired);
    assert!(retired.evidence.outside.iter().any(|row| row.action == Action::DataDecrypt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_window_is_told_and_a_clock_set_by_hand_does_not_close_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    set_label(&engine, "internal", DemandsPatch { write_window_seconds: Some(1_000), ..DemandsPatch::default() }).await;
    rotate(&engine).await;
    let left = |error: EngineError| match error {
        EngineError::WriteWindowOpen { seconds_left } => seconds_left,
        other => panic!("{other}"),
    };
    let retire = || RetireVersion { name: version(1), acknowledged: vec![] };
    assert_eq!(left(run(&engine, retire()).await.unwrap_err()), 1_010);
    clock.pass(100);
    assert_eq!(left(run(&engine, retire()).await.unwrap_err()), 910);
    clock.jump(5_000);
    assert_eq!(left(run(&engine, retire()).await.unwrap_err()), 1_010);
    clock.pass(400);
    assert_eq!(left(run(&engine, retire()).await.unwrap_err()), 610);
    clock.pass(610);
    run(&engine, retire()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_by_hand_raises_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    tick(&engine, 2).await;
    assert_eq!(engine.metrics().alarms, 0);
    clock.jump(3_600);
    tick(&engine, 2).await;
    let alarms: Vec<_> =
        records_of(&engine, Action::SystemRead).into_iter().filter(|row| row.kind == RecordKind::Alarm).collect();
    assert_eq!(alarms.len(), 1);
    assert_eq!(details(&alarms[0], "off_millis"), ["3600000"]);
    assert_eq!(engine.metrics().alarms, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_decrypt_of_a_retired_version_is_an_alarm_and_halts_its_destruction() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "one").await;
    rotate(&engine).await;
    retire_first(&engine, &clock).await;
    let alarms = || records_of(&engine, Action::DataDecrypt).into_iter().filter(|row| row.kind == RecordKind::Alarm);
    assert_eq!(decrypt(&engine, &first).await.unwrap_err().code(), "version_unusable");
    assert_eq!(alarms().count(), 1);
    // A storm of them is one alarm a minute.
    for _ in 0..20 {
        assert!(decrypt(&engine, &first).await.is_err());
    }
    assert_eq!(alarms().count(), 1);
    clock.pass(60);
    assert!(decrypt(&engine, &first).await.is_err());
    assert_eq!(alarms().count(), 2);
    let alarm = alarms().next_back().unwrap();
    assert_eq!(alarm.resource.as_deref(), Some("acme/prod/crm/pii@1"));

    run(&engine, destroy()).await.unwrap();
    assert!(decrypt(&engine, &first).await.is_err(), "the countdown is halted though an alarm was just raised");
    let countdown = show(&engine).await.versions[0].destroy.clone().unwrap();
    assert_eq!(countdown.halted.unwrap().as_str(), "decrypt-refused");
    assert_eq!(engine.metrics().alarms, 3);
    clock.pass(30 * DAY);
    tick(&engine, 61).await;
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Retired);
    // Until it is destroyed it can be brought back.
    run(&engine, ReinstateVersion { name: version(1) }).await.unwrap();
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"one");
    assert!(show(&engine).await.versions[0].destroy.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn destruction_counts_what_was_observed_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let mut engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "one").await;
    run(&engine, ExportVersion { name: version(1) }).await.unwrap();
    rotate(&engine).await;
    retire_first(&engine, &clock).await;
    assert_eq!(run(&engine, destroy()).await.unwrap().seconds_left, 7 * DAY);
    let observed =
        |view: &keyrail_engine::ops::key::KeyView| view.versions[0].destroy.as_ref().unwrap().observed_seconds;
    clock.pass(2 * DAY);
    engine.close().await.unwrap();
    drop(engine);
    // The machine was off: that time was observed by nobody.
    clock.reboot(30 * DAY);
    engine = open(dir.path(), &clock, Access::Write).await;
    tick(&engine, 61).await;
    assert_eq!(observed(&show(&engine).await), 2 * DAY);
    clock.pass(4 * DAY);
    tick(&engine, 61).await;
    assert_eq!(observed(&show(&engine).await), 6 * DAY);
    assert_eq!(run(&engine, destroy()).await.unwrap().seconds_left, DAY);
    clock.pass(DAY);
    tick(&engine, 61).await;
    let view = show(&engine).await;
    assert_eq!(view.versions[0].state, VersionState::Destroyed);
    assert_eq!(decrypt(&engine, &first).await.unwrap_err().code(), "version_unusable");
    assert_eq!(run(&engine, ReinstateVersion { name: version(1) }).await.unwrap_err().code(), "key_state");

    let records = records_of(&engine, Action::KeyDestroy);
    let receipt = details(records.last().unwrap(), "could_bring_it_back").join("\n");
    for word in ["backups", "write-ahead log", "`local-operator` exported"] {
        assert!(receipt.contains(word), "{receipt}");
    }
    assert_eq!(records.last().unwrap().principal, "system");
}

/// A census may take longer than a countdown's step: it must not be fenced by every one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_countdown_goes_on_without_a_fence_and_changes_see_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    rotate(&engine).await;
    clock.pass(61);
    run(&engine, RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap();
    run(&engine, destroy()).await.unwrap();
    let generation = engine.unsealed().unwrap().generation();
    for days in 1..4 {
        show(&engine).await;
        clock.pass(DAY);
        tick(&engine, 61).await;
        assert_eq!(show(&engine).await.versions[0].destroy.as_ref().unwrap().observed_seconds, days * DAY);
    }
    assert_eq!(engine.unsealed().unwrap().generation(), generation);
    let view = run(&engine, ReinstateVersion { name: version(1) }).await.unwrap();
    assert!(view.versions[0].destroy.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_countdown_counts_from_its_own_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    rotate(&engine).await;
    rotate(&engine).await;
    clock.pass(61);
    for number in [1, 2] {
        run(&engine, RetireVersion { name: version(number), acknowledged: vec![] }).await.unwrap();
    }
    run(&engine, destroy()).await.unwrap();
    tick(&engine, 61).await;
    // Six days later the second one begins, without a look at the clocks in between.
    clock.pass(6 * DAY);
    run(&engine, DestroyVersion { name: version(2), acknowledged: vec![] }).await.unwrap();
    tick(&engine, 61).await;
    let view = show(&engine).await;
    let observed: Vec<_> =
        view.versions[..2].iter().map(|row| row.destroy.as_ref().unwrap().observed_seconds).collect();
    assert_eq!(observed, [6 * DAY, 0]);
    clock.pass(DAY);
    tick(&engine, 61).await;
    let states: Vec<_> = show(&engine).await.versions[..2].iter().map(|row| row.state).collect();
    assert_eq!(states, [VersionState::Destroyed, VersionState::Retired]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exposed_version_is_replaced_still_decrypts_and_is_destroyed_only_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "one").await;
    let view = run(&engine, CompromiseVersion { name: version(1) }).await.unwrap();
    let states: Vec<_> = view.versions.iter().map(|row| row.state).collect();
    assert_eq!(states, [VersionState::Compromised, VersionState::Active]);
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"one");
    assert_eq!(encrypt(&engine, "two").await.1, 2);

    // It never was retired, so whoever used it is asked for now.
    assert_eq!(run(&engine, destroy()).await.unwrap_err().code(), "destroy_blocked");
    let by_name = || DestroyVersion { name: version(1), acknowledged: acknowledged() };
    assert!(!run(&engine, by_name()).await.unwrap().destroyed);
    // Somebody still reads with it while it waits: it is not destroyed under his hands.
    clock.pass(6 * DAY);
    tick(&engine, 61).await;
    decrypt(&engine, &first).await.unwrap();
    clock.pass(2 * DAY);
    tick(&engine, 61).await;
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Compromised);
    assert!(show(&engine).await.versions[0].destroy.is_none());
    let alarms =
        records_of(&engine, Action::KeyDestroy).into_iter().filter(|row| row.kind == RecordKind::Alarm).count();
    assert_eq!(alarms, 1);
    run(&engine, by_name()).await.unwrap();
    clock.pass(8 * DAY);
    tick(&engine, 61).await;
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Destroyed);
    let receipt = records_of(&engine, Action::KeyDestroy);
    assert!(details(receipt.last().unwrap(), "could_bring_it_back").contains(&"whoever it was exposed to"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_key_does_nothing_until_it_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "restricted").await;
    let (first, _) = encrypt(&engine, "one").await;
    run(&engine, SuspendVersion { name: version(1) }).await.unwrap();
    assert_eq!(decrypt(&engine, &first).await.unwrap_err().code(), "version_unusable");
    assert_eq!(
        run(&engine, MakeDataKey { key: key_name(), context: context(), len: 32 }).await.err().unwrap().code(),
        "key_disabled"
    );
    // However old it is, the sweep does not enable what somebody suspended.
    clock.pass(90 * DAY);
    tick(&engine, 10).await;
    assert_eq!(show(&engine).await.versions.len(), 1);
    run(&engine, ResumeVersion { name: version(1) }).await.unwrap();
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"one");
    tick(&engine, 10).await;
    assert_eq!(show(&engine).await.versions.len(), 2);
}

/// Observed time runs behind the wall clock when the machine is off: what happened meanwhile is told by when the
/// countdown began, not by how long it lasts.
#[tokio::test(flavor = "multi_thread")]
async fn use_while_a_countdown_runs_stops_it_however_long_the_machine_was_off() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let mut engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "one").await;
    run(&engine, CompromiseVersion { name: version(1) }).await.unwrap();
    clock.pass(1);
    run(&engine, DestroyVersion { name: version(1), acknowledged: acknowledged() }).await.unwrap();
    clock.pass(DAY);
    tick(&engine, 61).await;
    decrypt(&engine, &first).await.unwrap();
    // A month passes unobserved, longer than the wait.
    engine.close().await.unwrap();
    drop(engine);
    clock.reboot(30 * DAY);
    engine = open(dir.path(), &clock, Access::Write).await;
    tick(&engine, 61).await;
    clock.pass(7 * DAY);
    tick(&engine, 61).await;
    let row = show(&engine).await.versions.remove(0);
    assert_eq!(row.state, VersionState::Compromised, "somebody decrypted with it while it waited");
    assert!(row.destroy.is_none());

    // Use before it began was answered for, also right before.
    clock.pass(1);
    run(&engine, DestroyVersion { name: version(1), acknowledged: acknowledged() }).await.unwrap();
    clock.pass(8 * DAY);
    tick(&engine, 61).await;
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Destroyed);
}

/// What a re-encryption opens is use of the version it was under, and stands in the evidence.
#[tokio::test(flavor = "multi_thread")]
async fn a_reencryption_counts_under_the_version_that_it_opens() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "one").await;
    rotate(&engine).await;
    let item = || Ok(CiphertextItem { ciphertext: first.clone(), context: context() });
    run(&engine, Reencrypt { key: key_name(), items: vec![item(), item()] }).await.unwrap();
    let evidence = run(&engine, ShowEvidence { name: version(1) }).await.unwrap();
    let opened: Vec<_> = evidence.outside.iter().filter(|row| row.action == Action::DataDecrypt).collect();
    assert_eq!(opened.iter().map(|row| row.count).collect::<Vec<_>>(), [2]);
    let record = records_of(&engine, Action::DataReencrypt).remove(0);
    let used: Vec<_> = record.versions.iter().map(|row| (row.version.get(), row.count, row.opened)).collect();
    assert_eq!(used, [(2, 2, false), (1, 2, true)]);
    // It is no encryption under it: only those count towards a rotation.
    let evidence = run(&engine, ShowEvidence { name: version(2) }).await.unwrap();
    assert!(evidence.outside.iter().all(|row| row.action == Action::DataReencrypt && row.count == 2));
}

/// Assets that cannot be counted as long as there is a file of this name in the data directory.
struct Locked(std::path::PathBuf);

#[async_trait::async_trait]
impl AssetPort for Locked {
    async fn evidence(&self, _: DataKeyId, _: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        let census = if self.0.exists() { Err(CensusFailure) } else { Ok(AssetCount { left: 0, damaged: 0 }) };
        Ok(vec![AssetEvidence { asset: "people".parse().unwrap(), census, open_campaign: None }])
    }
}

/// A database that is locked when a countdown ends proves nothing: the wait stays and nothing is destroyed. Somebody is
/// alarmed once, it is tried less and less often, and the next try that can count goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_countdown_that_cannot_count_keeps_its_wait() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    drop(with_key(dir.path(), &clock, "internal").await);
    let engine = Engine::open(EngineOptions {
        data_dir: dir.path().to_owned(),
        access: Access::Write,
        clock: clock.clone(),
        assets: Some(|open| std::sync::Arc::new(Locked(open.data_dir().unwrap().join("locked")))),
    });
    let engine = engine.unwrap();
    engine.unseal().await.unwrap();
    rotate(&engine).await;
    clock.pass(61);
    run(&engine, RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap();
    run(&engine, destroy()).await.unwrap();
    let locked = dir.path().join("locked");
    std::fs::write(&locked, "").unwrap();
    clock.pass(8 * DAY);
    let refused = |engine: &Engine| {
        let records = records_of(engine, Action::KeyDestroy).into_iter();
        records.filter(|row| row.code.as_deref() == Some("destroy_blocked")).count()
    };
    // Two hours and a bit, with a turn in every minute of it.
    for _ in 0..130 {
        tick(&engine, 60).await;
        clock.pass(60);
    }
    assert_eq!(refused(&engine), 8, "not one each minute");
    let alarms = records_of(&engine, Action::KeyDestroy).into_iter().filter(|row| row.kind == RecordKind::Alarm);
    let alarms: Vec<_> = alarms.collect();
    assert_eq!((alarms.len(), engine.metrics().alarms), (1, 1));
    assert_eq!(alarms[0].code.as_deref(), Some("destroy_waits"));
    assert!(details(&alarms[0], "obstacle")[0].contains("could not be counted"), "{:?}", alarms[0]);
    let row = show(&engine).await.versions.remove(0);
    assert_eq!(row.state, VersionState::Retired);
    let wait = row.destroy.unwrap();
    assert_eq!((wait.observed_seconds, wait.wait_seconds), (7 * DAY, 7 * DAY));
    std::fs::remove_file(locked).unwrap();
    clock.pass(6 * 60 * 60);
    tick(&engine, 60).await;
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Destroyed);
}

/// Sealing carries a countdown on and ends none: a version goes under the eyes of an open store, never on the way out,
/// nor because a stranger tried to open it.
#[tokio::test(flavor = "multi_thread")]
async fn sealing_and_refused_attempts_to_open_destroy_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    rotate(&engine).await;
    clock.pass(61);
    run(&engine, RetireVersion { name: version(1), acknowledged: vec![] }).await.unwrap();
    run(&engine, destroy()).await.unwrap();
    clock.pass(8 * DAY);
    let local = || Caller::new(Credential::LocalOperator).unwrap();
    let waits = async || {
        let row = show(&engine).await.versions.remove(0);
        assert_eq!(row.state, VersionState::Retired);
        assert_eq!(row.destroy.unwrap().observed_seconds, 7 * DAY);
    };
    engine.seal_for(&local()).await.unwrap();
    engine.unseal_for(&local()).await.unwrap();
    waits().await;
    engine.seal_for(&local()).await.unwrap();
    let stranger = format!("krt_{}", "A".repeat(43));
    let refused = engine.unseal_for(&Caller::new(Credential::Token(&stranger)).unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), "unauthenticated");
    engine.unseal_for(&local()).await.unwrap();
    waits().await;
    tick(&engine, 61).await;
    assert_eq!(show(&engine).await.versions[0].state, VersionState::Destroyed);
}

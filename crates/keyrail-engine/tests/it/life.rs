//! The life of a store, a key and its versions.

use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::KeyName;
use keyrail_core::rotation::RotationReason;
use keyrail_crypto::envelope::Context;
use keyrail_crypto::secret::Plaintext;
use keyrail_engine::ops::data::{CiphertextItem, Decrypt, Encrypt, EncryptItem, Reencrypt};
use keyrail_engine::ops::key::{ReinstateVersion, RotateKey, ShowKey};
use keyrail_engine::ops::master::{RotateMaster, ShowMaster};
use keyrail_engine::ops::retire::{DestroyVersion, RetireVersion};
use keyrail_engine::ops::system::VerifyStore;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError};

use crate::support::{TestClock, open, run, tick, with_key};

fn name() -> KeyName {
    "acme/prod/crm/pii".parse().unwrap()
}

fn context() -> Context {
    Context::from_pairs([("row", "7")]).unwrap()
}

async fn encrypt(engine: &Engine, text: &str) -> (String, u32) {
    let item = EncryptItem { plaintext: Plaintext::from(text.as_bytes().to_vec()), context: context() };
    let answer = run(engine, Encrypt { key: name(), items: vec![Ok(item)] }).await.unwrap().remove(0).unwrap();
    (answer.ciphertext, answer.version.get())
}

async fn decrypt(engine: &Engine, ciphertext: &str) -> Result<Vec<u8>, EngineError> {
    let item = CiphertextItem { ciphertext: ciphertext.to_owned(), context: context() };
    let answer = run(engine, Decrypt { key: name(), items: vec![Ok(item)] }).await.unwrap().remove(0);
    answer.map(|done| done.plaintext.as_bytes().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_encrypted_opens_after_rotations_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "confidential").await;
    let (first, version) = encrypt(&engine, "first").await;
    assert_eq!(version, 1);
    run(&engine, RotateKey { name: name(), reason: RotationReason::Demand }).await.unwrap();
    let (second, version) = encrypt(&engine, "second").await;
    assert_eq!(version, 2);
    run(&engine, RotateMaster { path: "acme/prod".parse().unwrap(), reason: RotationReason::Demand }).await.unwrap();
    tick(&engine, 10).await;
    let master = run(&engine, ShowMaster { path: "acme/prod".parse().unwrap() }).await.unwrap();
    assert_eq!(master.versions.iter().map(|row| row.wraps).collect::<Vec<_>>(), [0, 2]);
    engine.close().await.unwrap();
    drop(engine);

    let engine = open(dir.path(), &clock, Access::Write).await;
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"first");
    assert_eq!(decrypt(&engine, &second).await.unwrap(), b"second");
    let moved = run(
        &engine,
        Reencrypt { key: name(), items: vec![Ok(CiphertextItem { ciphertext: first, context: context() })] },
    )
    .await
    .unwrap()
    .remove(0)
    .unwrap();
    assert_eq!(moved.version.get(), 2);
    assert_eq!(decrypt(&engine, &moved.ciphertext).await.unwrap(), b"first");
    assert!(run(&engine, VerifyStore).await.unwrap().findings.is_empty());
    engine.close().await.unwrap();
    let key = std::fs::read_to_string(dir.path().join("log-public-key")).unwrap();
    let report = keyrail_audit::verify(&dir.path().join("audit"), &key.trim().parse().unwrap(), &[]).unwrap();
    assert!(report.records >= 11, "{}", report.records);
}

#[tokio::test(flavor = "multi_thread")]
async fn retirement_asks_for_whoever_used_the_version_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "confidential").await;
    let (first, _) = encrypt(&engine, "first").await;
    run(&engine, RotateKey { name: name(), reason: RotationReason::Demand }).await.unwrap();
    let version = "acme/prod/crm/pii@1".parse().unwrap();
    clock.pass(61);
    let refused = run(&engine, RetireVersion { name: version, acknowledged: Vec::new() }).await.unwrap_err();
    assert_eq!(refused.code(), "retire_blocked");
    assert!(refused.hint().unwrap().contains("local-operator"), "{:?}", refused.hint());

    let version = "acme/prod/crm/pii@1".parse().unwrap();
    let retired =
        run(&engine, RetireVersion { name: version, acknowledged: vec!["local-operator".to_owned()] }).await.unwrap();
    assert_eq!(retired.key.versions[0].state, VersionState::Retired);
    assert_eq!(decrypt(&engine, &first).await.unwrap_err().code(), "version_unusable");
    run(&engine, ReinstateVersion { name: "acme/prod/crm/pii@1".parse().unwrap() }).await.unwrap();
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"first");
}

#[tokio::test(flavor = "multi_thread")]
async fn destruction_waits_out_observed_time_and_stops_at_a_refused_decrypt() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "first").await;
    run(&engine, RotateKey { name: name(), reason: RotationReason::Demand }).await.unwrap();
    clock.pass(61);
    let version = || "acme/prod/crm/pii@1".parse().unwrap();
    run(&engine, RetireVersion { name: version(), acknowledged: vec!["local-operator".to_owned()] }).await.unwrap();
    let started = run(&engine, DestroyVersion { name: version(), acknowledged: Vec::new() }).await.unwrap();
    assert!(!started.destroyed && started.seconds_left == 7 * 86_400);
    tick(&engine, 60).await;
    clock.pass(86_400);
    tick(&engine, 60).await;
    let shown = run(&engine, ShowKey { name: name() }).await.unwrap();
    assert_eq!(shown.versions[0].destroy.as_ref().unwrap().observed_seconds, 86_400);

    // Somebody still asks for data under it: an alarm, and the countdown stands still.
    assert!(decrypt(&engine, &first).await.is_err());
    clock.pass(7 * 86_400);
    tick(&engine, 60).await;
    let shown = run(&engine, ShowKey { name: name() }).await.unwrap();
    assert_eq!(shown.versions[0].state, VersionState::Retired);
    assert!(shown.versions[0].destroy.as_ref().unwrap().halted.is_some());

    // Asked for again it begins anew; a clock set by hand halts it, too.
    run(&engine, DestroyVersion { name: version(), acknowledged: Vec::new() }).await.unwrap();
    clock.jump(8 * 86_400);
    tick(&engine, 60).await;
    let shown = run(&engine, ShowKey { name: name() }).await.unwrap();
    assert!(shown.versions[0].destroy.as_ref().unwrap().halted.is_some());

    run(&engine, DestroyVersion { name: version(), acknowledged: Vec::new() }).await.unwrap();
    clock.pass(7 * 86_400 + 1);
    tick(&engine, 60).await;
    let shown = run(&engine, ShowKey { name: name() }).await.unwrap();
    assert_eq!(shown.versions[0].state, VersionState::Destroyed);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_turn_by_themselves_when_they_are_old() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "restricted").await;
    tick(&engine, 10).await;
    assert_eq!(run(&engine, ShowKey { name: name() }).await.unwrap().versions.len(), 1);
    clock.pass(30 * 86_400);
    tick(&engine, 10).await;
    assert_eq!(run(&engine, ShowKey { name: name() }).await.unwrap().versions.len(), 2);
    clock.pass(150 * 86_400);
    tick(&engine, 10).await;
    let master = run(&engine, ShowMaster { path: "acme/prod".parse().unwrap() }).await.unwrap();
    assert_eq!(master.versions.len(), 2);
    assert_eq!(master.versions[0].wraps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_writer_is_refused_and_a_reader_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let options = keyrail_engine::EngineOptions {
        data_dir: dir.path().to_owned(),
        access: Access::Write,
        clock: clock.clone(),
        assets: None,
    };
    assert!(matches!(Engine::open(options), Err(EngineError::InUse)));
    let reader = open(dir.path(), &clock, Access::Read).await;
    assert_eq!(run(&reader, ShowKey { name: name() }).await.unwrap().versions.len(), 1);
    assert!(run(&reader, RotateKey { name: name(), reason: RotationReason::Demand }).await.is_err());
    let anonymous = engine.execute(&Caller::new(Credential::None).unwrap(), ShowKey { name: name() }).await;
    assert!(matches!(anonymous, Err(EngineError::Unauthenticated)));
}

/// A program with one thread of its own may hold an engine too.
#[tokio::test(flavor = "current_thread")]
async fn a_runtime_of_one_thread_works() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let items = (0..200).map(|_| Ok(EncryptItem { plaintext: b"x".to_vec().into(), context: context() })).collect();
    let answer = run(&engine, Encrypt { key: name(), items }).await.unwrap();
    assert!(answer.len() == 200 && answer.iter().all(Result::is_ok));
    engine.close().await.unwrap();
}

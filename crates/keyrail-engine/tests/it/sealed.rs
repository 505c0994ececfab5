//! Sealed, unsealing and wrong-secret states.

use std::sync::Arc;

use keyrail_core::access::{Action, Role};
use keyrail_core::record::Origin;
use keyrail_engine::ops::key::{RotateKey, ShowKey};
use keyrail_engine::{Access, Caller, Credential, Engine, EngineOptions};

use crate::support::{TestClock, encrypt, key_name, records_of, run, run_as, tick, token, with_key};

fn take_hold(dir: &std::path::Path, clock: &Arc<TestClock>) -> Engine {
    let options = EngineOptions { data_dir: dir.to_owned(), access: Access::Write, clock: clock.clone(), assets: None };
    Engine::open(options).unwrap()
}

/// Everything is refused with the state's own word, and health says the same.
async fn refuses(engine: &Engine, state: &str) {
    let refused = run(engine, ShowKey { name: key_name() }).await.unwrap_err();
    assert_eq!(refused.code(), "sealed");
    assert_eq!(refused.to_string(), engine.seal_state().sentence());
    assert_eq!(engine.seal_state().as_str(), state);
    let change = RotateKey { name: key_name(), reason: keyrail_core::rotation::RotationReason::Demand };
    assert_eq!(run(engine, change).await.unwrap_err().code(), "sealed");
    let anonymous = Caller::new(Credential::None).unwrap();
    assert_eq!(engine.allow(&anonymous, Action::SystemRead).await.unwrap_err().code(), "sealed");
    let health = engine.health().await;
    assert!(!health.ready && health.checks.is_empty());
    assert_eq!(health.seal, state);
    assert!(health.hint.is_some_and(|hint| !hint.is_empty()));
    tick(engine, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sealing_forgets_the_keys_and_refuses_everything() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, auditor) = token(&engine, Role::Auditor, None).await;
    encrypt(&engine, "one").await;
    assert!(engine.health().await.ready);
    let refused = engine.seal_for(&Caller::new(Credential::Token(&auditor)).unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), "refused");
    assert!(run(&engine, ShowKey { name: key_name() }).await.is_ok());

    let open = Arc::downgrade(&engine.unsealed().unwrap());
    engine.seal_for(&Caller::new(Credential::LocalOperator).unwrap()).await.unwrap();
    assert!(open.upgrade().is_none(), "root key and caches go with the opened store");
    refuses(&engine, "sealed").await;

    // Whoever may not unseal leaves it sealed.
    let refused = engine.unseal_for(&Caller::new(Credential::Token(&auditor)).unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), "refused");
    refuses(&engine, "sealed").await;
    engine.unseal_for(&Caller::new(Credential::LocalOperator).unwrap()).await.unwrap();
    assert!(engine.health().await.ready);
    assert!(run_as(&engine, &auditor, ShowKey { name: key_name() }).await.is_ok());
    let codes: Vec<_> = records_of(&engine, Action::SystemUnseal).into_iter().map(|record| record.code).collect();
    assert_eq!(codes, [Some("refused".to_owned()), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_after_sealing_returned() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = Arc::new(with_key(dir.path(), &clock, "internal").await);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut done = 0_u64;
                loop {
                    match run(&engine, ShowKey { name: key_name() }).await {
                        Ok(_) => done += 1,
                        Err(error) => return (done, error.code()),
                    }
                }
            })
        })
        .collect();
    while engine.metrics().done.iter().all(|(action, count)| *action != "key.read" || *count < 40) {
        tokio::task::yield_now().await;
    }
    engine.seal_for(&Caller::new(Credential::LocalOperator).unwrap()).await.unwrap();
    assert_eq!(run(&engine, ShowKey { name: key_name() }).await.unwrap_err().code(), "sealed");
    let mut answered = 0;
    for worker in workers {
        let (done, code) = worker.await.unwrap();
        assert!(matches!(code, "sealed" | "audit_unavailable"), "{code}");
        answered += done;
    }
    engine.unseal().await.unwrap();
    let recorded = records_of(&engine, Action::KeyRead).iter().filter(|record| record.code.is_none()).count();
    assert!(recorded as u64 >= answered, "{recorded} records of {answered} answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_told_from_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    engine.close().await.unwrap();
    drop(engine);
    let engine = take_hold(dir.path(), &clock);
    refuses(&engine, "sealed").await;

    let (file, away) = (dir.path().join("root.key"), dir.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    assert_eq!(engine.unseal().await.unwrap_err().code(), "root_failed");
    assert_eq!(engine.seal_state().as_str(), "root-unavailable");
    assert_eq!(engine.health().await.seal, "root-unavailable");

    let other = tempfile::tempdir().unwrap();
    Engine::init(other.path().to_owned(), None, clock.as_ref()).await.unwrap();
    std::fs::rename(other.path().join("root.key"), &file).unwrap();
    assert_eq!(engine.unseal().await.unwrap_err().code(), "root_failed");
    refuses(&engine, "wrong-secret").await;

    // A root that comes back opens the store, by hand or, after it was missing, by itself.
    std::fs::remove_file(&file).unwrap();
    assert!(engine.unseal().await.is_err());
    std::fs::rename(&away, &file).unwrap();
    tick(&engine, 1).await;
    assert!(engine.health().await.ready);
    assert!(run(&engine, ShowKey { name: key_name() }).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_store_before_init_and_none_twice() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let options =
        EngineOptions { data_dir: dir.path().to_owned(), access: Access::Write, clock: clock.clone(), assets: None };
    assert_eq!(Engine::open(options).err().unwrap().code(), "not_initialized");
    Engine::init(dir.path().to_owned(), None, clock.as_ref()).await.unwrap();
    let again = Engine::init(dir.path().to_owned(), None, clock.as_ref()).await;
    assert_eq!(again.err().unwrap().code(), "already_initialized");
}

/// An operator seals and takes the key file away: nothing that anybody asks for opens the store when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_by_hand_is_not_opened_because_somebody_tried() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, owner) = token(&engine, Role::Owner, None).await;
    engine.seal_for(&Caller::new(Credential::LocalOperator).unwrap()).await.unwrap();
    let (file, away) = (dir.path().join("root.key"), dir.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    let bad = format!("krt_{}", "A".repeat(43));
    for (credential, code) in [
        (Credential::None, "unauthenticated"),
        (Credential::Token("nonsense"), "unauthenticated"),
        (Credential::Token(&bad), "root_failed"),
        (Credential::Token(&owner), "root_failed"),
    ] {
        let refused = engine.unseal_for(&Caller::new(credential).unwrap()).await.unwrap_err();
        assert_eq!(refused.code(), code);
        refuses(&engine, "sealed").await;
    }
    std::fs::rename(&away, &file).unwrap();
    tick(&engine, 61).await;
    refuses(&engine, "sealed").await;
    engine.unseal_for(&Caller::new(Credential::Token(&owner)).unwrap()).await.unwrap();
    assert!(engine.health().await.ready);
}

/// A caller at an address.
fn caller_at<'a>(origin: &'a Origin, token: &'a str) -> Caller<'a> {
    Caller { origin, ..Caller::new(Credential::Token(token)).unwrap() }
}

fn at(address: &str) -> Origin {
    Origin { from: Some(address.to_owned()), ..Origin::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_to_open_are_limited_and_counted_over_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, owner) = token(&engine, Role::Owner, None).await;
    engine.seal_for(&Caller::new(Credential::LocalOperator).unwrap()).await.unwrap();
    let bad = format!("krt_{}", "A".repeat(43));
    let mut codes = Vec::new();
    for port in 1_000..1_007 {
        let tried = engine.unseal_for(&caller_at(&at(&format!("192.0.2.7:{port}")), &bad)).await;
        codes.push(tried.unwrap_err().code());
    }
    assert_eq!(codes[..5], ["unauthenticated"; 5]);
    assert_eq!(codes[5..], ["too_many_failures"; 2]);
    // Whoever guesses from there keeps himself out, and nobody else.
    let there = engine.unseal_for(&caller_at(&at("192.0.2.7:1008"), &owner)).await.unwrap_err();
    assert_eq!(there.code(), "too_many_failures");
    engine.unseal_for(&caller_at(&at("192.0.2.8:1000"), &owner)).await.unwrap();
    tick(&engine, 1).await;
    assert_eq!(counted(&engine), 0, "not before its time");
    clock.pass(10);
    tick(&engine, 1).await;
    assert_eq!(counted(&engine), 5, "one record of them all");
}

/// How many refusals the records of counted ones tell.
fn counted(engine: &Engine) -> u64 {
    records_of(engine, Action::SystemRead).into_iter().filter_map(|row| row.items).sum()
}

/// The right caller is not turned away because somebody else's attempt is under way.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_waits_for_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = Arc::new(with_key(dir.path(), &clock, "internal").await);
    let (_, owner) = token(&engine, Role::Owner, None).await;
    engine.seal_for(&Caller::new(Credential::LocalOperator).unwrap()).await.unwrap();
    let guesses: Vec<_> = (0..5)
        .map(|_| {
            let engine = engine.clone();
            let bad = format!("krt_{}", "A".repeat(43));
            tokio::spawn(async move { engine.unseal_for(&caller_at(&at("192.0.2.7:1"), &bad)).await })
        })
        .collect();
    engine.unseal_for(&caller_at(&at("192.0.2.8:1"), &owner)).await.unwrap();
    assert!(engine.health().await.ready);
    for guess in guesses {
        // Before the right caller they are refused, after it there is nothing left to open.
        assert!(guess.await.unwrap().err().is_none_or(|error| error.code() == "unauthenticated"));
    }
}

/// A caller that hangs up at any moment leaves the store sealed or open, and never half way.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_given_up_goes_to_its_end_or_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let local = || Caller::new(Credential::LocalOperator).unwrap();
    let mut given_up = 0;
    for polls in 0..12 {
        engine.seal_for(&local()).await.unwrap();
        if crate::gone::give_up(polls, engine.unseal_for(&local())).await.is_none() {
            given_up += 1;
            engine.unseal_for(&local()).await.unwrap();
        }
        assert!(engine.health().await.ready);
    }
    assert!(given_up > 1, "{given_up}");
    assert_eq!(records_of(&engine, Action::SystemUnseal).len(), 12, "what is recorded as opened was opened");
}

/// Whoever seals and hangs up has sealed, or did not begin: the former store changes nothing beside the next one.
#[tokio::test(flavor = "multi_thread")]
async fn sealing_that_is_given_up_goes_to_its_end_or_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let local = || Caller::new(Credential::LocalOperator).unwrap();
    let rotate = || RotateKey { name: key_name(), reason: keyrail_core::rotation::RotationReason::Demand };
    let (mut given_up, mut sealed, mut rotated) = (0, 0, 0);
    for polls in 0..16 {
        // Somebody still works with the opened store, and there is something to flush.
        let held = engine.unsealed().unwrap();
        encrypt(&engine, "one").await;
        if crate::gone::give_up(polls, engine.seal_for(&local())).await.is_none() {
            given_up += 1;
        }
        engine.unseal_for(&local()).await.unwrap();
        let open = engine.unsealed().unwrap();
        if !Arc::ptr_eq(&held, &open) {
            sealed += 1;
            let late = held.execute(&local(), rotate()).await.unwrap_err();
            assert!(matches!(late.code(), "sealed" | "audit_unavailable"), "after {polls} polls: {}", late.code());
            assert!(held.execute(&local(), ShowKey { name: key_name() }).await.is_err(), "after {polls} polls");
        }
        open.execute(&local(), rotate()).await.unwrap();
        rotated += 1;
    }
    assert!(given_up > 1 && sealed > 3, "{given_up} given up, {sealed} sealed");
    assert_eq!(records_of(&engine, Action::SystemSeal).len(), sealed, "what is recorded as sealed was sealed");
    engine.close().await.unwrap();
    drop(engine);
    let engine = take_hold(dir.path(), &clock);
    engine.unseal().await.unwrap();
    assert_eq!(records_of(&engine, Action::KeyRotate).len(), rotated, "one journal, with every record once");
}

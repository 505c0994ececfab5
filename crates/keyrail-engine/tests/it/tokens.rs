//! Tokens: shown once, stored hashed, confined, over at once.

use keyrail_core::access::{Action, Role};
use keyrail_core::record::RecordKind;
use keyrail_core::token::TOKEN_TTL_SECONDS_MAX;
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::audit::ShowAudit;
use keyrail_engine::ops::data::Encrypt;
use keyrail_engine::ops::key::{CreateKey, RotateKey, ShowKey};
use keyrail_engine::ops::system::{SetLocalOperator, VerifyStore};
use keyrail_engine::ops::token::{CreateToken, ListTokens, RevokeToken};
use keyrail_engine::{Access, Caller, Credential, EngineError};
use keyrail_testkit::Search;

use crate::support::{TestClock, key_name, open, records_of, run, run_as, tick, token, with_key};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_and_lives_until_it_ends_or_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (id, text) = token(&engine, Role::Operator, None).await;
    assert!(text.starts_with("krt_") && text.len() == 47, "{}", text.len());
    let show = || ShowKey { name: key_name() };
    assert!(run_as(&engine, &text, show()).await.is_ok());
    clock.pass(3_599);
    assert!(run_as(&engine, &text, show()).await.is_ok());
    clock.pass(1);
    assert!(matches!(run_as(&engine, &text, show()).await, Err(EngineError::Unauthenticated)));

    let (second, text) = token(&engine, Role::Operator, None).await;
    assert!(run_as(&engine, &text, show()).await.is_ok());
    run(&engine, RevokeToken { id: second }).await.unwrap();
    assert!(matches!(run_as(&engine, &text, show()).await, Err(EngineError::Unauthenticated)));
    let listed = run(&engine, ListTokens).await.unwrap();
    assert!(listed.iter().any(|row| row.id == id) && listed.iter().any(|row| row.revoked_at.is_some()));
    engine.close().await.unwrap();
    let search = Search::new([("token", text.as_bytes())]).unwrap();
    assert_eq!(search.under(dir.path()).unwrap(), []);

    drop(engine);
    let engine = open(dir.path(), &clock, Access::Write).await;
    assert!(matches!(run_as(&engine, &text, show()).await, Err(EngineError::Unauthenticated)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_over_is_forgotten_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (ended, _) = token(&engine, Role::Auditor, None).await;
    let long = CreateToken { role: Role::Auditor, app: None, ttl_seconds: TOKEN_TTL_SECONDS_MAX };
    let (revoked, kept) = (run(&engine, long.clone()).await.unwrap(), run(&engine, long).await.unwrap());
    run(&engine, RevokeToken { id: revoked.view.id }).await.unwrap();
    let listed = async || -> Vec<_> { run(&engine, ListTokens).await.unwrap().iter().map(|row| row.id).collect() };
    for (days, forgotten) in [(29, false), (2, true)] {
        clock.pass(days * 24 * 60 * 60);
        tick(&engine, 6).await;
        let found = listed().await;
        for id in [ended, revoked.view.id] {
            assert_eq!(!found.contains(&id), forgotten);
        }
        assert!(found.contains(&kept.view.id));
    }
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_operator_stays_out_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, owner) = token(&engine, Role::Owner, None).await;
    run(&engine, SetLocalOperator { allowed: false }).await.unwrap();
    let show = || ShowKey { name: key_name() };
    assert!(matches!(run(&engine, show()).await, Err(EngineError::Refused { .. })));
    let recorded = records_of(&engine, Action::SystemUpdate);
    assert_eq!(recorded.last().unwrap().principal, "local-operator");
    engine.close().await.unwrap();
    drop(engine);
    let engine = open(dir.path(), &clock, Access::Write).await;
    assert!(matches!(run(&engine, show()).await, Err(EngineError::Refused { .. })));
    run_as(&engine, &owner, SetLocalOperator { allowed: true }).await.unwrap();
    run(&engine, show()).await.unwrap();
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_token_is_refused_alike() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, good) = token(&engine, Role::Owner, None).await;
    let (short, long) = (&good[..46], format!("{good}A"));
    let prefix = good.replace("krt_", "krs_");
    let huge = format!("krt_{}", "A".repeat(100_000));
    for bad in ["", "krt_", short, long.as_str(), prefix.as_str(), huge.as_str(), "\u{0}", &good.to_uppercase()] {
        let refused = run_as(&engine, bad, ShowKey { name: key_name() }).await.unwrap_err();
        assert_eq!((refused.code(), refused.to_string().as_str()), ("unauthenticated", "a valid token is needed"));
    }
    for ttl_seconds in [0, TOKEN_TTL_SECONDS_MAX + 1] {
        let made = run(&engine, CreateToken { role: Role::Owner, app: None, ttl_seconds }).await;
        assert_eq!(made.err().unwrap().code(), "invalid");
    }
    let made = run(&engine, CreateToken { role: Role::App, app: None, ttl_seconds: 60 }).await;
    assert_eq!(made.err().unwrap().code(), "invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_apps_key_and_an_absent_one_are_answered_alike() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    run(&engine, CreateApp { path: "acme/prod/shop".parse().unwrap() }).await.unwrap();
    let theirs: keyrail_core::name::KeyName = "acme/prod/shop/cards".parse().unwrap();
    run(&engine, CreateKey { name: theirs.clone(), label: "internal".parse().unwrap() }).await.unwrap();
    let (_, app) = token(&engine, Role::App, Some("acme/prod/crm")).await;
    let (_, operator) = token(&engine, Role::Operator, Some("acme/prod/crm")).await;
    let (other_token, _) = token(&engine, Role::App, Some("acme/prod/shop")).await;
    let absent: keyrail_core::name::KeyName = "acme/prod/shop/nothing".parse().unwrap();
    let said = |error: EngineError, name: &str| (error.code(), error.to_string().replace(name, "NAME"), error.hint());

    let mut answers = Vec::new();
    for name in [&theirs, &absent] {
        let encrypt = Encrypt { key: name.clone(), items: Vec::new() };
        answers.push([
            said(run_as(&engine, &app, ShowKey { name: name.clone() }).await.unwrap_err(), &name.to_string()),
            said(run_as(&engine, &app, encrypt).await.err().unwrap(), &name.to_string()),
            said(
                run_as(
                    &engine,
                    &operator,
                    RotateKey { name: name.clone(), reason: keyrail_core::rotation::RotationReason::Demand },
                )
                .await
                .unwrap_err(),
                &name.to_string(),
            ),
        ]);
    }
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0][0].0, "not_found");
    let nobody = keyrail_core::id::TokenId::from_bytes([9; 16]);
    let [hidden, missing] = [
        run_as(&engine, &operator, RevokeToken { id: other_token }).await.unwrap_err(),
        run_as(&engine, &operator, RevokeToken { id: nobody }).await.unwrap_err(),
    ];
    assert_eq!(said(hidden, &other_token.to_string()), said(missing, &nobody.to_string()));
    // What its own app has it may see, and what the service has it may not.
    assert!(run_as(&engine, &app, ShowKey { name: key_name() }).await.is_ok());
    assert_eq!(run_as(&engine, &app, VerifyStore).await.unwrap_err().code(), "refused");
    assert_eq!(run_as(&engine, &operator, ShowAudit { before: None, limit: 1 }).await.unwrap_err().code(), "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bad_tokens_fill_neither_log_nor_memory() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, good) = token(&engine, Role::Owner, None).await;
    let before = engine.unsealed().unwrap().log().size();
    let mut told_to_wait = 0;
    for number in 0..10_000_u32 {
        let bad = format!("krt_{number:043}");
        let refused = run_as(&engine, &bad, ShowKey { name: key_name() }).await.unwrap_err();
        told_to_wait += u32::from(refused.code() == "too_many_failures");
        if number % 1_000 == 0 {
            clock.pass(1);
            tick(&engine, 1).await;
        }
    }
    assert_eq!(told_to_wait, 10_000 - 11 * 100 + 99);
    assert!(run_as(&engine, &good, ShowKey { name: key_name() }).await.is_ok(), "the service is alive");
    clock.pass(10);
    tick(&engine, 1).await;
    let aggregates: Vec<_> =
        records_of(&engine, Action::SystemRead).into_iter().filter(|row| row.kind == RecordKind::Aggregate).collect();
    let counted: u64 = aggregates.iter().filter_map(|row| row.items).sum();
    assert_eq!(counted, 10_000);
    assert!(aggregates.len() <= 3, "{}", aggregates.len());
    assert!(engine.unsealed().unwrap().log().size() - before <= 5);
    assert!(engine.unsealed().unwrap().cached().tokens <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_outside_operations_is_recorded_too() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (id, app) = token(&engine, Role::App, Some("acme/prod/crm")).await;
    let caller = Caller::new(Credential::Token(&app)).unwrap();
    assert_eq!(engine.allow(&caller, Action::SystemRead).await.unwrap_err().code(), "refused");
    let record = records_of(&engine, Action::SystemRead).pop().unwrap();
    assert_eq!((record.session, record.code.as_deref()), (Some(id), Some("refused")));
}

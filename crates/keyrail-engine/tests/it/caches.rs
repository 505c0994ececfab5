//! Caches: bounded in time and number, and never of another opinion than the store.

use std::sync::Arc;

use keyrail_core::access::{Action, Decision, Resource, Role, decide};
use keyrail_core::name::AppPath;
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::data::Encrypt;
use keyrail_engine::ops::key::{CreateKey, ShowKey};
use keyrail_engine::ops::label::DemandsPatch;
use keyrail_engine::ops::token::RevokeToken;
use keyrail_engine::{Cached, Engine};
use keyrail_testkit::{scale, seeded};
use rand::RngExt;

use crate::support::{TestClock, decrypt, encrypt, key_name, rotate, run, run_as, set_label, tick, token, with_key};

#[tokio::test(flavor = "multi_thread")]
async fn key_material_leaves_memory_with_the_labels_cache_time() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "restricted").await;
    encrypt(&engine, "one").await;
    let open = engine.unsealed().unwrap();
    let key = open.key(&key_name()).await.unwrap().unwrap();
    let permit = key.keyring.versions[0].for_decrypt().unwrap();
    let material = Arc::downgrade(&open.material_to_decrypt(&key, &permit).await.unwrap());
    drop(key);
    assert_eq!(open.cached().keys, 1);
    assert!(material.upgrade().is_some());
    clock.pass(59);
    tick(&engine, 1).await;
    assert!(material.upgrade().is_some());
    clock.pass(1);
    tick(&engine, 1).await;
    assert_eq!(open.cached().keys, 0);
    assert!(material.upgrade().is_none(), "the last copy is wiped when it is dropped");
    clock.pass(300);
    tick(&engine, 1).await;
    assert_eq!(open.cached(), Cached::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_change_and_a_clock_set_by_hand_empty_the_caches() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, text) = token(&engine, Role::App, Some("acme/prod/crm")).await;
    let open = engine.unsealed().unwrap();
    let fill = || async { run_as(&engine, &text, ShowKey { name: key_name() }).await.unwrap() };
    fill().await;
    assert_eq!((open.cached().tokens, open.cached().decisions, open.cached().keys), (1, 1, 1));
    run(&engine, CreateApp { path: "acme/prod/other".parse().unwrap() }).await.unwrap();
    assert_eq!(open.cached(), Cached::default());
    fill().await;
    clock.jump(3_600);
    tick(&engine, 1).await;
    assert_eq!(open.cached(), Cached::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_time_of_zero_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    set_label(&engine, "internal", DemandsPatch { cache_seconds_max: Some(0), ..DemandsPatch::default() }).await;
    let (line, _) = encrypt(&engine, "one").await;
    assert_eq!(decrypt(&engine, &line).await.unwrap(), b"one");
    assert_eq!(engine.unsealed().unwrap().cached().keys, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_key_with_many_versions_few_are_kept_unwrapped() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let mut lines = vec![encrypt(&engine, "0").await.0];
    for number in 1..20 {
        rotate(&engine).await;
        lines.push(encrypt(&engine, &number.to_string()).await.0);
    }
    let open = engine.unsealed().unwrap();
    let key = open.key(&key_name()).await.unwrap().unwrap();
    let permit = key.keyring.versions[0].for_decrypt().unwrap();
    let first = Arc::downgrade(&open.material_to_decrypt(&key, &permit).await.unwrap());
    for (number, line) in lines.iter().enumerate().skip(1) {
        assert_eq!(decrypt(&engine, line).await.unwrap(), number.to_string().as_bytes());
    }
    assert!(first.upgrade().is_none());
    assert_eq!(decrypt(&engine, &lines[0]).await.unwrap(), b"0");
}

/// What the store and the pure function say, with no cache in between.
async fn uncached(engine: &Engine, id: keyrail_core::id::TokenId, action: Action, app: &AppPath) -> &'static str {
    let open = engine.unsealed().unwrap();
    let row = open.state().token(&id).await.unwrap().unwrap();
    let Ok(principal) = row.principal(open.now()) else { return "unauthenticated" };
    match decide(&principal, action, Resource::App(app)) {
        Decision::Allow { .. } => "allowed",
        Decision::Refuse { .. } => "refused",
        Decision::Hide { .. } => "not_found",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_decision_is_the_uncached_one_after_any_changes() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    run(&engine, CreateApp { path: "acme/prod/shop".parse().unwrap() }).await.unwrap();
    run(&engine, CreateKey { name: "acme/prod/shop/pii".parse().unwrap(), label: "internal".parse().unwrap() })
        .await
        .unwrap();
    let apps = ["acme/prod/crm", "acme/prod/shop"];
    let mut rng = seeded("a_cached_decision_is_the_uncached_one_after_any_changes");
    let mut tokens = vec![token(&engine, Role::App, Some(apps[0])).await];
    let mut kinds = std::collections::BTreeMap::<&str, u32>::new();
    for _ in 0..scale(4_000) {
        match rng.random_range(0..20_u32) {
            0 => {
                let role = Role::ALL[rng.random_range(0..Role::ALL.len())];
                let confined = role == Role::App || rng.random_bool(0.5);
                tokens.push(token(&engine, role, confined.then(|| apps[rng.random_range(0..2_usize)])).await);
            }
            1 => {
                let id = tokens[rng.random_range(0..tokens.len())].0;
                run(&engine, RevokeToken { id }).await.unwrap();
            }
            2 => clock.pass(rng.random_range(0..1_000)),
            3 => tick(&engine, 1).await,
            _ => {
                let (id, text) = &tokens[rng.random_range(0..tokens.len())];
                let app: AppPath = apps[rng.random_range(0..2_usize)].parse().unwrap();
                let name = format!("{app}/pii").parse().unwrap();
                let (action, got) = if rng.random_bool(0.5) {
                    let done = run_as(&engine, text, ShowKey { name }).await;
                    (Action::KeyRead, done.map(drop))
                } else {
                    let done = run_as(&engine, text, Encrypt { key: name, items: Vec::new() }).await;
                    (Action::DataEncrypt, done.map(drop))
                };
                let got = got.map_or_else(|error| error.code(), |()| "allowed");
                assert_eq!(got, uncached(&engine, *id, action, &app).await, "{action} {app}");
                let times = kinds.entry(got).or_default();
                *times += 1;
                // More than a hundred of them within a second would be refused before anybody looks at the token.
                if got == "unauthenticated" && times.is_multiple_of(50) {
                    clock.pass(2);
                }
            }
        }
    }
    assert_eq!(kinds.len(), 4, "each kind of answer came up: {kinds:?}");
}

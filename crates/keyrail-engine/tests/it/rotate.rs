//! Rotation without anybody asking, and what a change of label sets off.

use keyrail_core::access::{Action, Role};
use keyrail_core::record::Record;
use keyrail_core::rotation::RotationReason;
use keyrail_crypto::suite::Suite;
use keyrail_engine::EngineError;
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::key::{RelabelKey, RotateKey};
use keyrail_engine::ops::label::DemandsPatch;

use crate::support::{
    TestClock, decrypt, details, encrypt, key_name, records_of, rotate, run, run_as, set_label, show, tick, token,
    with_key,
};

fn reasons(records: &[Record]) -> Vec<&str> {
    records.iter().flat_map(|record| details(record, "reason")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_turns_when_it_was_used_as_often_as_its_label_allows() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    set_label(&engine, "internal", DemandsPatch { data_key_uses_max: Some(Some(5)), ..DemandsPatch::default() }).await;
    let mut lines = Vec::new();
    for text in ["a", "b", "c", "d"] {
        lines.push(encrypt(&engine, text).await.0);
    }
    tick(&engine, 10).await;
    assert_eq!(show(&engine).await.versions.len(), 1);
    lines.push(encrypt(&engine, "e").await.0);
    tick(&engine, 10).await;
    assert_eq!(show(&engine).await.versions.len(), 2);
    assert_eq!(reasons(&records_of(&engine, Action::KeyRotate)), ["uses"]);
    tick(&engine, 10).await;
    assert_eq!(show(&engine).await.versions.len(), 2, "a second sweep changes nothing");
    for (line, text) in lines.iter().zip(["a", "b", "c", "d", "e"]) {
        assert_eq!(decrypt(&engine, line).await.unwrap(), text.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_label_turns_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (first, _) = encrypt(&engine, "one").await;
    let patch = DemandsPatch { suite: Some(Suite::ChaCha20Poly1305), ..DemandsPatch::default() };
    set_label(&engine, "internal", patch).await;
    tick(&engine, 1).await;
    let view = show(&engine).await;
    assert_eq!(view.versions.last().unwrap().suite, Suite::ChaCha20Poly1305.as_str());
    clock.pass(100);
    set_label(
        &engine,
        "internal",
        DemandsPatch { data_key_age_seconds_max: Some(Some(60)), ..DemandsPatch::default() },
    )
    .await;
    tick(&engine, 1).await;
    assert_eq!(reasons(&records_of(&engine, Action::KeyRotate)), ["policy", "age"]);
    assert_eq!(decrypt(&engine, &first).await.unwrap(), b"one");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_label_makes_another_version() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let relabel = || RelabelKey { name: key_name(), label: "restricted".parse().unwrap() };
    let view = run(&engine, relabel()).await.unwrap();
    assert_eq!((view.label.as_str(), view.versions.len()), ("restricted", 2));
    assert_eq!(run(&engine, relabel()).await.unwrap().versions.len(), 2, "the same label changes nothing");
    let records = records_of(&engine, Action::KeyRelabel);
    assert_eq!(details(&records[0], "label"), ["restricted instead of internal"]);
    assert_eq!(reasons(&records), ["label"]);
    let absent = RelabelKey { name: key_name(), label: "nonesuch".parse().unwrap() };
    assert_eq!(run(&engine, absent).await.unwrap_err().code(), "not_found");
    // From now on the new label's demands count.
    clock.pass(30 * 86_400);
    tick(&engine, 10).await;
    assert_eq!(show(&engine).await.versions.len(), 3);
}

/// Who may give a key another label: to one that demands as much, and to one that demands less.
#[tokio::test(flavor = "multi_thread")]
async fn a_label_that_demands_less_is_for_an_owner_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "confidential").await;
    let no_wait = DemandsPatch { destroy_wait_seconds: Some(0), ..DemandsPatch::default() };
    set_label(&engine, "swift", no_wait).await;
    run(&engine, CreateApp { path: "acme/prod/other".parse().unwrap() }).await.unwrap();
    let relabel = |label: &str| RelabelKey { name: key_name(), label: label.parse().unwrap() };
    let code = |result: Result<_, EngineError>| result.err().map(|error| error.code());
    for (role, app, looser, stricter) in [
        (Role::App, Some("acme/prod/crm"), Some("refused"), Some("refused")),
        (Role::Auditor, None, Some("refused"), Some("refused")),
        (Role::Operator, Some("acme/prod/other"), Some("not_found"), Some("not_found")),
        (Role::Operator, None, Some("refused"), None),
        (Role::Owner, None, None, None),
    ] {
        run(&engine, relabel("confidential")).await.unwrap();
        let (_, text) = token(&engine, role, app).await;
        for label in ["internal", "public", "swift"] {
            assert_eq!(code(run_as(&engine, &text, relabel(label)).await), looser, "{role} to {label}");
            run(&engine, relabel("confidential")).await.unwrap();
        }
        assert_eq!(code(run_as(&engine, &text, relabel("restricted")).await), stricter, "{role}");
        if role == Role::Operator && app.is_none() {
            // Not by a detour, and the same label is none.
            assert_eq!(code(run_as(&engine, &text, relabel("confidential")).await), Some("refused"));
            assert_eq!(code(run_as(&engine, &text, relabel("restricted")).await), None);
        }
    }
    let records = records_of(&engine, Action::KeyRelabel);
    let told = |row: &&Record| row.reason.contains("demands less") && row.code.as_deref() == Some("refused");
    assert_eq!(records.iter().filter(told).count(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rotated_meanwhile_is_not_rotated_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "restricted").await;
    clock.pass(30 * 86_400);
    rotate(&engine).await;
    let late = RotateKey { name: key_name(), reason: RotationReason::Age };
    assert_eq!(run(&engine, late).await.unwrap().versions.len(), 2);
    assert_eq!(rotate(&engine).await.versions.len(), 3, "what somebody asks for is done");
}

//! Idempotency keys: a change is made once, and no secret is kept for a repetition.

use keyrail_core::access::{Action, Role};
use keyrail_core::id::RequestId;
use keyrail_core::rotation::RotationReason;
use keyrail_core::system::{IDEMPOTENCY_KEYS_MAX, IdempotencyEntry};
use keyrail_engine::ops::key::RotateKey;
use keyrail_engine::ops::token::CreateToken;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, Operation};
use keyrail_store::Change;
use keyrail_testkit::Search;

use crate::support::{TestClock, details, key_name, open, records_of, show, tick, with_key};

async fn once<Op: Operation>(engine: &Engine, key: &str, op: Op) -> Result<Op::Answer, EngineError> {
    let caller = Caller { idempotency_key: Some(key), ..Caller::new(Credential::LocalOperator).unwrap() };
    engine.execute(&caller, op).await
}

fn rotate() -> RotateKey {
    RotateKey { name: key_name(), reason: RotationReason::Demand }
}

fn new_token(ttl_seconds: u64) -> CreateToken {
    CreateToken { role: Role::Auditor, app: None, ttl_seconds }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_gets_the_first_answer_and_a_record_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let mut engine = with_key(dir.path(), &clock, "internal").await;
    let first = once(&engine, "k1", rotate()).await.unwrap();
    let before = records_of(&engine, Action::KeyRotate).len();
    let again = once(&engine, "k1", rotate()).await.unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), serde_json::to_string(&first).unwrap());
    let records = records_of(&engine, Action::KeyRotate);
    assert_eq!(records.len(), before + 1);
    assert_eq!(details(records.last().unwrap(), "repeats"), [records[before - 1].id.to_string()]);
    engine.close().await.unwrap();
    drop(engine);
    engine = open(dir.path(), &clock, Access::Write).await;
    assert_eq!(once(&engine, "k1", rotate()).await.unwrap().versions.len(), 2);
    assert_eq!(show(&engine).await.versions.len(), 2);

    let other = RotateKey { name: "acme/prod/crm/other".parse().unwrap(), reason: RotationReason::Demand };
    let refused = once(&engine, "k1", other).await.unwrap_err();
    assert_eq!(refused.code(), "idempotency_conflict");
    assert!(refused.to_string().contains("another request"), "{refused}");
    for (wrong, code) in [("", "invalid"), (&*"k".repeat(129), "too_large")] {
        assert_eq!(once(&engine, wrong, rotate()).await.unwrap_err().code(), code);
    }
    assert_eq!(show(&engine).await.versions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_the_same_time_make_one_change() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = std::sync::Arc::new(with_key(dir.path(), &clock, "internal").await);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { once(&engine, "same", rotate()).await.map(|view| view.versions.len()) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), 2);
    }
    assert_eq!(show(&engine).await.versions.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_answer_is_refused_on_repetition_and_stored_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let made = once(&engine, "secret", new_token(60)).await.unwrap();
    let refused = once(&engine, "secret", new_token(60)).await.err().unwrap();
    assert!(refused.to_string().contains("kept nowhere"), "{refused}");
    assert!(once(&engine, "secret", new_token(61)).await.err().unwrap().to_string().contains("another request"));
    engine.close().await.unwrap();
    let text = made.text.as_str();
    let search = Search::new([("token", text.as_bytes())]).unwrap();
    assert_eq!(search.under(dir.path()).unwrap(), []);
    std::fs::write(dir.path().join("planted"), text).unwrap();
    assert_eq!(search.under(dir.path()).unwrap().len(), 1, "the search finds what is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_forgotten_after_a_day_and_are_not_without_number() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    once(&engine, "k1", rotate()).await.unwrap();
    let unsealed = engine.unsealed().unwrap();
    let count = || async { unsealed.state().count::<IdempotencyEntry>(Vec::new()).await.unwrap() };
    assert_eq!(count().await, 1);
    let expires_at = unsealed.now().plus_seconds(86_400);
    for begin in (1..IDEMPOTENCY_KEYS_MAX).step_by(1_000) {
        let mut change = Change::new();
        for number in begin..(begin + 1_000).min(IDEMPOTENCY_KEYS_MAX) {
            let mut key_hash = [0; 32];
            key_hash[..8].copy_from_slice(&number.to_be_bytes());
            let request = RequestId::from_bytes([1; 16]);
            change.insert(&IdempotencyEntry {
                key_hash,
                request_sha256: [0; 32],
                answer: None,
                request,
                expires_at,
                generation: 1,
            });
        }
        unsealed.commit_unrecorded(change.unrecorded("a full table")).await.unwrap();
    }
    assert_eq!(count().await, IDEMPOTENCY_KEYS_MAX);
    assert_eq!(once(&engine, "one more", rotate()).await.unwrap_err().code(), "too_many");
    assert_eq!(once(&engine, "k1", rotate()).await.unwrap().versions.len(), 2, "what is known is answered");
    clock.pass(86_401);
    tick(&engine, 5).await;
    assert!(count().await < IDEMPOTENCY_KEYS_MAX);
    assert_eq!(once(&engine, "k1", rotate()).await.unwrap().versions.len(), 3, "what is over is a new request");
}

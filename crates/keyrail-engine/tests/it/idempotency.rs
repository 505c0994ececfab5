//! Idempotency keys: a change is made once, and no secret is kept for a repetition.

use keyrail_core::access::{Action, Role};
use keyrail_core::id::RequestId;
use keyrail_core::rotation::RotationReason;
use keyrail_core::system::{IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_KEYS_PER_PRINCIPAL_MAX, IdempotencyEntry};
use keyrail_core::time::Timestamp;
use keyrail_crypto::digest::sha256;
use keyrail_engine::ops::key::{RotateKey, SuspendVersion};
use keyrail_engine::ops::token::CreateToken;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, Operation, Unsealed};
use keyrail_store::Change;
use keyrail_testkit::Search;

use crate::support::{TestClock, details, key_name, open, records_of, show, tick, token, version, with_key};

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

/// Rows of others, as if they had asked for so many changes.
async fn fill(open: &std::sync::Arc<Unsealed>, principal: &str, count: u64, expires_at: Timestamp) {
    for begin in (0..count).step_by(1_000) {
        let mut change = Change::new();
        for number in begin..(begin + 1_000).min(count) {
            let key_hash = sha256(format!("{principal} {number}").as_bytes());
            let request = RequestId::from_bytes([1; 16]);
            let (request_sha256, principal) = ([0; 32], Some(principal.to_owned()));
            change.insert(&IdempotencyEntry {
                key_hash,
                request_sha256,
                answer: None,
                request,
                expires_at,
                generation: 1,
                principal,
            });
        }
        open.commit_unrecorded(change.unrecorded("a full table")).await.unwrap();
    }
}

async fn count(open: &Unsealed) -> u64 {
    open.state().count::<IdempotencyEntry>(Vec::new()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_forgotten_after_a_day_and_one_caller_has_not_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (_, operator) = token(&engine, Role::Operator, None).await;
    once(&engine, "k1", rotate()).await.unwrap();
    let open = engine.unsealed().unwrap();
    assert_eq!(count(&open).await, 1);
    let max = IDEMPOTENCY_KEYS_PER_PRINCIPAL_MAX;
    fill(&open, "local-operator", max - 1, open.now().plus_seconds(86_400)).await;
    assert_eq!(once(&engine, "one more", rotate()).await.unwrap_err().code(), "too_many");
    assert_eq!(once(&engine, "k1", rotate()).await.unwrap().versions.len(), 2, "what is known is answered");
    // Others are not shut out, and what keeps data safe is not refused to anybody.
    let other = Caller { idempotency_key: Some("k1"), ..Caller::new(Credential::Token(&operator)).unwrap() };
    assert_eq!(engine.execute(&other, rotate()).await.unwrap().versions.len(), 3);
    once(&engine, "stop", SuspendVersion { name: version(1) }).await.unwrap();
    assert_eq!(once(&engine, "still", rotate()).await.unwrap_err().code(), "too_many");
    clock.pass(86_401);
    tick(&engine, 25).await;
    assert!(count(&open).await < max);
    assert_eq!(once(&engine, "k1", rotate()).await.unwrap().versions.len(), 4, "what is over is a new request");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_full_table_the_key_that_is_over_next_gives_way() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let open = engine.unsealed().unwrap();
    let soon = open.now().plus_seconds(60);
    fill(&open, "token:first", 1, soon).await;
    fill(&open, "token:others", IDEMPOTENCY_KEYS_MAX - 1, soon.plus_seconds(60)).await;
    once(&engine, "k1", rotate()).await.unwrap();
    assert_eq!(count(&open).await, IDEMPOTENCY_KEYS_MAX);
    assert_eq!(open.state().count_idempotency_of("token:first").await.unwrap(), 0);
    assert_eq!(once(&engine, "k1", rotate()).await.unwrap().versions.len(), 2, "it is known");
}

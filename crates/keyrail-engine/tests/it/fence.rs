//! The fence: after a change of state returned, nothing under the former state gets its record any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use keyrail_core::access::Role;
use keyrail_core::id::RequestId;
use keyrail_engine::ops::data::{CiphertextItem, Decrypt, Encrypt, EncryptItem};
use keyrail_engine::ops::key::{CompromiseVersion, ResumeVersion, SuspendVersion};
use keyrail_engine::ops::retire::RetireVersion;
use keyrail_engine::ops::token::RevokeToken;
use keyrail_engine::{Caller, Credential, Engine, Operation};
use keyrail_testkit::scale;

use crate::support::{TestClock, context, encrypt, key_name, records, rotate, show, tick, token, version, with_key};

/// What a worker asks for, again and again.
#[derive(Clone)]
enum Work {
    Encrypt,
    Decrypt(String),
}

/// Items of one request: so many that there is time between the decision and the record.
const ITEMS: usize = 100;

/// Answers that were obtained: the request, and the version it was answered under.
type Answers = Vec<(RequestId, u32)>;

async fn ask(engine: &Engine, work: &Work, token: Option<&str>) -> Option<(RequestId, u32)> {
    let caller = Caller::new(token.map_or(Credential::LocalOperator, Credential::Token)).unwrap();
    let done = match work {
        Work::Encrypt => {
            let item = || Ok(EncryptItem { plaintext: b"in flight".to_vec().into(), context: context() });
            let op = Encrypt { key: key_name(), items: (0..ITEMS).map(|_| item()).collect() };
            engine.execute(&caller, op).await.ok()?.remove(0).ok()?.version
        }
        Work::Decrypt(ciphertext) => {
            let item = || Ok(CiphertextItem { ciphertext: ciphertext.clone(), context: context() });
            let op = Decrypt { key: key_name(), items: (0..ITEMS).map(|_| item()).collect() };
            engine.execute(&caller, op).await.ok()?.remove(0).ok()?.version
        }
    };
    Some((caller.request, done.get()))
}

/// Starts workers that ask until they were refused, or answered under another version than `under`.
fn start(
    engine: &Arc<Engine>,
    work: &[Work],
    token: Option<&str>,
    under: u32,
    busy: &Arc<AtomicUsize>,
) -> Vec<tokio::task::JoinHandle<Answers>> {
    let spawn = |work: &Work| {
        let (engine, work, token, busy) = (engine.clone(), work.clone(), token.map(str::to_owned), busy.clone());
        tokio::spawn(async move {
            let mut answers = Answers::new();
            while let Some(answer) = ask(&engine, &work, token.as_deref()).await {
                answers.push(answer);
                busy.fetch_add(1, Ordering::Relaxed);
                if answer.1 != under {
                    break;
                }
            }
            answers
        })
    };
    work.iter().map(spawn).collect()
}

/// Changes the state while workers are busy, and checks the log: every answer under the former state stands before
/// the record of the change.
async fn change_under_load<Op: Operation>(
    engine: &Arc<Engine>,
    work: &[Work],
    token: Option<&str>,
    under: u32,
    change: Op,
) -> usize {
    let busy = Arc::new(AtomicUsize::new(0));
    let workers = start(engine, work, token, under, &busy);
    while busy.load(Ordering::Relaxed) < 3 * work.len() {
        tokio::task::yield_now().await;
    }
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    engine.execute(&caller, change).await.unwrap();
    for kind in work {
        let late = ask(engine, kind, token).await;
        assert!(late.is_none_or(|(_, version)| version != under), "asked for after it returned");
    }
    let mut answers = Answers::new();
    for worker in workers {
        answers.extend(worker.await.unwrap());
    }
    let indices: HashMap<RequestId, u64> =
        records(engine).into_iter().map(|(index, record)| (record.id, index)).collect();
    let changed_at = indices[&caller.request];
    let former: Vec<_> = answers.iter().filter(|(_, version)| *version == under).collect();
    for (request, _) in &former {
        let index = indices.get(request).expect("an answer without a record");
        assert!(*index < changed_at, "an answer under the former state at {index}, after the change at {changed_at}");
    }
    former.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_answer_under_the_former_state_has_a_later_record() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = Arc::new(with_key(dir.path(), &clock, "internal").await);
    let mut answers = 0;
    for _ in 0..scale(200) {
        let (ciphertext, active) = encrypt(&engine, "data").await;
        let both = [Work::Encrypt, Work::Decrypt(ciphertext.clone()), Work::Encrypt, Work::Decrypt(ciphertext.clone())];
        answers += change_under_load(&engine, &both, None, active, SuspendVersion { name: version(active) }).await;
        engine
            .execute(&Caller::new(Credential::LocalOperator).unwrap(), ResumeVersion { name: version(active) })
            .await
            .unwrap();

        let (id, text) = token(&engine, Role::App, Some("acme/prod/crm")).await;
        answers += change_under_load(&engine, &both, Some(&text), active, RevokeToken { id }).await;

        rotate(&engine).await;
        clock.pass(61);
        let decrypts = [both[1].clone(), both[3].clone()];
        let retire = RetireVersion { name: version(active), acknowledged: acknowledged(&engine, active).await };
        answers += change_under_load(&engine, &decrypts, None, active, retire).await;

        let (_, active) = encrypt(&engine, "data").await;
        let encrypts = [Work::Encrypt, Work::Encrypt];
        answers +=
            change_under_load(&engine, &encrypts, None, active, CompromiseVersion { name: version(active) }).await;
        tick(&engine, 5).await;
    }
    assert!(answers >= scale(200) * 36, "{answers}");
    assert!(show(&engine).await.versions.len() > 2);
}

async fn acknowledged(engine: &Engine, number: u32) -> Vec<String> {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let shown = keyrail_engine::ops::retire::ShowEvidence { name: version(number) };
    let evidence = engine.execute(&caller, shown).await.unwrap();
    evidence.outside.into_iter().map(|row| row.principal).collect()
}

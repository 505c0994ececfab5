//! Callers that go away in the middle of a change: what was committed is fenced and recorded all the same.

use std::pin::Pin;
use std::task::{Context, Poll};

use keyrail_core::access::{Action, Role};
use keyrail_core::record::Outcome;
use keyrail_core::rotation::RotationReason;
use keyrail_engine::ops::key::{KeyView, RotateKey};
use keyrail_engine::ops::token::RevokeToken;
use keyrail_engine::{Caller, Credential, Engine};

use crate::support::{TestClock, encrypt, key_name, records_of, rotate, run, run_as, show, token, with_key};

/// How many times a request is polled before its caller is gone; more than a change ever needs.
const POLLS_MAX: usize = 24;

/// A future that is given up after so many polls.
struct GivenUp<F> {
    work: Pin<Box<F>>,
    polls_left: usize,
}

impl<F: Future> Future for GivenUp<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left == 0 {
            return Poll::Ready(None);
        }
        self.polls_left -= 1;
        self.work.as_mut().poll(context).map(Some)
    }
}

pub(crate) async fn give_up<F: Future>(polls: usize, work: F) -> Option<F::Output> {
    GivenUp { work: Box::pin(work), polls_left: polls }.await
}

async fn rotate_and_go(engine: &Engine, polls: usize) -> Option<KeyView> {
    let caller = Caller::new(Credential::LocalOperator).unwrap();
    let op = RotateKey { name: key_name(), reason: RotationReason::Demand };
    give_up(polls, engine.execute(&caller, op)).await.map(Result::unwrap)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_is_gone_is_whole_or_did_not_happen() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = with_key(dir.path(), &clock, "internal").await;
    let (mut gone, mut answered) = (0, 0);
    for polls in 0..POLLS_MAX {
        let before = show(&engine).await.versions.len();
        match rotate_and_go(&engine, polls).await {
            None => gone += 1,
            Some(_) => answered += 1,
        }
        // The next change begins from whatever is stored, and is answered.
        let after = rotate(&engine).await.versions.len();
        assert!(after == before + 1 || after == before + 2, "after {polls} polls: {before}, then {after}");
        assert_eq!(encrypt(&engine, "now").await.1 as usize, after, "the newest version encrypts, not a cached one");
    }
    assert!(gone >= 3 && answered > 0, "{gone} gone, {answered} answered");
    let versions = show(&engine).await.versions.len();
    let done = records_of(&engine, Action::KeyRotate).into_iter().filter(|row| row.outcome == Outcome::Done).count();
    assert_eq!(done, versions - 1, "every rotation has its record, once");
    engine.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_revoker_is_gone_is_revoked_or_not_and_never_half() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), TestClock::new());
    let engine = with_key(dir.path(), &clock, "internal").await;
    for polls in 0..POLLS_MAX {
        let (id, text) = token(&engine, Role::Auditor, None).await;
        let look = || keyrail_engine::ops::key::ShowKey { name: key_name() };
        run_as(&engine, &text, look()).await.unwrap();
        let caller = Caller::new(Credential::LocalOperator).unwrap();
        let _answer = give_up(polls, engine.execute(&caller, RevokeToken { id })).await;
        // A change waits for the one before it: after this one the fate of the first is settled.
        rotate(&engine).await;
        let revoked = records_of(&engine, Action::TokenRevoke)
            .into_iter()
            .any(|row| row.id == caller.request && row.outcome == Outcome::Done);
        assert_eq!(run_as(&engine, &text, look()).await.is_err(), revoked, "after {polls} polls");
    }
    run(&engine, keyrail_engine::ops::key::ShowKey { name: key_name() }).await.unwrap();
    engine.close().await.unwrap();
}

//! The pipeline: authenticate → load → authorize → act → record (durable) → answer.

use std::sync::Arc;

use keyrail_audit::{AppendError, BODY_LEN_MAX, Position};
use keyrail_core::access::{Action, Principal};
use keyrail_core::fence::Epoch;
use keyrail_core::id::RequestId;
use keyrail_core::name::AppPath;
use keyrail_core::record::{Detail, Outcome, RECORD_FORMAT, Record, RecordDecision, RecordKind, VersionUse};
use keyrail_core::time::Timestamp;
use keyrail_store::Change;
use tokio::time::Instant;

use crate::authenticate::authenticate;
use crate::authorize::{Authorized, authorize};
use crate::error::{EngineError, Fault};
use crate::idempotency;
use crate::kept::Kept;
use crate::parallel::SPREAD_ITEMS_MIN;
use crate::request::Caller;
use crate::unsealed::Unsealed;
use crate::usage::Fresh;

/// How often an operation begins anew because the state changed under it.
pub(crate) const ATTEMPTS_MAX: usize = 8;

/// A typed request. `load` reads, `act` decides and transforms; neither writes, so both may run again.
pub trait Operation: Send + Sync + Sized {
    /// What policy is asked for, and the operation's name in the log.
    const ACTION: Action;
    /// What a repetition under the same idempotency key gets.
    const REPLAY: Replay = Replay::Never;
    /// Whether what was decided before its change is void. Not for a change that no decision depends on: the rows that it
    /// touches are told apart by their generations.
    const FENCES: bool = true;
    /// What `load` found.
    type Loaded: Send;
    /// What the caller gets.
    type Answer: Send;

    /// Reads what the operation needs. Finding nothing is often not an error yet: the policy step decides
    /// first whether the caller may know.
    fn load(&self, open: &Arc<Unsealed>) -> impl Future<Output = Result<Self::Loaded, EngineError>> + Send;

    /// What the operation is about, for policy and the record.
    fn target(&self, loaded: &Self::Loaded) -> Target;

    /// What the caller must be allowed to do besides [`Operation::ACTION`], depending on what was found.
    fn further(&self, _loaded: &Self::Loaded) -> Option<Further> {
        None
    }

    /// Carries the operation out, as far as possible without writing: the change is committed with its record.
    fn act(
        authorized: &Authorized<Self>,
        loaded: Self::Loaded,
        cx: &Context<'_>,
    ) -> impl Future<Output = Result<Acted<Self::Answer>, EngineError>> + Send;

    /// The parameters as text, for telling two requests under one idempotency key apart.
    fn fingerprint(&self) -> String {
        String::new()
    }

    /// The answer as bytes, if it may be kept for a repetition.
    fn encode_answer(_answer: &Self::Answer) -> Option<Vec<u8>> {
        None
    }

    /// The answer from kept bytes.
    fn decode_answer(_bytes: &[u8]) -> Option<Self::Answer> {
        None
    }
}

/// What a repetition under the same idempotency key gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Replay {
    /// Idempotency keys do not apply.
    Never,
    /// The first answer again.
    Answer,
    /// A refusal: the first answer held a secret, which is kept nowhere.
    SecretAnswer,
}

/// Declares that an operation's answer may be kept for repetitions, as JSON.
#[macro_export]
macro_rules! replay_answer {
    () => {
        const REPLAY: $crate::Replay = $crate::Replay::Answer;

        fn encode_answer(answer: &Self::Answer) -> Option<Vec<u8>> {
            serde_json::to_vec(answer).ok()
        }

        fn decode_answer(bytes: &[u8]) -> Option<Self::Answer> {
            serde_json::from_slice(bytes).ok()
        }

        fn fingerprint(&self) -> String {
            format!("{self:?}")
        }
    };
}
pub(crate) use crate::replay_answer;

/// Another action that an operation amounts to.
#[derive(Clone, Copy, Debug)]
pub struct Further {
    /// The action.
    pub action: Action,
    /// Why it is asked for, for whoever may not do it.
    pub because: &'static str,
}

/// What an operation is about.
#[derive(Clone, Debug)]
pub struct Target {
    /// What kind of thing, for the error when it is hidden.
    pub what: &'static str,
    /// Its name, in the record.
    pub name: Option<String>,
    /// Whose it is.
    pub scope: Scope,
}

/// Whose the target of an operation is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// The whole service's, and everybody may know that it exists.
    Service,
    /// One app's.
    App(AppPath),
    /// Not there, or of no app: whoever is confined to an app may not learn which.
    Elsewhere,
}

impl Scope {
    /// The app's if there is one, else [`Scope::Elsewhere`].
    pub fn of_app_or_elsewhere(app: Option<AppPath>) -> Self {
        app.map_or(Self::Elsewhere, Self::App)
    }
}

impl Target {
    /// Something of the whole service.
    pub fn service(what: &'static str, name: impl Into<Option<String>>) -> Self {
        Self { what, name: name.into(), scope: Scope::Service }
    }

    /// Something of one app.
    pub fn of_app(what: &'static str, name: String, app: AppPath) -> Self {
        Self { what, name: Some(name), scope: Scope::App(app) }
    }
}

/// What `act` works with.
pub struct Context<'a> {
    /// The opened store, log and keys.
    pub open: &'a Arc<Unsealed>,
    /// When the request was decided.
    pub now: Timestamp,
    /// The generation of the state it was decided under.
    pub generation: u64,
    /// The generation that a changed thing must still have.
    pub if_match: Option<u64>,
    /// What a former attempt of the same request found out.
    pub(crate) kept: &'a Kept,
}

impl Context<'_> {
    /// Refuses a change of a thing that is not what the caller has seen.
    ///
    /// # Errors
    /// [`EngineError::Changed`].
    pub fn check_match(&self, found: u64) -> Result<(), EngineError> {
        match self.if_match {
            Some(expected) if expected != found => Err(EngineError::Changed { expected, found }),
            _ => Ok(()),
        }
    }
}

/// What `act` hands to the record step.
pub struct Acted<A> {
    pub(crate) answer: A,
    pub(crate) change: Option<Change>,
    pub(crate) versions: Vec<VersionUse>,
    pub(crate) asset: Option<String>,
    pub(crate) items: Option<u64>,
    pub(crate) failed: Option<u64>,
    pub(crate) detail: Vec<Detail>,
}

impl<A> Acted<A> {
    /// An answer without a change.
    pub fn new(answer: A) -> Self {
        Self { answer, change: None, versions: Vec::new(), asset: None, items: None, failed: None, detail: Vec::new() }
    }

    /// The rows to commit with the record.
    #[must_use]
    pub fn change(mut self, change: Change) -> Self {
        self.change = Some(change);
        self
    }

    /// A key version that was touched, with the number of items.
    #[must_use]
    pub fn version(mut self, version: VersionUse) -> Self {
        self.versions.push(version);
        self
    }

    /// Key versions that were touched.
    #[must_use]
    pub fn versions(mut self, versions: impl IntoIterator<Item = VersionUse>) -> Self {
        self.versions.extend(versions);
        self
    }

    /// The asset that accounts for the use.
    #[must_use]
    pub fn asset(mut self, name: impl ToString) -> Self {
        self.asset = Some(name.to_string());
        self
    }

    /// The size of a batch, and how many of it failed.
    #[must_use]
    pub fn batch(mut self, items: usize, failed: usize) -> Self {
        self.items = Some(items as u64);
        self.failed = (failed > 0).then_some(failed as u64);
        self
    }

    /// The same with another answer.
    pub(crate) fn map<B>(self, to: impl FnOnce(A) -> B) -> Acted<B> {
        Acted {
            answer: to(self.answer),
            change: self.change,
            versions: self.versions,
            asset: self.asset,
            items: self.items,
            failed: self.failed,
            detail: self.detail,
        }
    }

    /// Tells the record what was done; gives the answer, and the rows to commit with it.
    fn told_in(self, record: &mut Record) -> (A, Option<Change>) {
        record.versions = self.versions;
        record.asset = self.asset;
        record.items = self.items;
        record.failed = self.failed;
        record.detail = self.detail;
        (self.answer, self.change)
    }

    /// One more fact for the record; never data.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl ToString) -> Self {
        self.detail.push(Detail { name: name.to_owned(), value: value.to_string() });
        self
    }
}

enum Attempt<A> {
    Ended(Result<A, EngineError>),
    /// The state changed between decision and record: nothing happened, begin anew.
    Fenced,
}

// What a request needs while it waits for its record is what a server holds once per caller that waits, and goes to and
// from the processor's caches each time. So an operation is handed on by reference, and what is rare has a place of its
// own (`Box::pin`) instead of room in every request.

/// Runs one operation through the pipeline.
pub(crate) fn execute<'a, Op: Operation + 'a>(
    open: &'a Arc<Unsealed>,
    caller: &'a Caller<'_>,
    op: Op,
) -> impl Future<Output = Result<Op::Answer, EngineError>> + Send + 'a {
    execute_since(open, caller, op, Instant::now())
}

/// [`execute`] as a part of work that began at `began`: what may be waited for is counted from then.
pub(crate) async fn execute_since<Op: Operation>(
    open: &Arc<Unsealed>,
    caller: &Caller<'_>,
    op: Op,
    began: Instant,
) -> Result<Op::Answer, EngineError> {
    let (kept, mut op) = (Kept::since(began), Some(op));
    for _ in 0..ATTEMPTS_MAX {
        if let Attempt::Ended(result) = attempt(open, caller, &mut op, &kept).await {
            open.metrics().count_operation(Op::ACTION, result.as_ref().err());
            return result;
        }
    }
    Err(EngineError::Contended)
}

/// Takes the operation out of its place and, if another attempt is needed, puts it back.
async fn attempt<Op: Operation>(
    open: &Arc<Unsealed>,
    caller: &Caller<'_>,
    place: &mut Option<Op>,
    kept: &Kept,
) -> Attempt<Op::Answer> {
    let Some(op) = place else { return Attempt::Ended(Err(EngineError::Bug { what: "an operation is gone" })) };
    // In this order: no fence between the two can be taken for the one of this change.
    let generation = match open.present() {
        Ok(generation) => generation,
        Err(error) => return Attempt::Ended(Err(error)),
    };
    let cx = Context { open, now: open.now(), generation, if_match: caller.if_match, kept };
    let principal = match authenticate(open, caller.credential, cx.now).await {
        Ok(principal) => principal,
        Err(error) => return Attempt::Ended(Err(open.refusals().note(error, caller.origin, cx.now))),
    };
    let loaded = match op.load(open).await {
        Ok(loaded) => loaded,
        Err(error) => {
            let mut record = record_of(Op::ACTION, caller, &cx, &principal, "the state could not be read", None);
            record.decision = RecordDecision::Refuse;
            return Attempt::Ended(Err(Box::pin(fail(open, record, error, cx.generation)).await));
        }
    };
    let (authorized, record) = match decide(place, principal, &loaded, &cx, caller) {
        Ok(decided) => decided,
        Err((error, record)) => {
            return Attempt::Ended(Err(Box::pin(fail(open, record, error, cx.generation)).await));
        }
    };
    let attempted = act_and_record(&authorized, loaded, &cx, caller, record).await;
    if matches!(attempted, Attempt::Fenced) {
        *place = Some(authorized.into_op());
    }
    attempted
}

/// The policy step, and the record as far as it is known then.
#[expect(clippy::type_complexity, reason = "what was decided, or why not, each with its record")]
fn decide<Op: Operation>(
    place: &mut Option<Op>,
    principal: Principal,
    loaded: &Op::Loaded,
    cx: &Context<'_>,
    caller: &Caller<'_>,
) -> Result<(Authorized<Op>, Box<Record>), (EngineError, Box<Record>)> {
    let target = place.as_ref().map(|op| (op.target(loaded), op.further(loaded)));
    let name = target.as_ref().and_then(|(target, _)| target.name.clone());
    let mut record = record_of(Op::ACTION, caller, cx, &principal, "", name);
    tracing::trace!(action = %Op::ACTION, principal = %record.principal, resource = record.resource, request = %record.id, "deciding");
    let Some((op, (target, further))) = place.take().zip(target) else {
        return Err((EngineError::Bug { what: "an operation is gone" }, record));
    };
    match authorize(cx.open, op, principal, target, further, cx.now) {
        Ok(authorized) => {
            record.reason = authorized.reason().to_owned();
            Ok((authorized, record))
        }
        Err(refusal) => {
            record.reason = refusal.reason.to_owned();
            record.decision = RecordDecision::Refuse;
            Err((refusal.error, record))
        }
    }
}

async fn act_and_record<Op: Operation>(
    authorized: &Authorized<Op>,
    loaded: Op::Loaded,
    cx: &Context<'_>,
    caller: &Caller<'_>,
    mut record: Box<Record>,
) -> Attempt<Op::Answer> {
    let ticket = match caller.idempotency_key.filter(|_| Op::REPLAY != Replay::Never) {
        None => None,
        Some(key) => match Box::pin(idempotency::look_up::<Op>(cx, caller, key, authorized)).await {
            Ok(idempotency::Found::Answer { answer, first }) => {
                return Box::pin(answer_again(answer, first, cx, record)).await;
            }
            Ok(idempotency::Found::Fresh(ticket)) => Some(ticket),
            Err(error) => return Attempt::Ended(Err(Box::pin(fail(cx.open, record, error, cx.generation)).await)),
        },
    };
    let acted = match Op::act(authorized, loaded, cx).await {
        Ok(acted) => acted,
        Err(error) => return Attempt::Ended(Err(Box::pin(fail(cx.open, record, error, cx.generation)).await)),
    };
    let (answer, change) = acted.told_in(&mut record);
    match change {
        None => append_last(answer, cx, record).await,
        Some(change) => Box::pin(commit::<Op>(answer, change, ticket, cx, record)).await,
    }
}

/// Commits the change with its record.
async fn commit<Op: Operation>(
    answer: Op::Answer,
    mut change: Change,
    ticket: Option<Box<idempotency::Ticket>>,
    cx: &Context<'_>,
    record: Box<Record>,
) -> Attempt<Op::Answer> {
    if let Some(ticket) = ticket {
        ticket.remember(&mut change, Op::encode_answer(&answer));
    }
    match cx.open.commit_as(change, &record, cx.generation, Op::FENCES).await {
        Ok(()) => Attempt::Ended(Ok(answer)),
        Err(CommitError::Fenced) => Attempt::Fenced,
        Err(CommitError::Failed(error)) => Attempt::Ended(Err(fail(cx.open, record, error, cx.generation).await)),
    }
}

/// Makes the record of an operation without a change durable: the last thing before its answer leaves.
async fn append_last<A>(answer: A, cx: &Context<'_>, record: Box<Record>) -> Attempt<A> {
    let written = written(&record);
    // What is written need not wait for the disk.
    drop(record);
    let appended = match written {
        Ok(written) => append_written(cx.open, written, cx.generation).await,
        Err(error) => Err(error),
    };
    match appended {
        Ok(()) => Attempt::Ended(Ok(answer)),
        Err(AppendError::Fenced) => Attempt::Fenced,
        Err(error) => Attempt::Ended(Err(EngineError::AuditUnavailable(error))),
    }
}

/// An answer that was given before leaves like any other: with its own record, and under the present state.
async fn answer_again<A>(answer: A, first: RequestId, cx: &Context<'_>, mut record: Box<Record>) -> Attempt<A> {
    record.detail = vec![Detail { name: "repeats".to_owned(), value: first.to_string() }];
    append_last(answer, cx, record).await
}

/// Why a change was not committed.
pub(crate) enum CommitError {
    /// The state changed since the operation was decided.
    Fenced,
    /// Something failed.
    Failed(EngineError),
}

/// The record of an operation, as far as it is known when it begins. It goes through every step of the pipeline, so
/// it is passed on by its address.
pub(crate) fn record_of(
    action: Action,
    caller: &Caller<'_>,
    cx: &Context<'_>,
    principal: &Principal,
    reason: &str,
    resource: Option<String>,
) -> Box<Record> {
    Box::new(Record {
        v: RECORD_FORMAT,
        id: caller.request,
        time: cx.now,
        kind: RecordKind::Operation,
        principal: principal.label(),
        session: principal.token,
        action,
        resource,
        versions: Vec::new(),
        asset: None,
        origin: caller.origin.bounded(),
        decision: RecordDecision::Allow,
        reason: reason.to_owned(),
        outcome: Outcome::Done,
        code: None,
        items: None,
        failed: None,
        detail: Vec::new(),
        state: None,
    })
}

/// Records a refusal or failure, and gives the error back. What stands in the log is the code, not the text.
pub(crate) async fn fail(
    open: &Arc<Unsealed>,
    mut record: Box<Record>,
    error: EngineError,
    generation: u64,
) -> EngineError {
    // The change may be made: the record under this request id is the one in the outbox, or none.
    if matches!(error, EngineError::Indeterminate) {
        return error;
    }
    let outcome = match error.fault() {
        Fault::Absent | Fault::Policy | Fault::Unauthenticated | Fault::Conflict | Fault::Caller => Outcome::Refused,
        Fault::Bug | Fault::Dependency | Fault::Load | Fault::StoredData => Outcome::Failed,
    };
    record.outcome = outcome;
    record.code = Some(error.code().to_owned());
    record.versions.clear();
    if matches!(error, EngineError::AuditUnavailable(AppendError::TooLong { .. })) {
        // What it lists is what the log did not take.
        record.detail.clear();
    }
    // A refusal holds under any state, so it is recorded under the newest.
    match append(open, &record, generation.max(open.generation())).await {
        Ok(()) => error,
        Err(AppendError::Fenced) => match append(open, &record, open.generation()).await {
            Ok(()) => error,
            Err(failure) => unrecorded(open, failure),
        },
        Err(failure) => unrecorded(open, failure),
    }
}

/// The log of a store that was sealed meanwhile takes no record; that is the state to tell.
fn unrecorded(open: &Unsealed, failure: AppendError) -> EngineError {
    open.still_open().err().unwrap_or(EngineError::AuditUnavailable(failure))
}

/// Makes a record durable, on condition that the state is still of `generation`.
pub(crate) async fn append(open: &Unsealed, record: &Record, generation: u64) -> Result<(), AppendError> {
    append_written(open, written(record)?, generation).await
}

/// [`append`] from a thread that does not tell the log when it rests.
pub(crate) async fn append_at_once(open: &Unsealed, record: &Record, generation: u64) -> Result<(), AppendError> {
    append_written(open, Written { at_once: true, ..written(record)? }, generation).await
}

/// A record as it goes into the log, with what is noted of it.
struct Written {
    body: Vec<u8>,
    noted: Option<Fresh>,
    must_get_through: bool,
    /// Whether it waits for no others: a long batch ends on a thread that is none of those that tell when they rest.
    at_once: bool,
}

fn written(record: &Record) -> Result<Written, AppendError> {
    Ok(Written {
        body: encode(record)?,
        noted: Fresh::of(record),
        // Whoever is refused, again and again, uses up nothing of the reserve.
        must_get_through: (record.action.keeps_safe() && record.outcome == Outcome::Done)
            || record.kind == RecordKind::Alarm,
        at_once: record.items.is_some_and(|items| items >= SPREAD_ITEMS_MIN as u64),
    })
}

async fn append_written(open: &Unsealed, written: Written, generation: u64) -> Result<(), AppendError> {
    let Written { body, noted, must_get_through, at_once } = written;
    let appended = if must_get_through {
        open.log().append_reserved(body, Epoch(generation)).await?
    } else if at_once {
        open.log().append_at_once(body, Epoch(generation)).await?
    } else {
        open.log().append(body, Epoch(generation)).await?
    };
    if let Some(Position { index }) = appended {
        open.told_other(index);
        if let Some(noted) = noted {
            open.usage().note(index, noted);
        }
    }
    Ok(())
}

/// A record that the log would not take is refused here, before the change that it tells of is made: that change would
/// wait for its record for ever, and all others for it.
pub(crate) fn encode(record: &Record) -> Result<Vec<u8>, AppendError> {
    let mut body = Vec::with_capacity(RECORD_LEN_USUAL);
    match record.write_json(&mut body) {
        Ok(()) if body.len() > BODY_LEN_MAX => Err(AppendError::TooLong { max: BODY_LEN_MAX }),
        Ok(()) => Ok(body),
        // Strings and numbers always serialize; refusing keeps "no answer without a record" true regardless.
        Err(_) => Err(AppendError::Indeterminate),
    }
}

/// The usual length of a record's body, in bytes.
const RECORD_LEN_USUAL: usize = 512;

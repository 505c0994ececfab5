//! Idempotency keys: a change that is asked for twice under one key is made once.

use keyrail_core::id::RequestId;
use keyrail_core::system::{
    IDEMPOTENCY_ANSWER_LEN_MAX, IDEMPOTENCY_KEYS_MAX, IDEMPOTENCY_KEYS_PER_PRINCIPAL_MAX, IDEMPOTENCY_SECONDS,
    IdempotencyEntry,
};
use keyrail_crypto::digest::sha256;
use keyrail_store::Change;

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::pipeline::{Context, Operation, Replay};
use crate::request::Caller;
use crate::unsealed::Unsealed;

/// The longest idempotency key, in bytes.
pub(crate) const IDEMPOTENCY_KEY_LEN_MAX: usize = 128;

/// What is known under an idempotency key.
pub(crate) enum Found<A> {
    /// The answer that was given first.
    Answer {
        /// It.
        answer: A,
        /// The request that got it.
        first: RequestId,
    },
    /// Nothing yet; the ticket goes into the change.
    Fresh(Box<Ticket>),
}

/// The row to write with the change.
pub(crate) struct Ticket {
    entry: IdempotencyEntry,
    /// Another row that is deleted to make room.
    gives_way: Option<Box<IdempotencyEntry>>,
    replay: Replay,
}

/// Looks the caller's idempotency key up, for an operation that knows such keys.
pub(crate) async fn look_up<Op: Operation>(
    cx: &Context<'_>,
    caller: &Caller<'_>,
    key: &str,
    authorized: &Authorized<Op>,
) -> Result<Found<Op::Answer>, EngineError> {
    if key.is_empty() {
        return Err(EngineError::Invalid {
            problem: "the idempotency key is empty".to_owned(),
            hint: "send a text of your own choice, a new one for every change",
        });
    }
    if key.len() > IDEMPOTENCY_KEY_LEN_MAX {
        return Err(EngineError::TooLarge {
            what: "the idempotency key",
            unit: "bytes",
            len: key.len(),
            max: IDEMPOTENCY_KEY_LEN_MAX,
        });
    }
    let key_hash = cx.open.idempotency_hash(&authorized.principal().label(), key);
    let request_sha256 = sha256(format!("{}\n{}", Op::ACTION, authorized.op().fingerprint()).as_bytes());
    let principal = authorized.principal().label();
    let (former, gives_way) = match cx.open.state().idempotency_entry(&key_hash).await? {
        Some(entry) if entry.expires_at > cx.now => return repeat::<Op>(&entry, &request_sha256),
        Some(entry) => (Some(entry), None),
        None => (None, make_room(cx.open, &principal, Op::ACTION.keeps_safe()).await?),
    };
    let entry = IdempotencyEntry {
        key_hash,
        request_sha256,
        answer: None,
        request: caller.request,
        expires_at: cx.now.plus_seconds(IDEMPOTENCY_SECONDS),
        generation: former.map_or(1, |entry| entry.generation + 1),
        principal: Some(principal),
    };
    Ok(Found::Fresh(Box::new(Ticket { entry, gives_way, replay: Op::REPLAY })))
}

/// Refuses a principal that has as many keys as it may have, so that one cannot take the room of all. What all have
/// together is bounded too: the key that would be forgotten next gives way. What keeps data safe is never refused.
async fn make_room(
    open: &Unsealed,
    principal: &str,
    keeps_safe: bool,
) -> Result<Option<Box<IdempotencyEntry>>, EngineError> {
    let max = IDEMPOTENCY_KEYS_PER_PRINCIPAL_MAX;
    if !keeps_safe && open.state().count_idempotency_of(principal).await? >= max {
        return Err(EngineError::TooMany { what: "idempotency keys of this caller", max });
    }
    if open.state().count::<IdempotencyEntry>(Vec::new()).await? < IDEMPOTENCY_KEYS_MAX {
        return Ok(None);
    }
    Ok(open.state().oldest_idempotency().await?.map(Box::new))
}

fn repeat<Op: Operation>(
    entry: &IdempotencyEntry,
    request_sha256: &[u8; 32],
) -> Result<Found<Op::Answer>, EngineError> {
    if entry.request_sha256 != *request_sha256 {
        return Err(EngineError::IdempotencyConflict { same: false });
    }
    let answer = entry.answer.as_deref().and_then(Op::decode_answer);
    answer
        .map(|answer| Found::Answer { answer, first: entry.request })
        .ok_or(EngineError::IdempotencyConflict { same: true })
}

impl Ticket {
    /// Puts the row into the change, with the answer if that holds no secret.
    pub(crate) fn remember(mut self, change: &mut Change, answer: Option<Vec<u8>>) {
        if self.replay == Replay::Answer {
            self.entry.answer = answer.filter(|answer| answer.len() <= IDEMPOTENCY_ANSWER_LEN_MAX);
        }
        if let Some(row) = &self.gives_way {
            change.delete(row.as_ref());
        }
        if self.entry.generation == 1 {
            change.insert(&self.entry)
        } else {
            change.update(&self.entry)
        };
    }
}

//! Who calls: what the headers say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use keyrail_core::id::RequestId;
use keyrail_core::record::{ORIGIN_FIELD_LEN_MAX, Origin};
use keyrail_crypto::random;
use keyrail_engine::{Caller, Credential, Engine, EngineError};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::problem::Failure;

/// Where the id of a request stands, in it and in its answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Marks a request that was made in this very process by who holds the data directory and its root. A
/// request from a network cannot carry it: it is no header.
#[derive(Clone, Copy, Debug)]
pub struct LocalCall;

/// One call.
pub(crate) struct Call {
    token: Option<Zeroizing<String>>,
    local: bool,
    origin: Origin,
    pub(crate) request: RequestId,
    idempotency_key: Option<String>,
    if_match: Option<u64>,
    arrival: Option<Arc<Arrival>>,
}

/// A request that came over the network.
pub(crate) struct Arrival {
    /// Its id.
    pub(crate) request: RequestId,
    /// The peer's address.
    pub(crate) from: Arc<str>,
    /// By when its body must have come.
    pub(crate) read_by: Instant,
    /// Set when the engine is asked on its behalf: what becomes of it is the engine's to record from then on.
    heard: AtomicBool,
    /// The room that its long body takes, until it is answered.
    room: OnceLock<OwnedSemaphorePermit>,
}

impl Arrival {
    /// A request that comes in, of which nobody has heard yet.
    pub(crate) fn new(request: RequestId, from: Arc<str>, read_by: Instant) -> Arc<Self> {
        Arc::new(Self { request, from, read_by, heard: AtomicBool::new(false), room: OnceLock::new() })
    }
}

impl Call {
    /// The caller, for the engine, which records what it is asked.
    pub(crate) fn caller(&self) -> Caller<'_> {
        self.hear();
        self.unheard()
    }

    /// By when its body must have come, if somebody sends it.
    pub(crate) fn read_by(&self) -> Option<Instant> {
        self.arrival.as_ref().map(|arrival| arrival.read_by)
    }

    /// Keeps the room for its body until it is answered; gives it back if nobody sent it.
    pub(crate) fn keep(&self, room: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
        match &self.arrival {
            Some(arrival) => arrival.room.set(room).err(),
            None => Some(room),
        }
    }

    /// Leaves it to the engine to record the request.
    pub(crate) fn hear(&self) {
        if let Some(arrival) = &self.arrival {
            arrival.heard.store(true, Ordering::Release);
        }
    }

    /// The caller, for questions that no record is written of.
    pub(crate) fn unheard(&self) -> Caller<'_> {
        let credential = match &self.token {
            Some(token) => Credential::Token(token),
            None if self.local => Credential::LocalOperator,
            None => Credential::None,
        };
        Caller {
            credential,
            origin: &self.origin,
            request: self.request,
            idempotency_key: self.idempotency_key.as_deref(),
            if_match: self.if_match,
        }
    }

    pub(crate) fn fail(&self, error: EngineError) -> Failure {
        Failure { error, request_id: self.request.to_string() }
    }

    /// What the head of a request says, and how it came.
    pub(crate) fn of(parts: &mut Parts) -> Result<Self, EngineError> {
        let arrival = parts.extensions.get::<Arc<Arrival>>().cloned();
        let local = parts.extensions.get::<LocalCall>().is_some();
        let request = request_id(&mut parts.extensions)?;
        Self::new(&parts.headers, request, arrival, local)
    }

    /// The call of a request that came over the network.
    pub(crate) fn arrived(headers: &HeaderMap, arrival: &Arc<Arrival>) -> Result<Self, EngineError> {
        Self::new(headers, arrival.request, Some(arrival.clone()), false)
    }

    fn new(
        headers: &HeaderMap,
        request: RequestId,
        arrival: Option<Arc<Arrival>>,
        local: bool,
    ) -> Result<Self, EngineError> {
        let from = match &arrival {
            Some(arrival) => Some(arrival.from.as_ref().to_owned()),
            None => local.then(|| "local".to_owned()),
        };
        let mut call = Self {
            token: None,
            local,
            origin: Origin { from, ..Origin::default() },
            request,
            idempotency_key: None,
            if_match: None,
            arrival,
        };
        // Once over the headers: most requests have few, and to look for each name costs more.
        for name in headers.keys() {
            let origin = &mut call.origin;
            match name.as_str() {
                "authorization" => call.token = bearer(headers),
                "idempotency-key" => {
                    call.idempotency_key = readable(headers, &IDEMPOTENCY_KEY)?.map(str::to_owned);
                }
                "if-match" => call.if_match = if_match(headers)?,
                "traceparent" => origin.trace = trace_id(headers),
                "x-keyrail-app" => origin.app = said(headers, name),
                "x-keyrail-build" => origin.build = said(headers, name),
                "x-keyrail-component" => origin.component = said(headers, name),
                "x-keyrail-environment" => origin.environment = said(headers, name),
                "x-request-id" => {
                    let said = said_request_id(headers).and_then(|value| value.to_str().ok());
                    origin.caller_request = said.map(str::to_owned);
                }
                _ => {}
            }
        }
        Ok(call)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(parts).map_err(|error| Failure { error, request_id: known_id(&parts.extensions) })
    }
}

/// Marks an answer that is a problem, with its code.
#[derive(Clone, Debug)]
pub(crate) struct ProblemCode(pub(crate) String);

/// How long a refusal waits until it is known whose it is.
const NOTE_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is kept of a request to count its refusal: it is refused, and gone, before the engine hears of it.
pub(crate) struct Unheard {
    arrival: Arc<Arrival>,
    authorization: Option<HeaderValue>,
}

impl Unheard {
    /// Of a request that comes in.
    pub(crate) fn of(headers: &HeaderMap, arrival: &Arc<Arrival>) -> Self {
        Self { arrival: arrival.clone(), authorization: headers.get(header::AUTHORIZATION).cloned() }
    }

    /// Counts the refusal, if nobody has recorded it.
    pub(crate) async fn count(self, engine: &Engine, status: StatusCode, ProblemCode(code): ProblemCode) {
        if self.arrival.heard.load(Ordering::Acquire) {
            return;
        }
        let origin = Origin { from: Some(self.arrival.from.as_ref().to_owned()), ..Origin::default() };
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return engine.note_turned_away(&origin, &code);
        }
        let token = self.authorization.as_ref().and_then(bearer_in);
        let credential = token.as_ref().map_or(Credential::None, |token| Credential::Token(token));
        // Without randomness there is neither an answer nor a record.
        let Ok(caller) = Caller::new(credential) else { return };
        // It may have to look a token up, and the refusal waits for it: on a store that hangs it counts as a stranger's.
        let caller = Caller { origin: &origin, ..caller };
        let noted = tokio::time::timeout(NOTE_WAIT_MAX, engine.note_no_operation(&caller, &code)).await;
        if noted.is_err() {
            engine.note_turned_away(&origin, &code);
        }
    }
}

/// The id of a request: made once, by whoever needs it first.
pub(crate) fn request_id(extensions: &mut Extensions) -> Result<RequestId, EngineError> {
    if let Some(id) = known_request(extensions) {
        return Ok(id);
    }
    let id = new_request_id()?;
    extensions.insert(id);
    Ok(id)
}

/// An id for a request.
pub(crate) fn new_request_id() -> Result<RequestId, EngineError> {
    Ok(RequestId::from_bytes(random::pooled()?))
}

/// The id of a request, if it has one already.
pub(crate) fn known_request(extensions: &Extensions) -> Option<RequestId> {
    let arrived = extensions.get::<Arc<Arrival>>().map(|arrival| arrival.request);
    arrived.or_else(|| extensions.get::<RequestId>().copied())
}

/// The id of a request as text; empty if there is none yet.
pub(crate) fn known_id(extensions: &Extensions) -> String {
    known_request(extensions).map(|id| id.to_string()).unwrap_or_default()
}

/// The id that the caller gave its request, if it is one line of visible ASCII of at most 128 bytes.
///
/// It is recorded and sent back. The record's own id is always made here: one that comes from outside would not be
/// unique.
pub(crate) fn said_request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let value = headers.get(&REQUEST_ID)?;
    let text = value.as_bytes();
    let fits = (1..=ORIGIN_FIELD_LEN_MAX).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
    fits.then_some(value)
}

/// A header that must be readable if it is there: to overlook it would do another thing than was asked.
fn readable<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, EngineError> {
    let wrong = |problem: &str| EngineError::Invalid {
        problem: format!("the header `{name}` {problem}"),
        hint: "send it once, in visible ASCII",
    };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("is there twice"));
    }
    value.to_str().map(Some).map_err(|_| wrong("is no text"))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What the caller says of itself, cut to a length that a record takes.
fn said(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    text(headers, name).map(|value| value.chars().take(ORIGIN_FIELD_LEN_MAX).collect())
}

fn bearer(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    bearer_in(headers.get(header::AUTHORIZATION)?)
}

fn bearer_in(value: &HeaderValue) -> Option<Zeroizing<String>> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Zeroizing::new(token.trim().to_owned()))
}

/// The trace id of a W3C `traceparent` (Trace Context level 1, section 3.2), if that is well formed.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let mut fields = text(headers, &TRACEPARENT)?.trim().split('-');
    let (version, id, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    let formed = hex(version, 2) && hex(id, 32) && hex(parent, 16) && hex(flags, 2);
    // Version 00 has these four fields alone; later ones may have more, and ff is none.
    let ended = version != "00" || fields.next().is_none();
    (formed && ended && version != "ff" && !zero(id) && !zero(parent)).then(|| id.to_owned())
}

/// The generation in `If-Match`: an ETag of ours is a number in quotes. `*` asks for no particular one.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, EngineError> {
    let Some(value) = readable(headers, &header::IF_MATCH)? else { return Ok(None) };
    let value = value.trim();
    if value == "*" {
        return Ok(None);
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let number = inner.and_then(|inner| inner.parse().ok());
    number.map(Some).ok_or(EngineError::Invalid {
        problem: "`If-Match` holds no ETag of this service".to_owned(),
        hint: "send one ETag that a former answer had, with its quotes",
    })
}

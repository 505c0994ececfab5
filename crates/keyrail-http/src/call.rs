//! Who calls: what the headers say.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, FromRequestParts};
use http::request::Parts;
use http::{HeaderMap, header};
use keyrail_core::id::RequestId;
use keyrail_core::record::{ORIGIN_FIELD_LEN_MAX, Origin};
use keyrail_crypto::random;
use keyrail_engine::{Caller, Credential, EngineError};
use zeroize::Zeroizing;

use crate::problem::Failure;

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
}

impl Call {
    pub(crate) fn caller(&self) -> Caller<'_> {
        let credential = match &self.token {
            Some(token) => Credential::Token(token),
            None if self.local => Credential::LocalOperator,
            None => Credential::None,
        };
        Caller {
            credential,
            origin: self.origin.clone(),
            request: self.request,
            idempotency_key: self.idempotency_key.as_deref(),
            if_match: self.if_match,
        }
    }

    pub(crate) fn fail(&self, error: EngineError) -> Failure {
        Failure { error, request_id: self.request.to_string() }
    }

    fn of(parts: &Parts) -> Result<Self, EngineError> {
        let headers = &parts.headers;
        let local = parts.extensions.get::<LocalCall>().is_some();
        let from = match parts.extensions.get::<ConnectInfo<SocketAddr>>() {
            Some(ConnectInfo(address)) => Some(address.to_string()),
            None => local.then(|| "local".to_owned()),
        };
        let origin = Origin {
            app: said(headers, "x-keyrail-app"),
            component: said(headers, "x-keyrail-component"),
            environment: said(headers, "x-keyrail-environment"),
            build: said(headers, "x-keyrail-build"),
            from,
            trace: trace_id(headers),
        };
        Ok(Self {
            token: bearer(headers),
            local,
            origin,
            request: RequestId::from_bytes(random::array()?),
            idempotency_key: text(headers, "idempotency-key").map(str::to_owned),
            if_match: if_match(headers)?,
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Call {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(parts).map_err(|error| Failure { error, request_id: String::new() })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// What the caller says of itself, cut to a length that a record takes.
fn said(headers: &HeaderMap, name: &str) -> Option<String> {
    text(headers, name).map(|value| value.chars().take(ORIGIN_FIELD_LEN_MAX).collect())
}

fn bearer(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let value = text(headers, header::AUTHORIZATION.as_str())?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Zeroizing::new(token.trim().to_owned()))
}

/// The trace id of a W3C `traceparent`, if that is well formed.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let mut fields = text(headers, "traceparent")?.split('-');
    let (_version, id) = (fields.next()?, fields.next()?);
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// The generation in `If-Match`: an ETag of ours is a number in quotes.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, EngineError> {
    let Some(value) = text(headers, header::IF_MATCH.as_str()) else { return Ok(None) };
    let number = value.trim().trim_start_matches("W/").trim_matches('"').parse().ok();
    number.map(Some).ok_or(EngineError::Invalid {
        problem: "If-Match holds no ETag of this service".to_owned(),
        hint: "send the ETag that a former answer had",
    })
}

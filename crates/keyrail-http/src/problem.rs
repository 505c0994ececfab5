//! Errors as problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use keyrail_engine::EngineError;
use keyrail_engine::error::Fault;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::call::{ProblemCode, REQUEST_ID};

/// An error, as it is sent.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the code tells more than a page would.
    #[serde(rename = "type")]
    pub kind: String,
    /// What happened, in one sentence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// Whose fault it is: `caller`, `refused`, `absent`, `stored-data`, `dependency` or `bug`.
    pub fault: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// How long what is in the way lasts, in seconds, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
    /// The id of the request, which is also the id of its record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// The problem of an error.
    pub fn of(error: &EngineError) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: error.to_string(),
            status: status(error).as_u16(),
            code: error.code().to_owned(),
            fault: fault(error.fault()).to_owned(),
            hint: error.hint(),
            seconds_left: seconds_left(error),
            request_id: None,
        }
    }

    /// The problem of a request that is refused before it is an operation.
    pub(crate) fn request(refusal: RequestRefusal) -> Self {
        let (status, code, title, hint) = refusal.words();
        Self {
            kind: "about:blank".to_owned(),
            title: title.to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            fault: fault(if matches!(refusal, RequestRefusal::Busy) { Fault::Load } else { Fault::Caller }).to_owned(),
            hint: Some(hint.to_owned()),
            seconds_left: None,
            request_id: None,
        }
    }

    /// The same under the id of its request.
    #[must_use]
    pub fn under(mut self, request_id: impl ToString) -> Self {
        self.request_id = Some(request_id.to_string()).filter(|id| !id.is_empty());
        self
    }
}

/// Why a request is refused before it is an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RequestRefusal {
    /// Its body takes too long.
    BodyTooSlow,
    /// Too many requests, or too much in them, at the same time.
    Busy,
    /// Its headers are too many or too long.
    HeadersTooLarge,
    /// The path does not know the method.
    Method,
    /// There is no such path.
    Path,
    /// The query has other parameters than the path knows, or other values.
    Query,
    /// The body says that it is something else than JSON.
    MediaType,
}

impl RequestRefusal {
    fn words(self) -> (StatusCode, &'static str, &'static str, &'static str) {
        match self {
            Self::BodyTooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "body_too_slow",
                "the body did not come in time",
                "send smaller batches, or over a faster connection",
            ),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "the service has too much to do at the moment; nothing was done",
                "try again in a moment",
            ),
            Self::HeadersTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "the request has too many headers, or too long ones",
                "send at most 64 headers with 32 KiB",
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not know the method",
                "the header `allow` of this answer lists the methods it knows",
            ),
            Self::Path => (
                StatusCode::NOT_FOUND,
                "no_such_path",
                "there is no such path",
                "the OpenAPI document at /v1/openapi.json lists the paths",
            ),
            Self::Query => (
                StatusCode::BAD_REQUEST,
                "invalid",
                "the query is not of the expected form",
                "the OpenAPI document at /v1/openapi.json lists the parameters of each path",
            ),
            Self::MediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body is not said to be JSON",
                "send it with `content-type: application/json`",
            ),
        }
    }
}

const fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Absent => "absent",
        Fault::Bug => "bug",
        Fault::Caller | Fault::Conflict => "caller",
        Fault::Policy | Fault::Unauthenticated => "refused",
        Fault::StoredData => "stored-data",
        Fault::Dependency | Fault::Load => "dependency",
    }
}

const fn seconds_left(error: &EngineError) -> Option<u64> {
    match error {
        EngineError::DestroyWaiting { seconds_left } | EngineError::WriteWindowOpen { seconds_left } => {
            Some(*seconds_left)
        }
        _ => None,
    }
}

fn status(error: &EngineError) -> StatusCode {
    match error {
        EngineError::TooLarge { .. } => return StatusCode::PAYLOAD_TOO_LARGE,
        EngineError::Changed { .. } => return StatusCode::PRECONDITION_FAILED,
        EngineError::Refused { .. } => return StatusCode::FORBIDDEN,
        EngineError::TooManyFailures => return StatusCode::TOO_MANY_REQUESTS,
        _ => {}
    }
    match error.fault() {
        Fault::Absent => StatusCode::NOT_FOUND,
        Fault::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        Fault::Caller => StatusCode::BAD_REQUEST,
        Fault::Conflict | Fault::Policy => StatusCode::CONFLICT,
        Fault::Dependency | Fault::Load => StatusCode::SERVICE_UNAVAILABLE,
        Fault::StoredData => StatusCode::UNPROCESSABLE_ENTITY,
        Fault::Unauthenticated => StatusCode::UNAUTHORIZED,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(Ok(value)) = self.request_id.as_deref().map(HeaderValue::from_str) {
            headers.insert(REQUEST_ID, value);
        }
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response.extensions_mut().insert(ProblemCode(self.code));
        response
    }
}

/// An error on its way out of a handler.
pub(crate) struct Failure {
    pub(crate) error: EngineError,
    pub(crate) request_id: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.error.fault() == Fault::Bug {
            tracing::error!(error = %self.error, request = self.request_id, "a bug");
        }
        Problem::of(&self.error).under(self.request_id).into_response()
    }
}

#[cfg(test)]
mod tests;

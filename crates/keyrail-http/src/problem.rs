//! Errors as problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use keyrail_engine::EngineError;
use keyrail_engine::error::Fault;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
            request_id: None,
        }
    }

    /// The same under the id of its request.
    #[must_use]
    pub fn under(mut self, request_id: impl ToString) -> Self {
        self.request_id = Some(request_id.to_string());
        self
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
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
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

//! Bodies: how long they may be, how long they may take, who may send long ones, and how much of them is held at once.

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use keyrail_engine::EngineError;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::call::Call;
use crate::problem::{Problem, RequestRefusal};
use crate::routes::Shared;

/// The longest body that is read before it is known who sends it, in bytes.
const STRANGER_BODY_LEN_MAX: usize = 64 * 1024;

/// How many bytes of long bodies are held at the same time, in KiB; whoever comes too late is told to come back.
const BODIES_KIB_MAX: usize = 256 * 1024;

/// The room for long bodies.
pub(crate) struct Room(Semaphore);

impl Default for Room {
    fn default() -> Self {
        Self(Semaphore::new(BODIES_KIB_MAX))
    }
}

/// The body's bytes, up to a limit.
pub(crate) async fn body_bytes<B: HttpBody<Data = Bytes, Error: Into<BoxError>>>(
    call: &Call,
    headers: &HeaderMap,
    body: B,
    service: &Shared,
    max: usize,
) -> Result<Bytes, Problem> {
    read(call, headers, body, service, max).await.map_err(|problem| problem.under(call.request))
}

async fn read<B: HttpBody<Data = Bytes, Error: Into<BoxError>>>(
    call: &Call,
    headers: &HeaderMap,
    body: B,
    service: &Shared,
    max: usize,
) -> Result<Bytes, Problem> {
    if !says_json(headers) && !body.is_end_stream() {
        return Err(Problem::request(RequestRefusal::MediaType));
    }
    let too_large = |len| Problem::of(&EngineError::TooLarge { what: "the body", unit: "bytes", len, max });
    let told = body.size_hint().exact().map(|len| usize::try_from(len).unwrap_or(usize::MAX));
    if let Some(len) = told.filter(|len| *len > max) {
        return Err(too_large(len));
    }
    let _room = admit(call, service, told.unwrap_or(max)).await?;
    let reading = Limited::new(body, max).collect();
    let bytes = match call.read_by() {
        Some(deadline) => tokio::time::timeout_at(deadline, reading).await,
        None => Ok(reading.await),
    };
    let bytes = bytes.map_err(|_| Problem::request(RequestRefusal::BodyTooSlow))?;
    bytes.map(|collected| collected.to_bytes()).map_err(|_| too_large(max + 1))
}

/// A long body is read only for a caller with a valid token, and while there is room for it.
async fn admit<'a>(call: &Call, service: &'a Shared, len: usize) -> Result<Option<SemaphorePermit<'a>>, Problem> {
    if len <= STRANGER_BODY_LEN_MAX {
        return Ok(None);
    }
    if let Err(error) = service.engine().authenticate(&call.unheard()).await {
        // It is counted already.
        call.hear();
        return Err(Problem::of(&error));
    }
    let kib = u32::try_from(len.div_ceil(1024)).unwrap_or(u32::MAX);
    service.room().0.try_acquire_many(kib).map(Some).map_err(|_| Problem::request(RequestRefusal::Busy))
}

/// Whether a body may be JSON by what its headers say. Tools that send a body without being told what it is call it a
/// form: that is let pass, since the body itself is read as JSON and nothing else.
fn says_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return true };
    if value == "application/json" {
        return true;
    }
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    is("application/json")
        || is("application/x-www-form-urlencoded")
        || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_may_be_json() {
        let says = |text: &'static str| {
            says_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(text))]))
        };
        assert!(says_json(&HeaderMap::new()));
        for yes in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(says(yes), "{yes}");
        }
        assert!(says("application/x-www-form-urlencoded"));
        for no in ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/jsonx", ""] {
            assert!(!says(no), "{no}");
        }
    }
}

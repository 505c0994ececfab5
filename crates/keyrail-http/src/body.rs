//! Bodies: how long they may be, how long they may take, who may send long ones, and how much of them is held at once.

use std::sync::Arc;

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, Limited};
use keyrail_engine::EngineError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::call::Call;
use crate::problem::{Problem, RequestRefusal};
use crate::routes::Shared;

/// The longest body that is read before it is known who sends it, in bytes.
const STRANGER_BODY_LEN_MAX: usize = 64 * 1024;

/// How many bytes of long bodies are held at the same time, in KiB; whoever comes too late is told to come back.
const BODIES_KIB_MAX: usize = 256 * 1024;

/// The room for long bodies.
pub(crate) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODIES_KIB_MAX)))
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
    let room = match told.unwrap_or(max) {
        ..=STRANGER_BODY_LEN_MAX => None,
        len => Box::pin(admit(call, service, len)).await.map(Some)?,
    };
    let reading = Limited::new(body, max).collect();
    let bytes = match call.read_by() {
        Some(deadline) => tokio::time::timeout_at(deadline, reading).await,
        None => Ok(reading.await),
    };
    let bytes = bytes.map_err(|_| Problem::request(RequestRefusal::BodyTooSlow))?;
    let bytes = bytes.map_err(|_| too_large(max + 1))?.to_bytes();
    // What was read lives on in the operation, which may wait for the disk. Who calls from this process reads alone. What
    // a body of an untold length might have needed is given back.
    let held = room.filter(|_| bytes.len() > STRANGER_BODY_LEN_MAX).and_then(|mut room| room.split(kib(bytes.len())));
    let _local = held.and_then(|room| call.keep(room));
    Ok(bytes)
}

fn kib(len: usize) -> usize {
    len.div_ceil(1024)
}

/// A long body is read only for a caller with a valid token, and while there is room for it.
async fn admit(call: &Call, service: &Shared, len: usize) -> Result<OwnedSemaphorePermit, Problem> {
    if let Err(error) = service.engine().authenticate(&call.unheard()).await {
        // It is counted already.
        call.hear();
        return Err(Problem::of(&error));
    }
    let kib = u32::try_from(kib(len)).unwrap_or(u32::MAX);
    service.room().0.clone().try_acquire_many_owned(kib).map_err(|_| Problem::request(RequestRefusal::Busy))
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
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use axum::response::IntoResponse;
    use http::HeaderValue;
    use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
    use keyrail_engine::{Access, Engine, EngineOptions};

    use super::*;
    use crate::call::{Arrival, new_request_id};
    use crate::service::Service;

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

    /// The room is given back when the request is answered, and not when its body has come: the operation has it still.
    #[tokio::test]
    async fn the_room_of_a_body_is_held_until_the_request_is_answered() {
        let dir = keyrail_testkit::TempDir::new().unwrap();
        let data_dir = dir.join("D");
        let made = Engine::init(data_dir.clone(), None, &Still).await.unwrap();
        let options = EngineOptions { data_dir, access: Access::Write, clock: Arc::new(Still), assets: None };
        let engine = Engine::open(options).unwrap();
        engine.unseal().await.unwrap();
        let service = Service::new(engine, false);
        let bearer = HeaderValue::try_from(format!("Bearer {}", made.token.as_str())).unwrap();
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        let free = || service.room().0.available_permits();
        let arrive = || {
            let read_by = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
            Arrival::new(new_request_id().unwrap(), "here".into(), read_by)
        };
        let read = async |arrival: &Arc<Arrival>, len: usize| {
            let call = Call::arrived(&headers, arrival).unwrap();
            let max = BODIES_KIB_MAX * 1024;
            body_bytes(&call, &headers, axum::body::Body::from(vec![b' '; len]), &service, max).await
        };
        let (long, short) = (arrive(), arrive());
        assert!(read(&short, STRANGER_BODY_LEN_MAX).await.is_ok());
        assert_eq!(free(), BODIES_KIB_MAX);
        drop(read(&long, 100 * 1024).await.unwrap());
        assert_eq!(free(), BODIES_KIB_MAX - 100);
        let all = service.room().0.clone().try_acquire_many_owned((BODIES_KIB_MAX - 100) as u32).unwrap();
        let refused = read(&arrive(), 100 * 1024).await;
        assert_eq!(refused.unwrap_err().into_response().status(), http::StatusCode::SERVICE_UNAVAILABLE);
        drop(long);
        assert!(read(&arrive(), 100 * 1024).await.is_ok());
        // A body whose length nobody told needs no more than what came.
        let untold = async |arrival: &Arc<Arrival>, len: usize| {
            let call = Call::arrived(&headers, arrival).unwrap();
            let body = axum::body::Body::new(Untold(Some(Bytes::from(vec![b' '; len]))));
            body_bytes(&call, &headers, body, &service, 100 * 1024).await
        };
        let (short, long) = (arrive(), arrive());
        assert!(untold(&short, 500).await.is_ok());
        assert_eq!(free(), 100);
        assert!(untold(&long, 70 * 1024).await.is_ok());
        assert_eq!(free(), 30);
        drop(long);
        assert_eq!(free(), 100);
        drop(all);
    }

    /// A body of one frame that does not say how long it is.
    struct Untold(Option<Bytes>);

    impl HttpBody for Untold {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::Poll::Ready(self.0.take().map(|bytes| Ok(hyper::body::Frame::data(bytes))))
        }
    }

    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_700_000_000_000)
        }

        fn observe(&self) -> Observation {
            Observation { boot: BootId([1; 16]), wall: self.now(), uptime_millis: 1 }
        }
    }
}

//! Requests: a line with method and path, lines with headers, an empty line, a body. They go to the API of a sealed
//! store, so that everything is read and nothing is done.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_engine::{Access, Engine, EngineOptions};
use keyrail_http::{Service, router};
use tower::ServiceExt as _;

/// A request of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = "/v1/keys/acme/prod/crm/pii";
    let head = "authorization: Bearer krt_x\nidempotency-key: 1\nif-match: \"3\"\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nx-keyrail-app: crm";
    let requests = [
        ("POST", format!("{key}/encrypt"), r#"{"items":[{"plaintext":"QWRh","context":{"row":"7"}}]}"#),
        ("POST", format!("{key}/decrypt"), r#"{"items":[{"ciphertext":"kr1.2GCE"}]}"#),
        ("POST", format!("{key}/reencrypt"), r#"{"items":[{"ciphertext":"kr1.2GCE","context":{}}]}"#),
        ("POST", format!("{key}/data-key"), r#"{"bytes":32,"context":{"row":"7"}}"#),
        ("POST", format!("{key}/rotate"), ""),
        ("GET", format!("{key}"), ""),
        ("GET", "/v1/keys?limit=2&after=acme/prod/crm/pii".to_owned(), ""),
        ("POST", "/v1/keys".to_owned(), r#"{"name":"acme/prod/crm/pii","label":"confidential"}"#),
        ("POST", "/v1/domains".to_owned(), r#"{"name":"acme"}"#),
        ("POST", "/v1/apps".to_owned(), r#"{"path":"acme/prod/crm"}"#),
        (
            "PATCH",
            "/v1/labels/confidential".to_owned(),
            r#"{"suite":"A256GCM","data_key_age_seconds_max":null,"write_window_seconds":1}"#,
        ),
        (
            "POST",
            "/v1/assets".to_owned(),
            r#"{"name":"people","url":"sqlite:x","table":"t","columns":[{"column":"c"}],"key":"acme/prod/crm/pii"}"#,
        ),
        ("GET", "/v1/audit/records?before=9&limit=3".to_owned(), ""),
    ];
    let text = |(method, path, body): &(&str, String, &str)| format!("{method} {path}\n{head}\n\n{body}").into_bytes();
    requests.iter().map(text).collect()
}

/// Every answer is a problem with a code, and none is a bug. Accepted is what came as far as the sealed store.
pub fn check(data: &[u8]) -> bool {
    let Some(request) = request(data) else { return false };
    let api = api();
    let (status, body) = api.runtime.block_on(async {
        let response = api.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = response.status();
        (status, response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default())
    });
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{}", String::from_utf8_lossy(&body));
    if status.is_client_error() && !body.is_empty() {
        let problem: serde_json::Value = serde_json::from_slice(&body).expect("a problem is JSON");
        assert!(problem.get("code").is_some_and(serde_json::Value::is_string), "a problem without a code: {problem}");
    }
    status == StatusCode::SERVICE_UNAVAILABLE
}

fn request(data: &[u8]) -> Option<Request<Body>> {
    let end = data.windows(2).position(|pair| pair == b"\n\n")?;
    let (head, body) = (std::str::from_utf8(data.get(..end)?).ok()?, data.get(end + 2..)?);
    let mut lines = head.lines();
    let (method, path) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(path);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    request.body(Body::from(body.to_vec())).ok()
}

struct Api {
    runtime: tokio::runtime::Runtime,
    router: Router,
    _dir: tempfile::TempDir,
}

fn api() -> &'static Api {
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let dir = tempfile::tempdir().expect("a directory");
        let data_dir = dir.path().join("D");
        runtime.block_on(Engine::init(data_dir.clone(), None, &FixedClock)).expect("a store");
        let options = EngineOptions { data_dir, access: Access::Write, clock: Arc::new(FixedClock), assets: None };
        let engine = Engine::open(options).expect("an engine");
        let _entered = runtime.enter();
        let router = router(Service::new(engine, false));
        Api { router, _dir: dir, runtime }
    })
}

struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_512_600_000)
    }

    fn observe(&self) -> Observation {
        Observation { boot: BootId([1; 16]), wall: self.now(), uptime_millis: 1 }
    }
}

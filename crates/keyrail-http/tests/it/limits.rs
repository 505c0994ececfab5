//! Slow callers, too many of them, and too much at once: each has its limit, and the others go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_engine::{Access, Engine, EngineOptions};
use keyrail_http::{Limits, Listener, Service, Tls, router};
use keyrail_testkit::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinHandle;

/// Far above every limit that is tried.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Served {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Served {
    pub(crate) async fn new(router: Router, limits: Limits, tls: Option<&Tls>) -> Self {
        Self::start(router, Listener::bind("127.0.0.1:0".parse().unwrap(), tls).await.unwrap().with_limits(limits))
    }

    pub(crate) fn start(router: Router, listener: Listener) -> Self {
        let address = listener.url().rsplit_once('/').unwrap().1.parse().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(listener.serve(router, async {
            let _told_or_gone = stopped.await;
        }));
        Self { address, stop: Some(stop), task }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// Asks over a connection of its own.
    async fn ask(&self, path: &str) -> String {
        let mut stream = self.connect().await;
        send(&mut stream, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        rest(&mut stream).await
    }

    pub(crate) async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server ends").unwrap();
    }
}

pub(crate) async fn send(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// All that comes until the server closes.
pub(crate) async fn rest(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    let _reset = read.expect("the server closes the connection");
    String::from_utf8(said).unwrap()
}

/// A certificate for `localhost`, and its key.
pub(crate) fn self_signed(dir: &TempDir) -> Tls {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = Tls { certificates: dir.join("cert.pem"), key: dir.join("key.pem") };
    std::fs::write(&tls.certificates, made.cert.pem()).unwrap();
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    tls
}

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

#[tokio::test]
async fn a_head_that_comes_slowly_ends_its_connection() {
    let limits = Limits { header_seconds_max: 1, ..Limits::default() };
    let served = Served::new(hello(), limits, None).await;
    // One says nothing, one does not say of which version it is, one never ends its head, one idles after its answer:
    // none holds its connection.
    let mut silent = served.connect().await;
    let mut unsaid = served.connect().await;
    send(&mut unsaid, "PRI * HTTP/2").await;
    let mut slow = served.connect().await;
    send(&mut slow, "GET / HTTP/1.1\r\nhost: x\r\n").await;
    let mut idle = served.connect().await;
    send(&mut idle, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let begun = Instant::now();
    let (silent, unsaid) = tokio::join!(rest(&mut silent), rest(&mut unsaid));
    let (slow, idle) = tokio::join!(rest(&mut slow), rest(&mut idle));
    assert!([silent, unsaid, slow].iter().all(|said| !said.contains("200 OK")), "an answer to nothing");
    assert!(idle.ends_with("hello"), "{idle}");
    assert!(begun.elapsed() >= Duration::from_millis(900), "ended before its time");
    assert!(served.ask("/").await.ends_with("hello"), "the server goes on");
    served.end().await;
}

#[tokio::test]
async fn a_handshake_that_never_comes_ends_its_connection() {
    let dir = TempDir::new().unwrap();
    let tls = self_signed(&dir);
    let limits = Limits { handshake_seconds_max: 1, ..Limits::default() };
    let served = Served::new(hello(), limits, Some(&tls)).await;
    let mut stream = served.connect().await;
    assert_eq!(rest(&mut stream).await, "");
    // It does not hold up the end either.
    let _silent = served.connect().await;
    served.end().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() {
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let served = Served::new(hello(), limits, None).await;
    let (first, _second) = (served.connect().await, served.connect().await);
    let mut third = served.connect().await;
    send(&mut third, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(300), third.read(&mut byte)).await;
    assert!(early.is_err(), "the third is served beside two others");
    drop(first);
    assert!(rest(&mut third).await.ends_with("hello"));
    served.end().await;
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_to_come_back() {
    let (entered, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (came, gate) = (entered.clone(), go_on.clone());
    let waits = get(move || async move {
        came.add_permits(1);
        gate.notified().await;
        "done"
    });
    let limits = Limits { requests_max: 1, ..Limits::default() };
    let served = Served::new(Router::new().route("/", waits), limits, None).await;
    let mut first = served.connect().await;
    send(&mut first, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    entered.acquire().await.unwrap().forget();
    let second = served.ask("/").await;
    assert!(second.starts_with("HTTP/1.1 503") && second.contains("\"code\":\"busy\""), "{second}");
    assert!(second.contains("retry-after: 1") && second.contains("x-request-id: "), "{second}");
    // What stops something has room, as much as is kept for it: here the next step answers, and knows no such path.
    for (head, status) in [
        ("DELETE /v1/tokens/1", 404),
        ("POST /v1/keys/a/b/c/d/versions/1/suspend", 404),
        ("POST /v1/keys/a/b/c/d/versions/1/compromise", 404),
        ("POST /v1/system/seal", 404),
        ("POST /v1/system/unseal", 503),
        ("GET /v1/tokens/1", 503),
    ] {
        let mut stream = served.connect().await;
        send(&mut stream, &format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await;
        let said = rest(&mut stream).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{head}: {said}");
    }
    go_on.notify_one();
    assert!(rest(&mut first).await.ends_with("done"));
    served.end().await;
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_as_unknown() {
    let never = get(std::future::pending::<&str>);
    let limits = Limits { request_seconds_max: 1, ..Limits::default() };
    let served = Served::new(Router::new().route("/", never), limits, None).await;
    let said = served.ask("/").await;
    assert!(said.starts_with("HTTP/1.1 503") && said.contains("\"code\":\"indeterminate\""), "{said}");
    // The caller can look it up.
    let id = said.split("x-request-id: ").nth(1).unwrap().split('\r').next().unwrap();
    assert!(said.contains(&format!("\"request_id\":\"{id}\"")), "{said}");
    served.end().await;
}

/// A clock that stands still.
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_795_512_600_000)
    }

    fn observe(&self) -> Observation {
        Observation { boot: BootId([7; 16]), wall: self.now(), uptime_millis: 1_000_000 }
    }
}

/// The service of a new store, opened, and its owner's token.
pub(crate) async fn service_in(dir: &TempDir) -> (Arc<Service>, String) {
    service_at(dir, Arc::new(Still)).await
}

pub(crate) async fn service_at(dir: &TempDir, clock: Arc<dyn Clock>) -> (Arc<Service>, String) {
    let data_dir = dir.join("D");
    let made = Engine::init(data_dir.clone(), None, &*clock).await.unwrap();
    let options = EngineOptions { data_dir, access: Access::Write, clock, assets: None };
    let engine = Engine::open(options).unwrap();
    engine.unseal().await.unwrap();
    (Service::new(engine, false), made.token.as_str().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slowly_is_refused_and_the_end_does_not_wait() {
    let dir = TempDir::new().unwrap();
    let (service, token) = service_in(&dir).await;
    let limits = Limits { body_seconds_max: 1, shutdown_seconds_max: 1, ..Limits::default() };
    let served = Served::new(router(service.clone()), limits, None).await;
    let head = format!(
        "POST /v1/domains HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{{",
        token
    );
    let mut slow = served.connect().await;
    send(&mut slow, &head).await;
    let said = rest(&mut slow).await;
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("\"code\":\"body_too_slow\""), "{said}");

    // What never ends is dropped at the end, after its time.
    let limits = Limits { body_seconds_max: 600, shutdown_seconds_max: 1, ..Limits::default() };
    let patient = Served::new(router(service.clone()), limits, None).await;
    let mut stuck = patient.connect().await;
    send(&mut stuck, &head).await;
    let begun = Instant::now();
    patient.end().await;
    assert!(begun.elapsed() < PATIENCE);
    served.end().await;
    service.close().await.unwrap();
}

//! The listener: plain HTTP on loopback, TLS anywhere, and an end that loses nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use http::header::Entry;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use keyrail_engine::EngineError;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::call::{Arrival, REQUEST_ID, Unheard, new_request_id, said_request_id};
use crate::problem::{Problem, RequestRefusal};
use crate::routes::data::Frequent;
use crate::routes::request_id_value;
use crate::service::Service;

/// The most bytes that are read as the head of a request; beyond that hyper answers by itself, without a body.
const HEAD_LEN_READ_MAX: usize = 64 * 1024;

/// How many requests of one connection are worked on at the same time (HTTP/2).
const STREAMS_MAX: u32 = 256;

/// How long to wait before the next connection when one was not accepted, in milliseconds.
const ACCEPT_PAUSE_MILLIS: u64 = 50;

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many requests are worked on at the same time; more are told to come back.
    pub requests_max: usize,
    /// How many more may be worked on if they revoke, suspend, compromise or seal.
    pub requests_reserved: usize,
    /// How long a request may take, in seconds; retirement waits for a write window of up to two minutes.
    pub request_seconds_max: u64,
    /// How many connections are held at the same time; more wait until one ends.
    pub connections_max: usize,
    /// How many headers a request may have.
    pub headers_max: usize,
    /// How many bytes its headers may have, names and values.
    pub headers_len_max: usize,
    /// How long a caller may take to send its headers, in seconds; also how long a connection may idle.
    pub header_seconds_max: u64,
    /// How long a caller may take to send a body, in seconds.
    pub body_seconds_max: u64,
    /// How long a TLS handshake may take, in seconds.
    pub handshake_seconds_max: u64,
    /// How long running requests are waited for at the end, in seconds.
    pub shutdown_seconds_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4_096,
            requests_reserved: 64,
            request_seconds_max: 180,
            connections_max: 8_192,
            headers_max: 64,
            headers_len_max: 32 * 1024,
            header_seconds_max: 10,
            body_seconds_max: 60,
            handshake_seconds_max: 10,
            shutdown_seconds_max: 30,
        }
    }
}

/// Certificate and key, as PEM files.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The chain, the server's own certificate first.
    pub certificates: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Why nothing listens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Plain HTTP was asked for beyond loopback.
    #[error("`{address}` is not a loopback address, and plain HTTP is for loopback only")]
    PlainBeyondLoopback {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address cannot be used.
    #[error("cannot listen on `{address}`")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A PEM file cannot be read.
    #[error("cannot read `{path}`")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together.
    #[error("the certificate and the key cannot be used")]
    Tls(#[source] rustls::Error),
}

impl ListenError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::PlainBeyondLoopback { .. } => {
                "name a certificate with --tls-cert and --tls-key, or listen on 127.0.0.1"
            }
            Self::Bind { .. } => "choose another port with --listen; port 0 takes any free one",
            Self::Pem { .. } => "name PEM files that this user may read",
            Self::Tls(_) => "check that the key belongs to the first certificate of the chain",
        }
    }
}

/// Something that listens.
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    service: Option<Arc<Service>>,
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(address: SocketAddr, tls: Option<&Tls>) -> Result<Self, ListenError> {
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(ListenError::PlainBeyondLoopback { address });
        }
        let tls = tls.map(acceptor).transpose()?;
        let failed = |source| ListenError::Bind { address, source };
        let tcp = TcpListener::bind(address).await.map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        Ok(Self { tcp, address, tls, limits: Limits::default(), service: None })
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same for the service that the router is of: in its log requests are counted that are refused before they are an
    /// operation, and what is asked for most often is answered without a search among all paths.
    #[must_use]
    pub fn for_service(mut self, service: &Arc<Service>) -> Self {
        self.service = Some(service.clone());
        self
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `stop` ends, then lets running requests finish.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) {
        let limits = self.limits;
        let requests = Semaphore::new(limits.requests_max);
        let reserved = Semaphore::new(limits.requests_reserved);
        let shared = Arc::new(Shared {
            builder: builder(&limits),
            router,
            requests,
            reserved,
            tls: self.tls,
            limits,
            service: self.service,
        });
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        let mut stop = pin!(stop);
        loop {
            let permit = tokio::select! {
                permit = connections.clone().acquire_owned() => permit,
                () = &mut stop => break,
            };
            let Ok(permit) = permit else { break };
            tokio::select! {
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, peer)) => {
                        tokio::spawn(connection(shared.clone(), graceful.watcher(), stream, peer, permit));
                    }
                    // Out of file handles, most likely: others must end before anything can begin.
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MILLIS)).await;
                    }
                },
                () = &mut stop => break,
            }
        }
        drop(self.tcp);
        if tokio::time::timeout(Duration::from_secs(limits.shutdown_seconds_max), graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are dropped");
        }
    }
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(limits.header_seconds_max))
        .max_buf_size(HEAD_LEN_READ_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_LEN_READ_MAX as u32)
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Duration::from_secs(limits.header_seconds_max))
        .keep_alive_timeout(Duration::from_secs(limits.header_seconds_max));
    builder
}

struct Shared {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    requests: Semaphore,
    /// Room beyond it for what must get through.
    reserved: Semaphore,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    service: Option<Arc<Service>>,
}

/// Who is at the other end of a connection.
struct Peer {
    /// Its address.
    from: Arc<str>,
    /// The timer of its last request, for the next one: a new one is made in the midst of all others. Requests at the same
    /// time have timers of their own.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Peer {
    fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { from: address.to_string().into(), timer: Mutex::default() })
    }

    /// What `work` gives, if it ends in time.
    async fn in_time<T>(&self, limit: Duration, mut work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut timer = match self.timer.lock().take() {
            Some(mut timer) => {
                timer.as_mut().reset(deadline);
                timer
            }
            None => Box::pin(sleep_until(deadline)),
        };
        let done = tokio::select! {
            biased;
            done = &mut work => Some(done),
            // Work that used up the task's budget does not keep the timer from being asked.
            () = unconstrained(timer.as_mut()) => None,
        };
        *self.timer.lock() = Some(timer);
        done
    }
}

/// Gives a request its id, and bounds how many are worked on and how long each may take.
async fn answer(
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let id = match new_request_id() {
        Ok(id) => id,
        // Without randomness there is neither an id nor a record.
        Err(error) => return Ok(Problem::of(&error).into_response()),
    };
    let said = said_request_id(request.headers()).cloned();
    let arrival =
        Arrival::new(id, peer.from.clone(), Instant::now() + Duration::from_secs(shared.limits.body_seconds_max));
    let logged = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_owned(), Instant::now()));
    let unheard = Unheard::of(request.headers(), &arrival);
    let mut request = Some(request.into_parts());
    let mut response = match bounded(&shared, &peer, &mut request, &arrival).await {
        Ok(response) => response,
        Err(problem) => problem.under(id).into_response(),
    };
    if let Some(service) = &shared.service
        && let Some(problem) = response.extensions_mut().remove()
    {
        Box::pin(unheard.count(service.engine(), response.status(), problem)).await;
    }
    if let Some(said) = said {
        response.headers_mut().insert(REQUEST_ID, said);
    } else if let Entry::Vacant(missing) = response.headers_mut().entry(REQUEST_ID)
        && let Ok(id) = request_id_value(&id)
    {
        missing.insert(id);
    }
    if let Some((method, path, begun)) = logged {
        // Method, path and status: no header, query or body has a place in a log.
        tracing::debug!(%method, path, status = response.status().as_u16(), micros = begun.elapsed().as_micros(), request = %id, "answered");
    }
    Ok(response)
}

fn refused(limits: &Limits, head: &Parts) -> Option<Problem> {
    let len: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let too_large = head.headers.len() > limits.headers_max || len > limits.headers_len_max;
    too_large.then(|| Problem::request(RequestRefusal::HeadersTooLarge))
}

/// Whether a request asks to stop something: to revoke, suspend, compromise or seal. By its head alone, so that there is
/// room for it before anything else is known.
fn keeps_safe(head: &Parts) -> bool {
    let path = head.uri.path();
    match head.method {
        Method::DELETE => path.starts_with("/v1/tokens/"),
        Method::POST => ["/suspend", "/compromise", "/system/seal"].iter().any(|end| path.ends_with(end)),
        _ => false,
    }
}

/// A request where it came in, until somebody takes it: to hand it on as it is costs more than some of its steps.
type Place = Option<(Parts, Incoming)>;

async fn bounded(
    shared: &Shared,
    peer: &Peer,
    request: &mut Place,
    arrival: &Arc<Arrival>,
) -> Result<Response<Body>, Problem> {
    let head = request.as_ref().map(|(head, _)| head);
    if let Some(problem) = head.and_then(|head| refused(&shared.limits, head)) {
        return Err(problem);
    }
    let safe = head.is_some_and(keeps_safe);
    let reserved = || if safe { shared.reserved.try_acquire() } else { Err(TryAcquireError::NoPermits) };
    let Ok(_permit) = shared.requests.try_acquire().or_else(|_| reserved()) else {
        return Err(Problem::request(RequestRefusal::Busy));
    };
    let limit = Duration::from_secs(shared.limits.request_seconds_max);
    // Pinned where it stands: to move all that a request needs costs more than some of its steps.
    let routed = pin!(routed(shared, request, arrival));
    let answered = peer.in_time(limit, routed).await;
    answered.ok_or_else(|| Problem::of(&EngineError::Indeterminate))
}

async fn routed(shared: &Shared, request: &mut Place, arrival: &Arc<Arrival>) -> Response<Body> {
    if let (Some(service), Some((head, body))) = (&shared.service, request.as_mut())
        && let Some((frequent, key)) = Frequent::of(&head.method, head.uri.path())
    {
        return frequent.answer(key, service, arrival, &head.headers, body).await;
    }
    let Some((mut head, body)) = request.take() else {
        return Problem::of(&EngineError::Bug { what: "a request is gone" }).into_response();
    };
    head.extensions.insert(arrival.clone());
    let router = shared.router.clone();
    match Box::pin(router.oneshot(Request::from_parts(head, body))).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

async fn connection(
    shared: Arc<Shared>,
    watcher: Watcher,
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // Answers are small and complete: waiting for more bytes would only delay them.
    let _nodelay = stream.set_nodelay(true);
    let handshake = Duration::from_secs(shared.limits.handshake_seconds_max);
    match shared.tls.clone() {
        None => serve_stream(&shared, watcher, stream, peer).await,
        Some(tls) => match tokio::time::timeout(handshake, Box::pin(tls.accept(stream))).await {
            Ok(Ok(stream)) => Box::pin(serve_stream(&shared, watcher, stream, peer)).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
    drop(permit);
}

async fn serve_stream<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    shared: &Arc<Shared>,
    watcher: Watcher,
    stream: I,
    peer: SocketAddr,
) {
    let peer = Peer::new(peer);
    let (served, heard) = (shared.clone(), Arc::new(AtomicBool::new(false)));
    let hears = heard.clone();
    let service = hyper::service::service_fn(move |request| {
        hears.store(true, Ordering::Relaxed);
        answer(served.clone(), peer.clone(), request)
    });
    let connection = shared.builder.serve_connection(TokioIo::new(stream), service).into_owned();
    // hyper limits how long a head may take, but not how long it may take to say which version of HTTP it is of.
    let silence = async {
        tokio::time::sleep(Duration::from_secs(shared.limits.header_seconds_max)).await;
        if heard.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    };
    tokio::select! {
        ended = watcher.watch(connection) => {
            if let Err(error) = ended {
                tracing::debug!(error = %error, "a connection ended early");
            }
        }
        () = silence => tracing::debug!("a connection without a request was closed"),
    }
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, ListenError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ListenError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(&tls.certificates)
        .and_then(Iterator::collect)
        .map_err(failed(&tls.certificates))?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(failed(&tls.key))?;
    let builder = rustls::ServerConfig::builder_with_protocol_versions(&[&TLS13, &TLS12]);
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(ListenError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

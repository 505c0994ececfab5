//! The listener: plain HTTP on loopback, TLS anywhere, and an end that loses nothing.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use keyrail_engine::EngineError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use crate::problem::Problem;

/// How many requests are worked on at the same time; more are told to come back.
const REQUESTS_MAX: usize = 4_096;

/// How long a request may take; retirement waits for a write window of up to two minutes.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(180);

/// How many connections are held at the same time.
const CONNECTIONS_MAX: usize = 8_192;

/// How long a caller may take to send its headers, in seconds.
const HEADER_SECONDS_MAX: u64 = 10;

/// How long a TLS handshake may take, in seconds.
const HANDSHAKE_SECONDS_MAX: u64 = 10;

/// How long running requests are waited for at the end, in seconds.
const SHUTDOWN_SECONDS_MAX: u64 = 30;

/// The most bytes of headers.
const HEADERS_LEN_MAX: usize = 64 * 1024;

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
        Ok(Self { tcp, address, tls })
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Serves until `stop` ends, then lets running requests finish.
    pub async fn serve(self, router: Router, stop: impl Future<Output = ()>) {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX))
            .max_buf_size(HEADERS_LEN_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS_LEN_MAX as u32)
            .max_concurrent_streams(256);
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let shared = Arc::new(Shared { builder, router, requests, tls: self.tls });
        let graceful = GracefulShutdown::new();
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
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
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
                () = &mut stop => break,
            }
        }
        drop(self.tcp);
        if tokio::time::timeout(Duration::from_secs(SHUTDOWN_SECONDS_MAX), graceful.shutdown()).await.is_err() {
            tracing::warn!("some requests did not end in time and are dropped");
        }
    }
}

struct Shared {
    builder: auto::Builder<TokioExecutor>,
    router: Router,
    requests: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
}

/// Bounds how many requests are worked on and how long each may take.
async fn answer(
    router: Router,
    requests: Arc<Semaphore>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let Ok(_permit) = requests.try_acquire() else {
        return Ok(Problem::of(&EngineError::Contended).into_response());
    };
    let logged = tracing::enabled!(tracing::Level::DEBUG)
        .then(|| (request.method().clone(), request.uri().path().to_owned(), Instant::now()));
    let response = match tokio::time::timeout(REQUEST_TIME_MAX, router.oneshot(request)).await {
        Ok(answered) => answered?,
        Err(_) => Problem::of(&EngineError::Indeterminate).into_response(),
    };
    if let Some((method, path, begun)) = logged {
        // Method, path and status: no header, query or body has a place in a log.
        tracing::debug!(%method, path, status = response.status().as_u16(), micros = begun.elapsed().as_micros(), "answered");
    }
    Ok(response)
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
    match shared.tls.clone() {
        None => serve_stream(&shared, watcher, stream, peer).await,
        Some(tls) => match tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), tls.accept(stream)).await {
            Ok(Ok(stream)) => serve_stream(&shared, watcher, stream, peer).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        },
    }
    drop(permit);
}

async fn serve_stream<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    shared: &Shared,
    watcher: Watcher,
    stream: I,
    peer: SocketAddr,
) {
    let (router, requests) = (shared.router.clone(), shared.requests.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        answer(router.clone(), requests.clone(), request)
    });
    let connection = shared.builder.serve_connection(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(error = %error, "a connection ended early");
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
    let mut config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(ListenError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

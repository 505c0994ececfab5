//! The client of the HTTP API: requests with a token, answers with a limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

/// The most bytes of an answer.
const ANSWER_LEN_MAX: usize = 128 * 1024 * 1024;

/// How long an answer is waited for, in seconds: longer than the longest write window that a request waits out.
const ANSWER_SECONDS_MAX: u64 = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's URL is not one.
    #[error("`{url}` is not the URL of a server")]
    Url {
        /// What was given.
        url: String,
    },
    /// The certificates that are trusted cannot be read.
    #[error("cannot use the certificates in `{path}`")]
    Certificates {
        /// The file.
        path: PathBuf,
    },
    /// The server does not answer.
    #[error("`{url}` does not answer")]
    Unreachable {
        /// The server.
        url: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server does not answer in time.
    #[error("`{url}` took longer than {seconds} s")]
    TimedOut {
        /// The server.
        url: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The request cannot be made, such as with a token that no header takes.
    #[error("the request cannot be made")]
    Request(#[from] http::Error),
}

impl ClientError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Url { .. } => "write it like https://keyrail.example:8440",
            Self::Certificates { .. } => "name a PEM file with --ca-cert",
            Self::Unreachable { .. } => "check that the server runs and that its certificate is trusted (--ca-cert)",
            Self::TimedOut { .. } => "look the request up in the log before trying again",
            Self::Request(_) => "check the token and the path",
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A client of one server.
pub struct Client {
    base: String,
    token: Option<Zeroizing<String>>,
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// A client of the server at `base`, with a token, trusting the certificates in `ca` or the public ones.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Certificates`].
    pub fn new(base: &str, token: Option<Zeroizing<String>>, ca: Option<&Path>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url { url: base.to_owned() };
        let uri: Uri = base.parse().map_err(|_| wrong())?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(wrong());
        }
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca {
            None => builder.with_webpki_roots(),
            Some(path) => builder.with_tls_config(config(path)?),
        };
        let connector = builder.https_or_http().enable_http1().build();
        let http = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, http })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::TimedOut`]; an answer that says no is no error here.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Reply, ClientError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        request = request.header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            let bearer = Zeroizing::new(format!("Bearer {}", token.as_str()));
            let mut value = HeaderValue::from_str(&bearer).map_err(http::Error::from)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(reply) => reply,
            Err(_) => Err(ClientError::TimedOut { url: self.base.clone(), seconds: ANSWER_SECONDS_MAX }),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, ClientError> {
        let failed = |source| ClientError::Unreachable { url: self.base.clone(), source };
        let answer = self.http.request(request).await.map_err(|error| failed(error.into()))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_LEN_MAX).collect().await.map_err(failed)?.to_bytes();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }
}

fn config(path: &Path) -> Result<rustls::ClientConfig, ClientError> {
    let failed = || ClientError::Certificates { path: path.to_owned() };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|_| failed())? {
        roots.add(certificate.map_err(|_| failed())?).map_err(|_| failed())?;
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

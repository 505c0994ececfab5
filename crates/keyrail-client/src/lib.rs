//! The client of the HTTP API: requests with a token, answers with a limit.

use std::net::IpAddr;
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

/// The most bytes of an answer: the largest batch, and what JSON and base64 add.
pub const ANSWER_LEN_MAX: usize = 128 * 1024 * 1024;

/// How long an answer is waited for, in seconds: longer than the longest write window that a request waits out.
pub const ANSWER_SECONDS_MAX: u64 = 200;

/// How long a connection is waited for, in seconds.
pub const CONNECT_SECONDS_MAX: u64 = 10;

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
    /// Plain HTTP beyond this machine would show the token and the data to whoever carries it.
    #[error("`{url}` is plain HTTP to another machine")]
    PlainBeyondLoopback {
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
    /// The server's certificate is refused: nothing was sent to it.
    #[error("the certificate of `{url}` is refused: {problem}")]
    Certificate {
        /// The server.
        url: String,
        /// What is wrong with it.
        problem: CertificateProblem,
        /// What the TLS library said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer ended before its end, or is longer than [`ANSWER_LEN_MAX`].
    #[error("the answer of `{url}` cannot be read")]
    Answer {
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

/// Why a server's certificate is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateProblem {
    /// Nobody who signed it is trusted here.
    #[error("it is signed by nobody who is trusted here")]
    Issuer,
    /// It is made out to other names.
    #[error("it is for another name than the one in the URL")]
    Name,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not begun.
    #[error("it is not valid yet")]
    NotYet,
    /// It was revoked.
    #[error("it was revoked")]
    Revoked,
    /// Something else; the source tells.
    #[error("it is not one for a server")]
    Other,
}

impl CertificateProblem {
    fn of(error: &rustls::Error) -> Option<Self> {
        use rustls::CertificateError as E;
        let rustls::Error::InvalidCertificate(error) = error else { return None };
        Some(match error {
            E::UnknownIssuer | E::BadSignature => Self::Issuer,
            E::NotValidForName | E::NotValidForNameContext { .. } => Self::Name,
            E::Expired | E::ExpiredContext { .. } => Self::Expired,
            E::NotValidYet | E::NotValidYetContext { .. } => Self::NotYet,
            E::Revoked => Self::Revoked,
            _ => Self::Other,
        })
    }

    /// Looks for it among the causes of an error; an IO error holds its own beside the chain.
    fn among(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(problem) = error.downcast_ref::<rustls::Error>().and_then(Self::of) {
                return Some(problem);
            }
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            next = inner.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| error.source());
        }
        None
    }

    fn hint(self) -> &'static str {
        match self {
            Self::Issuer => "name the certificates that it is signed by with --ca-cert",
            Self::Name => "use a name of the certificate in --server, or give the server a certificate for this one",
            Self::Expired => "give the server a new certificate (--tls-cert, --tls-key), and check the clock here",
            Self::NotYet => "check the clocks here and on the server",
            Self::Revoked | Self::Other => "give the server another certificate (--tls-cert, --tls-key)",
        }
    }
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The request cannot be sent as it stands.
    Caller,
    /// The server or the way to it.
    Dependency,
}

impl ClientError {
    /// The stable code, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Answer { .. } => "answer_lost",
            Self::Certificate { .. } => "certificate_refused",
            Self::Certificates { .. } => "certificates_unusable",
            Self::PlainBeyondLoopback { .. } => "plain_beyond_loopback",
            Self::Request(_) => "request_unusable",
            Self::TimedOut { .. } => "timed_out",
            Self::Unreachable { .. } => "unreachable",
            Self::Url { .. } => "url_unusable",
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Certificates { .. } | Self::PlainBeyondLoopback { .. } | Self::Request(_) | Self::Url { .. } => {
                Fault::Caller
            }
            Self::Answer { .. } | Self::Certificate { .. } | Self::TimedOut { .. } | Self::Unreachable { .. } => {
                Fault::Dependency
            }
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Url { .. } => "write it like https://keyrail.example:8440",
            Self::PlainBeyondLoopback { .. } => "write https://, and let the server have a certificate",
            Self::Certificates { .. } => "name a PEM file with certificates",
            Self::Certificate { problem, .. } => problem.hint(),
            Self::Unreachable { .. } => "check that the server runs there, and that the URL is right",
            Self::Answer { .. } | Self::TimedOut { .. } => {
                "a change may have been made: look into the log before trying again"
            }
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
///
/// It keeps connections and may be shared. The token is wiped when the client is dropped, and is marked as sensitive in
/// each request, so that no log shows it. Nothing that was sent is sent again by itself: a request that got no answer may
/// have been carried out, and only an idempotency key makes it safe to repeat.
pub struct Client {
    base: String,
    token: Option<Zeroizing<String>>,
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Client {
    /// A client of the server at `base`, with a token, trusting the certificates in `ca` or the public ones.
    ///
    /// Plain HTTP is spoken with this machine only.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::PlainBeyondLoopback`], [`ClientError::Certificates`].
    pub fn new(base: &str, token: Option<Zeroizing<String>>, ca: Option<&Path>) -> Result<Self, ClientError> {
        let base = base_of(base)?;
        let builder = HttpsConnectorBuilder::new();
        let builder = match ca {
            None => builder.with_webpki_roots(),
            Some(path) => builder.with_tls_config(config(path)?),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(CONNECT_SECONDS_MAX)));
        let connector = builder.https_or_http().enable_http1().wrap_connector(tcp);
        let http = HyperClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { base, token, http })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// `path` begins with a slash and is already percent-encoded; the body is JSON or empty.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], [`ClientError::Certificate`], [`ClientError::TimedOut`], [`ClientError::Answer`], [`ClientError::Request`]; an
    /// answer that says no is no error here.
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
        self.within(ANSWER_SECONDS_MAX, self.exchange(request, ANSWER_LEN_MAX)).await
    }

    /// Sends a text to a service of another kind than ours, without the token, and reads an answer of so many bytes at
    /// most within so many seconds.
    ///
    /// # Errors
    /// Those of [`Client::send`].
    pub async fn post_text(
        &self,
        path: &str,
        text: String,
        seconds_max: u64,
        answer_len_max: usize,
    ) -> Result<Reply, ClientError> {
        let request = Request::post(format!("{}{path}", self.base)).header(header::CONTENT_TYPE, "text/plain");
        let request = request.body(Full::new(Bytes::from(text)))?;
        self.within(seconds_max, self.exchange(request, answer_len_max)).await
    }

    async fn within(
        &self,
        seconds: u64,
        exchange: impl Future<Output = Result<Reply, ClientError>>,
    ) -> Result<Reply, ClientError> {
        let answer = tokio::time::timeout(Duration::from_secs(seconds), exchange).await;
        answer.unwrap_or_else(|_| Err(ClientError::TimedOut { url: self.base.clone(), seconds }))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, answer_len_max: usize) -> Result<Reply, ClientError> {
        let url = || self.base.clone();
        let answer = self.http.request(request).await;
        let answer = answer.map_err(|error| match CertificateProblem::among(&error) {
            Some(problem) => ClientError::Certificate { url: url(), problem, source: error.into() },
            None => ClientError::Unreachable { url: url(), source: error.into() },
        })?;
        let (parts, body) = answer.into_parts();
        let read = Limited::new(body, answer_len_max).collect().await;
        let body = read.map_err(|source| ClientError::Answer { url: url(), source })?.to_bytes();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }
}

/// The base of all paths, without a slash at its end.
fn base_of(text: &str) -> Result<String, ClientError> {
    let wrong = || ClientError::Url { url: text.to_owned() };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    if uri.query().is_some() {
        return Err(wrong());
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(authority.host()) => {}
        Some("http") => return Err(ClientError::PlainBeyondLoopback { url: text.to_owned() }),
        _ => return Err(wrong()),
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn config(path: &Path) -> Result<rustls::ClientConfig, ClientError> {
    let failed = || ClientError::Certificates { path: path.to_owned() };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|_| failed())? {
        roots.add(certificate.map_err(|_| failed())?).map_err(|_| failed())?;
    }
    if roots.is_empty() {
        return Err(failed());
    }
    Ok(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail loudly")]

    use super::*;

    #[test]
    fn where_a_token_may_go() {
        for yes in ["http://127.0.0.1:8440", "http://[::1]:1/", "http://localhost:8440", "https://keys.example/api/"] {
            assert!(base_of(yes).is_ok(), "{yes}");
        }
        for plain in ["http://10.0.0.1:8440", "http://keys.example", "http://127.0.0.1.example", "http://[::2]:1"] {
            assert_eq!(base_of(plain).unwrap_err().code(), "plain_beyond_loopback", "{plain}");
        }
        for wrong in
            ["", "keys.example", "ftp://127.0.0.1", "https://", "https://user:word@keys.example", "https://a/?b=c"]
        {
            assert_eq!(base_of(wrong).unwrap_err().code(), "url_unusable", "{wrong}");
        }
        assert_eq!(base_of("https://keys.example/api/").unwrap(), "https://keys.example/api");
    }
}

//! What is answered without the router is answered as the router answers it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::body::Bytes;
use http::{Request, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use keyrail_core::time::{BootId, Clock, Observation, Timestamp};
use keyrail_http::{Listener, Tls, router};
use keyrail_testkit::TempDir;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::limits::{Served, rest, self_signed, send, service_at};

const KEY: &str = "/v1/keys/acme/prod/crm/pii";

/// A text without what follows `start` up to the next quote.
fn without(text: &str, start: &str) -> String {
    match text.split_once(start) {
        Some((before, after)) => format!("{before}{start}{}", &after[after.find('"').unwrap()..]),
        None => text.to_owned(),
    }
}

struct Asked<'a> {
    method: &'a str,
    path: String,
    headers: String,
    body: &'a str,
    /// Whether the body comes in pieces, and its length is not told before.
    chunked: bool,
}

impl Asked<'_> {
    /// The status and the body of the answer, without what is another one each time.
    async fn of(&self, served: &Served) -> String {
        let Self { method, path, headers, body, chunked } = self;
        let len = body.len();
        let mut stream = served.connect().await;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}");
        let (head, body) = if *chunked {
            let (one, other) = body.split_at(len / 2);
            let pieces = format!("{:x}\r\n{one}\r\n{:x}\r\n{other}\r\n0\r\n\r\n", one.len(), other.len());
            (format!("{head}transfer-encoding: chunked\r\n\r\n"), pieces)
        } else {
            (format!("{head}content-length: {len}\r\n\r\n"), (*body).to_owned())
        };
        // Who is refused before his body was read finds the connection closed, with the answer in it.
        let _refused = stream.write_all(head.as_bytes()).await;
        let mut told = String::new();
        if headers.contains("expect:") {
            told = told_first(&mut stream).await;
        }
        let _refused = stream.write_all(body.as_bytes()).await;
        let said = told + &rest(&mut stream).await;
        let (head, body) = said.strip_prefix(CONTINUE).unwrap_or(&said).split_once("\r\n\r\n").unwrap();
        let first = if said.starts_with(CONTINUE) { "told to go on\n" } else { "" };
        format!("{first}{}", kept(head.lines().map(str::to_owned).collect(), body))
    }

    /// The same over HTTP/2.
    async fn over_http2(&self, sender: &SendRequest<BoxBody<Bytes, Infallible>>) -> String {
        let Self { method, path, headers, body, chunked } = self;
        let full = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        // What passes its frames on does not tell how many there will be.
        let body = if *chunked { full.map_frame(|frame| frame).boxed() } else { full.boxed() };
        let uri = if path.starts_with('/') { format!("https://x{path}") } else { path.clone() };
        let mut request = Request::builder().method(*method).uri(uri);
        for line in headers.lines() {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let mut sender = sender.clone();
        let response = sender.send_request(request.body(body).unwrap()).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let status = [format!("HTTP/2 {}", parts.status.as_u16())].into_iter();
        let lines = parts.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        kept(status.chain(lines).collect(), str::from_utf8(&body).unwrap())
    }
}

/// What tells a caller who expects it to send his body.
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";

/// The first head that comes, before the body was sent.
async fn told_first(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(said).unwrap()
}

/// An answer, without what is another one each time: no ciphertext and no id is made twice.
fn kept(mut head: Vec<String>, body: &str) -> String {
    head.retain(|line| !["date: ", "x-request-id: "].iter().any(|start| line.starts_with(start)));
    head.sort_unstable();
    let body = without(&without(body, "kr1."), "\"request_id\":\"");
    format!("{}\n\n{body}", head.join("\n"))
}

/// A connection of HTTP/2, over a stream whose other side knows that it will be one.
async fn speaking_http2<I: AsyncRead + AsyncWrite + Send + Unpin + 'static>(
    stream: I,
) -> SendRequest<BoxBody<Bytes, Infallible>> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A connection that both sides agreed on in the handshake of TLS.
async fn over_tls(served: &Served, tls: &Tls) -> SendRequest<BoxBody<Bytes, Infallible>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&tls.certificates).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, served.connect().await).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    speaking_http2(stream).await
}

/// Requests as they should be, and with something wrong in each part.
fn cases<'a>(token: &str, sealed: &'a str, long: &'a str) -> Vec<Asked<'a>> {
    let good = r#"{"items":[{"plaintext":"aGVsbG8=","context":{"row":"1"}}]}"#;
    let (path, none) = (format!("{KEY}/encrypt"), String::new());
    let json = format!("{token}content-type: application/json\r\n");
    let spoken = format!("{json}x-request-id: mine\r\nx-keyrail-app: crm\r\ntraceparent: nonsense\r\n");
    let mut cases = Vec::new();
    for path in [path.clone(), format!("{KEY}/decrypt")] {
        for body in [
            good,
            "",
            "{}",
            "[",
            r#"{"items":[]}"#,
            r#"{"items":[{"plaintext":"%"}]}"#,
            r#"{"items":[{"ciphertext":"kr1.x"}]}"#,
            r#"{"more":1}"#,
        ] {
            cases.push(Asked { method: "POST", path: path.clone(), headers: json.clone(), body, chunked: false });
        }
        for headers in [
            none.clone(),
            "authorization: Bearer krt_x\r\n".to_owned(),
            spoken.clone(),
            format!("{token}content-type: text/plain\r\n"),
            format!("{json}if-match: x\r\n"),
            format!("{json}idempotency-key: a\r\nidempotency-key: b\r\n"),
        ] {
            cases.push(Asked { method: "POST", path: path.clone(), headers, body: good, chunked: false });
        }
        for method in ["GET", "HEAD", "PUT"] {
            cases.push(Asked { method, path: path.clone(), headers: json.clone(), body: "", chunked: false });
        }
    }
    let decrypt = format!("{KEY}/decrypt");
    for (path, body) in [(&path, good), (&path, long), (&decrypt, sealed), (&decrypt, long)] {
        // A length that is not told is a long body: without a token, or with one that is none, it is not read.
        for headers in [json.clone(), none.clone(), "authorization: Bearer krt_x\r\n".to_owned()] {
            for chunked in [false, true] {
                cases.push(Asked { method: "POST", path: path.clone(), headers: headers.clone(), body, chunked });
            }
        }
    }
    // Who waits to be told to send his body is told so, or is refused at once.
    for (headers, body) in [(&json, good), (&json, long), (&none, good), (&none, long)] {
        for chunked in [false, true] {
            let headers = format!("{headers}expect: 100-continue\r\n");
            cases.push(Asked { method: "POST", path: path.clone(), headers, body, chunked });
        }
    }
    let headers = format!("{token}content-type: text/plain\r\nexpect: 100-continue\r\n");
    cases.push(Asked { method: "POST", path: path.clone(), headers, body: good, chunked: false });
    for path in paths(&path, &decrypt) {
        cases.push(Asked { method: "POST", path, headers: json.clone(), body: good, chunked: false });
    }
    cases
}

/// Paths that are written in other ways, or lead to nothing.
fn paths(path: &str, decrypt: &str) -> Vec<String> {
    vec![
        format!("{path}?x=1"),
        format!("{path}?"),
        format!("{path}/?x=1"),
        format!("{decrypt}?x=1"),
        format!("{decrypt}/"),
        format!("http://x{path}"),
        format!("{path}/"),
        path.replace("encrypt", "%65ncrypt"),
        path.replace("crm/pii", "crm%2Fpii"),
        path.replace("crm", "cr%6"),
        path.replace("crm", "cr%ff"),
        path.replace("/crm/", "//"),
        path.replace("crm", "CRM"),
        path.replace("crm", "%63rm"),
        path.replace("crm", "other"),
        path.replace("crm", &"a".repeat(64)),
        path.replace("/crm", ""),
        path.replace("encrypt", "encryp"),
    ]
}

/// What asks to decrypt what was encrypted before.
async fn sealed(served: &Served, token: &str) -> String {
    let body = r#"{"items":[{"plaintext":"aGVsbG8=","context":{"row":"1"}}]}"#;
    let mut stream = served.connect().await;
    let head = format!("POST {KEY}/encrypt HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}");
    send(&mut stream, &format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await;
    let said = rest(&mut stream).await;
    let ciphertext = said.split_once("\"ciphertext\":\"").unwrap().1.split_once('"').unwrap().0;
    serde_json::json!({"items": [{"ciphertext": ciphertext, "context": {"row": "1"}}]}).to_string()
}

/// A clock that goes on by ten seconds with every case: so many strangers at once would be told to come later.
struct Steps(AtomicI64);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_700_000_000_000 + self.0.load(Ordering::SeqCst) * 10_000)
    }

    fn observe(&self) -> Observation {
        let uptime_millis = u64::try_from(self.0.load(Ordering::SeqCst)).unwrap() * 10_000;
        Observation { boot: BootId([1; 16]), wall: self.now(), uptime_millis }
    }
}

/// Domain, app and key.
async fn with_key(served: &Served, token: &str) {
    for (path, body) in [
        ("/v1/domains", r#"{"name":"acme"}"#),
        ("/v1/apps", r#"{"path":"acme/prod/crm"}"#),
        ("/v1/keys", r#"{"name":"acme/prod/crm/pii","label":"internal"}"#),
    ] {
        let asked = Asked { method: "POST", path: path.to_owned(), headers: token.to_owned(), body, chunked: false };
        let said = asked.of(served).await;
        assert!(said.starts_with("HTTP/1.1 20"), "{said}");
    }
}

#[tokio::test]
async fn both_ways_answer_alike() {
    let dir = TempDir::new().unwrap();
    let tls = self_signed(&dir);
    let clock = Arc::new(Steps(AtomicI64::new(0)));
    let (service, token) = service_at(&dir, clock.clone()).await;
    let served = async |tls: Option<&Tls>, direct: bool| {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), tls).await.unwrap();
        let listener = if direct { listener.for_service(&service) } else { listener };
        Served::start(router(service.clone()), listener)
    };
    let (direct, routed) = (served(None, true).await, served(None, false).await);
    let (direct_tls, routed_tls) = (served(Some(&tls), true).await, served(Some(&tls), false).await);
    let token = format!("authorization: Bearer {token}\r\n");
    with_key(&routed, &token).await;

    let items = serde_json::json!({"items": [{"plaintext": "A".repeat(100_000), "context": {}}]});
    let (long, sealed) = (items.to_string(), sealed(&routed, &token).await);
    let cases = cases(&token, &sealed, &long);
    let connections = [
        (speaking_http2(direct.connect().await).await, speaking_http2(routed.connect().await).await),
        (over_tls(&direct_tls, &tls).await, over_tls(&routed_tls, &tls).await),
    ];
    let (mut done, mut opened, mut told) = (0, 0, 0);
    for asked in &cases {
        let about = format!("{} {} {} {}", asked.method, asked.path, asked.headers.replace(&token, ""), asked.body);
        clock.0.fetch_add(1, Ordering::SeqCst);
        let (one, other) = (asked.of(&direct).await, asked.of(&routed).await);
        assert_eq!(one, other, "{about}");
        assert!(!one.contains("HTTP/1.1 429"), "{about}");
        done += usize::from(one.contains("HTTP/1.1 200"));
        opened += usize::from(one.contains("\"plaintext\":\"aGVsbG8=\""));
        told += usize::from(one.starts_with("told to go on"));
        for (direct, routed) in &connections {
            let (http2, other) = (asked.over_http2(direct).await, asked.over_http2(routed).await);
            assert_eq!(http2, other, "{about}");
            assert_eq!(http2.contains("HTTP/2 200"), one.contains("HTTP/1.1 200"), "{about}");
        }
    }
    assert_eq!(opened, 2, "a ciphertext is opened, in one piece and in two");
    // A short body is read from anybody, a long one only from who has a token.
    assert_eq!(told, 5, "told to go on");
    assert!((4..cases.len() / 2).contains(&done), "{done} of {}", cases.len());
    drop(connections);
    for served in [direct, routed, direct_tls, routed_tls] {
        served.end().await;
    }
}

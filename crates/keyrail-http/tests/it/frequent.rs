//! What is answered without the router is answered as the router answers it.

use keyrail_http::{Limits, Listener, router};
use keyrail_testkit::TempDir;
use tokio::io::AsyncWriteExt;

use crate::limits::{Served, rest, send, service_in};

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
        let text = if *chunked {
            let (one, other) = body.split_at(len / 2);
            let pieces = format!("{:x}\r\n{one}\r\n{:x}\r\n{other}\r\n0\r\n\r\n", one.len(), other.len());
            format!("{head}transfer-encoding: chunked\r\n\r\n{pieces}")
        } else {
            format!("{head}content-length: {len}\r\n\r\n{body}")
        };
        // Who is refused before his body was read finds the connection closed, with the answer in it.
        let _refused = stream.write_all(text.as_bytes()).await;
        let said = rest(&mut stream).await;
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        let kept = |line: &&str| !["date: ", "x-request-id: "].iter().any(|start| line.starts_with(start));
        let mut head: Vec<&str> = head.lines().filter(kept).collect();
        head.sort_unstable();
        // No ciphertext and no id is made twice.
        let body = without(&without(body, "kr1."), "\"request_id\":\"");
        format!("{}\n\n{body}", head.join("\n"))
    }
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
        cases.push(Asked { method: "GET", path: path.clone(), headers: json.clone(), body: "", chunked: false });
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
    for path in [
        format!("{path}?x=1"),
        format!("{path}/"),
        path.replace("/crm/", "//"),
        path.replace("crm", "CRM"),
        path.replace("crm", "%63rm"),
        path.replace("crm", "other"),
        path.replace("crm", &"a".repeat(64)),
        path.replace("/crm", ""),
        path.replace("encrypt", "encryp"),
    ] {
        cases.push(Asked { method: "POST", path, headers: json.clone(), body: good, chunked: false });
    }
    cases
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

#[tokio::test]
async fn both_ways_answer_alike() {
    let dir = TempDir::new().unwrap();
    let (service, token) = service_in(&dir).await;
    let listener = || async { Listener::bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap() };
    let direct = Served::start(router(service.clone()), listener().await.for_service(&service));
    let routed = Served::new(router(service.clone()), Limits::default(), None).await;

    let token = format!("authorization: Bearer {token}\r\n");
    for (path, body) in [
        ("/v1/domains", r#"{"name":"acme"}"#),
        ("/v1/apps", r#"{"path":"acme/prod/crm"}"#),
        ("/v1/keys", r#"{"name":"acme/prod/crm/pii","label":"internal"}"#),
    ] {
        let asked = Asked { method: "POST", path: path.to_owned(), headers: token.clone(), body, chunked: false };
        let said = asked.of(&routed).await;
        assert!(said.starts_with("HTTP/1.1 20"), "{said}");
    }

    let items = serde_json::json!({"items": [{"plaintext": "A".repeat(100_000), "context": {}}]});
    let (long, sealed) = (items.to_string(), sealed(&routed, &token).await);
    let cases = cases(&token, &sealed, &long);
    let (mut done, mut opened) = (0, 0);
    for asked in &cases {
        let (one, other) = (asked.of(&direct).await, asked.of(&routed).await);
        assert_eq!(one, other, "{} {} {}", asked.method, asked.path, asked.body);
        done += usize::from(one.starts_with("HTTP/1.1 200"));
        opened += usize::from(one.contains("\"plaintext\":\"aGVsbG8=\""));
    }
    assert_eq!(opened, 2, "a ciphertext is opened, in one piece and in two");
    assert!((4..cases.len() / 2).contains(&done), "{done} of {}", cases.len());
    direct.end().await;
    routed.end().await;
}

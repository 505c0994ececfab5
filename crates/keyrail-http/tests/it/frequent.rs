//! What is answered without the router is answered as the router answers it.

use std::sync::Arc;

use keyrail_engine::{Access, Engine, EngineOptions};
use keyrail_http::{Limits, Listener, Service, router};
use keyrail_testkit::TempDir;

use crate::limits::{Served, Still, rest, send};

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
}

impl Asked<'_> {
    /// The status and the body of the answer, without what is another one each time.
    async fn of(&self, served: &Served) -> String {
        let Self { method, path, headers, body } = self;
        let len = body.len();
        let mut stream = served.connect().await;
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len}\r\n{headers}");
        send(&mut stream, &format!("{head}\r\n{body}")).await;
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
fn cases(token: &str) -> Vec<Asked<'static>> {
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
            cases.push(Asked { method: "POST", path: path.clone(), headers: json.clone(), body });
        }
        for headers in [
            none.clone(),
            "authorization: Bearer krt_x\r\n".to_owned(),
            spoken.clone(),
            format!("{token}content-type: text/plain\r\n"),
            format!("{json}if-match: x\r\n"),
            format!("{json}idempotency-key: a\r\nidempotency-key: b\r\n"),
        ] {
            cases.push(Asked { method: "POST", path: path.clone(), headers, body: good });
        }
        cases.push(Asked { method: "GET", path: path.clone(), headers: json.clone(), body: "" });
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
        cases.push(Asked { method: "POST", path, headers: json.clone(), body: good });
    }
    cases
}

#[tokio::test]
async fn both_ways_answer_alike() {
    let dir = TempDir::new().unwrap();
    let data_dir = dir.join("D");
    let made = Engine::init(data_dir.clone(), None, &Still).await.unwrap();
    let options = EngineOptions { data_dir, access: Access::Write, clock: Arc::new(Still), assets: None };
    let engine = Engine::open(options).unwrap();
    engine.unseal().await.unwrap();
    let service = Service::new(engine, false);
    let listener = || async { Listener::bind("127.0.0.1:0".parse().unwrap(), None).await.unwrap() };
    let direct = Served::start(router(service.clone()), listener().await.for_service(&service));
    let routed = Served::new(router(service.clone()), Limits::default(), None).await;

    let token = format!("authorization: Bearer {}\r\n", made.token.as_str());
    for (path, body) in [
        ("/v1/domains", r#"{"name":"acme"}"#),
        ("/v1/apps", r#"{"path":"acme/prod/crm"}"#),
        ("/v1/keys", r#"{"name":"acme/prod/crm/pii","label":"internal"}"#),
    ] {
        let asked = Asked { method: "POST", path: path.to_owned(), headers: token.clone(), body };
        let said = asked.of(&routed).await;
        assert!(said.starts_with("HTTP/1.1 20"), "{said}");
    }

    let cases = cases(&token);
    let mut done = 0;
    for asked in &cases {
        let (one, other) = (asked.of(&direct).await, asked.of(&routed).await);
        assert_eq!(one, other, "{} {} {}", asked.method, asked.path, asked.body);
        done += usize::from(one.starts_with("HTTP/1.1 200"));
    }
    assert!((4..cases.len() / 2).contains(&done), "{done} of {}", cases.len());
    direct.end().await;
    routed.end().await;
}

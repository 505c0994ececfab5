//! Calls of the HTTP API, one at a time, over a real connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use http::{HeaderMap, HeaderName, Method};
use keyrail_client::{Client, Reply};
use serde_json::Value;
use zeroize::Zeroizing;

pub(crate) struct Http {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// An answer.
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) request_id: String,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// A header of the answer; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The stable code of a problem, which must be a whole one.
    pub(crate) fn code(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}: {}", self.status, self.text);
        let problem = self.json();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], self.status);
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert_eq!(problem["request_id"].as_str().map(str::len), Some(32), "{}", self.text);
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// Sends a head and a body as they are over a connection of their own, and reads the answer to its end.
pub(crate) fn raw(url: &str, head: &str, body: &[u8]) -> Said {
    let head = format!("{head}\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    exchange(url, &[head.as_bytes(), body].concat())
}

/// Sends bytes and reads until the server closes the connection.
pub(crate) fn exchange(url: &str, bytes: &[u8]) -> Said {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // A server that refuses by the head may close before it has read all.
    let _closed = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    parse(&answer)
}

fn parse(answer: &[u8]) -> Said {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
    }
    let request_id = headers.get("x-request-id").map_or("", |value| value.to_str().unwrap()).to_owned();
    Said { status, headers, request_id, text: body.to_owned() }
}

impl Http {
    pub(crate) fn new(url: &str, token: Option<&str>) -> Self {
        let token = token.map(|token| Zeroizing::new(token.to_owned()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { client: Client::new(url, token, None).unwrap(), runtime }
    }

    pub(crate) fn try_send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Option<Said> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let reply: Reply = self.runtime.block_on(self.client.send(method, path, headers, body)).ok()?;
        let header = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Some(Said {
            status: reply.status.as_u16(),
            headers: reply.headers.clone(),
            request_id: header("x-request-id").unwrap_or_default(),
            text: String::from_utf8(reply.body.to_vec()).unwrap(),
        })
    }

    pub(crate) fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &Value) -> Said {
        self.try_send(method, path, headers, body).expect("the server answers")
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        let said = self.send(Method::GET, path, &[], &Value::Null);
        assert_eq!(said.status, 200, "{path}: {}", said.text);
        said.json()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let said = self.send(Method::POST, path, &[], body);
        assert_eq!(said.status, 200, "{path}: {}", said.text);
        said.json()
    }
}

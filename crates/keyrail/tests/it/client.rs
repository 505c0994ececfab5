//! Calls of the HTTP API, one at a time, over a real connection.

use http::Method;
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
    pub(crate) request_id: String,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
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

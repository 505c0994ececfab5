//! The HTTP API of the real server, by its contract.

mod access;
mod contract;
mod document;
mod protocol;
mod refusals;
mod service;

use http::Method;
use keyrail_testkit::Server;
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::Place;

pub(crate) const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// A server with two apps, each with a key, and an owner's token.
pub(crate) struct Api {
    pub(crate) http: Http,
    pub(crate) server: Server,
    pub(crate) place: Place,
    pub(crate) token: String,
}

impl Api {
    pub(crate) fn new() -> Self {
        let place = Place::new();
        let token = place.run("init --json").json()["token"].as_str().unwrap().to_owned();
        let server = place.serve();
        let http = Http::new(server.url(), Some(&token));
        http.post("/v1/domains", &json!({ "name": "acme" }));
        for (app, key) in [("crm", "customer-pii"), ("shop", "orders")] {
            http.post("/v1/apps", &json!({ "path": format!("acme/prod/{app}") }));
            http.post("/v1/keys", &json!({ "name": format!("acme/prod/{app}/{key}"), "label": "confidential" }));
        }
        Self { http, server, place, token }
    }

    pub(crate) fn url(&self) -> &str {
        self.server.url()
    }

    /// A token with a role, confined to an app or not.
    pub(crate) fn token_for(&self, role: &str, app: Option<&str>) -> String {
        let made = self.http.post("/v1/tokens", &json!({ "role": role, "app": app, "ttl_seconds": 3600 }));
        made["token"].as_str().unwrap().to_owned()
    }

    pub(crate) fn with_token(&self, token: &str) -> Http {
        Http::new(self.url(), Some(token))
    }

    /// A table as an asset under the key of the app `crm`; gives the asset's name.
    pub(crate) fn asset(&self, name: &str) -> String {
        let path = self.place.file(&format!("{name}.sqlite"));
        let app = rusqlite::Connection::open(&path).unwrap();
        app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT); INSERT INTO people VALUES (1, 'a@example.org'), (2, NULL)").unwrap();
        let url = format!("sqlite:{}", path.display());
        self.http.post("/v1/assets", &json!({ "name": name, "url": url, "table": "people", "columns": [{ "column": "email" }], "key": "acme/prod/crm/customer-pii" }));
        name.to_owned()
    }

    /// Waits until a campaign has ended.
    pub(crate) fn finished(&self, campaign: &Value) -> Value {
        let path = format!("/v1/campaigns/{}", campaign["id"].as_str().unwrap());
        for _ in 0..600 {
            let shown = self.http.get(&path);
            if shown["state"] != "running" {
                return shown;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        panic!("the campaign does not end")
    }

    pub(crate) fn refused(&self, method: Method, path: &str, body: &Value) -> (u16, String) {
        let said = self.http.send(method, path, &[], body);
        (said.status, said.code())
    }
}

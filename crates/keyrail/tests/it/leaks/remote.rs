//! Everything that handles a secret, done over HTTP, rightly and wrongly.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

use super::secrets::Secrets;
use super::table::{damage, is_plain, make_table};
use crate::client::{Http, Said};
use crate::place::Place;

const NAME: &str = "acme/prod/crm/remote";
const KEY: &str = "/v1/keys/acme/prod/crm/remote";
const PLAINTEXT: &[u8] = b"the plaintext that nobody may see: 5105-1051-0510";

/// How long a campaign may take.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) struct Remote<'a> {
    pub(super) place: &'a Place,
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    pub(super) secrets: &'a mut Secrets,
}

impl Remote<'_> {
    fn owner(&self) -> Http {
        Http::new(self.url, Some(self.token))
    }

    /// Sends, and keeps the answer among those that must hold no secret.
    fn send(&mut self, status: u16, method: Method, path: &str, body: &Value) -> Said {
        let said = self.owner().send(method, path, &[], body);
        assert_eq!(said.status, status, "{path}");
        let place = if status == 200 { "answers" } else { "error answers" };
        self.secrets.say(place, &format!("{:?} {}", said.headers, said.text));
        said
    }

    fn post(&mut self, path: &str, body: &Value) -> Value {
        self.send(200, Method::POST, path, body).json()
    }

    /// An answer that holds a secret by design.
    fn secret(&self, path: &str, body: &Value) -> Value {
        self.owner().post(path, body)
    }

    pub(super) fn use_all(&mut self) {
        self.post("/v1/keys", &json!({ "name": NAME, "label": "swift" }));
        let principals = self.tokens();
        let ciphertext = self.data();
        self.wrong(&ciphertext);
        self.use_commands(&ciphertext);
        self.table(&ciphertext, &principals);
        for path in ["/v1/audit/records?limit=1000", "/v1/tokens", "/v1/system/root", "/v1/health/ready", KEY] {
            self.send(200, Method::GET, path, &Value::Null);
        }
        self.post("/v1/system/verify", &Value::Null);
        self.post("/v1/system/root/evidence", &Value::Null);
        let metrics = self.send(200, Method::GET, "/v1/metrics", &Value::Null);
        self.secrets.say("metrics", &metrics.text);
    }

    /// Makes tokens, twice under one idempotency key; gives all principals.
    fn tokens(&mut self) -> Vec<String> {
        let key = "idempotency-key-of-a-token-0123456789";
        let body = json!({ "role": "app", "app": "acme/prod/crm", "ttl_seconds": 3600 });
        let made = self.owner().send(Method::POST, "/v1/tokens", &[("idempotency-key", key)], &body);
        assert_eq!(made.status, 200);
        self.secrets.keep("idempotency key", key);
        self.secrets.keep_token("token over HTTP", made.json()["token"].as_str().unwrap());
        let again = self.owner().send(Method::POST, "/v1/tokens", &[("idempotency-key", key)], &body);
        assert!(again.status >= 400, "a token is shown once");
        self.secrets.say("error answers", &again.text);
        // Another change under one key, with an answer that is kept.
        for _ in 0..2 {
            let headers = [("idempotency-key", "idempotency-key-of-a-rotation-0123456789")];
            let said = self.owner().send(Method::POST, &format!("{KEY}/rotate"), &headers, &Value::Null);
            assert_eq!(said.status, 200, "{}", said.text);
            self.secrets.say("answers", &said.text);
        }
        self.secrets.keep("idempotency key", "idempotency-key-of-a-rotation-0123456789");
        let owner = self.owner().get("/v1/tokens");
        let ids = owner["tokens"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
        ids.map(|id| format!("token:{id}")).chain(["local-operator".to_owned()]).collect()
    }

    /// Encrypts, decrypts, re-encrypts, and takes a data key and an export; gives a ciphertext under version 1.
    fn data(&mut self) -> String {
        self.secrets.keep("plaintext", PLAINTEXT);
        let item = json!({ "plaintext": STANDARD.encode(PLAINTEXT), "context": { "row": "1" } });
        let sealed = self.post(&format!("{KEY}/encrypt"), &json!({ "items": [item] }));
        let ciphertext = sealed["items"][0]["ciphertext"].as_str().unwrap().to_owned();
        let item = json!({ "ciphertext": ciphertext, "context": { "row": "1" } });
        let opened = self.secret(&format!("{KEY}/decrypt"), &json!({ "items": [item] }));
        assert_eq!(opened["items"][0]["plaintext"], STANDARD.encode(PLAINTEXT));
        self.post(&format!("{KEY}/reencrypt"), &json!({ "items": [item] }));
        let made = self.secret(&format!("{KEY}/data-key"), &json!({}));
        self.secrets.keep("caller's data key", STANDARD.decode(made["plaintext"].as_str().unwrap()).unwrap());
        let exported = self.secret(&format!("{KEY}/versions/2/export"), &Value::Null);
        self.secrets.keep("exported key", STANDARD.decode(exported["key"].as_str().unwrap()).unwrap());
        ciphertext
    }

    /// Requests that are refused, with secrets where they do not belong.
    fn wrong(&mut self, ciphertext: &str) {
        let (raw, encoded) = (String::from_utf8_lossy(PLAINTEXT), STANDARD.encode(PLAINTEXT));
        let (encrypt, decrypt) = (format!("{KEY}/encrypt"), format!("{KEY}/decrypt"));
        let item = json!({ "ciphertext": ciphertext, "context": { "row": "2" } });
        self.post(&decrypt, &json!({ "items": [item, { "ciphertext": encoded }, { "ciphertext": raw }] }));
        self.post(&encrypt, &json!({ "items": [{ "plaintext": raw }] }));
        for body in [
            json!({ "items": [{ "plain": encoded }] }),
            json!({ "items": encoded }),
            json!({ "items": [encoded] }),
            json!({ "items": [{ "plaintext": encoded, "context": encoded }] }),
            json!({ "items": [{ "plaintext": [raw] }] }),
            json!(encoded),
        ] {
            self.send(400, Method::POST, &encrypt, &body);
        }
        let item = json!({ "items": [{ "plaintext": encoded }] });
        self.send(404, Method::POST, "/v1/keys/acme/prod/crm/nothing/encrypt", &item);
        // Tokens that are nearly right, or secrets of another kind.
        for token in [format!("{}x", self.token), self.token[..self.token.len() - 1].to_owned(), encoded] {
            let said = Http::new(self.url, Some(&token)).send(Method::GET, KEY, &[], &Value::Null);
            assert_eq!(said.status, 401);
            self.secrets.say("error answers", &said.text);
        }
    }

    /// Commands that call the server hold the token, and what goes in and comes out.
    fn use_commands(&mut self, ciphertext: &str) {
        let file = self.place.file("token");
        let wrong = format!("{}x", self.token);
        for (line, stdin, shows, token, code) in [
            (format!("encrypt {NAME} --context row=1"), PLAINTEXT, false, self.token, 0),
            (format!("decrypt {NAME} --context row=1"), ciphertext.as_bytes(), true, self.token, 0),
            (format!("decrypt {NAME} --context row=2"), ciphertext.as_bytes(), false, self.token, 5),
            (format!("reencrypt {NAME} --context row=1"), ciphertext.as_bytes(), false, self.token, 0),
            (format!("key export {NAME}@2"), b"", true, self.token, 0),
            (format!("key show {NAME}"), b"", false, wrong.as_str(), 3),
        ] {
            std::fs::write(&file, token).unwrap();
            let mut args = vec!["--json", "--server", self.url, "--token-file", file.to_str().unwrap()];
            args.extend(line.split(' '));
            let ran = self.place.run_traced(&args, stdin);
            assert_eq!(ran.code, code, "{line}: {}", ran.stderr.lines().last().unwrap_or_default());
            self.secrets.say("log of a command", &ran.stderr);
            if !shows {
                self.secrets.say("answer of a command", &ran.text());
            }
        }
        std::fs::remove_file(file).unwrap();
    }

    fn campaign(&mut self, path: &str) {
        let started = self.post(path, &json!({}));
        let id = started["id"].as_str().unwrap().to_owned();
        let deadline = Instant::now() + LIMIT;
        loop {
            let campaign = self.send(200, Method::GET, &format!("/v1/campaigns/{id}"), &Value::Null).json();
            match campaign["state"].as_str().unwrap() {
                "completed" | "incomplete" => return,
                "running" if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(50)),
                state => panic!("{state}: {campaign}"),
            }
        }
    }

    fn table(&mut self, ciphertext: &str, principals: &[String]) {
        let path = make_table(&self.place.file("remote.sqlite"), "remote", self.secrets);
        let body = json!({
            "name": "remote", "url": format!("sqlite:{}", path.display()), "table": "people",
            "columns": [{ "column": "email" }, { "column": "profile", "json_path": "$.phone" }], "key": NAME,
        });
        self.post("/v1/assets", &body);
        self.post("/v1/assets/remote/plan", &json!({}));
        self.campaign("/v1/assets/remote/protect");
        self.post(&format!("{KEY}/rotate"), &Value::Null);
        self.post("/v1/masters/acme/prod/rotate", &Value::Null);
        damage(&path);
        self.campaign("/v1/assets/remote/campaigns");
        let census = self.post("/v1/assets/remote/census", &Value::Null);
        assert_eq!(census["damaged"], 1, "{census}");
        let accepted = json!({ "row": "i3", "reason": "a trial" });
        self.post("/v1/assets/remote/accept-damaged", &accepted);
        let open = self.owner().get("/v1/campaigns");
        for row in open["campaigns"].as_array().unwrap().iter().filter(|row| row["state"] == "incomplete") {
            self.campaign(&format!("/v1/campaigns/{}/resume", row["id"].as_str().unwrap()));
        }
        self.send(200, Method::GET, &format!("{KEY}/versions/2/evidence"), &Value::Null);
        self.send(409, Method::POST, &format!("{KEY}/versions/2/retire"), &json!({}));
        self.secrets.keep_keys_if_known(self.place);
        let acknowledge = json!({ "acknowledge": principals });
        for version in [1, 2] {
            self.post(&format!("{KEY}/versions/{version}/retire"), &acknowledge);
        }
        let item = json!({ "ciphertext": ciphertext, "context": { "row": "1" } });
        self.post(&format!("{KEY}/decrypt"), &json!({ "items": [item] }));
        self.post(&format!("{KEY}/versions/1/destroy"), &acknowledge);
        self.campaign("/v1/assets/remote/unprotect");
        assert!(is_plain(&path));
    }
}

//! A server whose root is absent or wrong starts sealed, says so everywhere, and is opened later.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::{Place, Ran};

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// A command against the server, with the owner's token.
fn remote(place: &Place, url: &str, token: &str, line: &str) -> Ran {
    let file = place.file("token");
    std::fs::write(&file, token).unwrap();
    let mut args = vec!["--server", url, "--token-file", file.to_str().unwrap()];
    args.extend(line.split(' '));
    place.run_with(&args, b"")
}

/// What health, data and command line say of a store in this state.
fn says(place: &Place, url: &str, token: &str, state: &str) {
    let http = Http::new(url, None);
    let seal = http.send(Method::GET, "/v1/health/seal", &[], &Value::Null);
    assert_eq!((seal.status, &seal.json()["seal"]), (503, &json!(state)), "{}", seal.text);
    assert!(seal.json()["hint"].is_string());
    let ready = http.send(Method::GET, "/v1/health/ready", &[], &Value::Null);
    assert_eq!((ready.status, &ready.json()["ready"], &ready.json()["seal"]), (503, &json!(false), &json!(state)));
    assert_eq!(http.get("/v1/health/live"), json!({ "live": true }));
    let data = Http::new(url, Some(token)).send(Method::POST, &format!("{KEY}/encrypt"), &[], &json!({ "items": [] }));
    assert_eq!((data.status, data.code().as_str(), data.header("retry-after")), (503, "sealed", "1"));
    let status = remote(place, url, token, "root status --json");
    assert_eq!(status.code, 6, "{}", status.stderr);
    assert!(status.text().contains(&format!("\"seal\":\"{state}\"")), "{}", status.text());
    let health = remote(place, url, token, "health --json");
    assert_eq!(health.code, 6, "{}", health.stderr);
    assert!(health.text().contains(&format!("\"seal\":\"{state}\"")), "{}", health.text());
    let list = remote(place, url, token, "key list");
    assert_eq!(list.code, 6);
    assert!(list.stderr.starts_with("error: the store is sealed") && list.stderr.contains("hint: "), "{}", list.stderr);
}

fn opened(url: &str, token: &str) -> bool {
    Http::new(url, Some(token)).send(Method::GET, KEY, &[], &Value::Null).status == 200
}

#[test]
fn an_absent_root_seals_the_server_until_it_is_there() {
    let place = Place::new();
    let token = place.with_key();
    let (key, away) = (place.data_dir().join("root.key"), place.file("away.key"));
    std::fs::rename(&key, &away).unwrap();
    let server = place.serve();
    says(&place, server.url(), &token, "root-unavailable");
    let refused = remote(&place, server.url(), &token, "root unseal");
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    std::fs::rename(&away, &key).unwrap();
    // It is tried again by itself.
    let found = (0..200).any(|_| {
        std::thread::park_timeout(Duration::from_millis(50));
        opened(server.url(), &token)
    });
    assert!(found, "the root is there, and the store stays sealed");
    // Sealed by hand it stays sealed until it is opened by hand.
    assert_eq!(remote(&place, server.url(), &token, "root seal").code, 0);
    std::thread::park_timeout(Duration::from_millis(1_500));
    says(&place, server.url(), &token, "sealed");
    assert_eq!(remote(&place, server.url(), &token, "root unseal").code, 0);
    assert!(opened(server.url(), &token));
    let status = remote(&place, server.url(), &token, "root status --json").json();
    assert_eq!((&status["seal"], &status["slots"][0]["kind"]), (&json!("unsealed"), &json!("keyfile")));
    assert_eq!(status["anchor"], "none");
    let ended = server.into_child().stop(Duration::from_secs(30)).unwrap();
    assert!(ended.stderr.contains("warning: the store is root-unavailable"), "{}", ended.stderr);
    place.ok("audit verify");
}

#[test]
fn a_wrong_root_is_told_from_an_absent_one() {
    let place = Place::new();
    let token = place.with_key();
    let other = Place::new();
    other.ok("init");
    let key = place.data_dir().join("root.key");
    let right = std::fs::read(&key).unwrap();
    std::fs::copy(other.data_dir().join("root.key"), &key).unwrap();
    // Without a server too.
    let local = place.run("root status --json");
    assert_eq!(local.code, 6);
    assert!(local.text().contains("\"seal\":\"wrong-secret\""), "{}", local.text());
    let refused = place.run("key list");
    assert_eq!(refused.code, 6);
    assert!(refused.stderr.contains("hint: name the key file"), "{}", refused.stderr);

    let server = place.serve();
    says(&place, server.url(), &token, "wrong-secret");
    let refused = remote(&place, server.url(), &token, "root unseal");
    assert_eq!(refused.code, 6, "{}", refused.stderr);
    says(&place, server.url(), &token, "wrong-secret");
    std::fs::write(&key, right).unwrap();
    assert_eq!(remote(&place, server.url(), "krt_nobody", "root unseal").code, 3, "who opens it needs a token");
    assert!(!opened(server.url(), &token));
    let unsealed = remote(&place, server.url(), &token, "root unseal --json");
    assert_eq!(unsealed.json(), json!({ "seal": "unsealed" }));
    assert!(opened(server.url(), &token));
    server.into_child().stop(Duration::from_secs(30)).unwrap();
    place.ok("verify");
}

#[test]
fn a_root_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let token = place.with_key();
    let key = place.data_dir().join("root.key");
    let mode = |mode| std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    assert_eq!(place.run("key list").code, 6);
    let server = place.serve();
    says(&place, server.url(), &token, "root-unavailable");
    mode(0o600);
    assert_eq!(remote(&place, server.url(), &token, "root unseal").code, 0);
    assert!(opened(server.url(), &token));
}

//! Health and metrics.

use std::collections::BTreeSet;

use http::Method;
use keyrail_testkit::Search;
use serde_json::{Value, json};

use super::{Api, KEY};
use crate::client::Http;

#[test]
fn health_is_told_to_anybody() {
    let api = Api::new();
    let nobody = Http::new(api.url(), None);
    assert_eq!(nobody.get("/v1/health/live"), json!({ "live": true }));
    let ready = nobody.get("/v1/health/ready");
    assert_eq!((&ready["ready"], &ready["seal"]), (&json!(true), &json!("unsealed")));
    let checks: Vec<_> =
        ready["checks"].as_array().unwrap().iter().map(|check| (check["name"].clone(), check["ok"].clone())).collect();
    assert_eq!(checks, [(json!("store"), json!(true)), (json!("audit"), json!(true))]);
    assert_eq!(nobody.get("/v1/health/seal"), json!({ "seal": "unsealed" }));
    assert_eq!(nobody.get("/v1/health/audit"), json!({ "name": "audit", "ok": true }));
}

#[test]
fn health_tells_each_state() {
    let api = Api::new();
    let nobody = Http::new(api.url(), None);
    // Sealed: live, not ready, and each page says so; a token opens it again.
    api.http.post("/v1/system/seal", &Value::Null);
    assert_eq!(nobody.get("/v1/health/live"), json!({ "live": true }));
    for page in ["ready", "seal"] {
        let said = nobody.send(Method::GET, &format!("/v1/health/{page}"), &[], &Value::Null);
        assert_eq!((said.status, &said.json()["seal"]), (503, &json!("sealed")), "{page}");
        assert!(said.json()["hint"].is_string(), "{page}");
    }
    let said = nobody.send(Method::GET, "/v1/health/audit", &[], &Value::Null);
    assert_eq!((said.status, said.code().as_str()), (503, "sealed"));
    assert_eq!(api.refused(Method::GET, KEY, &Value::Null), (503, "sealed".to_owned()));
    assert_eq!(nobody.send(Method::POST, "/v1/system/unseal", &[], &Value::Null).status, 401);
    assert_eq!(nobody.send(Method::GET, "/v1/health/seal", &[], &Value::Null).status, 503, "still sealed");
    assert_eq!(api.http.post("/v1/system/unseal", &Value::Null), json!({ "seal": "unsealed" }));
    api.http.get(KEY);
}

/// Lines of the text format, checked as the OpenMetrics specification has them.
fn parse(text: &str) -> BTreeSet<String> {
    let mut described = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" {
            assert!(lines.peek().is_none(), "nothing follows the end");
            return names;
        }
        if let Some(about) = line.strip_prefix("# ") {
            let mut words = about.splitn(3, ' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            assert!(["HELP", "TYPE", "UNIT"].contains(&kind), "{line}");
            described.insert(name.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        value.parse::<f64>().unwrap_or_else(|error| panic!("{error}: {line}"));
        let name = series.split('{').next().unwrap();
        assert!(described.contains(name.trim_end_matches("_total")), "{line} is not described");
        if let Some((_, labels)) = series.split_once('{') {
            for label in labels.strip_suffix('}').unwrap().split(',') {
                let (_, value) = label.split_once('=').unwrap();
                let word = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
                assert!(word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{line}");
            }
        }
        names.insert(name.to_owned());
    }
    panic!("the text has no end: {text}");
}

#[test]
fn metrics_parse_keep_their_names_and_hold_no_secret() {
    let api = Api::new();
    api.http.post(
        &format!("{KEY}/encrypt"),
        &json!({ "items": [{ "plaintext": "dGhlIHBsYWludGV4dCBvZiBhIHRlc3Q=" }, { "plaintext": "?" }] }),
    );
    api.http.send(Method::GET, "/v1/keys/acme/prod/crm/nothing", &[], &Value::Null);
    let said = api.http.send(Method::GET, "/v1/metrics", &[], &Value::Null);
    assert_eq!(said.status, 200);
    assert!(said.header("content-type").starts_with("application/openmetrics-text"), "{}", said.header("content-type"));
    let names = parse(&said.text);
    let golden = [
        "keyrail_alarms_total",
        "keyrail_audit_records",
        "keyrail_campaigns_overdue",
        "keyrail_healthy",
        "keyrail_items_total",
        "keyrail_key_memory",
        "keyrail_log_files_given_up_total",
        "keyrail_operations_total",
        "keyrail_seal_state",
        "keyrail_unsealed",
    ];
    assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), golden);
    assert!(
        said.text.contains("keyrail_operations_total{action=\"data.encrypt\",outcome=\"done\"} 1"),
        "{}",
        said.text
    );
    assert!(
        said.text.contains("keyrail_operations_total{action=\"key.read\",outcome=\"not_found\"} 1"),
        "{}",
        said.text
    );
    assert!(said.text.contains("keyrail_unsealed 1") && said.text.contains("keyrail_healthy{check=\"audit\"} 1"));
    let secrets: [(&str, &[u8]); 3] =
        [("token", api.token.as_bytes()), ("plaintext", b"the plaintext of a test"), ("name", b"customer-pii")];
    let search = Search::new(secrets).unwrap();
    assert!(search.in_bytes(said.text.as_bytes()).is_empty());
    assert!(
        !search.in_bytes(format!("{}{}", said.text, api.token).as_bytes()).is_empty(),
        "the search finds what is there"
    );

    // A sealed store knows no tokens: then the metrics say that, to anybody, and nothing else.
    api.http.post("/v1/system/seal", &Value::Null);
    let said = Http::new(api.url(), None).send(Method::GET, "/v1/metrics", &[], &Value::Null);
    assert_eq!((said.status, parse(&said.text).len()), (200, 2));
    assert!(said.text.contains("keyrail_unsealed 0") && said.text.contains("keyrail_seal_state"), "{}", said.text);
}

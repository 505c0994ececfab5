//! Idempotency keys, ETags, pages, request ids and traces.

use http::Method;
use serde_json::{Value, json};

use super::{Api, KEY};

fn post(api: &Api, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value, String) {
    let said = api.http.send(Method::POST, path, headers, body);
    (said.status, said.json(), said.header("etag").to_owned())
}

#[test]
fn a_change_is_made_once_under_an_idempotency_key() {
    let api = Api::new();
    let key = [("idempotency-key", "rotation of 2026-11")];
    let (status, first, _) = post(&api, &format!("{KEY}/rotate"), &key, &Value::Null);
    assert_eq!((status, first["versions"].as_array().unwrap().len()), (200, 2));
    let (status, again, _) = post(&api, &format!("{KEY}/rotate"), &key, &Value::Null);
    assert_eq!((status, &again), (200, &first), "the first answer again");
    assert_eq!(api.http.get(KEY)["versions"].as_array().unwrap().len(), 2);
    // The same key for another request is a mistake, for another principal another key.
    let (status, other, _) = post(&api, "/v1/domains", &key, &json!({ "name": "other" }));
    assert_eq!((status, &other["code"]), (409, &json!("idempotency_conflict")));
    let owner = api.with_token(&api.token_for("owner", None));
    assert_eq!(
        owner.send(Method::POST, &format!("{KEY}/rotate"), &key, &Value::Null).json()["versions"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    // A secret is kept nowhere, so its answer is not given again.
    let key = [("idempotency-key", "a token")];
    let request = json!({ "role": "auditor" });
    let (status, made, _) = post(&api, "/v1/tokens", &key, &request);
    assert!(status == 200 && made["token"].is_string());
    let before = api.http.get("/v1/tokens")["tokens"].as_array().unwrap().len();
    let (status, again, _) = post(&api, "/v1/tokens", &key, &request);
    assert_eq!((status, &again["code"]), (409, &json!("idempotency_conflict")));
    assert!(again["title"].as_str().unwrap().contains("kept nowhere"), "{again}");
    assert_eq!(api.http.get("/v1/tokens")["tokens"].as_array().unwrap().len(), before);

    // Every change of the document takes a key, and each is made once.
    api.asset("people");
    let started = post(&api, "/v1/assets/people/protect", &[("idempotency-key", "p")], &json!({}));
    let again = post(&api, "/v1/assets/people/protect", &[("idempotency-key", "p")], &json!({}));
    assert_eq!((started.0, &started.1["id"]), (200, &again.1["id"]));
    api.finished(&started.1);
    let long = "k".repeat(129);
    assert_eq!(post(&api, &format!("{KEY}/rotate"), &[("idempotency-key", &long)], &Value::Null).0, 413);
    // A refusal is not remembered: it may be right later.
    let retire = format!("{KEY}/versions/3/retire");
    assert_eq!(post(&api, &retire, &[("idempotency-key", "r")], &json!({})).0, 409);
    assert_eq!(post(&api, &retire, &[("idempotency-key", "r")], &json!({})).0, 409);
}

#[test]
fn a_change_can_ask_for_what_it_has_seen() {
    let api = Api::new();
    let shown = api.http.send(Method::GET, KEY, &[], &Value::Null);
    let etag = shown.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
    let (status, _, newer) = post(&api, &format!("{KEY}/rotate"), &[("if-match", &etag)], &Value::Null);
    assert_eq!(status, 200);
    assert_ne!(etag, newer);
    for path in [format!("{KEY}/rotate"), format!("{KEY}/versions/1/compromise"), format!("{KEY}/versions/1/retire")] {
        let (status, problem, _) = post(&api, &path, &[("if-match", &etag)], &json!({}));
        assert_eq!((status, &problem["code"]), (412, &json!("changed")), "{path}");
    }
    assert_eq!(post(&api, &format!("{KEY}/rotate"), &[("if-match", "*")], &Value::Null).0, 200);
    assert_eq!(post(&api, &format!("{KEY}/rotate"), &[("if-match", &format!("W/{newer}"))], &Value::Null).0, 400);

    let set = |headers: &[(&str, &str)]| {
        let said =
            api.http.send(Method::PATCH, "/v1/labels/confidential", headers, &json!({ "write_window_seconds": 5 }));
        (said.status, said.header("etag").to_owned())
    };
    let (status, first) = set(&[]);
    assert_eq!(status, 200);
    let (status, second) = set(&[("if-match", &first)]);
    assert!(status == 200 && second != first, "{first} {second}");
    assert_eq!(set(&[("if-match", &first)]).0, 412);

    api.asset("people");
    let asset = |headers: &[(&str, &str)]| {
        let said = api.http.send(Method::PATCH, "/v1/assets/people", headers, &json!({}));
        (said.status, said.header("etag").to_owned())
    };
    let seen = api.http.send(Method::GET, "/v1/assets/people", &[], &Value::Null).header("etag").to_owned();
    assert_eq!(asset(&[("if-match", "\"77\"")]).0, 412);
    assert_eq!(asset(&[("if-match", &seen)]).0, 200);
}

#[test]
fn every_list_comes_in_pages_that_hold_each_thing_once() {
    let api = Api::new();
    for index in 0..5 {
        api.http.post("/v1/domains", &json!({ "name": format!("d{index}") }));
        api.http.post("/v1/apps", &json!({ "path": format!("acme/prod/app-{index}") }));
        api.http.post("/v1/keys", &json!({ "name": format!("acme/prod/crm/k-{index}"), "label": "internal" }));
        api.http.post("/v1/tokens", &json!({ "role": "auditor" }));
        let asset = api.asset(&format!("asset-{index}"));
        api.finished(&api.http.post(&format!("/v1/assets/{asset}/protect"), &json!({})));
    }
    for (list, id) in [
        ("domains", "name"),
        ("apps", "path"),
        ("labels", "name"),
        ("tokens", "id"),
        ("assets", "name"),
        ("campaigns", "id"),
        ("keys", "name"),
    ] {
        let whole = api.http.get(&format!("/v1/{list}"));
        let ids = |page: &Value| -> Vec<String> {
            page[list].as_array().unwrap().iter().map(|row| row[id].to_string()).collect()
        };
        assert_eq!(whole["next"], Value::Null, "{list}");
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        loop {
            let on = after.map_or_else(String::new, |after| format!("&after={}", after.replace(' ', "%20")));
            let page = api.http.get(&format!("/v1/{list}?limit=2{on}"));
            assert!(ids(&page).len() <= 2, "{list}");
            seen.extend(ids(&page));
            match page["next"].as_str() {
                Some(next) => after = Some(next.to_owned()),
                None => break,
            }
        }
        assert!(seen.len() >= 4, "{list}: {}", seen.len());
        assert_eq!(seen, ids(&whole), "{list}");
    }
    // The log goes backwards, by index.
    let mut before = None::<u64>;
    let mut indexes = Vec::new();
    loop {
        let on = before.map_or_else(String::new, |before| format!("&before={before}"));
        let page = api.http.get(&format!("/v1/audit/records?limit=50{on}"));
        indexes.extend(page["records"].as_array().unwrap().iter().map(|row| row["index"].as_u64().unwrap()));
        match page["before"].as_u64() {
            Some(next) => before = Some(next),
            None => break,
        }
    }
    let last = indexes[0];
    assert_eq!(indexes, (0..=last).rev().collect::<Vec<_>>());
}

#[test]
fn a_request_has_an_id_and_a_trace_in_its_record() {
    let api = Api::new();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let said = api.http.send(
        Method::POST,
        &format!("{KEY}/rotate"),
        &[
            ("x-request-id", "invoice-7/42"),
            ("traceparent", &format!("00-{trace}-b7ad6b7169203331-01")),
            ("x-keyrail-app", "crm"),
            ("x-keyrail-component", "address-form"),
            ("x-keyrail-environment", "prod"),
            ("x-keyrail-build", "2026.11.3"),
        ],
        &Value::Null,
    );
    assert_eq!(said.header("x-request-id"), "invoice-7/42", "what the caller called it");
    let generated = api.http.send(Method::GET, KEY, &[], &Value::Null).request_id;
    assert!(generated.len() == 32 && generated.bytes().all(|byte| byte.is_ascii_hexdigit()), "{generated}");
    for wrong in ["", "with a space", &"x".repeat(129)] {
        let said = api.http.send(Method::GET, KEY, &[("x-request-id", wrong)], &Value::Null);
        assert_eq!(said.request_id.len(), 32, "{wrong}");
    }
    let refused = api.http.send(Method::GET, "/v1/keys/acme/prod/crm/nothing", &[], &Value::Null);
    let wrong_traces = [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "nonsense",
    ];
    for wrong in wrong_traces {
        assert_eq!(api.http.send(Method::GET, KEY, &[("traceparent", wrong)], &Value::Null).status, 200, "{wrong}");
    }
    let records = api.http.get("/v1/audit/records?limit=100");
    let records = records["records"].as_array().unwrap();
    let rotation = records.iter().find(|row| row["action"] == "key.rotate").unwrap();
    for (field, want) in [
        ("caller_request", "invoice-7/42"),
        ("trace", trace),
        ("app", "crm"),
        ("component", "address-form"),
        ("environment", "prod"),
        ("build", "2026.11.3"),
        ("outcome", "done"),
    ] {
        assert_eq!(rotation[field], want, "{field}");
    }
    assert!(rotation["from"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(records.iter().any(|row| row["id"] == generated.as_str()), "the id of an answer is that of its record");
    let refusal =
        records.iter().find(|row| row["id"] == refused.request_id.as_str()).expect("a refusal is recorded, too");
    assert_eq!((&refusal["outcome"], &refusal["code"]), (&json!("refused"), &json!("not_found")));
    assert_eq!(records.iter().filter(|row| row["trace"].is_string()).count(), 1, "a wrong trace is left out");
}

#[test]
fn requests_at_the_same_time_under_one_key_make_one_change() {
    let api = Api::new();
    let (url, token) = (api.url(), &api.token);
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(move || {
                    let http = crate::client::Http::new(url, Some(token));
                    let key = [("idempotency-key", "at the same time")];
                    let said = http.send(Method::POST, &format!("{KEY}/rotate"), &key, &Value::Null);
                    assert_eq!(said.status, 200, "{}", said.text);
                    said.json()
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    assert_eq!(api.http.get(KEY)["versions"].as_array().unwrap().len(), 2);
}

//! Encrypt, decrypt, re-encrypt and data keys, exactly as the contract has them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
use http::Method;
use serde_json::{Value, json};

use super::{Api, KEY};

fn encrypt(api: &Api, items: &Value) -> Value {
    api.http.post(&format!("{KEY}/encrypt"), &json!({ "items": items }))["items"].take()
}

fn decrypt(api: &Api, items: &Value) -> Value {
    api.http.post(&format!("{KEY}/decrypt"), &json!({ "items": items }))["items"].take()
}

#[test]
fn items_go_in_and_come_out_each_with_its_own_error() {
    let api = Api::new();
    let data: Vec<u8> = (0..=255).collect();
    let with = |context: Value| json!({ "plaintext": STANDARD.encode(&data), "context": context });
    let sealed = encrypt(
        &api,
        &json!([
            with(json!({ "row": "7", "table": "people" })),
            { "plaintext": "" },
            { "plaintext": STANDARD_NO_PAD.encode(b"four") },
            { "plaintext": URL_SAFE.encode([0xff; 6]) },
            { "plaintext": "not base64" },
            with(json!({ "": "an empty key" })),
            { "plaintext": STANDARD.encode(b"the last"), "context": {} },
        ]),
    );
    let sealed = sealed.as_array().unwrap();
    assert_eq!(sealed.len(), 7);
    for done in [0, 1, 6] {
        assert!(sealed[done]["ciphertext"].as_str().unwrap().starts_with("kr1."), "{done}");
        assert_eq!(sealed[done]["version"], 1, "{done}");
        assert_eq!(sealed[done].as_object().unwrap().len(), 2, "{done}: nothing else");
    }
    for (failed, code) in [(2, "invalid"), (3, "invalid"), (4, "invalid"), (5, "bad_context")] {
        assert_eq!(sealed[failed]["error"]["code"], code, "{failed}");
        assert!(sealed[failed]["error"]["hint"].is_string(), "{failed}");
        assert!(sealed[failed].get("ciphertext").is_none(), "{failed}");
    }

    let other = api.http.post("/v1/keys/acme/prod/shop/orders/encrypt", &json!({ "items": [{ "plaintext": "aGk=" }] }));
    let first = &sealed[0]["ciphertext"];
    let mut altered = first.as_str().unwrap().to_owned();
    let last = if altered.pop() == Some('A') { 'Q' } else { 'A' };
    altered.push(last);
    let opened = decrypt(
        &api,
        &json!([
            { "ciphertext": first, "context": { "table": "people", "row": "7" } },
            { "ciphertext": sealed[1]["ciphertext"] },
            { "ciphertext": sealed[6]["ciphertext"], "context": {} },
            { "ciphertext": first, "context": { "row": "8", "table": "people" } },
            { "ciphertext": first },
            { "ciphertext": altered, "context": { "table": "people", "row": "7" } },
            { "ciphertext": other["items"][0]["ciphertext"] },
            { "ciphertext": "plain text" },
            { "ciphertext": "kr1.AAAA" },
        ]),
    );
    let opened = opened.as_array().unwrap();
    assert_eq!(opened[0]["plaintext"], STANDARD.encode(&data));
    assert_eq!(opened[0]["version"], 1);
    assert_eq!(opened[1]["plaintext"], "");
    assert_eq!(opened[2]["plaintext"], STANDARD.encode(b"the last"));
    for (failed, code) in
        [(3, "unopenable"), (4, "unopenable"), (6, "other_key"), (7, "not_ciphertext"), (8, "not_ciphertext")]
    {
        assert_eq!(opened[failed]["error"]["code"], code, "{failed}: {}", opened[failed]);
        assert!(opened[failed]["error"]["hint"].is_string(), "{failed}");
    }
    // An altered one does not open, however it was altered; what it is called depends on where.
    assert!(["unopenable", "not_ciphertext"].contains(&opened[5]["error"]["code"].as_str().unwrap()));

    // The same pair twice in a context is the item's own error, which a map would hide.
    let twice = r#"{"items":[{"plaintext":"aGk=","context":{"row":"1","row":"2"}},{"plaintext":"aGk="}]}"#;
    let head =
        format!("POST {KEY}/encrypt HTTP/1.1\r\nauthorization: Bearer {}\r\ncontent-type: application/json", api.token);
    let said = crate::client::raw(api.url(), &head, twice.as_bytes());
    assert_eq!(said.status, 200, "{}", said.text);
    assert_eq!(said.json()["items"][0]["error"]["code"], "bad_context");
    assert!(said.json()["items"][1]["ciphertext"].is_string());
}

#[test]
fn reencrypt_keeps_the_context_and_moves_data_keys() {
    let api = Api::new();
    let context = json!({ "row": "7", "table": "people" });
    let sealed = encrypt(&api, &json!([{ "plaintext": "aGVsbG8=", "context": context }]));
    let made = api.http.post(&format!("{KEY}/data-key"), &json!({ "context": { "file": "a.pdf" } }));
    assert_eq!(STANDARD.decode(made["plaintext"].as_str().unwrap()).unwrap().len(), 32);
    assert_eq!(made["version"], 1);
    for (bytes, len) in [(16, 16), (32, 32), (64, 64)] {
        let sized = api.http.post(&format!("{KEY}/data-key"), &json!({ "bytes": bytes }));
        assert_eq!(STANDARD.decode(sized["plaintext"].as_str().unwrap()).unwrap().len(), len);
    }
    assert_eq!(api.refused(Method::POST, &format!("{KEY}/data-key"), &json!({ "bytes": 31 })).0, 400);
    api.http.post(&format!("{KEY}/rotate"), &Value::Null);

    let moved = api.http.post(
        &format!("{KEY}/reencrypt"),
        &json!({ "items": [
            { "ciphertext": sealed[0]["ciphertext"], "context": context },
            { "ciphertext": made["ciphertext"], "context": { "file": "a.pdf" } },
            { "ciphertext": sealed[0]["ciphertext"] },
            { "ciphertext": "kr1.", "context": context },
        ] }),
    );
    let moved = &moved["items"];
    assert_eq!((moved[0]["version"].as_u64(), moved[1]["version"].as_u64()), (Some(2), Some(2)));
    assert_eq!(moved[2]["error"]["code"], "unopenable", "a context is kept, not dropped");
    assert_eq!(moved[3]["error"]["code"], "not_ciphertext");
    let opened = decrypt(
        &api,
        &json!([
            { "ciphertext": moved[0]["ciphertext"], "context": context },
            { "ciphertext": moved[0]["ciphertext"] },
            { "ciphertext": moved[1]["ciphertext"], "context": { "file": "a.pdf" } },
            { "ciphertext": made["ciphertext"], "context": { "file": "a.pdf" } },
        ]),
    );
    assert_eq!(opened[0]["plaintext"], "aGVsbG8=");
    assert_eq!(opened[1]["error"]["code"], "unopenable");
    assert_eq!(opened[2]["plaintext"], made["plaintext"], "a data key is an ordinary envelope");
    assert_eq!((opened[3]["plaintext"].clone(), opened[3]["version"].as_u64()), (made["plaintext"].clone(), Some(1)));

    // A version that opens nothing refuses its items, not the request.
    api.http.post(&format!("{KEY}/versions/1/suspend"), &Value::Null);
    let mixed = decrypt(
        &api,
        &json!([
            { "ciphertext": sealed[0]["ciphertext"], "context": context },
            { "ciphertext": moved[0]["ciphertext"], "context": context },
        ]),
    );
    assert_eq!(mixed[0]["error"]["code"], "version_unusable");
    assert_eq!(mixed[1]["plaintext"], "aGVsbG8=");
}

#[test]
fn a_batch_has_ten_thousand_items_and_not_one_more() {
    let api = Api::new();
    let plain = |index: usize| if index == 5_000 { "?".to_owned() } else { STANDARD.encode(index.to_string()) };
    let items = |count: usize| -> Value { (0..count).map(|index| json!({ "plaintext": plain(index) })).collect() };
    let sealed = encrypt(&api, &items(10_000));
    let sealed = sealed.as_array().unwrap();
    assert_eq!(sealed.len(), 10_000);
    assert_eq!(sealed.iter().filter(|item| item["ciphertext"].is_string()).count(), 9_999);
    assert_eq!(sealed[5_000]["error"]["code"], "invalid");
    let back: Value = sealed
        .iter()
        .map(|item| json!({ "ciphertext": item.get("ciphertext").cloned().unwrap_or_else(|| json!("")) }))
        .collect();
    let opened = decrypt(&api, &back);
    for (index, item) in opened.as_array().unwrap().iter().enumerate().filter(|(index, _)| *index != 5_000) {
        assert_eq!(item["plaintext"], plain(index), "{index}");
    }
    let too_many = api.refused(Method::POST, &format!("{KEY}/encrypt"), &json!({ "items": items(10_001) }));
    assert_eq!(too_many, (413, "too_large".to_owned()));
    let mut one_more = back;
    one_more.as_array_mut().unwrap().push(json!({ "ciphertext": "" }));
    for verb in ["decrypt", "reencrypt"] {
        let too_many = api.refused(Method::POST, &format!("{KEY}/{verb}"), &json!({ "items": one_more }));
        assert_eq!(too_many, (413, "too_large".to_owned()), "{verb}");
    }
    // A batch is one record, with its counts.
    let records = api.http.get("/v1/audit/records?limit=10");
    let batch = records["records"].as_array().unwrap().iter().find(|row| row["action"] == "data.encrypt").unwrap();
    assert_eq!((batch["items"].as_u64(), batch["failed"].as_u64()), (Some(10_000), Some(1)));
}

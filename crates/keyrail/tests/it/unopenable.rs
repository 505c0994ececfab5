//! What does not open says one thing, whatever the cause: an attacker who can ask for decryptions learns nothing.

use keyrail_crypto::envelope::{Context, KeyRef, Kid, danger_seal_deterministic, from_text, to_text};
use keyrail_crypto::secret::DataKey;
use keyrail_crypto::suite::Suite;
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::Place;

const NAME: &str = "acme/prod/crm/customer-pii";
const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// A ciphertext of the server's, and what an attacker makes of it: name, text and context.
fn forgeries(text: &str, kid: Kid, key_id: [u8; 16], key: &DataKey) -> Vec<(String, String, Value)> {
    let envelope = from_text(text).unwrap();
    let context = json!({ "table": "people", "row": "7" });
    let with_bit = |index: usize, bit: u8| {
        let mut altered = envelope.clone();
        altered[index] ^= 1 << bit;
        to_text(&altered)
    };
    let len = envelope.len();
    let mut made: Vec<(String, String, Value)> = vec![
        ("no context".into(), text.into(), json!({})),
        ("another value".into(), text.into(), json!({ "table": "people", "row": "8" })),
        ("a pair more".into(), text.into(), json!({ "table": "people", "row": "7", "x": "" })),
        ("a pair less".into(), text.into(), json!({ "table": "people" })),
    ];
    // The IV takes the bytes 28 to 39, the ciphertext begins at 42, the salt takes the 32 bytes before the last one.
    for index in [28, 39, 42, 50, len - 33, len - 2] {
        made.extend((0..8).map(|bit| (format!("byte {index} bit {bit}"), with_bit(index, bit), context.clone())));
    }
    // Under the same kid, with everything right but one thing.
    let pairs = Context::from_pairs([("table", "people"), ("row", "7")]).unwrap();
    let other_key = DataKey::generate().unwrap();
    let seal =
        |key: &KeyRef<'_>| to_text(&danger_seal_deterministic(key, &pairs, b"data", &[5; 32], &[6; 12]).unwrap());
    let right = KeyRef { kid: &kid, key_id: &key_id, key, suite: Suite::A256Gcm };
    made.push(("another key".into(), seal(&KeyRef { key: &other_key, ..right }), context.clone()));
    made.push(("another key id".into(), seal(&KeyRef { key_id: &[1; 16], ..right }), context.clone()));
    made.push(("another suite".into(), seal(&KeyRef { suite: Suite::ChaCha20Poly1305, ..right }), context));
    made
}

#[test]
fn a_wrong_key_a_wrong_context_and_altered_data_have_one_answer() {
    let place = Place::new();
    let token = place.with_key();
    let export = place.run(&format!("key export {NAME}@1 --json")).json();
    let kid: Kid = export["kid"].as_str().unwrap().parse().unwrap();
    let key_id: [u8; 16] = hex::decode(export["key_id"].as_str().unwrap()).unwrap().try_into().unwrap();
    let material = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, export["key"].as_str().unwrap());
    let key = DataKey::danger_import(&material.unwrap().try_into().unwrap()).unwrap();
    let server = place.serve();
    let http = Http::new(server.url(), Some(&token));
    let context = json!({ "table": "people", "row": "7" });
    let body = json!({ "items": [{ "plaintext": "ZGF0YSBkYXRhIGRhdGE=", "context": context }] });
    let text = http.post(&format!("{KEY}/encrypt"), &body)["items"][0]["ciphertext"].as_str().unwrap().to_owned();
    let forged = forgeries(&text, kid, key_id, &key);
    assert_eq!(forged.len(), 55);

    let one = json!({
        "code": "unopenable",
        "title": "the ciphertext does not open",
        "hint": "check that the context is the one it was encrypted with; if it is, the ciphertext was altered",
    });
    for verb in ["decrypt", "reencrypt"] {
        // All in one batch, with the sound one in the middle, and each alone.
        let mut items: Vec<Value> =
            forged.iter().map(|(_, text, context)| json!({ "ciphertext": text, "context": context })).collect();
        items.insert(20, json!({ "ciphertext": text, "context": context }));
        let answers = http.post(&format!("{KEY}/{verb}"), &json!({ "items": items }));
        let mut answers = answers["items"].as_array().unwrap().clone();
        assert!(answers.remove(20).get("error").is_none(), "{verb}");
        for ((name, ..), answer) in forged.iter().zip(&answers) {
            assert_eq!(answer, &json!({ "error": one }), "{verb}: {name}");
        }
        for (name, text, context) in forged.iter().step_by(9) {
            let body = json!({ "items": [{ "ciphertext": text, "context": context }] });
            let said = http.send(http::Method::POST, &format!("{KEY}/{verb}"), &[], &body);
            assert_eq!((said.status, said.json()), (200, json!({ "items": [{ "error": one }] })), "{verb}: {name}");
        }
    }
}

/// hashicorp/vault#31791: what was encrypted with a context is moved with it, and opens with it alone.
#[test]
fn re_encryption_keeps_the_context() {
    let place = Place::new();
    let token = place.with_key();
    let server = place.serve();
    let http = Http::new(server.url(), Some(&token));
    let context = json!({ "table": "people", "row": "7" });
    let body = json!({ "items": [{ "plaintext": "ZGF0YQ==", "context": context }, { "plaintext": "ZGF0YQ==" }] });
    let made = http.post(&format!("{KEY}/encrypt"), &body);
    http.post(&format!("{KEY}/rotate"), &json!({}));
    let (bound, free) = (&made["items"][0]["ciphertext"], &made["items"][1]["ciphertext"]);
    let items = json!([
        { "ciphertext": bound, "context": context },
        { "ciphertext": free },
        { "ciphertext": bound },
        { "ciphertext": free, "context": context },
    ]);
    let moved = http.post(&format!("{KEY}/reencrypt"), &json!({ "items": items }));
    assert_eq!((&moved["items"][0]["version"], &moved["items"][1]["version"]), (&json!(2), &json!(2)));
    assert_eq!(moved["items"][2]["error"]["code"], "unopenable", "it cannot be moved without its context");
    assert_eq!(moved["items"][3]["error"]["code"], "unopenable", "nor can it be given one");
    let (bound, free) = (&moved["items"][0]["ciphertext"], &moved["items"][1]["ciphertext"]);
    let items = json!([
        { "ciphertext": bound, "context": { "row": "7", "table": "people" } },
        { "ciphertext": free, "context": {} },
        { "ciphertext": bound },
        { "ciphertext": bound, "context": { "table": "people", "row": "8" } },
        { "ciphertext": free, "context": context },
    ]);
    let opened = http.post(&format!("{KEY}/decrypt"), &json!({ "items": items }));
    let plain = json!({ "plaintext": "ZGF0YQ==", "version": 2 });
    assert_eq!((&opened["items"][0], &opened["items"][1]), (&plain, &plain));
    for index in 2..5 {
        assert_eq!(opened["items"][index]["error"]["code"], "unopenable", "{index}");
    }
}

//! A store whose root of trust is a key on an HSM: SoftHSM2, also behind `p11-kit server` and behind a module that fails
//! by script.

mod states;
mod world;

use http::Method;
use keyrail_testkit::softhsm::{PIN, SoftHsm};
use serde_json::{Value, json};

use self::world::{LIMIT, World};
use crate::client::Http;

/// The PIN is nowhere in what was said.
fn require_silent(said: &str) {
    assert!(!said.contains(PIN), "the PIN is told: {said}");
}

#[test]
fn a_store_is_made_opened_and_opened_again_by_a_key_on_a_token() {
    let world = World::new();
    let spec = world.spec();
    let token = world.init(&spec);
    let ciphertext = world.encrypt(b"on a token");
    let server = world.serve();
    assert_eq!(world.seal_of(server.url()), json!({ "seal": "unsealed" }));
    let status = Http::new(server.url(), Some(&token)).get("/v1/system/root");
    assert_eq!((&status["slots"][0]["kind"], &status["root"]), (&json!("pkcs11"), &json!(spec)));
    let ended = server.into_child().stop(LIMIT).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    require_silent(&format!("{}{}", ended.stdout, ended.stderr));

    let server = world.serve();
    let sealed = Http::new(server.url(), Some(&token)).send(Method::POST, "/v1/system/seal", &[], &Value::Null);
    assert_eq!(sealed.status, 200, "{}", sealed.text);
    let opened = Http::new(server.url(), Some(&token)).send(Method::POST, "/v1/system/unseal", &[], &Value::Null);
    assert_eq!(opened.status, 200, "{}", opened.text);
    drop(server);
    assert_eq!(world.decrypt(&ciphertext), b"on a token");
    // The key is what it should be, in the token's own words.
    world.ok(&["verify"]);
}

#[test]
fn init_uses_a_key_that_is_there_and_refuses_one_that_may_leave() {
    let world = World::new();
    for (label, attributes, expected) in [
        ("extractable", &["--extractable"][..], Some("may have left the token: CKA_EXTRACTABLE is not false")),
        ("of 128 bits", &["--sensitive"], Some("is no AES key of 256 bits")),
        ("in the open", &[], Some("may have left the token: CKA_SENSITIVE is not true")),
        ("a good one", &["--sensitive"], None),
    ] {
        let size = if label == "of 128 bits" { "AES:16" } else { "AES:32" };
        world.keygen(label, size, attributes);
        let spec = world.spec_of(&SoftHsm::module().unwrap(), label);
        let ran = world.run(&["init", "--root", &spec]);
        match expected {
            Some(expected) => {
                assert_eq!(ran.code, 6, "{label}: {}", ran.stderr);
                assert!(ran.stderr.contains(expected) && ran.stderr.contains("hint: "), "{label}: {}", ran.stderr);
                require_silent(&ran.stderr);
            }
            None => assert_eq!(ran.code, 0, "{label}: {}", ran.stderr),
        }
    }
}

//! A store whose root of trust is a key on an HSM: SoftHSM2, also behind `p11-kit server` and behind a module that fails
//! by script.

mod states;
mod world;

use http::Method;
use keyrail_testkit::postgres::{Cluster, Version};
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

/// What the token says of itself is asked, compared with what it said at first, and recorded; for owner and auditor.
#[test]
fn the_claims_of_a_token_are_taken_compared_and_recorded() {
    let world = World::new();
    let token = world.init(&world.spec());
    let taken = world.ok(&["root", "evidence", "--json"]).json();
    let value = |taken: &Value, name: &str| {
        let claims = taken["claims"].as_array().unwrap();
        let found = claims.iter().find(|claim| claim["name"] == name).unwrap_or_else(|| panic!("no {name}: {taken}"));
        found.clone()
    };
    for (name, expected) in [
        ("token.manufacturer", "SoftHSM project"),
        ("token.model", "SoftHSM v2"),
        ("token.label", "keyrail test"),
        ("key.label", "root"),
        ("key.local", "true"),
        ("key.always-sensitive", "true"),
        ("key.never-extractable", "true"),
        ("key.extractable", "false"),
        ("key.key-gen-mechanism", "CKM_AES_KEY_GEN"),
        ("key.allowed-mechanisms", "not told"),
        ("key.decrypt", "false"),
    ] {
        assert_eq!(value(&taken, name), json!({ "name": name, "value": expected }));
    }
    assert_eq!(
        (&taken["differences"], taken["about"].as_str().unwrap().contains("not attestation")),
        (&json!(0), true)
    );
    // Somebody enters a wrong PIN: the token tells, and it is shown beside what it told before.
    world.wrong_login();
    let server = world.serve();
    let role = |role: &str| {
        let body = json!({ "role": role, "ttl_seconds": 3600 });
        Http::new(server.url(), Some(&token)).post("/v1/tokens", &body)["token"].as_str().unwrap().to_owned()
    };
    // The start has logged in and so ended the count.
    world.wrong_login();
    let taken = Http::new(server.url(), Some(&role("auditor"))).post("/v1/system/root/evidence", &Value::Null);
    assert_eq!(taken["differences"], 1, "{taken}");
    let flags = value(&taken, "token.flags");
    assert!(flags["value"].as_str().unwrap().contains("user-pin-count-low"), "{flags}");
    assert!(!flags["before"].as_str().unwrap().contains("user-pin-count-low"), "{flags}");
    let operator = Http::new(server.url(), Some(&role("operator")));
    let refused = operator.send(Method::POST, "/v1/system/root/evidence", &[], &Value::Null);
    assert_eq!(refused.status, 403, "{}", refused.text);
    let records = Http::new(server.url(), Some(&token)).get("/v1/audit/records?limit=1000");
    let of = |action: &str| -> Vec<Value> {
        let records = records["records"].as_array().unwrap().iter();
        records.filter(|record| record["action"] == action && record["outcome"] == "done").cloned().collect()
    };
    let kept = json!({ "name": "claim key.extractable", "value": "false" });
    for record in of("system.init").iter().chain(&of("root.evidence")) {
        let detail = record["detail"].as_array().unwrap();
        assert!(detail.contains(&kept), "{record}");
    }
    assert_eq!((of("system.init").len(), of("root.evidence").len()), (1, 2));
    require_silent(&records.to_string());
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

/// A module is code: one that nobody named at the start is not loaded, whoever asks. Keys by the module in use may be named.
#[test]
fn a_server_loads_no_module_that_it_was_not_told_of() {
    let world = World::new();
    let token = world.init(&world.spec());
    let server = world.serve();
    let http = Http::new(server.url(), Some(&token));
    let migrate = |to: &str| http.send(Method::POST, "/v1/system/root/migrate", &[], &json!({ "to": to }));
    let other = world.spec_of(world.shim.module(), "next");
    let refused = migrate(&other);
    assert_eq!((refused.status, refused.code().as_str()), (409, "root_place"), "{}", refused.text);
    assert_eq!(world.shim.calls("Initialize"), 0, "it was loaded");
    let moved = migrate(&world.spec_of(&SoftHsm::module().unwrap(), "next"));
    assert_eq!(moved.status, 200, "{}", moved.text);
    drop(server);
    let allowed = format!("--allow-root=pkcs11:{}", world.shim.module().display());
    let server = world.place.serve_with(world.command(&["serve", "--listen", "127.0.0.1:0", &allowed]));
    let http = Http::new(server.url(), Some(&token));
    let moved = http.send(Method::POST, "/v1/system/root/migrate", &[], &json!({ "to": other }));
    assert_eq!(moved.status, 200, "{}", moved.text);
    assert!(world.shim.calls("Initialize") > 0);
    let log = http.get("/v1/audit/records?limit=100").to_string();
    assert!(log.contains(&json!(other).to_string()), "{log}");
    require_silent(&log);
}

/// The database of the store is away while the HSM is waited for, and at the start: the server opens by itself when both
/// are back.
#[test]
fn a_database_that_is_away_is_waited_for_as_the_token_is() {
    let world = World::new();
    let cluster = Cluster::start(Version::V18).unwrap();
    let url = cluster.url("postgres");
    world.ok(&["init", "--json", "--root", &world.spec(), "--store", &url, "--accept-async-loss"]);
    world.hsm.unplug().unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("token-missing"));
    cluster.kill().unwrap();
    let said = world.wait_for(server.url(), "sealed", Some("store_failed"));
    assert!(said["hint"].as_str().unwrap().contains("tried again by itself"), "{said}");
    world.hsm.plug_in().unwrap();
    cluster.restart().unwrap();
    world.wait_for(server.url(), "unsealed", None);
    drop(server);

    cluster.kill().unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "sealed", Some("store_failed"));
    cluster.restart().unwrap();
    world.wait_for(server.url(), "unsealed", None);
}

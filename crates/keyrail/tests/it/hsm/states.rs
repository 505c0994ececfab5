//! Everything that can keep a token from opening the store: each is told by its name, loses nothing, and ends by itself
//! when its cause is gone, while the server runs.

use http::Method;
use keyrail_testkit::softhsm::{P11Server, PIN, SoftHsm};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::require_silent;
use super::world::{LIMIT, World};
use crate::client::Http;

/// `CKR_…`, PKCS #11 3.1, section 6.
const DEVICE_REMOVED: u64 = 0x32;
const PIN_LOCKED: u64 = 0xA4;
const SESSION_HANDLE_INVALID: u64 = 0xB3;
const USER_PIN_NOT_INITIALIZED: u64 = 0x102;
const DEVICE_ERROR: u64 = 0x30;

#[test]
fn a_token_that_is_away_is_waited_for() {
    let world = World::new();
    world.init(&world.spec());
    world.hsm.unplug().unwrap();
    let status = world.run(&["root", "status", "--json"]);
    assert_eq!(status.code, 6, "{}", status.stderr);
    assert!(status.text().contains("\"cause\":\"token-missing\""), "{}", status.text());
    let server = world.serve();
    let said = world.wait_for(server.url(), "root-unavailable", Some("token-missing"));
    assert!(said["hint"].as_str().unwrap().contains("connect the token"), "{said}");
    let metrics = Http::new(server.url(), None).send(Method::GET, "/v1/metrics", &[], &Value::Null).text;
    assert!(metrics.contains(r#"keyrail_seal_state{state="root-unavailable",cause="token-missing"} 1"#), "{metrics}");
    world.hsm.plug_in().unwrap();
    world.wait_for(server.url(), "unsealed", None);
}

#[test]
fn a_module_that_is_not_there_is_named_and_found_when_it_comes() {
    let world = World::new();
    let module = world.place.file("module.so");
    std::os::unix::fs::symlink(SoftHsm::module().unwrap(), &module).unwrap();
    world.init(&world.spec_of(&module, "root"));
    std::fs::remove_file(&module).unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("module-missing"));
    std::os::unix::fs::symlink(SoftHsm::module().unwrap(), &module).unwrap();
    world.wait_for(server.url(), "unsealed", None);
}

/// The token locks at the third wrong PIN. The server runs through many tries of its own and uses up one.
#[test]
fn a_wrong_pin_is_tried_once_until_its_file_changes() {
    let world = World::new();
    let spec = world.spec_of(world.shim.module(), "root");
    world.init(&spec);
    world.shim.lock_after(3).unwrap();
    world.write_pin("999999-wrong");
    let server = world.serve();
    let before = world.shim.calls("Login");
    let said = world.wait_for(server.url(), "wrong-secret", Some("pin-refused"));
    assert!(said["hint"].as_str().unwrap().contains("a refused one is not tried again"), "{said}");
    world.wait_for_tries(&server, 3);
    assert_eq!(world.shim.calls("Login"), before, "the refused PIN was tried again");
    // Another wrong one is one more try; the last one is left to people.
    world.write_pin("888888-wrong");
    world.wait_until("the other PIN is tried", || world.shim.calls("Login") > before);
    world.write_pin(PIN);
    world.wait_for(server.url(), "root-locked", Some("pin-last-try"));
    assert_eq!(world.shim.calls("Login"), before + 1);
    // Somebody logs in with the right one by another tool.
    world.shim.unlock().unwrap();
    world.wait_for(server.url(), "unsealed", None);
    let ended = server.into_child().stop(LIMIT).unwrap();
    require_silent(&format!("{}{}", ended.stdout, ended.stderr));
    assert!(!ended.stderr.contains("999999-wrong"), "{}", ended.stderr);
}

#[test]
fn a_locked_token_and_one_without_a_pin_are_told_and_waited_for() {
    let world = World::new();
    world.init(&world.spec_of(world.shim.module(), "root"));
    world.shim.script("Login", PIN_LOCKED, 2, 0).unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-locked", Some("pin-locked"));
    world.wait_for(server.url(), "unsealed", None);
    drop(server);
    world.shim.script("Login", USER_PIN_NOT_INITIALIZED, 2, 0).unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("pin-not-set"));
    world.wait_for(server.url(), "unsealed", None);
}

/// A session that is lost in the middle is made anew, once and without a word; lost again, the store waits.
#[test]
fn a_session_that_is_lost_in_the_middle_is_made_anew() {
    let world = World::new();
    world.init(&world.spec_of(world.shim.module(), "root"));
    for (function, code) in
        [("Encrypt", SESSION_HANDLE_INVALID), ("FindObjectsInit", DEVICE_REMOVED), ("OpenSession", DEVICE_REMOVED)]
    {
        world.shim.script(function, code, 1, 0).unwrap();
        world.ok(&["key", "list"]);
        world.shim.script(function, code, 2, 0).unwrap();
        let ran = world.run(&["key", "list"]);
        assert_eq!(ran.code, 6, "{function}: {}", ran.stderr);
        assert!(ran.stderr.contains("the token fails: CKR_"), "{function}: {}", ran.stderr);
    }
    // Slow is not lost.
    world.shim.script("Login", 0, 1, 2_000).unwrap();
    world.ok(&["key", "list"]);
    world.shim.script("EncryptInit", DEVICE_ERROR, 4, 0).unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("token-failed"));
    world.wait_for(server.url(), "unsealed", None);
}

#[test]
fn a_key_that_is_gone_or_another_is_told_from_a_damaged_slot() {
    let world = World::new();
    world.init(&world.spec());
    // Another key under the same label.
    world.keygen("spare", "AES:32", &["--sensitive"]);
    let spec = std::fs::read_to_string(world.place.data_dir().join("root-of-trust")).unwrap();
    let named = |spec: &str| std::fs::write(world.place.data_dir().join("root-of-trust"), spec).unwrap();
    named(&spec.replace("object=root", "object=spare"));
    let server = world.serve();
    world.wait_for(server.url(), "wrong-secret", Some("other-key"));
    named(&spec.replace("object=root", "object=nothing"));
    world.wait_for(server.url(), "root-unavailable", Some("key-missing"));
    named(&spec);
    world.wait_for(server.url(), "unsealed", None);
    drop(server);
    world.damage_slot();
    let ran = world.run(&["key", "list"]);
    assert!(ran.stderr.contains("the root slot in the store is damaged"), "{}", ran.stderr);
    // What has to be done about it is known, and told in place of what helps a store that is just sealed.
    let status = world.run(&["root", "status", "--json"]).text();
    assert!(status.contains("\"cause\":\"slot-damaged\"") && status.contains("from a backup"), "{status}");
}

/// Behind `p11-kit server` the token can be stopped, and killed in the middle of an answer.
#[test]
fn a_token_that_hangs_or_dies_behind_a_server_of_its_own_never_hangs_keyrail() {
    let world = World::new();
    let front = world.hsm.serve().unwrap();
    let spec = world.spec_of(&P11Server::module().unwrap(), "root");
    let token = world.init(&spec);
    let ciphertext = world.encrypt(b"far away");
    front.signal(Signal::STOP).unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("token-slow"));
    // It answers whoever asks meanwhile, and what hangs does not keep it from ending.
    let live = Http::new(server.url(), None).get("/v1/health/live");
    assert_eq!(live, json!({ "live": true }));
    let ended = server.into_child().stop(LIMIT).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("token-slow"));
    front.signal(Signal::CONT).unwrap();
    world.wait_for(server.url(), "unsealed", None);
    drop(server);
    // Stopped in the middle, then killed.
    front.signal(Signal::STOP).unwrap();
    let server = world.serve();
    world.wait_for(server.url(), "root-unavailable", Some("token-slow"));
    front.kill().unwrap();
    // A client of p11-kit without its server has no tokens.
    world.wait_for(server.url(), "root-unavailable", Some("token-missing"));
    let front = world.hsm.serve().unwrap();
    world.wait_for(server.url(), "unsealed", None);
    // Open, it needs the token no more.
    front.kill().unwrap();
    let key = "/v1/keys/acme/prod/crm/customer-pii";
    Http::new(server.url(), Some(&token)).get(key);
    drop(server);
    let _front = world.hsm.serve().unwrap();
    assert_eq!(world.decrypt(&ciphertext), b"far away");
}

//! How a store comes open: who may open it, what is said until then, and what of it is on record.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::client::{Http, Said};
use crate::place::Place;

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// How long the service may take to begin.
const BEGINS: Duration = Duration::from_secs(60);

fn write_private(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    set_mode(path, 0o600);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A store under a passphrase, with a key; gives the owner's token.
fn with_passphrase(place: &Place) -> String {
    write_private(&place.file("pass"), b"correct horse battery staple\n");
    let made = place.run(&format!("init --root passphrase-file:{} --json", place.file("pass").display())).json();
    place.ok("domain create acme");
    place.ok("app create acme/prod/crm");
    place.ok("key create acme/prod/crm/customer-pii --label confidential");
    made["token"].as_str().unwrap().to_owned()
}

fn get(http: &Http, path: &str) -> Said {
    http.send(Method::GET, path, &[], &Value::Null)
}

fn post(http: &Http, path: &str) -> Said {
    http.send(Method::POST, path, &[], &json!({}))
}

/// Everything that a closed service says, in each of its places.
fn require_closed(place: &Place, url: &str, token: &str, state: &str) {
    let (anybody, owner) = (Http::new(url, None), Http::new(url, Some(token)));
    let seal = get(&anybody, "/v1/health/seal");
    assert_eq!((seal.status, seal.json()["seal"].as_str()), (503, Some(state)), "{}", seal.text);
    assert!(!seal.json()["hint"].as_str().unwrap().is_empty());
    let ready = get(&anybody, "/v1/health/ready");
    assert_eq!((ready.status, &ready.json()["ready"], &ready.json()["seal"]), (503, &json!(false), &json!(state)));
    assert_eq!(ready.json()["hint"], seal.json()["hint"]);
    assert_eq!(get(&anybody, "/v1/health/live").status, 200);
    let metrics = get(&anybody, "/v1/metrics");
    assert!(metrics.text.contains("keyrail_unsealed 0\n"), "{} {}", metrics.status, metrics.text);
    for said in [get(&owner, KEY), get(&anybody, "/v1/health/audit"), post(&owner, &format!("{KEY}/rotate"))] {
        assert_eq!((said.status, said.code().as_str()), (503, "sealed"), "{}", said.text);
        assert_eq!(said.json()["hint"], seal.json()["hint"]);
    }
    let status = place.run_with(&["root", "status", "--server", url, "--json"], b"");
    assert_eq!(status.code, 6, "{}{}", status.text(), status.stderr);
    let told: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(told["seal"], state);
    let shown = place.run_with(&["key", "list", "--server", url], b"");
    assert_eq!((shown.code, shown.stdout.len()), (6, 0), "{}", shown.stderr);
    assert!(shown.stderr.contains("hint: "), "{}", shown.stderr);
}

fn require_open(url: &str, token: &str) {
    let (anybody, owner) = (Http::new(url, None), Http::new(url, Some(token)));
    assert_eq!(get(&anybody, "/v1/health/seal").json(), json!({ "seal": "unsealed" }));
    assert_eq!(get(&anybody, "/v1/health/ready").status, 200);
    assert_eq!(get(&owner, KEY).status, 200);
}

#[test]
fn a_wrong_passphrase_keeps_the_store_closed_until_it_is_put_right() {
    let place = Place::new();
    let token = with_passphrase(&place);
    let auditor = place.run("token create --role auditor --json").json()["token"].as_str().unwrap().to_owned();
    write_private(&place.file("pass"), b"incorrect horse\n");
    let server = place.serve();
    let url = server.url();
    require_closed(&place, url, &token, "wrong-secret");
    let owner = Http::new(url, Some(&token));
    assert_eq!(post(&owner, "/v1/system/unseal").code(), "root_failed");
    require_closed(&place, url, &token, "wrong-secret");

    write_private(&place.file("pass"), b"correct horse battery staple\n");
    // Who may not open it does not: it is closed again before anybody can use it.
    for other in [None, Some("krt_nonsense"), Some(auditor.as_str())] {
        let refused = post(&Http::new(url, other), "/v1/system/unseal");
        assert!([401, 403].contains(&refused.status), "{}", refused.text);
        require_closed(&place, url, &token, "wrong-secret");
    }
    let opened = post(&owner, "/v1/system/unseal");
    assert_eq!((opened.status, opened.json()), (200, json!({ "seal": "unsealed" })));
    require_open(url, &token);
    assert_eq!(post(&Http::new(url, Some(&auditor)), "/v1/system/seal").status, 403);
    require_open(url, &token);
    assert_eq!(post(&owner, "/v1/system/seal").json()["seal"], "sealed");
    require_closed(&place, url, &token, "sealed");
    assert_eq!(post(&owner, "/v1/system/unseal").status, 200);
    let records = owner.get("/v1/audit/records?limit=100");
    let told: Vec<_> = records["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|record| ["system.seal", "system.unseal"].contains(&record["action"].as_str().unwrap_or_default()))
        .map(|record| (record["action"].as_str().unwrap(), record["outcome"].as_str().unwrap()))
        .collect();
    for expected in
        [("system.unseal", "done"), ("system.unseal", "refused"), ("system.seal", "done"), ("system.seal", "refused")]
    {
        assert!(told.contains(&expected), "{expected:?}: {told:?}");
    }
}

/// The passphrase comes through a pipe: as long as nobody writes, the store is being opened.
#[test]
fn while_it_is_being_opened_it_says_so() {
    let place = Place::new();
    let token = with_passphrase(&place);
    let server = place.serve();
    let url = server.url().to_owned();
    let owner = Http::new(&url, Some(&token));
    assert_eq!(post(&owner, "/v1/system/seal").status, 200);
    std::fs::remove_file(place.file("pass")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(place.file("pass")).status().unwrap().success());
    set_mode(&place.file("pass"), 0o600);
    let opening = {
        let (url, token) = (url.clone(), token.clone());
        std::thread::spawn(move || post(&Http::new(&url, Some(&token)), "/v1/system/unseal").status)
    };
    let anybody = Http::new(&url, None);
    let until = Instant::now() + BEGINS;
    while get(&anybody, "/v1/health/seal").json()["seal"] != "unsealing" {
        assert!(Instant::now() < until, "it never said that it is being opened");
    }
    require_closed(&place, &url, &token, "unsealing");
    std::fs::write(place.file("pass"), "correct horse battery staple\n").unwrap();
    assert_eq!(opening.join().unwrap(), 200);
    require_open(&url, &token);
}

/// Attempts on a closed store are on record once it is open; a server that stops before tells how many are not.
#[test]
fn attempts_that_come_on_no_record_are_told_at_the_end() {
    let place = Place::new();
    let token = place.with_key();
    let server = place.serve();
    assert_eq!(post(&Http::new(server.url(), Some(&token)), "/v1/system/seal").status, 200);
    let bad = Http::new(server.url(), Some("krt_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    let said: Vec<_> = (0..7).map(|_| post(&bad, "/v1/system/unseal").status).collect();
    assert_eq!(said, [401, 401, 401, 401, 401, 429, 429]);
    let ended = server.into_child().stop(BEGINS).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let told = ended.stderr.lines().find(|line| line.contains("are not recorded"));
    assert!(told.is_some_and(|line| line.contains("count=5 ")), "{}", ended.stderr);
}

/// Where nothing may be locked a server works all the same, and says so.
#[test]
fn a_server_that_may_lock_no_memory_warns() {
    let place = Place::new();
    let token = place.with_key();
    let shown = |server: keyrail_testkit::Server| {
        let metrics = get(&Http::new(server.url(), Some(&token)), "/v1/metrics").text;
        let line = metrics.lines().find(|line| line.starts_with("keyrail_key_memory{")).unwrap().to_owned();
        let ended = server.into_child().stop(BEGINS).unwrap();
        (line, ended.stderr.contains("warning: no more memory may be locked"))
    };
    let (line, warned) = shown(place.serve());
    assert_eq!(warned, line == "keyrail_key_memory{protection=\"unlocked\"} 1", "{line}");

    let serve = place.command(&["serve", "--listen", "127.0.0.1:0", "--data-dir", place.data_dir().to_str().unwrap()]);
    // Root may lock beyond the limit, unless that is taken from it too.
    let mut limited = std::process::Command::new("sh");
    let drop =
        if rustix::process::geteuid().is_root() { "setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock" } else { "" };
    limited.args(["-c", &format!("ulimit -l 0 && exec {drop} \"$0\" \"$@\"")]);
    limited.arg(serve.get_program()).args(serve.get_args());
    place.home.house(&mut limited);
    let server = place.serve_with(limited);
    require_open(server.url(), &token);
    assert_eq!(shown(server), ("keyrail_key_memory{protection=\"unlocked\"} 1".to_owned(), true));
}

/// Without a server each command tries the root of trust itself.
#[test]
fn without_a_server_the_command_says_why_it_is_closed() {
    let place = Place::new();
    place.with_key();
    let key = place.data_dir().join("root.key");
    let whole = std::fs::read(&key).unwrap();
    let other = Place::new();
    other.with_key();
    let foreign = std::fs::read(other.data_dir().join("root.key")).unwrap();
    let mut damaged = whole.clone();
    damaged[30] ^= 1;
    let rows: [(&str, &[u8], u32, &str); 4] = [
        ("another key file", &foreign, 0o600, "wrong-secret"),
        ("a damaged key file", &damaged, 0o600, "root-unavailable"),
        ("one that others may read", &whole, 0o604, "root-unavailable"),
        ("one that is cut", &whole[..40], 0o600, "root-unavailable"),
    ];
    for (name, content, mode, state) in rows {
        std::fs::write(&key, content).unwrap();
        set_mode(&key, mode);
        let status = place.run("root status --json");
        let told: Value = serde_json::from_slice(&status.stdout).unwrap();
        assert_eq!((status.code, told["seal"].as_str()), (6, Some(state)), "{name}: {}", status.stderr);
        let listed = place.run("key list");
        assert_eq!((listed.code, listed.stdout.len()), (6, 0), "{name}: {}", listed.stderr);
        assert!(
            listed.stderr.starts_with("error: ") && listed.stderr.contains("\nhint: "),
            "{name}: {}",
            listed.stderr
        );
    }
    std::fs::remove_file(&key).unwrap();
    let status = place.run("root status --json");
    assert!(status.text().contains("\"seal\":\"root-unavailable\""), "{}", status.text());
    write_private(&key, &whole);
    assert_eq!(place.run("root status --json").json()["seal"], "unsealed");
}

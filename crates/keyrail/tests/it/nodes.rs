//! Several nodes over one database: what a change of one means for the others, whatever they have cached and however long
//! they were stopped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keyrail_testkit::Server;
use keyrail_testkit::postgres::{Cluster, Database, Version, shared};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::{Http, Said};
use crate::place::Place;
use crate::postgres::another_machine;

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// A node that serves.
struct Node {
    place: Place,
    server: Server,
    http: Http,
    token: String,
}

impl Node {
    fn serve(place: Place, token: &str) -> Self {
        let server = place.serve();
        let http = Http::new(server.url(), Some(token));
        Self { place, server, http, token: token.to_owned() }
    }

    /// Another machine with what finds the store.
    fn another(&self) -> Self {
        Self::serve(another_machine(&self.place), &self.token)
    }

    fn with_token(&self, token: &str) -> Http {
        Http::new(self.server.url(), Some(token))
    }

    fn signal(&self, signal: Signal) {
        self.server.child().signal(signal).unwrap();
    }

    fn stop(self) -> Place {
        self.server.into_child().stop(Duration::from_secs(60)).unwrap();
        self.place
    }
}

/// The first node of a new store, with a key whose write window is short.
fn first_node(url: &str) -> Node {
    let place = Place::new();
    let made = place.run(&format!("init --json --store {url} --accept-async-loss")).json();
    let node = Node::serve(place, made["token"].as_str().unwrap());
    node.http.post("/v1/domains", &json!({ "name": "acme" }));
    node.http.post("/v1/apps", &json!({ "path": "acme/prod/crm" }));
    let label = json!({ "write_window_seconds": 0, "destroy_wait_seconds": 0 });
    let said = node.http.send(Method::PATCH, "/v1/labels/confidential", &[], &label);
    assert_eq!(said.status, 200, "{}", said.text);
    node.http.post("/v1/keys", &json!({ "name": "acme/prod/crm/customer-pii", "label": "confidential" }));
    node
}

/// Two nodes over a database of their own.
fn two_nodes(version: Version) -> (Database<'static>, Node, Node) {
    let database = shared(version).database().unwrap();
    let first = first_node(&database.url());
    let second = first.another();
    (database, first, second)
}

fn encrypt(http: &Http, plain: &str) -> Said {
    let body = json!({ "items": [{ "plaintext": STANDARD.encode(plain), "context": {} }] });
    http.try_send(Method::POST, &format!("{KEY}/encrypt"), &[], &body).expect("an answer")
}

fn sealed(said: &Said) -> String {
    assert_eq!(said.status, 200, "{}", said.text);
    said.json()["items"][0]["ciphertext"].as_str().unwrap().to_owned()
}

fn decrypt(http: &Http, ciphertext: &str) -> Said {
    let body = json!({ "items": [{ "ciphertext": ciphertext, "context": {} }] });
    http.try_send(Method::POST, &format!("{KEY}/decrypt"), &[], &body).expect("an answer")
}

/// What became of the one item: its code, or nothing if it was done. Who fails often is not looked at any more.
fn code(said: &Said) -> Option<String> {
    match said.status {
        200 => said.json()["items"][0]["error"]["code"].as_str().map(str::to_owned),
        429 => Some("unauthenticated".to_owned()),
        _ => Some(said.code()),
    }
}

/// All records, in their order, by what they say.
fn records(http: &Http) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    let mut path = "/v1/audit/records?limit=1000".to_owned();
    loop {
        let page = http.get(&path);
        found.extend(page["records"].as_array().unwrap().iter().cloned());
        match page["before"].as_u64() {
            Some(before) => path = format!("/v1/audit/records?limit=1000&before={before}"),
            None => break,
        }
    }
    found.reverse();
    found
}

/// Ends who is busy, also when a test fails; and how often they were answered.
#[derive(Default)]
struct Ended(AtomicBool, AtomicUsize);

impl Ended {
    /// Waits until the nodes are warm, and more of the same is on its way.
    fn wait_for_answers(&self, more: usize) {
        let wanted = self.1.load(Ordering::SeqCst) + more;
        eventually("answers", || self.1.load(Ordering::SeqCst) >= wanted);
    }
}

/// Says so when it goes.
struct Ending<'a>(&'a Ended);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until it holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Whether the one item was done under the first version of the key.
fn is_done_under_the_first(said: &Said) -> bool {
    let version = || said.json()["items"][0]["version"].as_u64();
    code(said).is_none() && version().is_none_or(|version| version == 1)
}

/// What somebody does all the time on a node, and what he was answered: each request that was done under the first version.
fn busy<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    ended: &'scope Ended,
    act: impl Fn() -> Said + Send + 'scope,
) -> std::thread::ScopedJoinHandle<'scope, Vec<String>> {
    scope.spawn(move || {
        let mut answered = Vec::new();
        while !ended.0.load(Ordering::SeqCst) {
            let said = act();
            if is_done_under_the_first(&said) {
                answered.push(said.request_id);
                ended.1.fetch_add(1, Ordering::SeqCst);
            }
        }
        answered
    })
}

/// A change that takes something away, and what is refused then on another node.
struct Verb {
    name: &'static str,
    /// The record of the change.
    action: &'static str,
    /// The record that must not come after it.
    forbidden: &'static str,
    /// What a node says then; where nothing is refused, another version is used.
    refused: Option<&'static str>,
}

const VERBS: [Verb; 4] = [
    Verb { name: "suspend", action: "key.suspend", forbidden: "data.decrypt", refused: Some("version_unusable") },
    Verb { name: "compromise", action: "key.compromise", forbidden: "data.encrypt", refused: None },
    Verb { name: "retire", action: "key.retire", forbidden: "data.decrypt", refused: Some("version_unusable") },
    Verb { name: "revoke", action: "token.revoke", forbidden: "data.encrypt", refused: Some("unauthenticated") },
];

/// Two nodes; on the second somebody is busy with what the first takes away.
struct Taking {
    /// Gone with its owner.
    _database: Database<'static>,
    first: Node,
    second: Node,
    token: String,
    token_id: String,
    old: String,
}

impl Taking {
    fn new(version: Version, verb: &Verb) -> Self {
        let (database, first, second) = two_nodes(version);
        let made = first.http.post("/v1/tokens", &json!({ "role": "owner", "ttl_seconds": 3600 }));
        let (token, token_id) = (made["token"].as_str().unwrap().to_owned(), made["id"].as_str().unwrap().to_owned());
        let old = sealed(&encrypt(&second.http, "old"));
        if verb.name == "retire" {
            second.http.post(&format!("{KEY}/rotate"), &Value::Null);
        }
        Self { _database: database, first, second, token, token_id, old }
    }

    /// What the second node is asked for all the time.
    fn ask(&self, verb: &Verb, http: &Http) -> Said {
        match verb.forbidden {
            "data.decrypt" => decrypt(http, &self.old),
            _ => encrypt(http, "new"),
        }
    }

    fn take_away(&self, verb: &Verb) -> Duration {
        let deadline = Instant::now() + Duration::from_secs(150);
        loop {
            let began = Instant::now();
            let said = match verb.name {
                "revoke" => {
                    self.first.http.send(Method::DELETE, &format!("/v1/tokens/{}", self.token_id), &[], &Value::Null)
                }
                "retire" => {
                    // Somebody answers for what was used without an asset.
                    let who: Vec<String> = principals(&records(&self.first.http));
                    let body = json!({ "acknowledge": who });
                    self.first.http.send(Method::POST, &format!("{KEY}/versions/1/retire"), &[], &body)
                }
                name => self.first.http.send(Method::POST, &format!("{KEY}/versions/1/{name}"), &[], &Value::Null),
            };
            if said.status == 200 {
                return began.elapsed();
            }
            // What was fenced by another node counts from the latest moment at which it can have been.
            let heard = self.first.server.child().written();
            assert_eq!(said.code(), "write_window_open", "{}: {}{heard}", verb.name, said.text);
            assert!(Instant::now() < deadline, "{}", said.text);
            std::thread::park_timeout(Duration::from_millis(500));
        }
    }
}

fn principals(records: &[Value]) -> Vec<String> {
    let mut found: Vec<_> = records.iter().filter_map(|record| record["principal"].as_str()).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(str::to_owned).collect()
}

/// Nothing of what was taken away stands behind the record of that, and what was answered has its record before.
fn require_before(records: &[Value], verb: &Verb, answered: &[String], token_id: &str) {
    let taken = records.iter().rposition(|record| record["action"] == verb.action && record["outcome"] == "done");
    let taken = taken.unwrap_or_else(|| panic!("{}: no record", verb.name));
    let places: BTreeMap<&str, usize> =
        records.iter().enumerate().map(|(index, record)| (record["id"].as_str().unwrap(), index)).collect();
    for request in answered {
        let place = places.get(request.as_str()).unwrap_or_else(|| panic!("{}: {request} has no record", verb.name));
        assert!(*place < taken, "{}: answered, and recorded at {place} behind {taken}", verb.name);
    }
    let is_forbidden = |record: &&Value| {
        let theirs = verb.name != "revoke" || record["session"] == *token_id;
        let old = record["versions"].as_array().is_some_and(|uses| uses.iter().any(|used| used["version"] == 1));
        record["action"] == verb.forbidden && record["outcome"] == "done" && theirs && old
    };
    let late: Vec<_> = records.iter().skip(taken + 1).filter(is_forbidden).collect();
    assert!(late.is_empty(), "{}: {late:?}", verb.name);
}

fn nothing_follows_what_a_node_takes_away(version: Version, verbs: &[Verb]) {
    for verb in verbs {
        let taking = Taking::new(version, verb);
        let second = taking.second.with_token(&taking.token);
        let ended = Ended::default();
        let (answered, took) = std::thread::scope(|scope| {
            let ending = Ending(&ended);
            let asking = busy(scope, &ended, || taking.ask(verb, &second));
            ended.wait_for_answers(5);
            let took = taking.take_away(verb);
            let said = taking.ask(verb, &taking.second.with_token(&taking.token));
            assert_eq!(code(&said).as_deref(), verb.refused, "{}: {}", verb.name, said.text);
            assert!(!is_done_under_the_first(&said), "{}: {}", verb.name, said.text);
            drop(ending);
            (asking.join().unwrap(), took)
        });
        assert!(took < Duration::from_secs(4), "{}: a node that answers was waited for {took:?}", verb.name);
        require_before(&records(&taking.first.http), verb, &answered, &taking.token_id);
        let Taking { first, second, _database, .. } = taking;
        drop(second.stop());
        first.stop().ok("audit verify");
    }
}

#[test]
fn nothing_follows_what_a_node_takes_away_on_postgresql_15() {
    nothing_follows_what_a_node_takes_away(Version::V15, &VERBS);
}

#[test]
fn nothing_follows_what_a_node_takes_away_on_postgresql_18() {
    nothing_follows_what_a_node_takes_away(Version::V18, &VERBS[..1]);
}

/// The second node is stopped while it is busy, and goes on when the change has returned: whatever it had decided, it
/// records and answers nothing of it.
#[test]
fn a_node_that_was_stopped_goes_on_under_the_new_state() {
    for verb in VERBS.iter().filter(|verb| verb.name != "retire") {
        let taking = Taking::new(Version::V15, verb);
        let ended = Ended::default();
        let answered = std::thread::scope(|scope| {
            let ending = Ending(&ended);
            let asking: Vec<_> = (0..8)
                .map(|_| {
                    let http = taking.second.with_token(&taking.token);
                    let taking = &taking;
                    busy(scope, &ended, move || taking.ask(verb, &http))
                })
                .collect();
            ended.wait_for_answers(40);
            taking.second.signal(Signal::STOP);
            let took = taking.take_away(verb);
            assert!(
                took >= Duration::from_secs(5),
                "{}: a node that is stopped was not waited for: {took:?}",
                verb.name
            );
            assert!(took < Duration::from_secs(15), "{}: {took:?}", verb.name);
            // It is waited for once.
            let began = Instant::now();
            taking.first.http.post("/v1/domains", &json!({ "name": "next" }));
            assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
            taking.second.signal(Signal::CONT);
            let http = taking.second.with_token(&taking.token);
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                let said = taking.ask(verb, &http);
                assert!(!is_done_under_the_first(&said), "{}: {}", verb.name, said.text);
                match code(&said).as_deref() {
                    told if told == verb.refused => break,
                    Some("no_lease") => assert!(Instant::now() < deadline, "it does not come back"),
                    other => panic!("{}: {other:?}: {}", verb.name, said.text),
                }
            }
            drop(ending);
            asking.into_iter().flat_map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
        });
        require_before(&records(&taking.first.http), verb, &answered, &taking.token_id);
    }
}

/// Whatever is killed, what was answered stands: each ciphertext opens on the other node, and has its record once.
fn nothing_that_was_answered_is_lost(version: Version) {
    let cluster = Cluster::start(version).unwrap();
    let first = first_node(&cluster.url("postgres"));
    let mut second = first.another();
    let mut ledger: Vec<(String, String, String)> = Vec::new();
    for round in 0..4 {
        let ended = Ended::default();
        let kept: Vec<_> = std::thread::scope(|scope| {
            let ending = Ending(&ended);
            let writers: Vec<_> = [&first, &second]
                .into_iter()
                .enumerate()
                .map(|(node, place)| {
                    let (http, ended) = (place.with_token(&place.token), &ended);
                    scope.spawn(move || {
                        let mut kept = Vec::new();
                        while !ended.0.load(Ordering::SeqCst) {
                            let plain = format!("{round}/{node}/{}", kept.len());
                            let body = json!({ "items": [{ "plaintext": STANDARD.encode(&plain), "context": {} }] });
                            let said = http.try_send(Method::POST, &format!("{KEY}/encrypt"), &[], &body);
                            if let Some(said) = said.filter(|said| code(said).is_none()) {
                                ended.1.fetch_add(1, Ordering::SeqCst);
                                kept.push((sealed(&said), plain, said.request_id));
                            }
                        }
                        kept
                    })
                })
                .collect();
            ended.wait_for_answers(40);
            if round % 2 == 0 {
                second.signal(Signal::KILL);
            } else {
                cluster.kill().unwrap();
                cluster.restart().unwrap();
            }
            // The node that lives goes on by itself.
            let deadline = Instant::now() + Duration::from_secs(60);
            while code(&encrypt(&first.http, "after")).is_some() {
                assert!(Instant::now() < deadline, "it does not go on");
            }
            drop(ending);
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        ledger.extend(kept);
        if round % 2 == 0 {
            second = Node::serve(second.place, &first.token);
        }
        let places = records(&second.http);
        for (ciphertext, plain, request) in &ledger {
            let opened = decrypt(&second.http, ciphertext);
            assert_eq!(opened.json()["items"][0]["plaintext"], STANDARD.encode(plain), "{}", opened.text);
            assert_eq!(places.iter().filter(|record| record["id"] == **request).count(), 1, "{plain}");
        }
    }
    drop(second.stop());
    let place = first.stop();
    place.ok("verify");
    let to = place.file("exported");
    place.ok(&format!("audit export {}", to.display()));
    let key = std::fs::read_to_string(place.data_dir().join("log-public-key")).unwrap();
    let verified = format!("audit verify --json --audit-dir {} --public-key {}", to.display(), key.trim());
    assert!(Place::new().run(&verified).json()["records"].as_u64().unwrap() > ledger.len() as u64);
}

#[test]
fn nothing_that_was_answered_is_lost_on_postgresql_15() {
    nothing_that_was_answered_is_lost(Version::V15);
}

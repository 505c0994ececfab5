//! The database of the store is killed, alone or with the server of Keyrail, while changes are made: what was answered is
//! there, what was refused is not, and of what nobody was told the log tells whether it was made.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keyrail_testkit::postgres::{Cluster, Version};
use keyrail_testkit::{Server, scale, seeded};
use rand::RngExt;
use serde_json::{Value, json};

use super::world::{KEY, missing, spin, wait_for};
use crate::client::Http;
use crate::place::Place;

/// How often it is killed at full scale.
const KILLS: usize = 100;

/// What became of a change, as its caller was told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Told {
    Done,
    Refused,
    Nothing,
}

/// What was asked for, by its name: what the caller was told, and in which words.
type Asked = BTreeMap<String, (Told, String)>;

/// A ciphertext with its plaintext, and the request.
type Sealed = ((String, String), String);

/// Makes one domain after the other, with a ciphertext beside each, until it is told to stop.
fn work(http: &Http, first: usize, stop: &AtomicBool, done: &AtomicUsize) -> (Asked, Vec<Sealed>) {
    let (mut asked, mut sealed) = (Asked::new(), Vec::new());
    for number in first.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let name = format!("d{number}");
        let said = http.try_send(Method::POST, "/v1/domains", &[], &json!({ "name": name }));
        let told = match &said {
            None => {
                // Nobody listens any more, or not for a moment.
                std::thread::park_timeout(Duration::from_millis(5));
                Told::Nothing
            }
            Some(said) if said.status == 200 => Told::Done,
            Some(said) if said.code() == "indeterminate" => Told::Nothing,
            Some(_) => Told::Refused,
        };
        asked.insert(name, (told, said.map(|said| format!("{} {}", said.request_id, said.text)).unwrap_or_default()));
        if told == Told::Done {
            sealed.extend(seal(http, number));
            done.fetch_add(1, Ordering::SeqCst);
        }
    }
    (asked, sealed)
}

/// Encrypts, unless the answer does not come or says no.
fn seal(http: &Http, number: usize) -> Option<Sealed> {
    let plain = format!("secret number {number}");
    let body = json!({ "items": [{ "plaintext": STANDARD.encode(&plain), "context": { "row": "1" } }] });
    let said = http.try_send(Method::POST, &format!("{KEY}/encrypt"), &[], &body).filter(|said| said.status == 200)?;
    let ciphertext = said.json()["items"][0]["ciphertext"].as_str().unwrap().to_owned();
    Some(((ciphertext, plain), said.request_id))
}

/// The names of all domains.
fn domains(http: &Http) -> BTreeSet<String> {
    let (mut names, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = http.get(&format!("/v1/domains?limit=1000{after}"));
        names.extend(page["domains"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { return names };
        after = format!("&after={next}");
    }
}

/// How often the log says of each domain that it was made.
fn made_in_log(http: &Http) -> BTreeMap<String, usize> {
    let (mut made, mut before) = (BTreeMap::new(), String::new());
    loop {
        // The connection that reads the log may be one to the server that was killed.
        let (path, read) = (format!("/v1/audit/records?limit=1000{before}"), Cell::new(Value::Null));
        wait_for("the log can be read", || {
            let said = http.try_send(Method::GET, &path, &[], &Value::Null).filter(|said| said.status == 200);
            said.map(|said| read.set(said.json())).is_some()
        });
        let page = read.take();
        for record in page["records"].as_array().unwrap() {
            if record["action"] == "domain.create" && record["outcome"] == "done" {
                *made.entry(record["resource"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
        let Some(next) = page["before"].as_u64() else { return made };
        before = format!("&before={next}");
    }
}

/// What is not as it must be.
fn wrong(http: &Http, asked: &Asked, sealed: &[Sealed]) -> Vec<String> {
    let (there, made) = (domains(http), made_in_log(http));
    let mut wrong = Vec::new();
    for (name, (told, said)) in asked {
        let (is_there, records) = (there.contains(name), made.get(name).copied().unwrap_or_default());
        if (*told == Told::Done && !is_there)
            || (*told == Told::Refused && is_there)
            || records != usize::from(is_there)
        {
            wrong.push(format!("{name}: told {told:?}, there {is_there}, {records} records: {said}"));
        }
    }
    let requests: Vec<_> = sealed.iter().map(|(_, request)| request.clone()).collect();
    wrong.extend(missing(http, &requests).into_iter().map(|request| format!("{request}: not in the log once")));
    for ((ciphertext, plain), request) in sealed.iter().rev().take(20) {
        let body = json!({ "items": [{ "ciphertext": ciphertext, "context": { "row": "1" } }] });
        let opened = http.post(&format!("{KEY}/decrypt"), &body);
        if opened["items"][0]["plaintext"] != STANDARD.encode(plain) {
            wrong.push(format!("{request}: does not open"));
        }
    }
    wrong
}

/// What is lost, made though it was refused, or not in the log is seen.
fn require_faults_are_seen(http: &Http, asked: &Asked, sealed: &[Sealed]) {
    let (done, _) = asked.iter().find(|(_, (told, _))| *told == Told::Done).unwrap();
    let ((ciphertext, plain), request) = &sealed[0];
    for (name, told) in [("never", Told::Done), (done.as_str(), Told::Refused)] {
        let fault = Asked::from([(name.to_owned(), (told, String::new()))]);
        assert_eq!(wrong(http, &fault, &[]).len(), 1, "{name}: {told:?}");
    }
    let never = ((ciphertext.clone(), plain.clone()), "0123456789abcdef0123456789abcdef".to_owned());
    let other = ((ciphertext.clone(), "another".to_owned()), request.clone());
    for fault in [never, other] {
        assert_eq!(wrong(http, &Asked::new(), &[fault]).len(), 1);
    }
}

#[test]
fn a_database_that_is_killed_at_any_moment_loses_nothing() {
    let cluster = Cluster::start(Version::V18).unwrap();
    let place = Place::new();
    let made = place.run(&format!("init --json --store {} --accept-async-loss", cluster.url("postgres"))).json();
    let token = made["token"].as_str().unwrap();
    place.ok("domain create acme");
    place.ok("app create acme/prod/crm");
    place.ok("key create acme/prod/crm/customer-pii --label internal");
    let mut random = seeded("a_database_that_is_killed_at_any_moment_loses_nothing");
    let (mut asked, mut sealed) = (Asked::new(), Vec::new());
    let mut server: Option<Server> = None;
    for kill in 0..scale(KILLS) {
        let running = server.take().unwrap_or_else(|| place.serve());
        let url = running.url().to_owned();
        let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        let reached = |count: usize| wait_for("changes that are done", || done.load(Ordering::SeqCst) >= count);
        let first = asked.len();
        let kept = std::thread::scope(|scope| {
            let worker = scope.spawn(|| work(&Http::new(&url, Some(token)), first, &stop, &done));
            reached(3);
            spin(Duration::from_millis(60).mul_f64(random.random_range(0.0..1.0)));
            cluster.kill().unwrap();
            // Every other time the server of Keyrail goes with it.
            let kept = if kill % 2 == 1 {
                running.into_child().kill().unwrap();
                stop.store(true, Ordering::SeqCst);
                cluster.restart().unwrap();
                None
            } else {
                cluster.restart().unwrap();
                reached(done.load(Ordering::SeqCst) + 3);
                stop.store(true, Ordering::SeqCst);
                Some(running)
            };
            let (more, ciphertexts) = worker.join().unwrap();
            asked.extend(more);
            sealed.extend(ciphertexts);
            kept
        });
        let running = kept.unwrap_or_else(|| place.serve());
        let wrong = wrong(&Http::new(running.url(), Some(token)), &asked, &sealed);
        assert_eq!(wrong, Vec::<String>::new(), "kill {kill}");
        server = Some(running);
    }
    let last = server.take().unwrap();
    require_faults_are_seen(&Http::new(last.url(), Some(token)), &asked, &sealed);
    drop(last);
    place.ok("verify");
    place.ok("audit verify");
    let count = |told| asked.values().filter(|(found, _)| *found == told).count();
    let (done, refused, untold) = (count(Told::Done), count(Told::Refused), count(Told::Nothing));
    println!(
        "{} kills; {done} changes done, {refused} refused, {untold} untold; {} ciphertexts",
        scale(KILLS),
        sealed.len()
    );
}

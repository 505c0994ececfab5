//! A server that is asked to end answers what it has begun, and loses nothing that it answered.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use keyrail_testkit::scale;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::client::Http;
use crate::place::Place;

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";
const CALLERS: usize = 8;

#[test]
fn every_answer_that_was_given_is_in_the_log() {
    let place = Place::new();
    let token = place.with_key();
    // As many as are told before the end, and at least so many.
    let answers_min = scale(20_000);
    let server = place.serve();
    let pid = Pid::from_raw(server.child().pid().try_into().unwrap()).unwrap();
    let answered = Mutex::new(BTreeSet::new());
    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (answered, count, token, url) = (&answered, &count, &token, server.url());
            scope.spawn(move || {
                let http = Http::new(url, Some(token));
                let body = json!({ "items": [{ "plaintext": "aGVsbG8=" }] });
                loop {
                    // Changes among the encryptions: they take another way into the log.
                    let path = if caller == 0 { "rotate" } else { "encrypt" };
                    match http.try_send(Method::POST, &format!("{KEY}/{path}"), &[], &body) {
                        Some(said) if said.status == 200 => {
                            answered.lock().unwrap().insert(said.request_id);
                        }
                        // A key has a limit of versions; what is refused is answered, too.
                        Some(said) => assert!([409, 503].contains(&said.status), "{}: {}", said.status, said.text),
                        None => return,
                    }
                    if count.fetch_add(1, Ordering::Relaxed) == answers_min {
                        kill_process(pid, Signal::TERM).unwrap();
                    }
                }
            });
        }
    });
    let ended = server.into_child().wait(Duration::from_secs(60)).unwrap();
    assert!(ended.status.success(), "{}", ended.stderr);
    let answered = answered.into_inner().unwrap();
    assert!(answered.len() > answers_min / 2, "{} answers", answered.len());
    let recorded = recorded(&place);
    let lost: Vec<_> = answered.difference(&recorded).collect();
    assert!(lost.is_empty(), "{} of {} answers are not in the log", lost.len(), answered.len());
    place.ok("audit verify");
    println!("{} answers until the end, none lost", answered.len());
}

/// The ids of all records.
fn recorded(place: &Place) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut before = String::new();
    loop {
        let page = place.run(&format!("audit show --json --limit 1000{before}")).json();
        ids.extend(page["records"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()));
        match page["before"].as_u64() {
            Some(next) => before = format!(" --before {next}"),
            None => return ids,
        }
    }
}

#[test]
fn a_request_that_has_begun_gets_its_answer() {
    let place = Place::new();
    let token = place.with_key();
    let server = place.serve();
    let address = server.url().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let body = br#"{"items":[{"plaintext":"aGVsbG8="}]}"#;
    let head = format!(
        "POST {KEY}/encrypt HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // The server asks for the body: the request is under way.
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    server.child().signal(Signal::TERM).unwrap();
    // It has heard the signal when it takes no connections any more.
    let deaf = (0..400).any(|_| {
        std::thread::park_timeout(Duration::from_millis(10));
        TcpStream::connect(&address).is_err()
    });
    assert!(deaf, "the server still takes connections");
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"ciphertext\":\"kr1."), "{answer}");
    assert!(server.into_child().wait(Duration::from_secs(60)).unwrap().status.success());
    let id = answer.split("x-request-id: ").nth(1).unwrap().split('\r').next().unwrap();
    assert!(recorded(&place).contains(id), "{id} is not in the log");
}

//! What the system saw: before each answer to an encryption a sync of the journal ended that began after the request came.

use std::collections::{HashMap, HashSet};
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::client::Http;
use crate::place::Place;

const ENCRYPT: &str = "/v1/keys/acme/prod/crm/customer-pii/encrypt";
const ALONE: usize = 30;
/// As many connections as the bench has in its measure against the bare echo, all open at the same time.
const CALLERS: usize = 256;
const EACH: usize = 3;

/// A system call of the server: where in the trace it began and ended.
#[derive(Debug)]
struct Call {
    name: String,
    text: String,
    begun: usize,
    ended: usize,
}

/// Puts calls together that the trace shows in two parts, because another thread called in between.
fn calls(trace: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let (begun, text) = if let Some(start) = rest.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (at, start.to_owned()));
            continue;
        } else if rest.starts_with("<... ") {
            let Some((begun, start)) = open.remove(thread) else { continue };
            (begun, format!("{start}{}", rest.split_once("resumed>").map_or("", |(_, end)| end)))
        } else {
            (at, rest.to_owned())
        };
        let Some((name, _)) = text.split_once('(') else { continue };
        calls.push(Call { name: name.to_owned(), begun, ended: at, text: text.clone() });
    }
    calls
}

/// The connection or file that a call is about, as the trace names it.
fn place_of(call: &Call) -> &str {
    call.text
        .split_once('<')
        .and_then(|(_, rest)| rest.split_once(">,").or_else(|| rest.split_once(">)")))
        .map_or("", |(place, _)| place)
}

/// What a call returned.
fn returned(call: &Call) -> i64 {
    let end = call.text.rsplit_once("= ").map_or("", |(_, end)| end);
    end.split(' ').next().and_then(|number| number.trim().parse().ok()).unwrap_or(-1)
}

/// Answers to encryptions that have their sync, those that have none, and how many connections they went to.
fn answers(trace: &str) -> (usize, usize, usize) {
    let calls = calls(trace);
    let syncs: Vec<&Call> = calls
        .iter()
        .filter(|call| ["fdatasync", "fsync"].contains(&call.name.as_str()) && place_of(call).contains("/journal/"))
        .filter(|call| returned(call) == 0)
        .collect();
    let mut waiting: HashMap<&str, usize> = HashMap::new();
    let mut answered: HashSet<&str> = HashSet::new();
    let (mut synced, mut unsynced) = (0, 0);
    let mut by_time: Vec<(usize, bool, &Call)> = Vec::new();
    for call in &calls {
        // A request has come when the last reading of its bytes ends; an answer may have left when its writing begins.
        match call.name.as_str() {
            "recvfrom" | "read" if place_of(call).starts_with("TCP:") && returned(call) > 0 => {
                by_time.push((call.ended, true, call))
            }
            "sendto" | "write" | "writev" if call.text.contains("HTTP/1.1 200 OK") => {
                by_time.push((call.begun, false, call))
            }
            _ => {}
        }
    }
    by_time.sort_by_key(|(at, ..)| *at);
    for (at, is_request, call) in by_time {
        if is_request {
            waiting.insert(place_of(call), at);
        } else if let Some(came) = waiting.remove(place_of(call)) {
            answered.insert(place_of(call));
            let sync = syncs.iter().any(|sync| sync.begun > came && sync.ended < at);
            if sync { synced += 1 } else { unsynced += 1 }
        }
    }
    (synced, unsynced, answered.len())
}

#[test]
fn a_sync_ends_before_each_answer_leaves() {
    let place = Place::new();
    let token = place.with_key();
    let dir = place.data_dir();
    let trace = place.file("trace");
    // The tracer is the server's grandchild, so that signals reach the server itself.
    let mut command = Command::new("strace");
    command.args([
        "-D",
        "-f",
        "-yy",
        "-s",
        "96",
        "-e",
        "trace=fdatasync,fsync,recvfrom,read,sendto,write,writev",
        "-o",
    ]);
    command.arg(&trace).arg(keyrail_testkit::keyrail_bin().unwrap());
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir", dir.to_str().unwrap()]);
    place.home.house(&mut command);
    let server =
        keyrail_testkit::Server::start(command, crate::place::READY).expect("strace is installed (package strace)");
    let body = json!({ "items": [{ "plaintext": "aGVsbG8=" }] });
    let url = server.url();
    let encrypts =
        |http: &Http| http.try_send(Method::POST, ENCRYPT, &[], &body).is_some_and(|said| said.status == 200);
    let alone = Http::new(url, Some(&token));
    assert!((0..ALONE).all(|_| encrypts(&alone)));
    // Nobody closes a connection before everybody has used one, and all encrypt at once from then on.
    let all_connected = Barrier::new(CALLERS);
    std::thread::scope(|scope| {
        for _ in 0..CALLERS {
            scope.spawn(|| {
                let http = Http::new(url, Some(&token));
                let first = encrypts(&http);
                all_connected.wait();
                let others = (1..EACH).all(|_| encrypts(&http));
                all_connected.wait();
                assert!(first && others);
            });
        }
    });
    server.into_child().stop(Duration::from_secs(60)).unwrap();
    let text = whole(&trace);
    let (synced, unsynced, connections) = answers(&text);
    assert_eq!((synced, unsynced), (ALONE + CALLERS * EACH, 0), "answers with their sync, and without");
    assert_eq!(connections, CALLERS + 1);
    println!(
        "{synced} answers to encryptions over {connections} connections, {CALLERS} of them at once, each after a sync of the journal that began after its request"
    );

    // The reading itself is tried on a trace from which one sync in two was taken: it must miss them.
    let mut seen = 0;
    let cut: Vec<&str> = text
        .lines()
        .filter(|line| {
            let sync = line.contains("fdatasync") || line.contains("fsync");
            seen += usize::from(sync);
            !sync || seen % 2 == 0
        })
        .collect();
    assert!(answers(&cut.join("\n")).1 > 0, "a missing sync is not seen");
}

/// The trace, when the tracer has written its end.
fn whole(path: &std::path::Path) -> String {
    for _ in 0..400 {
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        if text.lines().last().is_some_and(|line| line.contains("+++ exited") || line.contains("+++ killed")) {
            return text;
        }
        std::thread::park_timeout(Duration::from_millis(25));
    }
    panic!("the trace has no end")
}

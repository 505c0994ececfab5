//! A loop of bad log-ins beside somebody who works: it fills no log, and who has a token is answered in time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::Place;

/// Far above what an answer takes, for a loaded machine; a flood that stops the service is seen all the same.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

const BAD: u64 = 5_000;

#[test]
fn bad_log_ins_neither_fill_the_log_nor_hold_up_who_works() {
    let place = Place::new();
    let token = place.with_key();
    let server = place.serve();
    let good = Http::new(server.url(), Some(&token));
    let size = || {
        let text = good.send(Method::GET, "/v1/metrics", &[], &Value::Null).text;
        let line = text.lines().find_map(|line| line.strip_prefix("keyrail_audit_records ")).unwrap().to_owned();
        line.parse::<u64>().unwrap()
    };
    let before = size();
    let (sent, mut done, mut slowest) = (AtomicU64::new(0), 0, Duration::ZERO);
    std::thread::scope(|scope| {
        for name in 0..8 {
            let (sent, url) = (&sent, server.url());
            scope.spawn(move || {
                while sent.fetch_add(1, Ordering::Relaxed) < BAD {
                    // Another one each time, so that nothing that is kept for a token helps.
                    let bad = format!("krt_{:043}", sent.load(Ordering::Relaxed) * 8 + name);
                    let said = Http::new(url, Some(&bad)).send(Method::GET, "/v1/labels", &[], &Value::Null);
                    assert!([401, 429].contains(&said.status), "{}: {}", said.status, said.text);
                }
            });
        }
        while sent.load(Ordering::Relaxed) < BAD {
            let since = Instant::now();
            let items = json!({ "items": [{ "plaintext": "aGVsbG8=" }] });
            let said = good.send(Method::POST, "/v1/keys/acme/prod/crm/customer-pii/encrypt", &[], &items);
            assert_eq!(said.status, 200, "{}", said.text);
            slowest = slowest.max(since.elapsed());
            done += 1;
        }
    });
    assert!(slowest < ANSWERED_WITHIN, "{slowest:?}");
    assert!(done > 20, "{done} answers beside {BAD} bad log-ins");
    // One record for each answer, one aggregate in ten seconds, and what the service notes by itself.
    let grown = size() - before;
    assert!(grown <= done + 40, "{grown} records for {done} answers");
    drop(good);
    server.into_child().stop(Duration::from_secs(60)).unwrap();
    let records = place.run("audit show --limit 1000 --json").json();
    let counted = |row: &&Value| row["kind"] == "aggregate";
    assert!(records["records"].as_array().unwrap().iter().filter(counted).count() <= 20);
}

//! Campaigns from the command line: in the foreground, where a signal pauses them, and on a server.

use std::time::{Duration, Instant};

use http::Method;
use keyrail_testkit::Child;
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::{Place, Ran};

const KEY: &str = "acme/prod/crm/customer-pii";
const ROWS: u64 = 1_500;

/// How long a campaign may take here at most.
const LIMIT: Duration = Duration::from_secs(120);

/// A store with a table of [`ROWS`] rows as the asset `people`; gives the owner's token.
fn with_asset(place: &Place) -> String {
    let token = place.with_key();
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    let sql = format!(
        "PRAGMA journal_mode = WAL; CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO people SELECT i, 'p' || i FROM n"
    );
    app.execute_batch(&sql).unwrap();
    // A path that is relative here is absolute in the store.
    let mut command = place.command(&[
        "--data-dir",
        "D",
        "asset",
        "add",
        "people",
        "--url",
        "sqlite:app.sqlite",
        "--table",
        "people",
        "--id",
        "id",
        "--column",
        "email",
        "--key",
        KEY,
    ]);
    let output = command.current_dir(place.home.work()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    token
}

fn start(place: &Place, line: &str) -> Child {
    let dir = place.data_dir();
    let mut args = vec!["--data-dir", dir.to_str().unwrap(), "--json"];
    args.extend(line.split(' '));
    Child::start(place.command(&args)).unwrap()
}

fn id_of(line: &str) -> Option<String> {
    let said: Value = serde_json::from_str(line).ok()?;
    said["id"].as_str().map(str::to_owned)
}

fn status(place: &Place, id: &str) -> Value {
    place.run(&format!("campaign status {id} --json")).json()
}

fn census(place: &Place) -> Value {
    place.run("asset census people --json").json()
}

#[test]
fn a_signal_pauses_a_campaign_in_the_foreground_and_resume_goes_on() {
    let place = Place::new();
    with_asset(&place);
    let mut id = String::new();
    let mut rows = 0;
    for (signal, line) in [(Signal::INT, "asset protect people --rate 500"), (Signal::TERM, "campaign resume ID")] {
        let child = start(&place, &line.replace("ID", &id));
        // The signal comes as soon as the id is known.
        id = child.wait_line(LIMIT, id_of).unwrap();
        child.signal(signal).unwrap();
        let ended = child.wait(LIMIT).unwrap();
        assert_eq!(ended.status.code(), Some(0), "a pause that was asked for is no failure: {}", ended.stderr);
        assert_eq!(id_of(ended.stdout.lines().next().unwrap()).as_deref(), Some(id.as_str()));
        let last: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["state"], "paused", "{}", ended.stderr);
        assert!(
            ended.stderr.contains("pausing after this page; `keyrail campaign resume` goes on"),
            "{}",
            ended.stderr
        );
        let shown = status(&place, &id);
        assert_eq!((shown["state"].as_str(), shown["rate"].as_u64()), (Some("paused"), Some(500)));
        assert!(shown["rows"].as_u64().unwrap() >= rows && shown["rows"].as_u64().unwrap() < ROWS);
        rows = shown["rows"].as_u64().unwrap();
    }
    assert_eq!(place.run("campaign start people").code, 2, "there is one already");
    let done = place.run(&format!("campaign resume {id} --json")).last_json();
    assert_eq!((done["state"].as_str(), done["moved"].as_u64()), (Some("completed"), Some(ROWS)));
    assert_eq!(census(&place)["versions"][0]["values"], ROWS);
    assert_eq!(place.run(&format!("campaign resume {id}")).code, 3, "it is complete");
    assert_eq!(place.run("campaign status 00000000000000000000000000000000").code, 4);
}

#[test]
fn a_rate_is_kept_and_told_beforehand() {
    let place = Place::new();
    with_asset(&place);
    let plan = place.run("asset protect people --rate 1000 --dry-run --json").json();
    assert_eq!((plan["rows"].as_u64(), plan["values"].as_u64()), (Some(ROWS), Some(ROWS)));
    assert!(plan["bytes"].as_u64().unwrap() >= 2 * ROWS && plan["seconds"].as_f64().unwrap() >= 1.5, "{plan}");
    assert_eq!(census(&place)["plaintext"], ROWS, "a dry run changes nothing");
    let begun = Instant::now();
    place.ok("asset protect people --rate 1000");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(place.run("campaign start people --rate 0").code, 2);
}

#[test]
fn a_campaign_of_people_says_what_it_does() {
    let place = Place::new();
    with_asset(&place);
    let ran = place.ok("asset protect people");
    assert!(ran.text().starts_with("campaign "), "{}", ran.text());
    assert!(ran.stderr.contains("protecting: 500 of 1500 rows"), "{}", ran.stderr);
    assert!(ran.stderr.contains("warning: not scrubbed: copies, backups"), "{}", ran.stderr);
    let said = format!("{}{}", ran.text(), ran.stderr);
    assert_eq!(said.matches("scrubbed").count(), 1, "told once: {said}");
    place.ok(&format!("key rotate {KEY}"));
    let moved = place.run("campaign start people --json").last_json();
    assert_eq!((moved["target"].as_u64(), moved["moved"].as_u64()), (Some(2), Some(ROWS)));
    let back = place.run(&format!("campaign rollback {} --json", moved["id"].as_str().unwrap())).last_json();
    assert_eq!(
        (back["kind"].as_str(), back["target"].as_u64(), back["state"].as_str()),
        (Some("rollback"), Some(1), Some("completed"))
    );
    let counted = census(&place);
    assert_eq!(
        (counted["versions"][0]["values"].as_u64(), counted["versions"][1]["values"].as_u64()),
        (Some(ROWS), Some(0))
    );
    place.ok("asset unprotect people");
    assert_eq!(census(&place)["plaintext"], ROWS);
}

#[test]
fn damage_ends_with_its_own_exit_code_until_it_is_accepted() {
    let place = Place::new();
    with_asset(&place);
    place.ok("asset protect people");
    let app = Connection::open(place.file("app.sqlite")).unwrap();
    app.execute_batch("UPDATE people SET email = (SELECT email FROM people WHERE id = 1) WHERE id = 7").unwrap();
    place.ok(&format!("key rotate {KEY}"));
    let ran = place.run("campaign start people --json");
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let id = id_of(ran.text().lines().next().unwrap()).unwrap();
    let said: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert!(said["error"]["hint"].as_str().unwrap().contains("keyrail asset census people"), "{said}");
    assert_eq!(
        (status(&place, &id)["state"].as_str(), &census(&place)["damaged_listed"][0]["row"]),
        (Some("incomplete"), &Value::from("i7"))
    );
    let accept = |reason: &str| -> Ran {
        let dir = place.data_dir();
        place.run_with(
            &[
                "--data-dir",
                dir.to_str().unwrap(),
                "asset",
                "accept-damaged",
                "people",
                "i7",
                "--reason",
                reason,
                "--json",
            ],
            b"",
        )
    };
    assert_eq!(accept("").code, 2);
    assert_eq!(accept("copied by mistake").json()["accepted_damaged"], 1);
    assert_eq!(place.run(&format!("campaign resume {id} --json")).last_json()["state"], "completed");
    let log = place.run("audit show --json --limit 1000").text();
    assert!(log.contains("asset.accept-damaged") && log.contains("copied by mistake"));
}

#[test]
fn a_server_runs_pauses_and_resumes_a_campaign() {
    let place = Place::new();
    let token = with_asset(&place);
    let server = place.serve();
    let http = Http::new(server.url(), Some(&token));
    let token_file = place.file("token");
    std::fs::write(&token_file, &token).unwrap();
    let on_server = |line: &str| {
        let mut args = vec!["--server", server.url(), "--token-file", token_file.to_str().unwrap(), "--json"];
        args.extend(line.split(' '));
        place.run_with(&args, b"")
    };
    let started = http.post("/v1/assets/people/protect", &json!({ "rate": 500 }));
    let id = started["id"].as_str().unwrap();
    assert_eq!(on_server(&format!("campaign pause {id}")).json()["state"], "paused");
    let shown = on_server(&format!("campaign status {id}")).json();
    assert!(shown["state"] == "paused" && shown["rows"].as_u64().unwrap() < ROWS, "{shown}");
    assert_eq!(on_server(&format!("campaign pause {id}")).code, 3, "it is paused already");
    let done = on_server(&format!("campaign resume {id}"));
    assert_eq!(id_of(done.text().lines().next().unwrap()).as_deref(), Some(id));
    assert_eq!(
        (done.last_json()["state"].as_str(), done.last_json()["moved"].as_u64()),
        (Some("completed"), Some(ROWS))
    );
    let unscrubbed = "warning: not scrubbed: copies, backups";
    assert!(done.stderr.contains(unscrubbed), "{}", done.stderr);

    // Whatever kind of campaign overwrites plaintext says so, and no other.
    for plaintext in [false, true] {
        let app = Connection::open(place.file("app.sqlite")).unwrap();
        if plaintext {
            app.execute_batch("UPDATE people SET email = 'new' WHERE id = 1").unwrap();
        }
        drop(app);
        assert_eq!(on_server(&format!("key rotate {KEY}")).code, 0);
        let moved = on_server("campaign start people");
        let said = moved.last_json();
        assert_eq!((said["state"].as_str(), said["moved"].as_u64()), (Some("completed"), Some(ROWS)));
        assert_eq!(moved.stderr.contains(unscrubbed), plaintext, "{}", moved.stderr);
        assert_eq!(said["not_scrubbed"].as_array().unwrap().len(), usize::from(plaintext), "{said}");
    }
    server.into_child().stop(LIMIT).unwrap();
}

#[test]
fn a_server_that_starts_again_goes_on_with_a_running_campaign() {
    let place = Place::new();
    let token = with_asset(&place);
    let server = place.serve();
    let http = Http::new(server.url(), Some(&token));
    let started = http.post("/v1/assets/people/protect", &json!({ "rate": 500 }));
    let id = started["id"].as_str().unwrap();
    let ended = server.into_child().stop(LIMIT).unwrap();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.stderr);
    let shown = status(&place, id);
    assert!(shown["state"] == "running" && shown["rows"].as_u64().unwrap() < ROWS, "nobody paused it: {shown}");

    let server = place.serve();
    let http = Http::new(server.url(), Some(&token));
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = http.send(Method::GET, &format!("/v1/campaigns/{id}"), &[], &Value::Null).json();
        if said["state"] == "completed" {
            assert_eq!(said["moved"].as_u64(), Some(ROWS));
            break;
        }
        assert!(said["state"] == "running" && Instant::now() < deadline, "{said}");
        std::thread::yield_now();
    }
    server.into_child().stop(LIMIT).unwrap();
    assert_eq!(census(&place)["versions"][0]["values"], ROWS);
}

#[test]
fn what_stops_a_campaign_ends_alike_here_and_on_a_server() {
    let place = Place::new();
    let token = with_asset(&place);
    let server = place.serve();
    let http = Http::new(server.url(), Some(&token));
    let file = place.file("token");
    std::fs::write(&file, &token).unwrap();
    let on_server = |line: &str| {
        let all = format!("--server {} --token-file {} --json {line}", server.url(), file.display());
        Child::start(place.command(&all.split(' ').collect::<Vec<_>>())).unwrap()
    };
    let said = |code: Option<i32>, stderr: &str| {
        let said: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
        (code.unwrap(), said["error"]["code"].as_str().unwrap().to_owned())
    };
    let child = on_server("asset protect people --rate 500");
    let id = child.wait_line(LIMIT, id_of).unwrap();
    let resume = format!("campaign resume {id}");
    http.post(&format!("/v1/keys/{KEY}/versions/1/suspend"), &Value::Null);
    let disabled = child.wait(LIMIT).unwrap();
    http.post(&format!("/v1/keys/{KEY}/versions/1/resume"), &Value::Null);
    let (app, away) = (place.file("app.sqlite"), place.file("away.sqlite"));
    std::fs::rename(&app, &away).unwrap();
    let absent = on_server(&resume).wait(LIMIT).unwrap();
    server.into_child().stop(LIMIT).unwrap();

    let ran = place.run(&format!("{resume} --json"));
    let here = said(Some(ran.code), &ran.stderr);
    assert_eq!(
        (&here, said(absent.status.code(), &absent.stderr)),
        (&(4, "asset_file_absent".to_owned()), here.clone())
    );
    std::fs::rename(&away, &app).unwrap();
    place.ok(&format!("key suspend {KEY}@1"));
    let ran = place.run(&format!("{resume} --json"));
    let here = said(Some(ran.code), &ran.stderr);
    assert_eq!(
        (&here, said(disabled.status.code(), &disabled.stderr)),
        (&(3, "key_disabled".to_owned()), here.clone())
    );
    place.ok(&format!("key resume {KEY}@1"));
    assert_eq!(place.run(&format!("{resume} --json")).code, 0);
}

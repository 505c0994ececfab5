//! SIGKILL after acknowledged steps: nothing acknowledged is lost, nothing is half done, the log verifies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use http::Method;
use keyrail_testkit::{Server, scale};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::client::Http;
use crate::place::Place;

/// How often the binary is killed at full scale.
const KILLS: usize = 300;

const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";
const ROWS: usize = 4_000;
const KEYS: usize = 250;

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    Init,
    KeyChange,
    Rewrap,
    CampaignBatch,
    Checkpoint,
}

const PHASES: [Phase; 5] = [Phase::Init, Phase::KeyChange, Phase::Rewrap, Phase::CampaignBatch, Phase::Checkpoint];

/// What was acknowledged, and must be there after every kill.
#[derive(Default)]
struct Acknowledged {
    versions: u64,
    masters: u64,
    ciphertexts: Vec<(String, String)>,
    /// Requests since the last look at the log.
    requests: Vec<String>,
}

struct World {
    place: Place,
    token: String,
    seen: Acknowledged,
    random: SmallRng,
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        let token = place.with_key();
        let app = Connection::open(place.file("app.sqlite")).unwrap();
        app.execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE people (id INTEGER PRIMARY KEY, email TEXT, note TEXT)",
        )
        .unwrap();
        let sql = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO people SELECT i, 'p' || i || '@example.org', CASE i % 7 WHEN 0 THEN NULL ELSE 'note ' || i END FROM n"
        );
        app.execute_batch(&sql).unwrap();
        let mut world = Self {
            place,
            token,
            seen: Acknowledged { versions: 1, masters: 1, ..Acknowledged::default() },
            random: SmallRng::seed_from_u64(7),
        };
        let server = world.serve();
        let http = world.http(&server);
        for index in 0..KEYS {
            http.post("/v1/keys", &json!({ "name": format!("acme/prod/crm/other-{index}"), "label": "internal" }));
        }
        let url = format!("sqlite:{}", world.place.file("app.sqlite").display());
        http.post("/v1/assets", &json!({ "name": "people", "url": url, "table": "people", "columns": [{ "column": "email" }, { "column": "note" }], "key": "acme/prod/crm/customer-pii" }));
        let started = http.post("/v1/assets/people/protect", &json!({}));
        wait_completed(&http, started["id"].as_str().unwrap());
        server.into_child().stop(Duration::from_secs(30)).unwrap();
        world.seen.requests.clear();
        world
    }

    fn serve(&self) -> Server {
        self.place.serve()
    }

    fn http(&self, server: &Server) -> Http {
        Http::new(server.url(), Some(&self.token))
    }

    fn pause(&mut self, millis_max: u64) {
        let until = Instant::now() + Duration::from_micros(self.random.random_range(0..=millis_max * 1_000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    fn encrypt(&mut self, http: &Http) -> bool {
        use base64::Engine as _;
        let plain = format!("secret number {}", self.seen.ciphertexts.len());
        let body = json!({ "items": [{ "plaintext": base64::engine::general_purpose::STANDARD.encode(&plain), "context": { "row": "1" } }] });
        let Some(said) = http.try_send(Method::POST, &format!("{KEY}/encrypt"), &[], &body) else { return false };
        assert_eq!(said.status, 200, "{}", said.text);
        self.seen.ciphertexts.push((said.json()["items"][0]["ciphertext"].as_str().unwrap().to_owned(), plain));
        self.seen.requests.push(said.request_id);
        true
    }

    fn rotate(&mut self, http: &Http) -> bool {
        let Some(said) = http.try_send(Method::POST, &format!("{KEY}/rotate"), &[], &Value::Null) else { return false };
        assert_eq!(said.status, 200, "{}", said.text);
        self.seen.versions = said.json()["versions"].as_array().unwrap().len() as u64;
        self.seen.requests.push(said.request_id);
        true
    }

    /// Kills the server in the given phase; tells whether it was hit there.
    fn kill_in(&mut self, phase: Phase) -> bool {
        let server = self.serve();
        let http = self.http(&server);
        match phase {
            Phase::Init => unreachable!(),
            Phase::KeyChange => {
                for _ in 0..self.random.random_range(1..4) {
                    assert!(self.rotate(&http) && self.encrypt(&http));
                }
                // One more change is on its way when the kill comes.
                let (url, token) = (server.url().to_owned(), self.token.clone());
                let last = std::thread::spawn(move || {
                    Http::new(&url, Some(&token))
                        .try_send(Method::POST, &format!("{KEY}/rotate"), &[], &Value::Null)
                        .map(|said| said.text)
                });
                self.pause(6);
                server.into_child().kill().unwrap();
                if let Some(text) = last.join().unwrap() {
                    self.seen.versions =
                        serde_json::from_str::<Value>(&text).unwrap()["versions"].as_array().unwrap().len() as u64;
                }
                true
            }
            Phase::Rewrap => {
                let said = http.send(Method::POST, "/v1/masters/acme/prod/rotate", &[], &Value::Null);
                self.seen.masters = said.json()["versions"].as_array().unwrap().len() as u64;
                self.seen.requests.push(said.request_id);
                self.pause(12);
                server.into_child().kill().unwrap();
                self.rewrap_is_open()
            }
            Phase::CampaignBatch => {
                assert!(self.rotate(&http));
                http.post("/v1/assets/people/campaigns", &json!({}));
                self.pause(60);
                server.into_child().kill().unwrap();
                self.campaign_is_open()
            }
            Phase::Checkpoint => {
                let path = self.place.data_dir().join("audit/checkpoint");
                let read = || std::fs::read(&path).unwrap_or_default();
                let before = read();
                let deadline = Instant::now() + Duration::from_secs(20);
                while read() == before && Instant::now() < deadline {
                    assert!(self.encrypt(&http));
                }
                self.pause(2);
                server.into_child().kill().unwrap();
                true
            }
        }
    }

    fn store(&self) -> Connection {
        Connection::open_with_flags(self.place.data_dir().join("store.sqlite"), OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap()
    }

    fn rewrap_is_open(&self) -> bool {
        let sql = "SELECT count(*) FROM data_key_version v JOIN master_key_version m ON m.id = v.wrapped_by WHERE m.state <> 'active'";
        self.store().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap() > 0
    }

    fn campaign_is_open(&self) -> bool {
        self.store()
            .query_row("SELECT count(*) FROM campaign WHERE state = 'running'", [], |row| row.get::<_, i64>(0))
            .unwrap()
            > 0
    }

    /// Starts again and looks at everything that was acknowledged.
    fn check(&mut self, phase: Phase) {
        let server = self.serve();
        let http = self.http(&server);
        let key = http.get(KEY);
        let versions = key["versions"].as_array().unwrap();
        assert!(versions.len() as u64 >= self.seen.versions, "{phase:?}: a version is lost");
        assert_eq!(versions.iter().filter(|row| row["state"] == "active").count(), 1);
        self.seen.versions = versions.len() as u64;
        let masters = http.get("/v1/masters/acme/prod")["versions"].as_array().unwrap().len() as u64;
        assert!(masters >= self.seen.masters, "{phase:?}: a master key version is lost");
        self.decrypt_all(&http);
        self.find_requests(&http, phase);
        if phase == Phase::CampaignBatch {
            let campaigns = http.get("/v1/campaigns")["campaigns"].take();
            wait_completed(&http, campaigns[0]["id"].as_str().unwrap());
            self.check_rows(&http);
        }
        server.into_child().stop(Duration::from_secs(30)).unwrap();
        self.place.ok("verify");
        self.place.ok("audit verify");
    }

    fn decrypt_all(&self, http: &Http) {
        use base64::Engine as _;
        // The newest ones, and a sample of all others.
        let step = (self.seen.ciphertexts.len() / 200).max(1);
        let some: Vec<_> =
            self.seen.ciphertexts.iter().rev().take(50).chain(self.seen.ciphertexts.iter().step_by(step)).collect();
        let items: Vec<_> =
            some.iter().map(|(ciphertext, _)| json!({ "ciphertext": ciphertext, "context": { "row": "1" } })).collect();
        let answer = http.post(&format!("{KEY}/decrypt"), &json!({ "items": items }));
        for ((_, plain), item) in some.iter().zip(answer["items"].as_array().unwrap()) {
            let opened = base64::engine::general_purpose::STANDARD
                .decode(item["plaintext"].as_str().unwrap_or_default())
                .unwrap();
            assert_eq!(opened, plain.as_bytes(), "{item}");
        }
    }

    /// Every acknowledged request is in the log, once.
    fn find_requests(&mut self, http: &Http, phase: Phase) {
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        let mut before = None;
        let wanted: BTreeSet<_> = self.seen.requests.drain(..).collect();
        while found.len() < wanted.len() {
            let path = before.map_or("/v1/audit/records?limit=1000".to_owned(), |before: u64| {
                format!("/v1/audit/records?limit=1000&before={before}")
            });
            let page = http.get(&path);
            for record in page["records"].as_array().unwrap() {
                let id = record["id"].as_str().unwrap();
                if wanted.contains(id) {
                    *found.entry(id.to_owned()).or_default() += 1;
                }
            }
            before = page["before"].as_u64();
            if before.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), wanted.len(), "{phase:?}: an acknowledged operation is not in the log");
        assert!(found.values().all(|count| *count == 1), "{phase:?}: a record is there twice");
    }

    fn check_rows(&self, http: &Http) {
        let census = http.post("/v1/assets/people/census", &Value::Null);
        let newest = census["versions"].as_array().unwrap().last().unwrap()["values"].as_u64();
        assert_eq!(newest, Some((ROWS + ROWS - ROWS / 7) as u64), "{census}");
        assert_eq!((census["damaged"].as_u64(), census["plaintext"].as_u64()), (Some(0), Some(0)));
    }
}

fn wait_completed(http: &Http, id: &str) {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let campaign = http.get(&format!("/v1/campaigns/{id}"));
        match campaign["state"].as_str().unwrap() {
            "completed" => return,
            "running" if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(20)),
            state => panic!("{state}: {campaign}"),
        }
    }
}

/// Kills `init`; what it left must be nothing that a second one minds, or the whole store.
fn kill_init(random: &mut SmallRng) -> bool {
    let place = Place::new();
    let dir = place.data_dir();
    let mut child = place
        .command(&["init", "--json", "--data-dir", dir.to_str().unwrap()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = Instant::now() + Duration::from_micros(random.random_range(0..60_000));
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    let hit = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    let acknowledged = !output.stdout.is_empty();
    let again = place.run("init --json");
    match again.code {
        0 => assert!(!acknowledged, "a store that was acknowledged is gone"),
        2 => {}
        code => panic!("init again ended with {code}: {}", again.stderr),
    }
    place.ok("domain create acme");
    place.ok("verify");
    place.ok("audit verify");
    hit
}

#[test]
fn killed_at_any_moment_it_loses_nothing() {
    let kills = scale(KILLS);
    let mut world = World::new();
    let mut hits: BTreeMap<Phase, usize> = BTreeMap::new();
    let wanted = kills / PHASES.len();
    let mut tries = 0;
    while PHASES.iter().any(|phase| hits.get(phase).copied().unwrap_or(0) < wanted) {
        let phase = PHASES[tries % PHASES.len()];
        tries += 1;
        assert!(tries < kills * 4, "too few kills hit: {hits:?}");
        if hits.get(&phase).copied().unwrap_or(0) >= wanted {
            continue;
        }
        let hit = match phase {
            Phase::Init => kill_init(&mut world.random),
            _ => {
                let hit = world.kill_in(phase);
                world.check(phase);
                hit
            }
        };
        if hit {
            *hits.entry(phase).or_default() += 1;
        }
    }
    println!(
        "kills that hit: {hits:?}, in {tries} rounds; {} ciphertexts, {} key versions, {} master key versions",
        world.seen.ciphertexts.len(),
        world.seen.versions,
        world.seen.masters
    );
    // The fault is seen, too: a ciphertext that was acknowledged and is not there.
    world.seen.ciphertexts.push(("kr1.".to_owned(), "lost".to_owned()));
    let server = world.serve();
    let http = world.http(&server);
    let missed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.decrypt_all(&http)));
    assert!(missed.is_err(), "the check does not see a lost ciphertext");
}

//! A store with keys, data and a protected table, whose server is killed again and again.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use keyrail_testkit::Server;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::Phase;
use super::changes::Changes;
use super::left::{ahead_of_checkpoint, half_published, require_readable, wrapped};
use super::table::{ROWS, Table};
use crate::client::Http;
use crate::place::Place;

pub(super) const KEY: &str = "/v1/keys/acme/prod/crm/customer-pii";

/// Keys beside it: what rewrapping works on. It takes 250 at a time.
const KEYS: usize = 600;

/// How long anything may take here.
const LIMIT: Duration = Duration::from_secs(120);

/// Between the records of whom a publication is made, so that the log stays short: all of it is read after each kill.
const BETWEEN: Duration = Duration::from_millis(2);

/// How long a record waits for its publication, and some more.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// Campaigns take turns, so that each finds what the one before left.
const CAMPAIGNS: [&str; 3] = ["campaigns", "unprotect", "protect"];

/// How long the phases take undisturbed, from the moment at which they are seen to begin.
struct Takes {
    rewrap: Duration,
    campaign: Duration,
    checkpoint: Duration,
}

pub(super) struct World {
    place: Place,
    token: String,
    table: Table,
    changes: Changes,
    masters: usize,
    /// Acknowledged ciphertexts, with their plaintexts.
    ciphertexts: Vec<(String, String)>,
    campaigns: usize,
    takes: Takes,
    /// Kills that fell between a checkpoint and the end of its publication.
    behind: usize,
    random: SmallRng,
}

impl World {
    pub(super) fn new(place: Place) -> Self {
        let token = place.with_key();
        let table = Table::new(&place.file("app.sqlite"));
        let zero = Duration::ZERO;
        let mut world = Self {
            place,
            token,
            table,
            changes: Changes::new(SmallRng::seed_from_u64(3)),
            masters: 1,
            ciphertexts: Vec::new(),
            campaigns: 0,
            takes: Takes { rewrap: zero, campaign: zero, checkpoint: zero },
            behind: 0,
            random: SmallRng::seed_from_u64(7),
        };
        let server = world.place.serve();
        let http = world.http(&server);
        Changes::prepare(&http);
        for index in 0..KEYS {
            http.post("/v1/keys", &json!({ "name": format!("acme/prod/crm/other-{index}"), "label": "internal" }));
        }
        let asset = json!({ "name": "people", "url": world.table.url(), "table": "people", "columns": [{ "column": "email" }, { "column": "note" }], "key": "acme/prod/crm/customer-pii" });
        http.post("/v1/assets", &asset);
        world.measure(&http);
        server.into_child().stop(LIMIT).unwrap();
        world
    }

    /// Does once, undisturbed, what is killed later.
    fn measure(&mut self, http: &Http) {
        let mut id = String::new();
        self.table.wait_first_commit(|| id = start(http, "protect"));
        let begun = Instant::now();
        wait_for("the last page of a campaign", || self.table.moved().plain == 0);
        self.takes.campaign = begun.elapsed();
        wait_completed(http, &id);
        self.rotate_master(http);
        wait_for("the first rewrapped keys", || wrapped(&self.place).0 > 0);
        let begun = Instant::now();
        wait_for("the last rewrapped keys", || wrapped(&self.place).1 == 0);
        self.takes.rewrap = begun.elapsed();
        let data_dir = self.place.data_dir();
        // One that is over between two looks is not seen: then there is another.
        while !seen_within(SEEN_WITHIN, || ahead_of_checkpoint(&data_dir)) {
            self.encrypt(http);
        }
        let begun = Instant::now();
        wait_for("the end of a publication", || !half_published(&data_dir));
        self.takes.checkpoint = begun.elapsed();
    }

    fn http(&self, server: &Server) -> Http {
        Http::new(server.url(), Some(&self.token))
    }

    fn pause(&mut self, up_to: Duration) {
        spin(up_to.mul_f64(self.random.random_range(0.0..1.0)));
    }

    fn encrypt(&mut self, http: &Http) {
        let (sealed, request) = encrypt(http, self.ciphertexts.len()).expect("the server answers");
        self.ciphertexts.push(sealed);
        self.changes.requests.push(request);
    }

    fn rotate_master(&mut self, http: &Http) {
        let said = http.send(Method::POST, "/v1/masters/acme/prod/rotate", &[], &Value::Null);
        self.masters = said.json()["versions"].as_array().unwrap().len();
        self.changes.requests.push(said.request_id);
    }

    /// Kills the server in the given phase, looks at what it left, starts it again and looks at everything that was
    /// acknowledged. Tells whether the kill fell into the phase, as the files or the answers show.
    pub(super) fn kill_in(&mut self, phase: Phase) -> bool {
        let server = self.place.serve();
        let http = self.http(&server);
        for _ in 0..self.random.random_range(1..4) {
            assert!(self.changes.make_one(&http));
            self.encrypt(&http);
        }
        let hit = match phase {
            Phase::Init => unreachable!("another store is killed there"),
            Phase::KeyChange => self.kill_in_change(server),
            Phase::Rewrap => {
                self.rotate_master(&http);
                wait_for("the first rewrapped keys", || wrapped(&self.place).0 > 0);
                self.pause(self.takes.rewrap);
                server.into_child().kill().unwrap();
                let (by_new, by_old) = wrapped(&self.place);
                by_new > 0 && by_old > 0
            }
            Phase::CampaignBatch => self.kill_in_campaign(server, &http),
            Phase::Checkpoint => self.kill_in_checkpoint(server),
        };
        self.table.require_whole_rows();
        require_readable(&self.place);
        // At once, without a start that would put anything right.
        self.place.ok("audit verify");
        self.check(phase);
        hit
    }

    /// One change after the other is made until the kill comes: the last one's answer is missing.
    fn kill_in_change(&mut self, server: Server) -> bool {
        let (url, token, begun) = (server.url().to_owned(), self.token.clone(), self.changes.begun());
        let delay = Duration::from_millis(40).mul_f64(self.random.random_range(0.0..1.0));
        let changes = &mut self.changes;
        let begun_before_the_kill = std::thread::scope(|scope| {
            scope.spawn(move || {
                let http = Http::new(&url, Some(&token));
                while changes.make_one(&http) {}
            });
            spin(delay);
            let begun = begun.load(Ordering::SeqCst);
            server.into_child().kill().unwrap();
            begun
        });
        self.changes.answered() < begun_before_the_kill
    }

    fn kill_in_campaign(&mut self, server: Server, http: &Http) -> bool {
        let verb = CAMPAIGNS[self.campaigns % CAMPAIGNS.len()];
        self.campaigns += 1;
        if verb == "campaigns" {
            self.changes.rotate(http);
        }
        self.table.wait_first_commit(|| drop(start(http, verb)));
        // A little longer than the values take: some kills fall into what follows them.
        self.pause(self.takes.campaign.mul_f64(1.2));
        server.into_child().kill().unwrap();
        self.table.moved().is_mixed()
    }

    fn kill_in_checkpoint(&mut self, server: Server) -> bool {
        let (url, token) = (server.url().to_owned(), self.token.clone());
        let delay = self.takes.checkpoint.mul_f64(self.random.random_range(0.0..1.0));
        let known = self.ciphertexts.len();
        let data_dir = self.place.data_dir();
        let sealed = std::thread::scope(|scope| {
            let writer = scope.spawn(move || {
                let http = Http::new(&url, Some(&token));
                let paced = (known..).inspect(|_| std::thread::park_timeout(BETWEEN));
                paced.map_while(|number| encrypt(&http, number)).collect::<Vec<_>>()
            });
            wait_for("the end of a publication", || !half_published(&data_dir));
            wait_for("the first file of a publication", || ahead_of_checkpoint(&data_dir));
            spin(delay);
            server.into_child().kill().unwrap();
            writer.join().unwrap()
        });
        for (sealed, request) in sealed {
            self.ciphertexts.push(sealed);
            self.changes.requests.push(request);
        }
        let ahead = ahead_of_checkpoint(&self.place.data_dir());
        // Behind its checkpoint, with files that are stale: no less of a publication, but the harmless half.
        self.behind += usize::from(!ahead && half_published(&self.place.data_dir()));
        ahead
    }

    /// Starts again and looks at everything that was acknowledged.
    fn check(&mut self, phase: Phase) {
        let server = self.place.serve();
        let http = self.http(&server);
        self.changes.check(&http, server.url());
        let masters = http.get("/v1/masters/acme/prod")["versions"].as_array().unwrap().len();
        assert_eq!(masters, self.masters, "{phase:?}");
        assert_eq!(self.lost(&http), Vec::<usize>::new(), "{phase:?}: ciphertexts are lost");
        let requests = std::mem::take(&mut self.changes.requests);
        assert_eq!(missing(&http, &requests), Vec::<&str>::new(), "{phase:?}: operations are not in the log once");
        if phase == Phase::Rewrap {
            wait_for("the last rewrapped keys", || wrapped(&self.place).1 == 0);
        }
        if phase == Phase::CampaignBatch {
            let campaigns = http.get("/v1/campaigns")["campaigns"].take();
            for campaign in campaigns.as_array().unwrap() {
                wait_completed(&http, campaign["id"].as_str().unwrap());
            }
            self.check_table(&http);
        }
        server.into_child().stop(LIMIT).unwrap();
        self.place.ok("verify");
        self.place.ok("audit verify");
    }

    fn check_table(&self, http: &Http) {
        let all = u64::from(ROWS + ROWS - ROWS / 7);
        let census = http.post("/v1/assets/people/census", &Value::Null);
        let newest = census["versions"].as_array().unwrap().last().map_or(0, |row| row["values"].as_u64().unwrap());
        let plain = CAMPAIGNS[(self.campaigns - 1) % CAMPAIGNS.len()] == "unprotect";
        if plain {
            self.table.require_plain();
        }
        let found = (newest, census["plaintext"].as_u64(), census["damaged"].as_u64());
        assert_eq!(found, if plain { (0, Some(all), Some(0)) } else { (all, Some(0), Some(0)) }, "{census}");
        self.table.require_whole_rows();
    }

    /// Acknowledged ciphertexts that do not open to what went in: the newest ones, and a sample of all others.
    fn lost(&self, http: &Http) -> Vec<usize> {
        let step = (self.ciphertexts.len() / 200).max(1);
        let numbered = || self.ciphertexts.iter().enumerate();
        let some: Vec<_> = numbered().rev().take(100).chain(numbered().step_by(step)).collect();
        let item = |ciphertext: &str| json!({ "ciphertext": ciphertext, "context": { "row": "1" } });
        let items: Vec<_> = some.iter().map(|(_, (ciphertext, _))| item(ciphertext)).collect();
        let answer = http.post(&format!("{KEY}/decrypt"), &json!({ "items": items }));
        let answers = answer["items"].as_array().unwrap();
        assert_eq!(answers.len(), some.len());
        let opens = |plain: &str, answer: &Value| answer["plaintext"] == STANDARD.encode(plain);
        let lost = some.iter().zip(answers).filter(|((_, (_, plain)), answer)| !opens(plain, answer));
        lost.map(|((number, _), _)| *number).collect()
    }

    pub(super) fn told(&self) -> String {
        format!(
            "{} more behind a checkpoint; {} ciphertexts, {} master key versions, {} campaigns, changes {}",
            self.behind,
            self.ciphertexts.len(),
            self.masters,
            self.campaigns,
            self.changes.told()
        )
    }

    /// What was acknowledged and is not there is seen.
    pub(super) fn require_faults_are_seen(&mut self) {
        let server = self.place.serve();
        let http = self.http(&server);
        let number = self.ciphertexts.len();
        self.ciphertexts.push(("kr1.".to_owned(), "lost".to_owned()));
        assert!(self.lost(&http).contains(&number), "a lost ciphertext is not seen");
        self.ciphertexts[number] = (self.ciphertexts[0].0.clone(), "another".to_owned());
        assert!(self.lost(&http).contains(&number), "an altered plaintext is not seen");
        let never = "0123456789abcdef0123456789abcdef".to_owned();
        assert_eq!(missing(&http, std::slice::from_ref(&never)), [never.as_str()], "a lost record is not seen");
    }
}

/// Encrypts; gives the ciphertext with its plaintext, and the request. `None` if no answer came.
fn encrypt(http: &Http, number: usize) -> Option<((String, String), String)> {
    let plain = format!("secret number {number}");
    let body = json!({ "items": [{ "plaintext": STANDARD.encode(&plain), "context": { "row": "1" } }] });
    let said = http.try_send(Method::POST, &format!("{KEY}/encrypt"), &[], &body)?;
    assert_eq!(said.status, 200, "{}", said.text);
    let ciphertext = said.json()["items"][0]["ciphertext"].as_str().unwrap().to_owned();
    Some(((ciphertext, plain), said.request_id))
}

/// Requests that are not in the log, or more than once.
pub(super) fn missing<'a>(http: &Http, requests: &'a [String]) -> Vec<&'a str> {
    let mut found: BTreeMap<&str, usize> = requests.iter().map(|id| (id.as_str(), 0)).collect();
    let mut path = "/v1/audit/records?limit=1000".to_owned();
    loop {
        let page = http.get(&path);
        for record in page["records"].as_array().unwrap() {
            if let Some(count) = found.get_mut(record["id"].as_str().unwrap()) {
                *count += 1;
            }
        }
        let Some(before) = page["before"].as_u64().filter(|_| found.values().any(|count| *count == 0)) else { break };
        path = format!("/v1/audit/records?limit=1000&before={before}");
    }
    found.into_iter().filter(|(_, count)| *count != 1).map(|(id, _)| id).collect()
}

fn start(http: &Http, verb: &str) -> String {
    http.post(&format!("/v1/assets/people/{verb}"), &json!({}))["id"].as_str().unwrap().to_owned()
}

fn wait_completed(http: &Http, id: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let campaign = http.get(&format!("/v1/campaigns/{id}"));
        match campaign["state"].as_str().unwrap() {
            "completed" => return,
            "running" if Instant::now() < deadline => std::thread::park_timeout(Duration::from_millis(10)),
            state => panic!("{state}: {campaign}"),
        }
    }
}

/// Looks again and again until it is so, or the time is over.
fn seen_within(limit: Duration, is_so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !is_so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Looks again and again until it is so.
pub(super) fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

/// Lets a time go by that is shorter than the system can wait.
pub(super) fn spin(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::hint::spin_loop();
    }
}

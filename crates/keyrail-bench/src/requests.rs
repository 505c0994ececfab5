//! Encryption over HTTP against echoes on the same stack, and batches against a plain loop.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use keyrail_testkit::postgres::Cluster;

use crate::process::{Measured, Server, load};

/// How long one item is, in bytes.
const ITEM_LEN: usize = 64;

/// A batch: how many items, and how long each is.
const BATCH_ITEMS: usize = 1_000;
const BATCH_ITEM_LEN: usize = 256;

pub(crate) struct Report {
    pub(crate) ratios: BTreeMap<String, f64>,
    pub(crate) runs: Vec<Value>,
    /// How many times the floor's 99th percentile ours is.
    pub(crate) p99: BTreeMap<String, f64>,
    pub(crate) ready_millis: f64,
    pub(crate) idle_mib: f64,
}

struct Place {
    dir: PathBuf,
    keyrail: PathBuf,
    token: String,
}

impl Place {
    fn new(keyrail: &Path, dir: &Path, init: &[&str]) -> anyhow::Result<Self> {
        let mut place = Self { dir: dir.to_owned(), keyrail: keyrail.to_owned(), token: String::new() };
        let made: Value = serde_json::from_str(&place.keyrail(&[&["init", "--json"], init].concat())?)?;
        place.token = made.get("token").and_then(Value::as_str).context("no token")?.to_owned();
        place.keyrail(&["domain", "create", "acme"])?;
        place.keyrail(&["app", "create", "acme/prod/crm"])?;
        place.keyrail(&["key", "create", "acme/prod/crm/bench", "--label", "internal"])?;
        Ok(place)
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.join("D")
    }

    fn keyrail(&self, args: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.keyrail).arg("--data-dir").arg(self.data_dir()).args(args).output()?;
        if !output.status.success() {
            bail!("keyrail {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn serve(&self) -> anyhow::Result<Server> {
        let mut command = Command::new(&self.keyrail);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(self.data_dir());
        Server::start(command)
    }

    fn echo(&self, synced: bool) -> anyhow::Result<Server> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("echo");
        if synced {
            command.arg("--synced").arg(self.dir.join("echo.sync"));
        }
        Server::start(command)
    }

    /// Writes a whole request into a file.
    fn request(&self, name: &str, path: &str, body: &str) -> anyhow::Result<PathBuf> {
        let file = self.dir.join(name);
        let text = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        );
        std::fs::write(&file, text)?;
        Ok(file)
    }
}

fn body(items: usize, len: usize) -> String {
    let item = json!({ "plaintext": STANDARD.encode(vec![b'p'; len]), "context": { "row": "1234" } });
    json!({ "items": vec![item; items] }).to_string()
}

pub(crate) fn run(
    keyrail: &Path,
    dir: &Path,
    postgres: &Cluster,
    (seconds, rounds): (f64, usize),
) -> anyhow::Result<Report> {
    let place = Place::new(keyrail, dir, &[])?;
    let mut report = Report {
        ratios: BTreeMap::new(),
        runs: Vec::new(),
        p99: BTreeMap::new(),
        ready_millis: f64::NAN,
        idle_mib: f64::NAN,
    };
    idle(&place, &mut report)?;
    for (name, synced, connections) in [("encrypt_vs_synced_echo", true, 32), ("encrypt_vs_echo", false, 256)] {
        against_echo(&place, name, synced, connections, (seconds, rounds), &mut report)?;
    }
    let ratio = batches(&place, seconds, rounds, &mut report.runs)?;
    report.ratios.insert("batch_vs_loop".to_owned(), ratio);
    let (dir, url) = (dir.join("postgres"), postgres.url("requests"));
    std::fs::create_dir_all(&dir)?;
    postgres.create_database("requests")?;
    let place = Place::new(keyrail, &dir, &["--store", &url, "--accept-async-loss"])?;
    against_echo(&place, "encrypt_on_postgres_vs_echo", false, 256, (seconds, rounds), &mut report)?;
    Ok(report)
}

/// Encryption over HTTP against an echo, turn by turn.
fn against_echo(
    place: &Place,
    name: &str,
    synced: bool,
    connections: usize,
    (seconds, rounds): (f64, usize),
    report: &mut Report,
) -> anyhow::Result<()> {
    let encrypt = place.request("encrypt.http", "/v1/keys/acme/prod/crm/bench/encrypt", &body(1, ITEM_LEN))?;
    let echo = place.request("echo.http", "/echo", &body(1, ITEM_LEN))?;
    let (ours, floor) = (place.serve()?, place.echo(synced)?);
    let (mut ratios, mut late) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let they = || load(&floor.address, &echo, connections, seconds);
        let we = || load(&ours.address, &encrypt, connections, seconds);
        // Each side is first as often as the other: what the machine does meanwhile falls on both.
        let (theirs, us) = if round % 2 == 0 {
            let theirs = they()?;
            (theirs, we()?)
        } else {
            let us = we()?;
            (they()?, us)
        };
        let ratio = us.per_second / theirs.per_second;
        eprintln!("{name}, round {}: {us} against {theirs}: {ratio:.2}", round + 1);
        ratios.push(ratio);
        late.push(us.p99_micros / theirs.p99_micros);
        report.runs.push(run_line(name, connections, us, theirs));
    }
    report.ratios.insert(name.to_owned(), median(&mut ratios));
    report.p99.insert(name.to_owned(), median(&mut late));
    Ok(())
}

/// What a server holds that serves a data directory: at rest, after it has looked at keys for a while.
pub(crate) fn memory_of(keyrail: &Path, data_dir: &Path) -> anyhow::Result<f64> {
    let mut command = Command::new(keyrail);
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
    let server = Server::start(command)?;
    std::thread::park_timeout(LOOKING);
    server.memory_mib()
}

/// Long enough for several sweeps.
const LOOKING: Duration = Duration::from_secs(15);

fn run_line(name: &str, connections: usize, us: Measured, theirs: Measured) -> Value {
    let side = |side: Measured| json!({ "per_second": side.per_second, "p50_micros": side.p50_micros, "p99_micros": side.p99_micros });
    json!({ "name": name, "connections": connections, "keyrail": side(us), "floor": side(theirs) })
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long a start takes, and how much memory it holds with nothing to do.
fn idle(place: &Place, report: &mut Report) -> anyhow::Result<()> {
    let mut ready = Vec::new();
    let mut memory = Vec::new();
    for _ in 0..5 {
        let server = place.serve()?;
        ready.push(server.ready.as_secs_f64() * 1e3);
        std::thread::park_timeout(Duration::from_millis(1_500));
        memory.push(server.memory_mib()?);
    }
    report.ready_millis = median(&mut ready);
    report.idle_mib = median(&mut memory);
    eprintln!("ready in {:.0} ms, {:.1} MiB idle", report.ready_millis, report.idle_mib);
    Ok(())
}

fn batches(place: &Place, seconds: f64, rounds: usize, runs: &mut Vec<Value>) -> anyhow::Result<f64> {
    let batch =
        place.request("batch.http", "/v1/keys/acme/prod/crm/bench/encrypt", &body(BATCH_ITEMS, BATCH_ITEM_LEN))?;
    let server = place.serve()?;
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let theirs = plain_loop(seconds)?;
        let us = load(&server.address, &batch, 1, seconds)?;
        let items = us.per_second * BATCH_ITEMS as f64;
        ratios.push(items / theirs);
        eprintln!("batch_vs_loop: {items:.0} items/s against {theirs:.0} items/s: {:.2}", items / theirs);
        runs.push(json!({ "name": "batch_vs_loop", "keyrail": { "items_per_second": items, "p50_micros": us.p50_micros, "p99_micros": us.p99_micros }, "floor": { "items_per_second": theirs } }));
    }
    Ok(median(&mut ratios))
}

struct Len;

impl KeyType for Len {
    fn len(&self) -> usize {
        32
    }
}

/// Base64, HKDF and AEAD of the same items, in a plain loop on one thread.
fn plain_loop(seconds: f64) -> anyhow::Result<f64> {
    let encoded = STANDARD.encode(vec![b'p'; BATCH_ITEM_LEN]);
    let secret = [7_u8; 32];
    let until = Instant::now() + Duration::from_secs_f64(seconds);
    let begun = Instant::now();
    let mut count = 0_u64;
    while Instant::now() < until {
        for _ in 0..BATCH_ITEMS {
            black_box(seal(black_box(&encoded), &secret)?);
            count += 1;
        }
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

fn seal(encoded: &str, secret: &[u8; 32]) -> anyhow::Result<String> {
    let failed = |_| anyhow::anyhow!("a cipher failed");
    let mut data = STANDARD.decode(encoded)?;
    let mut fresh = [0; 44];
    aws_lc_rs::rand::fill(&mut fresh).map_err(failed)?;
    let (salt, iv) = fresh.split_at(32);
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[b"info"], Len)
        .and_then(|okm| okm.fill(&mut key))
        .map_err(failed)?;
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).map_err(failed)?);
    let nonce = Nonce::try_assume_unique_for_key(iv).map_err(failed)?;
    cipher.seal_in_place_append_tag(nonce, Aad::from(b"context"), &mut data).map_err(failed)?;
    data.extend_from_slice(&fresh);
    Ok(URL_SAFE_NO_PAD.encode(&data))
}

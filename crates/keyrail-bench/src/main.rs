//! Benchmarks as ratios against floors measured in the same run. Load comes from another process; each side runs
//! in turn, several times.

mod campaign;
mod echo;
mod floor;
mod load;
mod process;
mod requests;
mod rewrap;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use keyrail_testkit::postgres::{Cluster, Options, Version};
use serde_json::json;

/// Keyrail's benchmarks.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything and print one JSON object.
    Run {
        /// The keyrail binary.
        #[arg(long)]
        keyrail: PathBuf,
        /// How long each measurement takes, in seconds.
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// How often each pair of measurements is repeated.
        #[arg(long, default_value_t = 21)]
        rounds: usize,
    },
    /// Only rewrap keys, and say how fast.
    Rewrap {
        /// How many keys at first.
        #[arg(long, default_value_t = FEW_KEYS)]
        few: u32,
        /// How many keys in the end.
        #[arg(long, default_value_t = MANY_KEYS)]
        many: u32,
    },
    /// Serve fixed answers, after a sync of as many bytes as the answer has if a file is named.
    Echo {
        /// Where to append and sync.
        #[arg(long)]
        synced: Option<PathBuf>,
    },
    /// Send one request over and over.
    Load(load::Args),
}

/// A campaign takes several seconds.
const CAMPAIGN_ROUNDS_MAX: usize = 5;

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::Run { keyrail, seconds, rounds } => run(&keyrail, seconds, rounds),
        Task::Rewrap { few, many } => rewrap::run(place()?.path(), few, many).map(drop),
        Task::Echo { synced } => echo::run(synced.as_deref()),
        Task::Load(args) => load::run(&args),
    }
}

/// Rewrapping is measured with so many keys, and whether it takes as long for each with many more.
const FEW_KEYS: u32 = 10_000;
const MANY_KEYS: u32 = 1_000_000;

/// A place on the disk of the build, which is no memory disk.
fn place() -> anyhow::Result<tempfile::TempDir> {
    let beside = std::env::current_exe()?;
    let beside = beside.parent().unwrap_or(std::path::Path::new("."));
    Ok(tempfile::Builder::new().prefix("keyrail-bench").tempdir_in(beside)?)
}

fn run(keyrail: &std::path::Path, seconds: f64, rounds: usize) -> anyhow::Result<()> {
    let place = place()?;
    let sync = floor::sync_latency(place.path())?;
    eprintln!("disk sync: median {:.0} µs, p99 {:.0} µs", sync.p50_micros, sync.p99_micros);
    let postgres = Cluster::start_with(&Options::new(Version::V15))?;
    let mut report = requests::run(keyrail, place.path(), &postgres, (seconds, rounds))?;
    let campaigns = rounds.min(CAMPAIGN_ROUNDS_MAX);
    for (name, moved) in [
        ("campaign_vs_bare", campaign::run(place.path(), campaigns)?),
        ("campaign_on_postgres_vs_bare", campaign::run_postgres(place.path(), &postgres, campaigns)?),
    ] {
        report.ratios.insert(name.to_owned(), moved.ratio);
        report.runs.extend(moved.runs);
    }
    let rewrapped = rewrap::run(place.path(), FEW_KEYS, MANY_KEYS)?;
    report.ratios.insert(rewrap::NAME.to_owned(), rewrapped.ratio);
    report.ratios.insert("rewrap_linear".to_owned(), rewrapped.linear);
    report.runs.extend(rewrapped.runs);
    let many_mib = requests::memory_of(keyrail, &rewrapped.data_dir)?;
    let few_mib = requests::memory_of(keyrail, &place.path().join("D"))?;
    eprintln!("memory after a while: {many_mib:.1} MiB with {MANY_KEYS} keys, {few_mib:.1} MiB with one");
    let output = json!({
        "ratios": report.ratios,
        "p99_ratios": report.p99,
        "ready_millis": report.ready_millis,
        "idle_memory_mib": report.idle_mib,
        "memory_mib": { "few_keys": few_mib, "many_keys": many_mib },
        "check_micros": rewrapped.check_micros,
        "sync_micros": { "p50": sync.p50_micros, "p99": sync.p99_micros },
        "conditions": floor::conditions(seconds, rounds),
        "runs": report.runs,
    });
    println!("{output}");
    Ok(())
}

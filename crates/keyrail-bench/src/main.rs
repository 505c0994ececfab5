//! Benchmarks as ratios against floors measured in the same run. Load comes from another process; each side runs
//! in turn, several times.

mod campaign;
mod echo;
mod floor;
mod load;
mod process;
mod requests;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
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
        Task::Echo { synced } => echo::run(synced.as_deref()),
        Task::Load(args) => load::run(&args),
    }
}

fn run(keyrail: &std::path::Path, seconds: f64, rounds: usize) -> anyhow::Result<()> {
    let place = tempfile::Builder::new()
        .prefix("keyrail-bench")
        .tempdir_in(std::env::current_exe()?.parent().unwrap_or(std::path::Path::new(".")))?;
    let sync = floor::sync_latency(place.path())?;
    eprintln!("disk sync: median {:.0} µs, p99 {:.0} µs", sync.p50_micros, sync.p99_micros);
    let mut report = requests::run(keyrail, place.path(), seconds, rounds)?;
    let moved = campaign::run(place.path(), rounds.min(CAMPAIGN_ROUNDS_MAX))?;
    report.ratios.insert("campaign_vs_bare".to_owned(), moved.ratio);
    report.runs.extend(moved.runs);
    let output = json!({
        "ratios": report.ratios,
        "ready_millis": report.ready_millis,
        "idle_memory_mib": report.idle_mib,
        "sync_micros": { "p50": sync.p50_micros, "p99": sync.p99_micros },
        "conditions": floor::conditions(seconds, rounds),
        "runs": report.runs,
    });
    println!("{output}");
    Ok(())
}

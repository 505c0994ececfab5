//! What the machine can do: its disk, its name.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::echo::Zeroed;

/// How many syncs are measured.
const SYNCS: usize = 500;

/// Percentiles of a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

/// Percentiles of times in microseconds.
pub(crate) fn percentiles(micros: &mut [f64]) -> Latency {
    micros.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * micros.len() as f64) as usize;
        micros.get(index.min(micros.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    };
    Latency { p50_micros: at(0.5), p99_micros: at(0.99) }
}

/// Appends 512 bytes and syncs, over and over.
pub(crate) fn sync_latency(dir: &Path) -> anyhow::Result<Latency> {
    let mut file = Zeroed::create(&dir.join("sync"))?;
    let mut micros = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.append_synced(&[7; 512])?;
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(percentiles(&mut micros))
}

/// Under what the figures were measured.
pub(crate) fn conditions(seconds: f64, rounds: usize) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_owned()));
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "seconds_per_measurement": seconds,
        "rounds": rounds,
        "load": "from another process on the same machine, HTTP/1.1 with keep-alive",
    })
}

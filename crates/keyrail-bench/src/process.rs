//! Servers and load as processes of their own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Deserialize;

/// A server that was started, killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    pub(crate) ready: Duration,
}

impl Server {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("the server does not start")?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let line = lines.next().context("the server said nothing")??;
        let ready = begun.elapsed();
        let Some((_, address)) = line.split_once("http://") else { bail!("no address in `{line}`") };
        let address = address.to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address, ready })
    }

    /// Resident memory, in MiB.
    pub(crate) fn memory_mib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory figure")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1_024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// What the load measured.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Measured {
    pub(crate) per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { per_second, p50_micros, p99_micros } = self;
        write!(f, "{per_second:.0}/s (p50 {p50_micros:.0} µs, p99 {p99_micros:.0} µs)")
    }
}

/// Sends a request over and over, from another process.
pub(crate) fn load(address: &str, request: &Path, connections: usize, seconds: f64) -> anyhow::Result<Measured> {
    let output = Command::new(std::env::current_exe()?)
        .args([
            "load",
            "--address",
            address,
            "--connections",
            &connections.to_string(),
            "--seconds",
            &seconds.to_string(),
            "--request",
        ])
        .arg(request)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the load failed");
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

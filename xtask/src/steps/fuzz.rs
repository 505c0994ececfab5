//! Every parser of outside bytes is fuzzed, and a planted bug behind each is found.
//!
//! LLVM's libFuzzer comes with the crate `libfuzzer-sys`; coverage is a pass of LLVM that the pinned compiler has. What
//! needs a nightly compiler (the address sanitizer) is left out: there is one module with unsafe code, and no parser in it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, bail};

use crate::command::Cmd;
use crate::report::Tally;
use crate::tools;
use crate::workspace::Workspace;

/// Builds the targets once, then fuzzes each, as many at a time as there are cores.
pub(super) fn fuzz(workspace: &Workspace) -> anyhow::Result<Tally> {
    tools::ensure_program("c++", "g++")?;
    let names = targets(workspace)?;
    let bin = build(workspace)?;
    let waiting = Mutex::new(names.into_iter());
    let tally = Mutex::new(Tally::default());
    let work = || -> anyhow::Result<()> {
        loop {
            let next = waiting.lock().ok().and_then(|mut waiting| waiting.next());
            let Some(name) = next else { return Ok(()) };
            let target = Target::new(workspace, &bin, name)?;
            for result in [target.fuzz(workspace), target.find_planted()] {
                tally.lock().ok().context("a target's thread ended")?.count(result.map_err(|why| format!("{why:#}")));
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().ok().context("a target's thread ended")?)
    })?;
    tally.into_inner().ok().context("a target's thread ended")
}

fn targets(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in std::fs::read_dir(workspace.join("fuzz/targets"))? {
        names.extend(file?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// The lock file is renewed if a crate has got a new dependency; the versions in it stay.
fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let host = host()?;
    let target_dir = workspace.target().join("fuzz");
    // With a target named, build scripts and macros are built without the flags.
    let args = ["build", "--release", "--bins", "--manifest-path", "fuzz/Cargo.toml", "--target", &host];
    let command = workspace.cargo(&args).env("RUSTFLAGS", FLAGS.join(" "));
    command.env("CARGO_TARGET_DIR", &target_dir).run()?;
    Ok(target_dir.join(host).join("release"))
}

fn host() -> anyhow::Result<String> {
    let version = Cmd::new("rustc").args(["-vV"]).output()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}

struct Target {
    name: String,
    program: PathBuf,
    dir: PathBuf,
    /// Inputs that are checked in: what once was a finding.
    kept: PathBuf,
}

impl Target {
    fn new(workspace: &Workspace, bin: &Path, name: String) -> anyhow::Result<Self> {
        let dir = workspace.own_dir().join("fuzz").join(&name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir)?;
        }
        std::fs::create_dir_all(&dir)?;
        let kept = workspace.join("fuzz/corpus").join(&name);
        Ok(Self { program: bin.join(&name), dir, kept, name })
    }

    /// From valid inputs, for as long as the scale says.
    fn fuzz(&self, workspace: &Workspace) -> anyhow::Result<()> {
        let found = self.run("corpus", workspace.scale.fuzz_time().as_secs(), false)?;
        if !found.passed {
            bail!("target `{}`:\n{}", self.name, found.tail());
        }
        eprintln!("  {:<10} {} executions, {} edges", self.name, found.executions()?, found.edges()?);
        Ok(())
    }

    /// The bug behind the parser is not met by the valid inputs, and is found from them within a minute.
    fn find_planted(&self) -> anyhow::Result<()> {
        let found = self.run("planted", PLANTED_SECONDS_MAX, true)?;
        if found.passed || !found.log.contains("the planted bug is found") {
            bail!("target `{}` did not find the planted bug:\n{}", self.name, found.tail());
        }
        eprintln!("  {:<10} planted bug found", self.name);
        Ok(())
    }

    fn run(&self, name: &str, seconds: u64, planted: bool) -> anyhow::Result<Found> {
        let corpus = self.dir.join(name);
        std::fs::create_dir_all(&corpus)?;
        let seeds = Cmd::new(&self.program).env("KEYRAIL_FUZZ_SEEDS", &corpus).env("RUST_BACKTRACE", "0");
        seeds.output()?;
        let (artifacts, log) = (self.dir.join(format!("{name}-")), self.dir.join(format!("{name}.log")));
        let mut command = Cmd::new(&self.program).args(OPTIONS).args([
            format!("-max_total_time={seconds}"),
            format!("-artifact_prefix={}", artifacts.display()),
            corpus.display().to_string(),
        ]);
        if self.kept.is_dir() {
            command = command.args([&self.kept]);
        }
        command = command.env("RUST_BACKTRACE", "0");
        if planted {
            command = command.env("KEYRAIL_FUZZ_PLANT", "1");
        }
        let passed = command.log_to(&log)?.success();
        Ok(Found { passed, log: String::from_utf8_lossy(&std::fs::read(&log)?).into_owned() })
    }
}

/// What a run of libFuzzer told.
struct Found {
    passed: bool,
    log: String,
}

impl Found {
    fn executions(&self) -> anyhow::Result<u64> {
        self.number("stat::number_of_executed_units: ")
    }

    fn edges(&self) -> anyhow::Result<u64> {
        self.number(" cov: ")
    }

    /// The number behind the last place of these words.
    fn number(&self, words: &str) -> anyhow::Result<u64> {
        let rest = self.log.rsplit_once(words).map(|(_, rest)| rest.trim_start());
        let digits = rest.and_then(|rest| rest.split_whitespace().next()).context("the fuzzer told no figures")?;
        Ok(digits.parse()?)
    }

    fn tail(&self) -> String {
        let lines: Vec<_> = self.log.lines().collect();
        lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
    }
}

/// Coverage of edges, with the operands of comparisons, as `cargo fuzz` asks for it.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// A fixed seed; an input that takes ten seconds or much memory is a finding, too.
const OPTIONS: &[&str] =
    &["-seed=20261124", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"];

/// How long a planted bug may stay hidden.
const PLANTED_SECONDS_MAX: u64 = 60;

const TAIL_LINES: usize = 30;

#[cfg(test)]
mod tests {
    use super::Found;

    #[test]
    fn figures_are_read_from_the_log() {
        let log = "#2 INITED cov: 12 ft: 13\n#9 NEW    cov: 70 ft: 90 corp: 3\nstat::number_of_executed_units: 4096\n";
        let found = Found { passed: true, log: log.to_owned() };
        assert_eq!((found.executions().unwrap(), found.edges().unwrap()), (4096, 70));
        assert!(Found { passed: true, log: String::new() }.edges().is_err());
    }
}

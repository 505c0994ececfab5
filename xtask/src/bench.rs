//! The benchmarks: ratios against floors that are measured in the same run.

mod page;

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;

use crate::workspace::Workspace;

/// Builds what is measured and what measures, runs it, and writes `docs/benchmarks.md`.
///
/// Progress goes to standard error. A ratio below its threshold is told there and on the page; it is no failure of this
/// command, whose figures hold for the machine that it runs on.
///
/// # Errors
/// Something does not build, or a measurement fails.
pub(crate) fn run(workspace: &Workspace, json: bool) -> anyhow::Result<ExitCode> {
    let postgres = crate::tools::postgres(workspace)?;
    workspace.cargo(&["build", "--release", "--locked", "-p", "keyrail", "-p", "keyrail-bench"]).run()?;
    let release = workspace.target().join("release");
    let bench = crate::command::Cmd::new(release.join("keyrail-bench")).limit(workspace.scale.command_limit());
    let bench = postgres.iter().fold(bench, |bench, (name, place)| bench.env(name, place));
    let text = bench.args(["run", "--keyrail"]).args([release.join("keyrail")]).answer()?;
    let line = text.lines().last().unwrap_or_default();
    let figures: Value = serde_json::from_str(line).context("`keyrail-bench` did not print its figures")?;
    let page = page::render(&figures)?;
    std::fs::create_dir_all(workspace.join("docs"))?;
    std::fs::write(workspace.join("docs/benchmarks.md"), &page)?;
    for below in page::below(&figures) {
        eprintln!("not kept: {below}");
    }
    if json {
        println!("{line}");
    } else {
        println!("{page}");
    }
    Ok(ExitCode::SUCCESS)
}

//! The commands in the documentation do what it says: each is run, and its output compared.

mod page;
mod pattern;
mod shell;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Parser as _;

use self::page::Example;
use self::shell::{Outcome, Shell};
use crate::report::Tally;
use crate::tools;
use crate::workspace::{Scale, Workspace};

/// Runs the examples of `README.md` and of all pages under `docs`, each page in a home of its own, in order.
pub(super) fn console(workspace: &Workspace) -> anyhow::Result<Tally> {
    let pages = pages(workspace)?;
    for (program, package) in PROGRAMS {
        tools::ensure_program(program, package)?;
    }
    let path = search_path(workspace)?;
    let mut tally = Tally::default();
    for page in pages {
        let text = std::fs::read_to_string(workspace.join(&page))?;
        let examples = page::examples(&text).with_context(|| page.display().to_string())?;
        eprintln!("  {}: {} commands", page.display(), examples.len());
        run_page(workspace, &path, &page, &examples, &mut tally)?;
    }
    Ok(tally)
}

fn pages(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = workspace.files()?;
    files.retain(|file| file == Path::new("README.md") || is_page(file));
    Ok(files)
}

fn is_page(file: &Path) -> bool {
    file.starts_with("docs") && file.extension().is_some_and(|extension| extension == "md")
}

/// The binary under test first, then the tests' Python, then what was there.
fn search_path(workspace: &Workspace) -> anyhow::Result<OsString> {
    let bin = binary(workspace)?;
    let bin = bin.parent().context("the binary lies nowhere")?;
    let python = tools::python(workspace)?;
    let python = python.parent().context("Python lies nowhere")?;
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let dirs = [bin, python].into_iter().map(Path::to_path_buf).chain(std::env::split_paths(&rest));
    Ok(std::env::join_paths(dirs)?)
}

/// `KEYRAIL_BIN` if it is set, else the one that the tests are run with.
fn binary(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("KEYRAIL_BIN") {
        return Ok(std::path::absolute(named)?);
    }
    if workspace.scale == Scale::Full {
        workspace.cargo(&["build", "--release", "--locked", "-p", "keyrail"]).run()?;
        return Ok(workspace.target().join("release/keyrail"));
    }
    // The same selection as the step `test`, so that nothing is compiled twice under other features.
    workspace.cargo(&["test", "--workspace", "--locked", "--no-run"]).run()?;
    Ok(workspace.target().join("debug/keyrail"))
}

/// A page stops at its first failure: what comes after builds on what came before.
fn run_page(
    workspace: &Workspace,
    path: &OsString,
    page: &Path,
    examples: &[Example],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut shell = Shell::start(path)?;
    for example in examples {
        let result = run_example(workspace, &mut shell, example)?;
        let failed = result.is_err();
        tally.count(result.map_err(|why| format!("{}:{}: `{}`: {why}", page.display(), example.line, example.command)));
        if failed {
            break;
        }
    }
    Ok(())
}

fn run_example(workspace: &Workspace, shell: &mut Shell, example: &Example) -> anyhow::Result<Result<(), String>> {
    if let Some(line) = example.command.strip_prefix("cargo xtask ") {
        // A run of xtask inside of a run of xtask shows nothing new; that the line is understood does.
        let parsed = crate::Cli::try_parse_from(std::iter::once("cargo xtask").chain(line.split_whitespace()));
        return Ok(parsed.map(drop).map_err(|error| error.to_string()));
    }
    let outcome = if example.command.ends_with('&') {
        shell.start_in_background(&example.command, example.output.as_deref())?
    } else {
        shell.run(&from_checkout(workspace, &example.command))?
    };
    Ok(judge(example, &outcome))
}

/// `cargo run` builds in the checkout. Its release build is made at full scale; otherwise the binary under test stands
/// for it.
fn from_checkout(workspace: &Workspace, command: &str) -> String {
    let Some(rest) = command.strip_prefix("cargo run --release -- ") else { return command.to_owned() };
    match workspace.scale {
        Scale::Ordinary => format!("keyrail {rest}"),
        Scale::Full => {
            let root = workspace.join("");
            format!("(cd '{}' && cargo run --quiet --locked --release -- {rest})", root.display())
        }
    }
}

fn judge(example: &Example, outcome: &Outcome) -> Result<(), String> {
    if outcome.status != example.status {
        let (got, want) = (outcome.status, example.status);
        return Err(format!("exit status {got}, the page says {want}\n{}", tail(&outcome.output)));
    }
    let Some(wanted) = &example.output else { return Ok(()) };
    if pattern::matches(wanted, &outcome.output) {
        return Ok(());
    }
    Err(format!("the output differs from the page's. It is:\n{}", tail(&outcome.output)))
}

fn tail(lines: &[String]) -> String {
    let from = lines.len().saturating_sub(SHOWN_LINES_MAX);
    let shown: Vec<_> = lines.iter().skip(from).map(|line| format!("    {line}")).collect();
    shown.join("\n")
}

/// How many lines of an unexpected output are shown.
const SHOWN_LINES_MAX: usize = 40;

/// Programs that a reader has and the pages use, each with the Debian package that holds it.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("curl", "curl"),
    ("jq", "jq"),
    ("openssl", "openssl"),
    ("softhsm2-util", "softhsm2"),
    ("sqlite3", "sqlite3"),
];

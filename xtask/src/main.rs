//! Automation: `cargo xtask test` runs everything that must hold.

mod bench;
mod command;
mod report;
mod steps;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::workspace::{Scale, Workspace};

/// Keyrail's automation.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run every test and check; tools that are absent are installed first.
    Test {
        /// Run the figures of the specification instead of a twentieth of them.
        #[arg(long)]
        full: bool,
        /// List the steps and run none.
        #[arg(long)]
        list: bool,
        /// Run only these steps.
        steps: Vec<String>,
    },
    /// Install what the tests need, for `cargo test` on a single crate.
    Tools,
    /// Measure the release build against floors of the same run, and write docs/benchmarks.md.
    Bench {
        /// Print one JSON object on standard output.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    match &cli.task {
        Task::Bench { json } => bench::run(&Workspace::open(Scale::Full)?, *json),
        Task::Tools => steps::install_tools(&Workspace::open(Scale::Ordinary)?),
        Task::Test { list: true, .. } => Ok(steps::list()),
        Task::Test { full, steps, .. } => steps::run(&Workspace::open(Scale::of(*full))?, steps),
    }
}

//! The keyrail binary.

mod anchors;
mod cli;
mod clock;
mod commands;
mod connect;
mod failure;
mod output;
mod people;
mod progress;
mod quickstart;
mod words;
mod workers;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

/// Records are made by one thread and freed by another; the system's allocator spends a fifth of the time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output::{Output, note, written};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    let output = Output { json: cli.global.json };
    start_log(output.json);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure, output);
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// The line is not understood, or help or the version was asked for.
fn misread(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let printed = written(error.print().and_then(|()| std::io::stdout().flush()));
        return printed.map_or_else(|failure| misread_as(&failure), |()| ExitCode::SUCCESS);
    }
    let text = error.render().to_string();
    if error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return misread_as(&Failure::usage(&text));
    }
    if !wants_json() {
        note(&text);
    }
    misread_as(&Failure::incomplete(&text))
}

/// The line was not parsed, so its words are looked at.
fn wants_json() -> bool {
    std::env::args_os().any(|word| word == "--json")
}

fn misread_as(failure: &Failure) -> ExitCode {
    report(failure, Output { json: wants_json() });
    ExitCode::from(failure.exit as u8)
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Before any key is made or read.
    keyrail_crypto::process::harden().map_err(|error| Failure::bug(&error.to_string()))?;
    let built = workers::that_tell(tokio::runtime::Builder::new_multi_thread().enable_all()).build();
    let runtime = built.map_err(|_| Failure::bug("the runtime does not start"))?;
    runtime.block_on(commands::run(cli))
}

/// What a database of an application says beside its answers. Its triggers may tell values of rows there, so that nothing
/// turns it on.
const NOTICES_OFF: &str = "sqlx::postgres::notice=off";

fn without_notices(filter: EnvFilter) -> EnvFilter {
    match NOTICES_OFF.parse() {
        Ok(off) => filter.add_directive(off),
        Err(_) => filter,
    }
}

/// Operational messages go to standard error, by `KEYRAIL_LOG` (like `info` or `keyrail=debug`).
fn start_log(json: bool) {
    let filter = EnvFilter::try_from_env("KEYRAIL_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let filter = without_notices(filter);
    // Colours are for people: a file or a collector would get their codes as a part of the text.
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr);
    if json { builder.json().init() } else { builder.init() }
}

fn report(failure: &Failure, output: Output) {
    if output.json {
        note(&failure.json());
        return;
    }
    failure.lines().iter().for_each(|line| note(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_filter_turns_on_what_databases_say() {
        for filter in ["warn", "trace", "sqlx=trace", "sqlx::postgres::notice=trace", "sqlx::postgres=debug,info"] {
            let said = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
            let writer = said.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_env_filter(without_notices(EnvFilter::new(filter)))
                .with_writer(move || Said(writer.clone()))
                .finish();
            tracing::subscriber::with_default(subscriber, || {
                tracing::warn!(target: "sqlx::postgres::notice", "it was a value");
                tracing::warn!(target: "keyrail", "something else");
            });
            let said = String::from_utf8(said.lock().clone()).unwrap();
            assert!(!said.contains("it was a value"), "{filter}: {said}");
            assert_eq!(
                said.contains("something else"),
                !filter.starts_with("sqlx") || filter.ends_with("info"),
                "{filter}"
            );
        }
    }

    struct Said(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>);

    impl Write for Said {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}

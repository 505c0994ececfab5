//! The steps of `cargo xtask test`.

mod cargo;
mod console;
mod fuzz;
mod hygiene;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::bail;

use crate::report::{Report, StepReport, Tally};
use crate::workspace::Workspace;

struct Step {
    name: &'static str,
    about: &'static str,
    run: fn(&Workspace) -> anyhow::Result<Tally>,
}

/// In this order: the quickest answer first, steps that share compiled code side by side.
const STEPS: &[Step] = &[
    Step { name: "fmt", about: "the sources are formatted", run: cargo::fmt },
    Step { name: "hygiene", about: "files, sizes, records and crate order are as agreed", run: hygiene::hygiene },
    Step { name: "clippy", about: "no lint fires in any target", run: cargo::clippy },
    Step { name: "test", about: "unit, integration and documentation tests", run: cargo::test },
    Step { name: "console", about: "the commands in the documentation do what it says", run: console::console },
    Step { name: "doc", about: "the documentation builds without warnings", run: cargo::doc },
    Step { name: "deny", about: "dependencies: bans, licences, sources", run: cargo::deny },
    Step { name: "fuzz", about: "every parser of outside bytes, and a planted bug", run: fuzz::fuzz },
];

/// Prints the steps.
pub(crate) fn list() -> ExitCode {
    for step in STEPS {
        println!("{:<10} {}", step.name, step.about);
    }
    ExitCode::SUCCESS
}

/// Runs the named steps, or all of them, and prints the report. A failed step does not stop the others.
///
/// # Errors
/// A name is not a step's.
pub(crate) fn run(workspace: &Workspace, names: &[String]) -> anyhow::Result<ExitCode> {
    let reports = chosen(names)?.into_iter().map(|step| run_step(workspace, step)).collect();
    let report = Report(reports);
    println!("{report}");
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Installs what the tests need and says where it is.
///
/// # Errors
/// A tool is absent and cannot be installed.
pub(crate) fn install_tools(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    for (name, place) in cargo::test_tools(workspace)? {
        println!("{name}={}", place.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Step>> {
    if let Some(unknown) = names.iter().find(|name| STEPS.iter().all(|step| step.name != **name)) {
        bail!("there is no step `{unknown}`; `cargo xtask test --list` lists them");
    }
    Ok(STEPS.iter().filter(|step| names.is_empty() || names.iter().any(|name| name == step.name)).collect())
}

fn run_step(workspace: &Workspace, step: &'static Step) -> StepReport {
    eprintln!("\n== {}: {}", step.name, step.about);
    let begun = Instant::now();
    let (tally, error) = match (step.run)(workspace) {
        Ok(tally) => (tally, None),
        Err(error) => (Tally::default(), Some(format!("{error:#}"))),
    };
    let report = StepReport { name: step.name, tally, error, took: begun.elapsed() };
    let result = if report.passed() { "ok" } else { "FAILED" };
    eprintln!("== {}: {result} after {:.1} seconds", step.name, report.took.as_secs_f64());
    report
}

#[cfg(test)]
mod tests {
    use super::{STEPS, chosen};

    #[test]
    fn steps_are_chosen_by_name_in_their_own_order() {
        let names = ["test".to_owned(), "fmt".to_owned()];
        let chosen = chosen(&names).unwrap();
        assert_eq!(chosen.iter().map(|step| step.name).collect::<Vec<_>>(), ["fmt", "test"]);
    }

    #[test]
    fn no_name_means_all_and_an_unknown_one_is_refused() {
        assert_eq!(chosen(&[]).unwrap().len(), STEPS.len());
        assert!(chosen(&["fuzzy".to_owned()]).is_err());
    }
}

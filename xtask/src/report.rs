//! What a run found, and how it is told.

use std::fmt;
use std::time::Duration;

/// How many parts of a step passed and failed.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(crate) struct Tally {
    /// Parts that passed.
    pub(crate) passed: u64,
    /// What each failed part has to say.
    pub(crate) failures: Vec<String>,
    /// Failed parts that told their failure elsewhere in the output.
    pub(crate) failed_silently: u64,
    /// What was left out, and why.
    pub(crate) skipped: Vec<String>,
}

impl Tally {
    /// Counts a part.
    pub(crate) fn count(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(failure) => self.failures.push(failure),
        }
    }

    /// How many parts failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.len() as u64 + self.failed_silently
    }

    /// Adds the summary of one test binary, as the test harness prints it; other lines change nothing.
    pub(crate) fn read_harness_line(&mut self, line: &str) {
        let Some(summary) = line.trim_start().strip_prefix("test result: ") else { return };
        for part in summary.split([';', '.']).map(str::trim) {
            match part.split_once(' ') {
                Some((n, "passed")) => self.passed += n.parse().unwrap_or(0),
                Some((n, "failed")) => self.failed_silently += n.parse().unwrap_or(0),
                Some((n, "ignored")) if n != "0" => self.skipped.push(format!("{n} ignored tests")),
                _ => {}
            }
        }
    }
}

/// A step that was run.
pub(crate) struct StepReport {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its parts.
    pub(crate) tally: Tally,
    /// Why the step itself could not go on.
    pub(crate) error: Option<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl StepReport {
    /// Whether the step and all its parts passed.
    pub(crate) fn passed(&self) -> bool {
        self.error.is_none() && self.tally.failed() == 0
    }
}

/// All steps of a run. Displayed, it is a table, the failures, and one line with the sum.
pub(crate) struct Report(pub(crate) Vec<StepReport>);

impl Report {
    /// Whether everything passed.
    pub(crate) fn passed(&self) -> bool {
        self.0.iter().all(StepReport::passed)
    }

    /// Parts and steps that passed and failed: a step counts as one beside its parts.
    fn sum(&self) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(passed, failed), step| {
            let own = u64::from(step.passed());
            (passed + step.tally.passed + own, failed + step.tally.failed() + 1 - own)
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<10} {:<7} {:>7} {:>7} {:>8}", "step", "result", "passed", "failed", "seconds")?;
        for step in &self.0 {
            let result = if step.passed() { "ok" } else { "FAILED" };
            let (passed, failed, seconds) = (step.tally.passed, step.tally.failed(), step.took.as_secs_f64());
            writeln!(f, "{:<10} {result:<7} {passed:>7} {failed:>7} {seconds:>8.1}", step.name)?;
        }
        for step in &self.0 {
            details(f, step)?;
        }
        let (passed, failed) = self.sum();
        write!(f, "\n{passed} passed, {failed} failed")
    }
}

fn details(f: &mut fmt::Formatter<'_>, step: &StepReport) -> fmt::Result {
    for skipped in &step.tally.skipped {
        writeln!(f, "skipped in {}: {skipped}", step.name)?;
    }
    for failure in step.tally.failures.iter().chain(&step.error) {
        writeln!(f, "failed in {}: {failure}", step.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Report, StepReport, Tally};
    use std::time::Duration;

    #[test]
    fn the_harness_summary_is_read() {
        let mut tally = Tally::default();
        tally.read_harness_line(
            "test result: ok. 8 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        tally.read_harness_line(
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.50s",
        );
        tally.read_harness_line("test names::passed ... ok");
        assert_eq!((tally.passed, tally.failed(), tally.skipped.len()), (10, 1, 1));
    }

    #[test]
    fn the_last_line_sums_parts_and_steps() {
        let step = |name, tally, error| StepReport { name, tally, error, took: Duration::from_secs(1) };
        let mut bad = Tally { passed: 3, ..Tally::default() };
        bad.count(Err("a part".into()));
        let report = Report(vec![step("one", Tally { passed: 5, ..Tally::default() }, None), step("two", bad, None)]);
        let text = report.to_string();
        assert_eq!(text.lines().last(), Some("9 passed, 2 failed"));
        assert!(text.contains("failed in two: a part") && !report.passed());
    }

    #[test]
    fn a_step_that_stopped_fails_without_parts() {
        let took = Duration::ZERO;
        let report =
            Report(vec![StepReport { name: "deny", tally: Tally::default(), error: Some("no tool".into()), took }]);
        assert_eq!(report.to_string().lines().last(), Some("0 passed, 1 failed"));
    }
}

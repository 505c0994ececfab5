//! Progress: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use keyrail_core::campaign::Campaign;
use parking_lot::Mutex;

use crate::output::note;

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// How far a campaign is, shown on standard error.
#[derive(Clone)]
pub(crate) struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    bar: Option<ProgressBar>,
    what: String,
    last: Mutex<Option<Instant>>,
}

impl Progress {
    pub(crate) fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = empty_bar();
            let style = ProgressStyle::with_template("{msg:24} {bar:32} {pos:>9}/{len} rows  {per_sec:14} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what.to_owned());
            bar
        });
        Self { inner: Arc::new(Inner { bar, what: what.to_owned(), last: Mutex::new(None) }) }
    }

    pub(crate) fn campaign(&self, campaign: &Campaign) {
        let counts = &campaign.counts;
        self.show(counts.rows, counts.rows_total.max(counts.rows), counts.cas_lost);
    }

    pub(crate) fn show(&self, rows: u64, total: u64, lost: u64) {
        if let Some(bar) = &self.inner.bar {
            show_on(bar, rows, total);
            return;
        }
        let mut last = self.inner.last.lock();
        if last.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
            *last = Some(Instant::now());
            note(&format!("{}: {rows} of {total} rows, {lost} written by others meanwhile", self.inner.what));
        }
    }

    pub(crate) fn done(&self) {
        if let Some(bar) = &self.inner.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar of unknown length: one of length 0 would be drawn full.
fn empty_bar() -> ProgressBar {
    ProgressBar::no_length()
}

fn show_on(bar: &ProgressBar, rows: u64, total: u64) {
    if total > 0 {
        bar.set_length(total);
    }
    bar.set_position(rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(bar: &ProgressBar) -> f32 {
        let mut drawn = f32::NAN;
        bar.update(|state| drawn = state.fraction());
        drawn
    }

    #[test]
    fn a_bar_begins_empty_and_is_full_at_its_end() {
        let bar = empty_bar();
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        assert_eq!(drawn(&bar), 0.0, "nothing is known yet");
        for (rows, total, want) in [(0, 0, 0.0), (0, 100, 0.0), (50, 100, 0.5), (100, 100, 1.0)] {
            show_on(&bar, rows, total);
            assert_eq!(drawn(&bar), want, "{rows} of {total}");
        }
    }
}

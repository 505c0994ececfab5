//! `docs/benchmarks.md`: the figures as a page.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde_json::Value;

struct Ratio {
    name: &'static str,
    at_least: f64,
    ours: &'static str,
    floor: &'static str,
}

/// What is promised, against what.
const RATIOS: &[Ratio] = &[
    Ratio {
        name: "encrypt_vs_synced_echo",
        at_least: 0.75,
        ours: "durable, audited, authorized encrypt of 64 bytes per request, 32 connections",
        floor: "an echo on the same axum and hyper that awaits a group-committed sync of as many bytes",
    },
    Ratio {
        name: "encrypt_vs_echo",
        at_least: 0.65,
        ours: "the same encrypt, 256 connections",
        floor: "a bare echo on the same axum and hyper, which syncs nothing",
    },
    Ratio {
        name: "encrypt_on_postgres_vs_echo",
        at_least: 0.35,
        ours: "the same, 256 connections, the store in PostgreSQL on the same machine",
        floor: "the same bare echo",
    },
    Ratio {
        name: "batch_vs_loop",
        at_least: 0.5,
        ours: "a batch of 1,000 items of 256 bytes per request",
        floor: "base64, HKDF and AEAD of the same items in a plain loop on one thread",
    },
    Ratio {
        name: "campaign_vs_bare",
        at_least: 0.5,
        ours: "a campaign over a table in SQLite, with its census",
        floor: "the same reads, open, seal, open, and compare-and-swap updates through the same driver",
    },
    Ratio {
        name: "campaign_on_postgres_vs_bare",
        at_least: 0.5,
        ours: "the same over a table in PostgreSQL, the store in PostgreSQL, too",
        floor: "the same reads, open, seal, open, and an update of each page as one statement",
    },
    Ratio {
        name: "rewrap_vs_bare",
        at_least: 0.5,
        ours: "1,000,000 data keys put under a new master key version",
        floor: "unwrap, wrap and the update of the row in a bare loop over the same table",
    },
    Ratio {
        name: "rewrap_linear",
        at_least: 0.8,
        ours: "keys per second with 1,000,000 keys",
        floor: "the same with the first 10,000",
    },
];

/// A figure that may not be larger.
struct Limit {
    name: &'static str,
    pointer: &'static str,
    at_most: f64,
    words: &'static str,
}

/// How many times the floor's 99th percentile ours may be.
const P99_TIMES_MAX: f64 = 3.0;

const LIMITS: &[Limit] = &[
    Limit {
        name: "p99, 32 connections",
        pointer: "/p99_ratios/encrypt_vs_synced_echo",
        at_most: P99_TIMES_MAX,
        words: "times the synced echo's",
    },
    Limit {
        name: "p99, 256 connections",
        pointer: "/p99_ratios/encrypt_vs_echo",
        at_most: P99_TIMES_MAX,
        words: "times the echo's",
    },
    Limit { name: "ready", pointer: "/ready_millis", at_most: 300.0, words: "ms from the start to the first answer" },
    Limit {
        name: "idle memory",
        pointer: "/idle_memory_mib",
        // 40 MB are 38.1 MiB.
        at_most: 40.0 * 1e6 / 1_048_576.0,
        words: "MiB, with nothing to do",
    },
    Limit {
        name: "memory with 1,000,000 keys",
        pointer: "/memory_mib/many_keys",
        at_most: 40.0 * 1e6 / 1_048_576.0,
        words: "MiB, after some sweeps over them",
    },
    Limit {
        name: "token and decision",
        pointer: "/check_micros",
        at_most: 2.0,
        words: "µs to look at a token and to decide, warm",
    },
];

/// The page.
///
/// # Errors
/// A figure is missing.
pub(super) fn render(figures: &Value) -> anyhow::Result<String> {
    let mut page = String::from(HEAD);
    for ratio in RATIOS {
        let value = value_of(figures, ratio.name).with_context(|| format!("the ratio `{}` is missing", ratio.name))?;
        let (at_least, said) = (ratio.at_least, verdict(value >= ratio.at_least));
        writeln!(page, "| `{}` | {} | {} | {at_least} | {value:.2} | {said} |", ratio.name, ratio.ours, ratio.floor)?;
    }
    page.push_str(LIMITS_HEAD);
    for limit in LIMITS {
        let value = number(figures, limit.pointer)?;
        let (at_most, said) = (limit.at_most, verdict(value < limit.at_most));
        writeln!(page, "| {} | {} | {at_most:.1} | {value:.2} | {said} |", limit.name, limit.words)?;
    }
    let (p50, p99) = (number(figures, "/sync_micros/p50")?, number(figures, "/sync_micros/p99")?);
    let few = number(figures, "/memory_mib/few_keys")?;
    writeln!(
        page,
        "\nA sync of the disk: p50 {p50:.0} µs, p99 {p99:.0} µs. With one key, after the same time: {few:.1} MiB.\n"
    )?;
    runs(&mut page, figures)?;
    conditions(&mut page, figures)?;
    Ok(page)
}

/// Names of the ratios and limits that are not kept.
pub(super) fn below(figures: &Value) -> Vec<&'static str> {
    let mut below: Vec<_> = RATIOS.iter().filter(|ratio| !is_kept(figures, ratio)).map(|ratio| ratio.name).collect();
    let kept = |limit: &Limit| number(figures, limit.pointer).is_ok_and(|value| value < limit.at_most);
    below.extend(LIMITS.iter().filter(|limit| !kept(limit)).map(|limit| limit.name));
    below
}

fn is_kept(figures: &Value, ratio: &Ratio) -> bool {
    value_of(figures, ratio.name).is_some_and(|value| value >= ratio.at_least)
}

fn value_of(figures: &Value, ratio: &str) -> Option<f64> {
    figures.get("ratios")?.get(ratio)?.as_f64()
}

fn number(figures: &Value, pointer: &str) -> anyhow::Result<f64> {
    let found = figures.pointer(pointer).and_then(Value::as_f64);
    found.with_context(|| format!("the figure `{pointer}` is missing"))
}

fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "**missed**" }
}

/// Every run, both sides, in the order in which they were made.
fn runs(page: &mut String, figures: &Value) -> anyhow::Result<()> {
    page.push_str(RUNS_HEAD);
    for run in figures.get("runs").and_then(Value::as_array).into_iter().flatten() {
        let name = run.get("name").and_then(Value::as_str).unwrap_or_default();
        writeln!(page, "| `{name}` | {} | {} |", side(run.get("keyrail")), side(run.get("floor")))?;
    }
    Ok(())
}

fn side(side: Option<&Value>) -> String {
    let figure = |name: &str| side.and_then(|side| side.get(name)).and_then(Value::as_f64);
    let rate = [
        ("per_second", "/s"),
        ("items_per_second", " items/s"),
        ("rows_per_second", " rows/s"),
        ("keys_per_second", " keys/s"),
    ];
    let mut cells: Vec<_> =
        rate.iter().filter_map(|(name, unit)| Some(format!("{:.0}{unit}", figure(name)?))).collect();
    let times = [("p50_micros", "p50"), ("p99_micros", "p99")];
    cells.extend(times.iter().filter_map(|(name, word)| Some(format!("{word} {:.0} µs", figure(name)?))));
    cells.join(" | ") + &" | ".repeat(3_usize.saturating_sub(cells.len()))
}

fn conditions(page: &mut String, figures: &Value) -> anyhow::Result<()> {
    page.push_str(CONDITIONS_HEAD);
    for (name, value) in figures.get("conditions").and_then(Value::as_object).into_iter().flatten() {
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(page, "- {}: {shown}", name.replace('_', " "))?;
    }
    Ok(())
}

const HEAD: &str = "# Benchmarks

Written by `cargo xtask bench`. Each figure is a ratio against a floor that was measured in the same run, on the same
machine, turn by turn: it says what Keyrail costs, whatever the machine. Load comes from another process; the ratio is
the median of the rounds.

| ratio | Keyrail | floor | at least | measured | |
|---|---|---|---|---|---|
";

const LIMITS_HEAD: &str = "
| limit | what | at most | measured | |
|---|---|---|---|---|
";

const RUNS_HEAD: &str = "## Runs

| ratio | Keyrail | p50 | p99 | floor | p50 | p99 |
|---|---|---|---|---|---|---|
";

const CONDITIONS_HEAD: &str = "
## Conditions

";

#[cfg(test)]
mod tests {
    use super::{below, render};
    use serde_json::json;

    fn figures() -> serde_json::Value {
        let ratios = json!({
            "encrypt_vs_synced_echo": 0.76, "encrypt_vs_echo": 0.41, "encrypt_on_postgres_vs_echo": 0.36,
            "batch_vs_loop": 0.9, "campaign_vs_bare": 0.5, "campaign_on_postgres_vs_bare": 0.5,
            "rewrap_vs_bare": 0.5, "rewrap_linear": 1.0,
        });
        json!({
            "ratios": ratios,
            "p99_ratios": { "encrypt_vs_synced_echo": 2.0, "encrypt_vs_echo": 1.5 },
            "ready_millis": 41.0, "idle_memory_mib": 20.5, "sync_micros": { "p50": 100.0, "p99": 900.0 },
            "memory_mib": { "few_keys": 21.0, "many_keys": 22.0 }, "check_micros": 0.9,
            "conditions": { "cores": 2, "kernel": "6.1" },
            "runs": [
                { "name": "encrypt_vs_echo", "keyrail": { "per_second": 10.0, "p50_micros": 1.0, "p99_micros": 2.0 }, "floor": { "per_second": 20.0, "p50_micros": 3.0, "p99_micros": 4.0 } },
                { "name": "campaign_vs_bare", "keyrail": { "rows_per_second": 5.0 }, "floor": { "rows_per_second": 6.0 } },
            ],
        })
    }

    #[test]
    fn the_page_tells_ratios_runs_and_conditions() {
        let page = render(&figures()).unwrap();
        assert!(page.contains("| 0.75 | 0.76 | kept |"), "{page}");
        assert!(page.contains("| 0.65 | 0.41 | **missed** |"), "{page}");
        assert!(page.contains("| 38.1 | 20.50 | kept |"), "{page}");
        assert!(page.contains("| 10/s | p50 1 µs | p99 2 µs | 20/s | p50 3 µs | p99 4 µs |"), "{page}");
        assert!(page.contains("| 5 rows/s |  |  | 6 rows/s |  |  |"), "{page}");
        assert!(page.contains("- kernel: 6.1\n"), "{page}");
    }

    #[test]
    fn what_is_below_or_missing_is_named() {
        assert_eq!(below(&figures()), ["encrypt_vs_echo"]);
        let mut figures = figures();
        figures["idle_memory_mib"] = json!(39.0);
        figures["ready_millis"] = json!(null);
        assert_eq!(below(&figures), ["encrypt_vs_echo", "ready", "idle memory"]);
        assert!(render(&json!({})).is_err());
    }
}

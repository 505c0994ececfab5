//! Files, sizes, records and the order of the crates are as agreed.

mod crates;
mod pages;
mod sources;

use crate::report::Tally;
use crate::workspace::Workspace;

/// A rule, and what breaks it: one line per place.
struct Rule {
    name: &'static str,
    check: fn(&Workspace) -> anyhow::Result<Vec<String>>,
}

const RULES: &[Rule] = &[
    Rule { name: "a crate uses only those above it", check: crates::order },
    Rule { name: "every crate takes the workspace's lints", check: crates::lints },
    Rule { name: "unsafe code is in one reviewed module", check: sources::unsafe_code },
    Rule { name: "a file has at most 600 lines without tests", check: sources::sizes },
    Rule { name: "no file names a place of somebody's machine", check: sources::machine_paths },
    Rule { name: "nothing generated is tracked", check: sources::generated },
    Rule { name: "commit subjects are short", check: sources::commits },
    Rule { name: ".ci/run runs the tests", check: pages::ci_run },
    Rule { name: "the README shows the two commands", check: pages::readme },
    Rule { name: "the changelog has a place for what comes", check: pages::changelog },
    Rule { name: "design records are named NNNN-title.md", check: pages::design_records },
    Rule { name: "each MUST of a specification is shown", check: pages::musts },
    Rule { name: "links between pages lead somewhere", check: pages::links },
];

/// Checks every rule.
pub(super) fn hygiene(workspace: &Workspace) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for rule in RULES {
        let broken = (rule.check)(workspace)?;
        let told = if broken.is_empty() { Ok(()) } else { Err(format!("{}:\n  {}", rule.name, broken.join("\n  "))) };
        eprintln!("  {}: {}", rule.name, if told.is_ok() { "yes" } else { "NO" });
        tally.count(told);
    }
    Ok(tally)
}

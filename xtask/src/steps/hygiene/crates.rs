//! The crates: who may use whom.

use anyhow::Context as _;
use serde_json::Value;

use crate::workspace::Workspace;

/// From the lowest: a crate may use those before it.
const ORDER: &[&str] = &[
    "keyrail-crypto",
    "keyrail-core",
    "keyrail-policy",
    "keyrail-seal",
    "keyrail-audit",
    "keyrail-store",
    "keyrail-identity",
    "keyrail-engine",
    "keyrail-data",
    "keyrail-platforms",
    "keyrail-http",
    "keyrail-client",
    "keyrail",
];

/// Nothing that is shipped uses these; `keyrail-testkit` itself uses none of ours.
const TOOLS: &[&str] = &["keyrail-bench", "keyrail-testkit", "xtask"];

/// Each arrow that runs back, and each crate that has no place in the order.
pub(super) fn order(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let metadata = workspace.cargo(&["metadata", "--no-deps", "--format-version", "1", "--locked"]).output()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata.get("packages").and_then(Value::as_array).context("cargo names no packages")?;
    Ok(packages.iter().flat_map(arrows).collect())
}

fn arrows(package: &Value) -> Vec<String> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = text(package, "name");
    if place(&name).is_none() && !TOOLS.contains(&name.as_str()) {
        return vec![format!("`{name}` has no place in the order")];
    }
    let dependencies = package.get("dependencies").and_then(Value::as_array);
    let used = dependencies.into_iter().flatten().filter(|dependency| dependency.get("path").is_some());
    let wrong =
        used.map(|used| (text(used, "name"), text(used, "kind"))).filter(|(used, kind)| !may(&name, used, kind));
    wrong.map(|(used, _)| format!("`{name}` uses `{used}`")).collect()
}

/// `kind` is empty for what is shipped, and `dev` for what tests use.
fn may(user: &str, used: &str, kind: &str) -> bool {
    match (place(user), place(used)) {
        (Some(user), Some(used)) => used < user,
        (Some(_), None) => used == "keyrail-testkit" && kind == "dev",
        (None, _) => user != "keyrail-testkit",
    }
}

fn place(name: &str) -> Option<usize> {
    ORDER.iter().position(|known| *known == name)
}

/// Each manifest of ours without the workspace's lints.
pub(super) fn lints(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut without = Vec::new();
    for file in workspace.files()? {
        let shown = file.display().to_string();
        let is_member = shown.ends_with("Cargo.toml") && (shown.starts_with("crates/") || shown.starts_with("xtask/"));
        if is_member && !std::fs::read_to_string(workspace.join(&file))?.contains("[lints]\nworkspace = true") {
            without.push(shown);
        }
    }
    Ok(without)
}

#[cfg(test)]
mod tests {
    use super::{arrows, may};
    use serde_json::json;

    #[test]
    fn arrows_run_one_way() {
        for (user, used, kind, want) in [
            ("keyrail-core", "keyrail-crypto", "", true),
            ("keyrail-crypto", "keyrail-core", "", false),
            ("keyrail-crypto", "keyrail-core", "dev", false),
            ("keyrail-core", "keyrail-testkit", "dev", true),
            ("keyrail-core", "keyrail-testkit", "", false),
            ("keyrail-bench", "keyrail-data", "", true),
            ("keyrail-testkit", "keyrail-core", "", false),
        ] {
            assert_eq!(may(user, used, kind), want, "{user} uses {used} ({kind})");
        }
    }

    #[test]
    fn a_crate_without_a_place_is_named() {
        assert_eq!(arrows(&json!({ "name": "keyrail-utils" })), ["`keyrail-utils` has no place in the order"]);
        let package = json!({ "name": "keyrail-store", "dependencies": [
            { "name": "keyrail-http", "path": "/x", "kind": null }, { "name": "serde", "kind": null },
        ] });
        assert_eq!(arrows(&package), ["`keyrail-store` uses `keyrail-http`"]);
    }
}

//! Where secrets are read and where memory is touched without the compiler's help: golden lists, looked at in review.

use std::path::Path;

use crate::testdata::{root, text};

/// Calls `visit` with the path and the product code of every source file below `dir`: tests, the test kit and the
/// bench, which measures the library by itself, are left out.
pub(crate) fn each_source(dir: &Path, visit: &mut dyn FnMut(&str, &str)) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_str().unwrap();
        let skipped = ["tests", "tests.rs", "primitives.rs", "keyrail-testkit", "keyrail-bench"].contains(&name);
        if path.is_dir() && !skipped {
            each_source(&path, visit);
        } else if name.ends_with(".rs") && !skipped {
            let whole = std::fs::read_to_string(&path).unwrap();
            let product = whole.split("#[cfg(test)]\nmod tests {").next().unwrap();
            visit(path.strip_prefix(root()).unwrap().to_str().unwrap(), product);
        }
    }
}

fn lines_with(words: &[&str]) -> String {
    let mut found = String::new();
    each_source(&root().join("crates"), &mut |path, text| {
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            if words.iter().any(|word| line.contains(word)) {
                found.push_str(&format!("{path}: {line}\n"));
            }
        }
    });
    found
}

fn require_golden(name: &str, found: &str) {
    let path = format!("crates/keyrail-crypto/tests/golden/{name}.txt");
    let golden = text(&path);
    assert!(golden == found, "{path} says something else; if each change is right, it should be:\n{found}");
}

#[test]
fn secrets_are_read_at_the_places_of_the_golden_list_only() {
    require_golden("expose_secret", &lines_with(&["expose_secret"]));
}

#[test]
fn keys_leave_and_enter_at_the_places_of_the_golden_list_only() {
    require_golden("danger", &lines_with(&["danger_", "insecure_"]));
}

#[test]
fn one_file_alone_is_allowed_to_be_unsafe() {
    let mut found = Vec::new();
    each_source(&root().join("crates"), &mut |path, text| {
        if text.contains("unsafe {") || text.contains("unsafe impl") || text.contains("unsafe_code") {
            found.push(path.to_owned());
        }
    });
    assert_eq!(found, ["crates/keyrail-crypto/src/locked.rs"]);
    assert!(text("Cargo.toml").contains("unsafe_code = \"deny\""));
    for manifest in std::fs::read_dir(root().join("crates")).unwrap() {
        let manifest = manifest.unwrap().path().join("Cargo.toml");
        let manifest = std::fs::read_to_string(&manifest).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{manifest}");
    }
}

//! `docs/defaults.md` says what the source says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keyrail_core::label::{Demands, default_labels};
use keyrail_core::time::Timestamp;

const PAGE: &str = include_str!("../../../../docs/defaults.md");

/// Numbers that are part of a format or of a computation, not limits.
const NO_LIMITS: [&str; 11] = [
    "DAY",
    "FORMAT",
    "GENERATION_FIRST",
    "ID_LEN",
    "LAST",
    "NEWLINE_LEN_MAX",
    "PART_HEAD_LEN",
    "RECORD_FORMAT",
    "RECORD_LEN_USUAL",
    "SIZE_DIGITS",
    "STORE_DIGITS",
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The sources of a crate, by its name on the page.
fn root(krate: &str) -> PathBuf {
    let dir = if krate == "keyrail" { krate.to_owned() } else { format!("keyrail-{krate}") };
    crates().join(dir).join("src")
}

/// Name, value and place of each row with a place.
fn rows() -> Vec<[String; 3]> {
    let lines = PAGE.lines().filter(|line| line.starts_with("| `"));
    let cells = lines.map(|line| line.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`'])).collect::<Vec<_>>());
    cells.filter(|row| row.len() == 5).map(|row| [row[0].to_owned(), row[1].to_owned(), row[3].to_owned()]).collect()
}

/// The numeric constants of a source text: name and value.
fn constants(text: &str) -> Vec<(String, String)> {
    let declared = text.lines().map(str::trim).filter_map(|line| {
        let (name, rest) = line.split_once("const ")?.1.split_once(": ")?;
        let (kind, value) = rest.split_once(" = ")?;
        let counts =
            ["u8", "u16", "u32", "u64", "usize", "i64", "Duration"].contains(&kind) || kind.starts_with("[usize");
        (counts && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_'))
            .then(|| (name.to_owned(), value.trim_end_matches(';').to_owned()))
    });
    declared.collect()
}

/// The files of a crate that are not tests.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_value_on_the_page_is_the_one_in_the_source() {
    let rows = rows();
    assert!(rows.len() > 80, "{}", rows.len());
    for [name, value, place] in rows {
        let (krate, file) = place.split_once('/').unwrap();
        let text = std::fs::read_to_string(root(krate).join(file)).expect(&place);
        let is_const = constants(&text).contains(&(name.clone(), value.clone()));
        let is_field = text.lines().any(|line| line.trim() == format!("{name}: {value},"));
        assert!(is_const || is_field, "{place}: `{name}` is not `{value}`");
    }
}

/// Where each number is a default or a limit, and where those are that are called a maximum.
const CRATES: [(&str, &str); 9] = [
    ("core", ""),
    ("engine", ""),
    ("audit", "_MAX"),
    ("client", "_MAX"),
    ("data", "_MAX"),
    ("http", "_MAX"),
    ("keyrail", "_MAX"),
    ("seal", "_MAX"),
    ("store", "_MAX"),
];

#[test]
fn no_limit_is_without_a_reason() {
    let listed: BTreeSet<(String, String)> = rows().into_iter().map(|[name, _, place]| (place, name)).collect();
    let mut missing = Vec::new();
    for (krate, end) in CRATES {
        let root = root(krate);
        let mut files = Vec::new();
        sources(&root, &mut files);
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            let place = format!("{krate}/{}", file.strip_prefix(&root).unwrap().display());
            for (name, _) in constants(text).into_iter().filter(|(name, _)| name.ends_with(end)) {
                if !NO_LIMITS.contains(&name.as_str()) && !listed.contains(&(place.clone(), name.clone())) {
                    missing.push(format!("{place}: {name}"));
                }
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_labels_on_the_page_are_those_of_a_new_store() {
    let mut table = String::from("| demand |");
    let labels = default_labels(Timestamp::from_millis(0)).unwrap();
    labels.iter().for_each(|label| table.push_str(&format!(" `{}` |", label.name)));
    table.push_str("\n|---|---|---|---|---|\n");
    let none = || "none".to_owned();
    type Show = fn(&Demands) -> Option<String>;
    let demands: [(&str, Show); 9] = [
        ("suite", |d| Some(d.suite.as_str().to_owned())),
        ("data key age, seconds", |d| d.data_key_age_seconds_max.map(|v| v.to_string())),
        ("data key uses", |d| d.data_key_uses_max.map(|v| v.to_string())),
        ("master key age, seconds", |d| d.master_key_age_seconds_max.map(|v| v.to_string())),
        ("cache time, seconds", |d| Some(d.cache_seconds_max.to_string())),
        ("write window, seconds", |d| Some(d.write_window_seconds.to_string())),
        ("campaign deadline, seconds", |d| d.campaign_deadline_seconds.map(|v| v.to_string())),
        ("wait before destruction, seconds", |d| Some(d.destroy_wait_seconds.to_string())),
        ("who must approve", |d| d.approval.map(|v| format!("{} × {}", v.count, v.role))),
    ];
    for (name, show) in demands {
        table.push_str(&format!("| {name} |"));
        labels.iter().for_each(|label| table.push_str(&format!(" {} |", show(&label.demands).unwrap_or_else(none))));
        table.push('\n');
    }
    assert!(PAGE.contains(&table), "the page lacks this table:\n{table}");
}

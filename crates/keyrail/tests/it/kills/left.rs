//! What a killed server left, as its files show it before anything starts again.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::place::Place;

fn store(place: &Place) -> Connection {
    let path = place.data_dir().join("store.sqlite");
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// How many data key versions the active master key version wraps, and how many an older one.
pub(super) fn wrapped(place: &Place) -> (u32, u32) {
    let sql = "SELECT count(*) FILTER (WHERE m.state = 'active'), count(*) FILTER (WHERE m.state <> 'active')
        FROM data_key_version v JOIN master_key_version m ON m.id = v.wrapped_by WHERE v.wrapped IS NOT NULL";
    store(place).query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

/// Files of the log that its checkpoint does not cover, and one that was being written: a publication was under way.
pub(super) fn half_published(data_dir: &Path) -> bool {
    let size = checkpoint_size(data_dir);
    let audit = data_dir.join("audit");
    let is_covered = |(width, covered)| width == covered;
    let uncovered = files(&audit).into_iter().any(|path| !is_covered(widths(path.strip_prefix(&audit).unwrap(), size)));
    uncovered || data_dir.join("journal/publishing").exists()
}

/// Files of the log with records that no checkpoint covers yet: a publication has begun to write, and its checkpoint does
/// not stand.
pub(super) fn ahead_of_checkpoint(data_dir: &Path) -> bool {
    let size = checkpoint_size(data_dir);
    let audit = data_dir.join("audit");
    let is_ahead = |(width, covered)| width > covered;
    let ahead = files(&audit).into_iter().any(|path| is_ahead(widths(path.strip_prefix(&audit).unwrap(), size)));
    // Of a running server: the checkpoint may have come while the files were listed.
    ahead && checkpoint_size(data_dir) == size
}

fn checkpoint_size(data_dir: &Path) -> u64 {
    let note = std::fs::read_to_string(data_dir.join("audit/checkpoint")).unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

/// The files below a directory; a running server may remove some meanwhile.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// How wide a file is, and how wide a log of this size has it, by C2SP tlog-tiles.
fn widths(path: &Path, size: u64) -> (u64, u64) {
    let text = path.to_str().unwrap();
    if text == "checkpoint" {
        return (0, 0);
    }
    let (level, rest) = match text.strip_prefix("tile/").unwrap_or(text).split_once('/').unwrap() {
        ("entries" | "body", rest) => (0, rest),
        (level, rest) => (level.parse::<u32>().unwrap(), rest),
    };
    let (number, width) = match rest.split_once(".p/") {
        Some((number, width)) => (number, width.parse::<u64>().unwrap()),
        None => (rest, 256),
    };
    let digits: String = number.chars().filter(char::is_ascii_digit).collect();
    let before = digits.parse::<u64>().unwrap() * 256;
    (width, (size >> (8 * level)).saturating_sub(before).min(256))
}

/// Reads everything, without a server and before one: every row of the store is as it was sealed, and the log
/// verifies, or it says that the server must be started once.
pub(super) fn require_readable(place: &Place) {
    let ran = place.run("verify --json");
    let told: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    assert_eq!(told["store"]["findings"].as_array().map(Vec::len), Some(0), "{told}");
    assert!(told["store"]["rows"].as_u64().unwrap_or(1) > 0, "{told}");
    let log = place.run("audit verify");
    assert_eq!(log.code, ran.code, "{}{}", ran.stderr, log.stderr);
    if log.code != 0 {
        assert_eq!(log.code, 5, "{}", log.stderr);
        let behind = log.stderr.contains(" before") || log.stderr.contains("a file is not covered by the checkpoint");
        assert!(behind, "{}", log.stderr);
        assert!(log.stderr.contains("start it once, which publishes what is durable"), "{}", log.stderr);
    }
}

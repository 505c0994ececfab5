//! Files of the repository that the tests read.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub(crate) fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn vectors(name: &str) -> Value {
    serde_json::from_str(&text(&format!("testdata/vectors/{name}.json"))).unwrap()
}

pub(crate) fn rows<'a>(vectors: &'a Value, list: &str) -> &'a [Value] {
    vectors[list].as_array().unwrap()
}

pub(crate) fn bytes(row: &Value, name: &str) -> Vec<u8> {
    hex::decode(row[name].as_str().unwrap_or_else(|| panic!("{} has no {name}", row["id"]))).unwrap()
}

pub(crate) fn array<const N: usize>(row: &Value, name: &str) -> [u8; N] {
    bytes(row, name).try_into().unwrap()
}

//! Private parsers of outside bytes, for the fuzz targets. No part of the API.

use std::ops::Range;

use crate::adapter::{AssetSpec, Row};
use crate::cells::{self, CellReport, Goal, Keys, Worked};
use crate::error::AssetError;
use crate::json::{self, JsonPath, Member};
use crate::value::Sql;

/// Reads a campaign's cursor.
pub fn cursor(bytes: &[u8]) -> Option<Vec<Sql>> {
    crate::cursor::decode(bytes)
}

/// Writes a campaign's cursor.
pub fn cursor_bytes(key: &[Sql]) -> Vec<u8> {
    crate::cursor::encode(key)
}

/// Where the member at a path lies; `None` if there is nothing or the document is not JSON.
pub fn member(document: &str, path: &JsonPath) -> Option<Range<usize>> {
    match json::find(document, path) {
        Member::At(range) => Some(range),
        Member::Null | Member::NotJson => None,
    }
}

/// The document with another member at a place.
pub fn replace(document: &str, range: Range<usize>, with: &str) -> Option<String> {
    json::replace(document, range, with)
}

/// What the cells of a row hold.
///
/// # Errors
/// [`AssetError`].
pub fn look(spec: &AssetSpec, row: &Row, keys: &dyn Keys) -> Result<Vec<CellReport>, AssetError> {
    cells::look(spec, row, keys)
}

/// What a campaign makes of a row.
///
/// # Errors
/// [`AssetError`].
pub fn work(spec: &AssetSpec, row: &Row, keys: &dyn Keys, goal: Goal<'_>) -> Result<Worked, AssetError> {
    cells::work(spec, row, keys, goal)
}

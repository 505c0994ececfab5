//! Tries a table with values of the form and length that protected ones have, and takes all of it back.

use crate::adapter::{AssetSpec, CellSpec, Misfit};
use crate::cells::sealed_text_len;
use crate::error::AssetError;
use crate::json::{self, JsonPath};
use crate::postgres::fit::refuse;
use crate::postgres::pieces::in_pieces;
use crate::postgres::session::Session;
use crate::postgres::table::{Column, Json, Table, literal, quoted};

/// How many rows are tried, besides the one with the longest value and the one with the shortest.
const ROWS_MAX: usize = 50;

/// How a protected text begins; what follows has the same alphabet.
const SAMPLE: &str = "kr1.2GCEUaQBAwRQAAECAwQFBgcICQoLDA0OD6EFTAABAgMEBQYHCAkKCw";

/// Updates some rows inside a transaction that is always rolled back. Constraints and triggers show themselves; so does
/// a trigger that changes what is written. Rows that others have locked are left out.
pub(super) fn probe(
    session: &mut Session,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    for cell in &spec.cells {
        let column = table.require(&cell.column)?;
        // Before the transaction: to look for them may take as long as to read the table, with no row locked meanwhile.
        let places = places(session, table, &value_of(column, cell))?;
        session.execute("BEGIN")?;
        let found = try_cell(session, table, column, cell, places);
        session.execute("ROLLBACK")?;
        misfits.extend(found?);
    }
    Ok(())
}

/// The rows to try: partition, place and length of the value.
fn places(session: &mut Session, table: &Table, value: &Value) -> Result<Vec<[String; 3]>, AssetError> {
    let length = format!("octet_length({})", value.get);
    let sql = |wheres: &str, order: &str| {
        format!(
            "SELECT tableoid::text, ctid::text, {length}::text FROM {} WHERE {wheres} AND {} IS NOT NULL {order}",
            table.sql(),
            value.get
        )
    };
    let length_of = |[_, _, length]: &[String; 3]| length.parse::<u64>().unwrap_or(0);
    let longest = in_pieces(session, table, |piece| sql(piece, &format!("ORDER BY {length} DESC LIMIT 1")))?;
    let longest = longest.into_iter().filter_map(super::table::fields).max_by_key(length_of);
    let shortest = in_pieces(session, table, |piece| sql(piece, &format!("ORDER BY {length} LIMIT 1")))?;
    let shortest = shortest.into_iter().filter_map(super::table::fields).min_by_key(length_of);
    let some = session.texts(&sql("true", &format!("LIMIT {ROWS_MAX}")), &[])?;
    let some = some.into_iter().filter_map(super::table::fields);
    Ok(longest.into_iter().chain(shortest).chain(some).collect())
}

fn try_cell(
    session: &mut Session,
    table: &Table,
    column: &Column,
    cell: &CellSpec,
    places: Vec<[String; 3]>,
) -> Result<Option<Misfit>, AssetError> {
    let (value, name) = (value_of(column, cell), quoted(&column.name));
    for [part, place, length] in places {
        let wheres = format!("tableoid = {} AND ctid = {}", literal(&part), literal(&place));
        let free = format!("SELECT '' FROM {} WHERE {wheres} FOR NO KEY UPDATE SKIP LOCKED", table.sql());
        // Somebody else has it, or it was tried already and is somewhere else now.
        if session.texts(&free, &[])?.is_empty() {
            continue;
        }
        let sample = match &value.member {
            None => value.sample(&sample_text(sealed_text_len(length.parse().unwrap_or(0)))),
            Some(path) => {
                let sql = format!("SELECT {}::text FROM {} WHERE {wheres}", value.get, table.sql());
                let document = session.texts(&sql, &[])?.into_iter().flatten().flatten().next();
                match document.and_then(|document| with_sample(&document, path)) {
                    Some(document) => literal(&document),
                    // There is nothing at the path, and nothing is written there.
                    None => continue,
                }
            }
        };
        let sql = format!(
            "UPDATE {} SET {name} = {} WHERE {wheres} RETURNING tableoid::text, ctid::text",
            table.sql(),
            value.set(&sample)
        );
        let written = match session.texts(&sql, &[]) {
            Ok(written) => written,
            Err(AssetError::Constraint { source, .. }) => {
                return Ok(Some(in_the_way(&column.name, &source.to_string())));
            }
            Err(error) => return Err(error),
        };
        // It is locked by the statement before, so that nobody else has moved it.
        let Some([part, place]) = written.into_iter().find_map(super::table::fields) else {
            return Ok(Some(refuse(
                format!("the database takes back what is written to column `{}`, as a trigger does", column.name),
                "drop the trigger: it would leave every row as it is",
            )));
        };
        let sql = format!(
            "SELECT ({} IS NOT DISTINCT FROM {sample})::text::char FROM {} WHERE tableoid = {} AND ctid = {}",
            value.get,
            table.sql(),
            literal(&part),
            literal(&place)
        );
        let kept = session.texts(&sql, &[])?.into_iter().flatten().flatten().next();
        if kept.as_deref() != Some("t") {
            return Ok(Some(refuse(
                format!("the database changes what is written to column `{}`, as a trigger does", column.name),
                "drop the trigger: a protected value must stay as it is",
            )));
        }
    }
    Ok(None)
}

/// A text that can be compressed no better than a protected one: an index has a limit after compression.
fn sample_text(len: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |byte: u8| ALPHABET.get(usize::from(byte & 63)).map_or('A', |letter| char::from(*letter));
    let blocks = (0_u64..).flat_map(|block| keyrail_crypto::digest::sha256(&block.to_be_bytes()));
    SAMPLE.chars().chain(blocks.map(letter)).take(len).collect()
}

/// A document with a protected value in place of its own, as the campaign writes it.
fn with_sample(document: &str, path: &JsonPath) -> Option<String> {
    let json::Member::At(range) = json::find(document, path) else { return None };
    let sample = format!("\"{}\"", sample_text(sealed_text_len(range.len())));
    json::replace(document, range, &sample)
}

/// How a value is read from its cell and put there.
struct Value {
    get: String,
    /// What stands before and after the new one.
    set: (String, String),
    is_bytes: bool,
    /// Where it lies in JSON that the server takes for text.
    member: Option<JsonPath>,
}

impl Value {
    fn set(&self, sample: &str) -> String {
        let (before, after) = &self.set;
        [before, sample, after].concat()
    }

    fn sample(&self, text: &str) -> String {
        if self.is_bytes { format!("convert_to({}, 'UTF8')", literal(text)) } else { literal(text) }
    }
}

fn value_of(column: &Column, cell: &CellSpec) -> Value {
    let name = quoted(&column.name);
    let is_bytes = column.base == "bytea";
    let whole = || (String::new(), String::new());
    match (&cell.json_path, column.json) {
        (Some(path), Json::Text | Json::Binary) => {
            let path = literal(&path.elements());
            let before = format!("jsonb_set({name}::jsonb, {path}::text[], to_jsonb(");
            let set = (before, format!("::text), false)::{}", column.base_sql));
            Value { get: format!("({name}::jsonb #>> {path}::text[])"), set, is_bytes, member: None }
        }
        // JSON in a column of text is not left to the server, which may not be able to read it.
        (Some(path), Json::No) => Value { get: name, set: whole(), is_bytes, member: Some(path.clone()) },
        (None, _) if is_bytes => Value { get: name, set: whole(), is_bytes, member: None },
        (None, _) => Value { get: format!("{name}::text"), set: whole(), is_bytes, member: None },
    }
}

fn in_the_way(column: &str, said: &str) -> Misfit {
    refuse(
        format!("protected values are refused in column `{column}`: {said}"),
        "drop or widen what refuses them; a protected value takes 4/3 of the length and 138 characters more",
    )
}

//! Reading a table page by page, in the order of its key.

use sqlx::postgres::PgRow;

use crate::adapter::{AssetSpec, Page, Row};
use crate::error::AssetError;
use crate::postgres::session::{Session, cell};
use crate::postgres::table::{Column, Json, Table, quoted};
use crate::postgres::wire::{Param, Wire};
use crate::value::{RowIdentity, Sql};

/// The most bytes of values in one page, beyond the row that passes it.
const PAGE_LEN_MAX: usize = 8 * 1024 * 1024;

/// The protected columns of an asset.
pub(super) fn cells<'a>(table: &'a Table, spec: &AssetSpec) -> Result<Vec<&'a Column>, AssetError> {
    spec.columns().into_iter().map(|name| table.require(name)).collect()
}

/// How a column's values travel; a type that is not known anymore is a table that changed.
pub(super) fn wire(column: &Column) -> Result<Wire, AssetError> {
    column
        .wire
        .ok_or_else(|| AssetError::Changed { problem: format!("column `{}` is {} now", column.name, column.declared) })
}

/// The rows after a key.
pub(super) fn page(
    session: &mut Session,
    table: &Table,
    identity: &[Column],
    spec: &AssetSpec,
    after: Option<&[Sql]>,
    limit: usize,
) -> Result<Page, AssetError> {
    let cells = cells(table, spec)?;
    let sql = page_sql(table, identity, &cells, after.is_some(), limit + 1)?;
    let params = match after {
        Some(after) => key_params(table, after)?,
        None => Vec::new(),
    };
    let found = session.rows(&sql, params)?;
    let columns: Vec<&Column> = table.key.iter().chain(identity).chain(cells.iter().copied()).collect();
    let mut page = Page::default();
    let total = found.first().and_then(|row| cell(row, columns.len())).and_then(|bytes| bytes.try_into().ok());
    let total = total.map_or(0, i64::from_be_bytes);
    for row in found.iter().take(limit) {
        page.rows.push(read_row(row, &columns, table, identity)?);
    }
    page.more = i64::try_from(page.rows.len()).is_ok_and(|read| read < total);
    Ok(page)
}

/// The key's values as parameters.
pub(super) fn key_params(table: &Table, key: &[Sql]) -> Result<Vec<Param>, AssetError> {
    let other = || AssetError::Changed { problem: "it has another primary key".to_owned() };
    if key.len() != table.key.len() {
        return Err(other());
    }
    table.key.iter().zip(key).map(|(column, value)| wire(column)?.param(value).ok_or_else(other)).collect()
}

/// A page ends where it would get too long: values are measured before they are sent.
fn page_sql(
    table: &Table,
    identity: &[Column],
    cells: &[&Column],
    after: bool,
    limit: usize,
) -> Result<String, AssetError> {
    let key: Vec<_> = table.key.iter().map(|column| quoted(&column.name)).collect();
    let mut inner = Vec::new();
    let mut outer = Vec::new();
    for (at, column) in table.key.iter().chain(identity).chain(cells.iter().copied()).enumerate() {
        let name = quoted(&column.name);
        inner.push(format!("{name} AS v{at}"));
        outer.push(wire(column)?.select(&format!("v{at}")));
    }
    let lengths = cells.iter().map(|column| format!("coalesce(pg_catalog.{}, 0)", length_of(column)));
    let lengths = lengths.collect::<Vec<_>>().join(" + ");
    let wheres = if after {
        let casts = table.key.iter().enumerate().map(|(at, column)| format!("${}::{}", at + 1, column.base_sql));
        format!(" WHERE ({}) > ({})", key.join(", "), casts.collect::<Vec<_>>().join(", "))
    } else {
        String::new()
    };
    Ok(format!(
        "SELECT {}, total FROM (SELECT *, count(*) OVER () AS total, \
           sum(len) OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before \
         FROM (SELECT {}, {lengths} AS len FROM {}{wheres} ORDER BY {} LIMIT {limit}) page) measured \
         WHERE before IS NULL OR before <= {PAGE_LEN_MAX} ORDER BY {}",
        outer.join(", "),
        inner.join(", "),
        table.sql(),
        key.join(", "),
        (0..key.len()).map(|at| format!("v{at}")).collect::<Vec<_>>().join(", ")
    ))
}

/// Of JSON the length that it has as text: where it lies it may be compressed, and a number of it is shorter.
fn length_of(column: &Column) -> String {
    let name = quoted(&column.name);
    if column.json == Json::No { format!("octet_length({name})") } else { format!("octet_length({name}::text)") }
}

fn read_row(row: &PgRow, columns: &[&Column], table: &Table, identity: &[Column]) -> Result<Row, AssetError> {
    let mut values = Vec::with_capacity(columns.len());
    for (at, column) in columns.iter().enumerate() {
        let value = wire(column)?.read(cell(row, at));
        values
            .push(value.ok_or_else(|| AssetError::Changed {
                problem: format!("column `{}` has another type", column.name),
            })?);
    }
    let cells = values.split_off(table.key.len() + identity.len());
    let guard = values.split_off(table.key.len());
    let identity_of = (!guard.is_empty()).then(|| RowIdentity::of(&guard));
    let guard = if table.key_is(identity) { Vec::new() } else { guard };
    Ok(Row { key: values, guard, identity: identity_of, values: cells })
}

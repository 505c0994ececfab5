//! Whether a column takes protected values.

use crate::adapter::{AssetSpec, Misfit};
use crate::cells::sealed_text_len;
use crate::error::AssetError;
use crate::postgres::fit::{is_true, refuse, warn};
use crate::postgres::pieces::in_pieces;
use crate::postgres::session::Session;
use crate::postgres::table::{Column, Json, Table, quoted};

pub(super) fn kind(
    session: &mut Session,
    spec: &AssetSpec,
    table: &Table,
    column: &Column,
    identity: &[Column],
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let name = &column.name;
    if column.generated {
        misfits.push(refuse(
            format!("column `{name}` is computed by the database"),
            "protect the columns that it is computed from",
        ));
    }
    let is_key = table.primary_key.contains(name) || table.key.iter().any(|key| key.name == *name);
    if is_key && !identity.iter().any(|id| id.name == *name) {
        misfits.push(refuse(
            format!("column `{name}` belongs to the key that rows are found by"),
            "leave it out of the columns",
        ));
    }
    let whole = spec.cells.iter().any(|cell| cell.column == *name && cell.json_path.is_none());
    let path = spec.cells.iter().any(|cell| cell.column == *name && cell.json_path.is_some());
    type_fits(column, whole, path, misfits);
    if column.is_domain {
        misfits.push(warn(
            format!(
                "column `{name}` is of the domain {}: what the domain demands holds for protected values too",
                column.declared
            ),
            "look at its constraints: protected values begin with kr1. and are longer",
        ));
    }
    if let (Some(limit), true) = (column.length, whole) {
        length_fits(session, table, column, limit, misfits)?;
    }
    partition_key(session, table, column, misfits)
}

fn type_fits(column: &Column, whole: bool, path: bool, misfits: &mut Vec<Misfit>) {
    let (name, declared) = (&column.name, &column.declared);
    match (column.base.as_str(), column.json) {
        ("text" | "varchar", _) => {}
        ("bytea", _) if !path => {}
        ("json" | "jsonb", _) if whole => misfits.push(refuse(
            format!("column `{name}` is {declared}, and a protected value is no JSON document"),
            "name the members to protect, like --column profile:$.phone, or change the column's type to text",
        )),
        ("json" | "jsonb", _) => {}
        ("citext", _) => misfits.push(warn(
            format!("column `{name}` is citext: two protected values are equal in it where their letters differ in case alone"),
            "change the column's type to text: nothing can be looked for in protected values anyway",
        )),
        ("bpchar" | "name", _) => misfits.push(refuse(
            format!("column `{name}` is {declared}, which pads or cuts what is written"),
            "change the column's type to text",
        )),
        (_, Json::No) if path => misfits.push(refuse(
            format!("column `{name}` is {declared}, and holds no JSON"),
            "name a path in a column of type jsonb, json or text",
        )),
        _ => misfits.push(refuse(
            format!("column `{name}` is {declared}, and a protected value is a text"),
            "change the column's type to text, or to bytea for bytes",
        )),
    }
}

/// The longest value, once protected, has to fit.
fn length_fits(
    session: &mut Session,
    table: &Table,
    column: &Column,
    limit: usize,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let (name, quoted) = (&column.name, quoted(&column.name));
    // What is protected already does not get longer.
    let sql = |piece: &str| {
        format!(
            "SELECT max(octet_length({quoted}::text))::text FROM {} WHERE {piece} AND NOT starts_with({quoted}::text, 'kr1.')",
            table.sql()
        )
    };
    let longest = in_pieces(session, table, sql)?.into_iter().flatten().flatten();
    let longest = sealed_text_len(longest.filter_map(|longest| longest.parse().ok()).max().unwrap_or(0));
    let hint = "change the column's type to text; a protected value takes 4/3 of the length and 146 characters more";
    if longest > limit {
        misfits.push(refuse(
            format!("column `{name}` takes {limit} characters, and a protected value of it {longest}"),
            hint,
        ));
    } else {
        misfits.push(warn(format!("column `{name}` takes no more than {limit} characters, which a longer value may pass once it is protected"), hint));
    }
    Ok(())
}

/// A column that decides which partition a row is in.
fn partition_key(
    session: &mut Session,
    table: &Table,
    column: &Column,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let own = "SELECT EXISTS (SELECT FROM pg_partition_tree($1::oid) tree JOIN pg_partitioned_table p ON p.partrelid = tree.relid \
               JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attname = $2 \
               WHERE a.attnum = ANY (p.partattrs::int2[]) OR (p.partexprs IS NOT NULL AND EXISTS (SELECT FROM pg_depend d \
                 WHERE d.classid = 'pg_class'::regclass AND d.objid = p.partrelid AND d.refobjid = p.partrelid AND d.refobjsubid = a.attnum)))::text::char";
    if table.kind == "p" && is_true(session, own, &[&table.oid, &column.name])? {
        misfits.push(refuse(
            format!("column `{}` decides in which partition a row is", column.name),
            "leave it out of the columns",
        ));
    }
    Ok(())
}

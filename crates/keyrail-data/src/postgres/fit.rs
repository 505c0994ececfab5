//! What in a table does not go with protected values, found before anything is changed.

mod column;
mod dependants;

pub(super) use dependants::LOGGED;

use keyrail_core::asset::IdentityKind;

use crate::adapter::{AssetSpec, Fit, Misfit, Severity};
use crate::error::AssetError;
use crate::postgres::Place;
use crate::postgres::pieces::in_pieces;
use crate::postgres::probe;
use crate::postgres::session::Session;
use crate::postgres::table::{Column, Table, quoted};

pub(super) fn inspect(
    session: &mut Session,
    place: &Place,
    spec: &AssetSpec,
    table: &Table,
    identity: &[Column],
) -> Result<Fit, AssetError> {
    let mut misfits = Vec::new();
    if place.is_exposed() {
        misfits.push(warn(
            "the way to the server is not protected: its sslmode does not check who it is".to_owned(),
            "leave sslmode out, or set it to verify-full, with sslrootcert=FILE for a certificate of your own",
        ));
    }
    let identity_columns: Vec<String> = identity.iter().map(|column| column.name.clone()).collect();
    let mut fit = Fit { schema: Some(table.schema.clone()), identity_columns, rows: 0, misfits: Vec::new() };
    table_kind(session, table, &mut misfits)?;
    rights(session, spec, table, &mut misfits)?;
    if is_refused(&misfits) {
        // What follows reads the table, which may not be possible.
        fit.misfits = misfits;
        return Ok(fit);
    }
    paging(table, &mut misfits);
    tell_apart(session, spec, table, identity, &mut misfits)?;
    for name in spec.columns() {
        column::kind(session, spec, table, table.require(name)?, identity, &mut misfits)?;
        dependants::of_column(session, table, table.require(name)?, &mut misfits)?;
    }
    dependants::of_table(session, spec, table, &mut misfits)?;
    if !is_refused(&misfits) {
        probe::probe(session, spec, table, &mut misfits)?;
    }
    misfits.sort_by_key(|misfit| std::cmp::Reverse(misfit.severity));
    misfits.dedup();
    let rows = in_pieces(session, table, |piece| format!("SELECT count(*)::text FROM {} WHERE {piece}", table.sql()))?;
    fit.rows = rows.into_iter().flatten().flatten().filter_map(|rows| rows.parse::<u64>().ok()).sum();
    fit.misfits = misfits;
    Ok(fit)
}

fn is_refused(misfits: &[Misfit]) -> bool {
    misfits.iter().any(|misfit| misfit.severity == Severity::Refusal)
}

pub(super) fn refuse(problem: String, hint: &str) -> Misfit {
    Misfit { severity: Severity::Refusal, problem, hint: hint.to_owned() }
}

fn warn(problem: String, hint: &str) -> Misfit {
    Misfit { severity: Severity::Warning, problem, hint: hint.to_owned() }
}

fn is_true(session: &mut Session, sql: &str, params: &[&str]) -> Result<bool, AssetError> {
    let found = session.texts(sql, params)?;
    Ok(found.into_iter().flatten().flatten().next().as_deref() == Some("t"))
}

fn table_kind(session: &mut Session, table: &Table, misfits: &mut Vec<Misfit>) -> Result<(), AssetError> {
    let name = &table.name;
    let is = match table.kind.as_str() {
        "v" => Some("a view"),
        "m" => Some("a materialized view"),
        "f" => Some("a foreign table"),
        _ => None,
    };
    if let Some(is) = is {
        let problem = format!("`{name}` is {is}, and only tables that hold their rows themselves can be protected");
        misfits.push(refuse(problem, "name the table that holds the data, on the server that it is on"));
    }
    if table.persistence == "t" {
        let hint = "name the table that the application keeps its data in";
        misfits.push(refuse(format!("`{name}` is a temporary table"), hint));
    }
    if table.schema == "information_schema" || table.schema.starts_with("pg_") {
        misfits.push(refuse(
            format!("`{}` belongs to the server itself", table.schema),
            "name a table of the application",
        ));
    }
    let own = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
               WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = $1::oid) \
                 AND c.relname = 'root_slot' AND a.attname = 'generation')::text::char";
    if is_true(session, own, &[&table.oid])? {
        misfits.push(refuse(
            format!("schema `{}` belongs to Keyrail itself", table.schema),
            "name the schema of the application",
        ));
    }
    if table.is_partition {
        let parent = "SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = $1::oid";
        let parent = session.texts(parent, &[&table.oid])?.into_iter().flatten().flatten().next().unwrap_or_default();
        let problem = format!("`{name}` is a partition of {parent}: its rows may move to another one");
        misfits.push(refuse(problem, "name the partitioned table itself"));
    }
    let heirs = "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhparent = $1::oid)::text::char";
    if table.kind == "r" && is_true(session, heirs, &[&table.oid])? {
        let problem = format!("other tables inherit from `{name}`, and no key is unique over all of them");
        misfits.push(refuse(problem, "make an asset of each table that no other one inherits from"));
    }
    let rules = "SELECT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = $1::oid AND ev_type = '2' AND ev_enabled <> 'D')::text::char";
    if matches!(table.kind.as_str(), "r" | "p") && is_true(session, rules, &[&table.oid])? {
        misfits.push(refuse(
            format!("a rule rewrites every UPDATE of `{name}`, so that nobody can say what was written"),
            "make a trigger of the rule",
        ));
    }
    Ok(())
}

/// What the role may do; a policy that hides rows from it would make every count wrong.
fn rights(session: &mut Session, spec: &AssetSpec, table: &Table, misfits: &mut Vec<Misfit>) -> Result<(), AssetError> {
    if is_true(session, "SELECT row_security_active($1::oid)::text::char", &[&table.oid])? {
        misfits.push(refuse(
            format!(
                "row-level security hides rows of `{}` from this role, so that they can be neither moved nor counted",
                table.name
            ),
            "use a role with BYPASSRLS, or the owner of the table where security is not forced on the owner",
        ));
    }
    if !is_true(session, "SELECT has_table_privilege($1::oid, 'SELECT')::text::char", &[&table.oid])? {
        misfits.push(refuse(
            format!("the role may not read `{}`", table.name),
            "GRANT SELECT on the table to the role: the count reads every row",
        ));
    }
    for name in spec.columns() {
        if !is_true(session, "SELECT has_column_privilege($1::oid, $2, 'UPDATE')::text::char", &[&table.oid, name])? {
            misfits.push(refuse(
                format!("the role may not update column `{name}`"),
                "GRANT UPDATE on the column to the role",
            ));
        }
    }
    let replica = "SELECT pg_is_in_recovery()::text::char";
    if is_true(session, replica, &[])? {
        misfits.push(refuse("the server is a standby, which takes no writes".to_owned(), "name the primary server"));
    }
    Ok(())
}

fn paging(table: &Table, misfits: &mut Vec<Misfit>) {
    if table.key.is_empty() {
        misfits.push(refuse(
            format!("`{}` has neither a primary key nor a unique index that its rows could be walked by", table.name),
            "add one over columns that are NOT NULL and of a usual type, such as bigint, uuid, text or timestamptz",
        ));
    }
}

fn tell_apart(
    session: &mut Session,
    spec: &AssetSpec,
    table: &Table,
    columns: &[Column],
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    if spec.identity == IdentityKind::None {
        misfits.push(warn(
            "values are not bound to their rows: whoever writes to the table can move one to another row".to_owned(),
            "name a column that never changes with --id",
        ));
        return Ok(());
    }
    if columns.is_empty() {
        misfits.push(refuse(
            format!("`{}` has no primary key, so that nothing tells its rows apart for good", table.name),
            "name a column that never changes with --id, or accept values that are bound to no row with --id none",
        ));
        return Ok(());
    }
    for column in columns {
        let name = &column.name;
        if spec.columns().contains(&name.as_str()) {
            let problem = format!("column `{name}` tells the rows apart and cannot be protected itself");
            misfits.push(refuse(problem, "leave it out of the columns"));
        }
        if column.wire.is_none() || column.json != super::table::Json::No {
            let problem = format!("column `{name}` is {}, which Keyrail cannot tell rows apart by", column.declared);
            misfits.push(refuse(problem, "name a column of numbers, text, bytes, uuid, date or time with --id"));
        }
    }
    if spec.identity == IdentityKind::Columns && !is_refused(misfits) {
        twice_or_never(session, table, columns, misfits)?;
    }
    Ok(())
}

/// Columns that the owner named may hold nothing, or the same more than once.
fn twice_or_never(
    session: &mut Session,
    table: &Table,
    columns: &[Column],
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    if table.key_is(columns) {
        return Ok(());
    }
    let list: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    let names = columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
    let nulls = list.iter().map(|name| format!("{name} IS NULL")).collect::<Vec<_>>().join(" OR ");
    let sql = |piece: &str| format!("SELECT '' FROM {} WHERE {piece} AND ({nulls}) LIMIT 1", table.sql());
    if !in_pieces(session, table, sql)?.is_empty() {
        misfits.push(warn(
            format!("some rows have no value in {names}: their values could be moved among them"),
            "fill it in, or name another column with --id",
        ));
    }
    let numbers = columns.iter().map(|column| column.number.as_str()).collect::<Vec<_>>().join(",");
    if is_true(session, UNIQUE, &[&table.oid, &numbers])? {
        return Ok(());
    }
    let list = list.join(", ");
    let sql = format!("SELECT EXISTS (SELECT FROM {} GROUP BY {list} HAVING count(*) > 1)::text::char", table.sql());
    if is_true(session, &sql, &[])? {
        misfits.push(warn(
            format!("several rows have the same {names}: values could be moved among them"),
            "name a unique column with --id",
        ));
    }
    Ok(())
}

/// Whether an index makes some of these columns unique, so that all of them together are; nulls aside.
const UNIQUE: &str = "\
    SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL \
      AND i.indexprs IS NULL AND (i.indkey::int2[])[0:i.indnkeyatts - 1] <@ string_to_array($2, ',')::int2[])::text::char";

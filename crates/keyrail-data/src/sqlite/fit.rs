//! What in a table does not go with protected values, found before anything is changed.

use keyrail_core::asset::IdentityKind;
use rusqlite::Connection;

use crate::adapter::{AssetSpec, Fit, Misfit, Severity};
use crate::error::AssetError;
use crate::sqlite::classify;
use crate::sqlite::table::{Column, Table, quoted};

/// A text of the form that protected values have: constraints are tried with it.
const SAMPLE: &str = "kr1.2GCEUaQBAwRQAAECAwQFBgcICQoLDA0OD6EFTAABAgMEBQYHCAkKCw";

pub(super) fn inspect(connection: &Connection, spec: &AssetSpec, table: &Table) -> Result<Fit, AssetError> {
    let mut misfits = Vec::new();
    let identity_columns = table.identity_columns(spec)?;
    table_kind(table, &mut misfits);
    identity(connection, spec, table, &identity_columns, &mut misfits)?;
    for name in spec.columns() {
        let column = table.require(name)?;
        column_kind(table, column, &identity_columns, &mut misfits);
        foreign_keys(connection, table, column, &mut misfits)?;
        indexes(connection, table, column, &mut misfits)?;
    }
    dependants(connection, spec, table, &mut misfits)?;
    checks(connection, spec, table, &mut misfits)?;
    misfits.sort_by_key(|misfit| std::cmp::Reverse(misfit.severity));
    misfits.dedup();
    let count = format!("SELECT count(*) FROM {}", quoted(&table.name));
    let rows: i64 = connection.query_row(&count, [], |row| row.get(0)).map_err(classify)?;
    Ok(Fit { identity_columns, rows: u64::try_from(rows).unwrap_or(0), misfits })
}

fn refuse(problem: String, hint: &str) -> Misfit {
    Misfit { severity: Severity::Refusal, problem, hint: hint.to_owned() }
}

fn warn(problem: String, hint: &str) -> Misfit {
    Misfit { severity: Severity::Warning, problem, hint: hint.to_owned() }
}

fn table_kind(table: &Table, misfits: &mut Vec<Misfit>) {
    if table.kind != "table" {
        misfits.push(refuse(
            format!("`{}` is a {} table, and only ordinary tables can be protected", table.name, table.kind),
            "name the table that holds the data",
        ));
    }
}

fn identity(
    connection: &Connection,
    spec: &AssetSpec,
    table: &Table,
    columns: &[String],
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
    for name in columns {
        let column = table.require(name)?;
        if spec.columns().iter().any(|cell| cell.eq_ignore_ascii_case(&column.name)) {
            misfits.push(refuse(
                format!("column `{name}` tells the rows apart and cannot be protected itself"),
                "leave it out of the columns",
            ));
        }
    }
    let list: Vec<_> = columns.iter().map(|name| quoted(name)).collect();
    let nulls: Vec<_> = list.iter().map(|name| format!("{name} IS NULL")).collect();
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {} WHERE {})", quoted(&table.name), nulls.join(" OR "));
    if connection.query_row(&sql, [], |row| row.get::<_, bool>(0)).map_err(classify)? {
        misfits.push(warn(
            format!("some rows have no value in {}: their values could be moved among them", columns.join(", ")),
            "fill it in, or name another column with --id",
        ));
    }
    if spec.identity == IdentityKind::Columns {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM {} GROUP BY {} HAVING count(*) > 1)",
            quoted(&table.name),
            list.join(", ")
        );
        if connection.query_row(&sql, [], |row| row.get::<_, bool>(0)).map_err(classify)? {
            misfits.push(warn(
                format!("several rows have the same {}: values could be moved among them", columns.join(", ")),
                "name a unique column with --id",
            ));
        }
    }
    Ok(())
}

fn column_kind(table: &Table, column: &Column, identity: &[String], misfits: &mut Vec<Misfit>) {
    let name = &column.name;
    if column.generated {
        misfits.push(refuse(
            format!("column `{name}` is computed by the database"),
            "protect the columns that it is computed from",
        ));
    }
    if column.key_position.is_some() && !identity.iter().any(|id| id.eq_ignore_ascii_case(name)) {
        misfits.push(refuse(format!("column `{name}` belongs to the primary key"), "leave it out of the columns"));
    }
    let declared = column.declared.to_ascii_uppercase();
    if table.strict && !matches!(declared.as_str(), "TEXT" | "BLOB" | "ANY") {
        misfits.push(refuse(
            format!("column `{name}` is {declared} in a STRICT table, and a protected value is a text"),
            "change the column's type to TEXT or ANY",
        ));
    }
    if let Some((_, limit)) = declared.split_once('(') {
        misfits.push(warn(
            format!(
                "column `{name}` is declared with a length of {}: SQLite ignores it, the application may not",
                limit.trim_end_matches(')')
            ),
            "a protected value needs about 170 characters more than a third over its length",
        ));
    }
}

fn foreign_keys(
    connection: &Connection,
    table: &Table,
    column: &Column,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let own = "SELECT EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1) WHERE \"from\" = ?2 COLLATE NOCASE)";
    if connection.query_row(own, [&table.name, &column.name], |row| row.get::<_, bool>(0)).map_err(classify)? {
        misfits.push(refuse(
            format!("column `{}` refers to another table", column.name),
            "leave it out: a protected value refers to nothing",
        ));
    }
    let others = "SELECT s.name FROM sqlite_schema s, pragma_foreign_key_list(s.name) f \
                  WHERE s.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE AND f.\"to\" = ?2 COLLATE NOCASE";
    for other in names(connection, others, &[&table.name, &column.name])? {
        misfits.push(refuse(
            format!("table `{other}` refers to column `{}`", column.name),
            "leave it out: a protected value is referred to by nothing",
        ));
    }
    Ok(())
}

fn indexes(
    connection: &Connection,
    table: &Table,
    column: &Column,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let sql = "SELECT l.name || char(0) || l.\"unique\" FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x \
               WHERE x.name = ?2 COLLATE NOCASE AND x.key = 1";
    for found in names(connection, sql, &[&table.name, &column.name])? {
        let (index, unique) = found.split_once('\0').unwrap_or((&found, "0"));
        if unique == "1" {
            misfits.push(refuse(
                format!("column `{}` is unique by `{index}`, and protected values are all different", column.name),
                "drop the constraint: it would keep nothing out any more",
            ));
        } else {
            misfits.push(warn(
                format!("index `{index}` on column `{}` finds nothing any more", column.name),
                "drop it after protecting",
            ));
        }
    }
    let expression =
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL";
    for index in names(connection, expression, &[&table.name])? {
        let sql = schema_sql(connection, &index)?;
        let body = sql.split_once('(').map_or("", |(_, body)| body);
        let plain = "SELECT EXISTS (SELECT 1 FROM pragma_index_xinfo(?1) WHERE name = ?2 COLLATE NOCASE AND key = 1)";
        let listed =
            connection.query_row(plain, [&index, &column.name], |row| row.get::<_, bool>(0)).map_err(classify)?;
        if !listed && mentions(body, &column.name) {
            misfits.push(warn(
                format!("index `{index}` computes with column `{}` and finds nothing any more", column.name),
                "drop it after protecting",
            ));
        }
    }
    Ok(())
}

/// Generated columns, views and triggers that read a protected column.
fn dependants(
    connection: &Connection,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let own_sql = schema_sql(connection, &table.name)?;
    let views = "SELECT name FROM sqlite_schema WHERE type = 'view'";
    let views: Vec<(String, String)> = with_sql(connection, names(connection, views, &[])?)?;
    let triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger'";
    let triggers: Vec<(String, String)> = with_sql(connection, names(connection, triggers, &[])?)?;
    for name in spec.columns() {
        let computed = table.columns.iter().filter(|column| column.generated);
        for column in computed
            .filter(|column| generated_expression(&own_sql, &column.name).is_some_and(|text| mentions(text, name)))
        {
            misfits.push(refuse(
                format!("column `{}` is computed from `{name}`", column.name),
                "drop the computed column, or leave this one out",
            ));
        }
        for (view, _) in
            views.iter().filter(|(_, sql)| mentions(sql, &table.name) && (mentions(sql, name) || sql.contains('*')))
        {
            misfits.push(warn(
                format!("view `{view}` reads column `{name}` and shows protected values"),
                "let the application decrypt what it reads through the view",
            ));
        }
        for (trigger, sql) in &triggers {
            if mentions(sql, &table.name) && mentions(sql, name) {
                misfits.push(warn(
                    format!("trigger `{trigger}` reads column `{name}` and sees protected values"),
                    "look at what it does with them",
                ));
            }
        }
    }
    let own = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    for trigger in names(connection, own, &[&table.name])? {
        if mentions(&schema_sql(connection, &trigger)?, "UPDATE") {
            misfits.push(warn(
                format!("trigger `{trigger}` runs for every row that is written"),
                "look at what it does, such as setting a time of change",
            ));
        }
    }
    Ok(())
}

/// Tries every CHECK constraint with a value of the form that protected values have.
fn checks(
    connection: &Connection,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let whole = schema_sql(connection, &table.name)?;
    if !mentions(&whole, "CHECK") {
        return Ok(());
    }
    for cell in spec.cells.iter().filter(|cell| cell.json_path.is_none()) {
        let sql = format!(
            "UPDATE {0} SET {1} = ?1 WHERE ({2}) IN (SELECT {2} FROM {0} WHERE {1} IS NOT NULL LIMIT 1)",
            quoted(&table.name),
            quoted(&cell.column),
            table.key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
        );
        let tried = connection.execute_batch("SAVEPOINT keyrail_try").and_then(|()| connection.execute(&sql, [SAMPLE]));
        connection.execute_batch("ROLLBACK TO keyrail_try; RELEASE keyrail_try").map_err(classify)?;
        if let Err(error) = tried {
            match error.sqlite_error().map(|error| error.extended_code) {
                Some(rusqlite::ffi::SQLITE_CONSTRAINT_CHECK) => {
                    misfits.push(refuse(
                        format!("a CHECK constraint refuses protected values in column `{}`", cell.column),
                        "drop or widen the constraint",
                    ));
                }
                _ => return Err(classify(error)),
            }
        }
    }
    Ok(())
}

fn names(connection: &Connection, sql: &str, parameters: &[&String]) -> Result<Vec<String>, AssetError> {
    let mut statement = connection.prepare(sql).map_err(classify)?;
    let rows = statement.query_map(rusqlite::params_from_iter(parameters), |row| row.get(0)).map_err(classify)?;
    rows.collect::<Result<_, _>>().map_err(classify)
}

fn schema_sql(connection: &Connection, name: &str) -> Result<String, AssetError> {
    let sql = "SELECT coalesce(sql, '') FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
    connection.query_row(sql, [name], |row| row.get(0)).map_err(classify)
}

fn with_sql(connection: &Connection, names: Vec<String>) -> Result<Vec<(String, String)>, AssetError> {
    names.into_iter().map(|name| schema_sql(connection, &name).map(|sql| (name, sql))).collect()
}

/// Whether a word stands in SQL text. It may err towards "yes": then somebody looks at one thing more.
fn mentions(sql: &str, word: &str) -> bool {
    let (sql, word) = (sql.to_ascii_lowercase(), word.to_ascii_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    sql.match_indices(&word).any(|(at, _)| {
        let before = sql.get(..at).and_then(|text| text.chars().next_back());
        let after = sql.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// The part of a table's SQL after the name of a generated column, up to the end: it may hold more than
/// the expression, never less.
fn generated_expression<'a>(sql: &'a str, column: &str) -> Option<&'a str> {
    let lower = sql.to_ascii_lowercase();
    let at = lower.find(&column.to_ascii_lowercase())?;
    let rest = sql.get(at + column.len()..)?;
    let start = rest.to_ascii_lowercase().find(" as")?;
    let rest = rest.get(start..)?;
    let mut depth = 0_usize;
    for (index, c) in rest.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return rest.get(..index),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Some(rest)
}

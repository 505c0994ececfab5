//! What in a table does not go with protected values, found before anything is changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyrail_core::asset::IdentityKind;
use parking_lot::Mutex;
use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::adapter::{AssetSpec, Fit, Misfit, Severity};
use crate::error::AssetError;
use crate::sqlite::table::{Column, Table, quoted};
use crate::sqlite::{classify, probe, scrub};

pub(super) fn inspect(connection: &mut Connection, spec: &AssetSpec, table: &Table) -> Result<Fit, AssetError> {
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
    not_json(connection, spec, table, &mut misfits)?;
    dependants(connection, spec, table, &mut misfits)?;
    not_vacuumed(connection, &mut misfits)?;
    if !misfits.iter().any(|misfit| misfit.severity == Severity::Refusal) {
        probe::probe(connection, spec, table, &mut misfits)?;
    }
    misfits.sort_by_key(|misfit| std::cmp::Reverse(misfit.severity));
    misfits.dedup();
    let count = format!("SELECT count(*) FROM {}", quoted(&table.name));
    let rows: i64 = connection.query_row(&count, [], |row| row.get(0)).map_err(classify)?;
    Ok(Fit { schema: None, identity_columns, rows: u64::try_from(rows).unwrap_or(0), misfits })
}

pub(super) fn refuse(problem: String, hint: &str) -> Misfit {
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
            "a protected value takes 4/3 of the length and 138 characters more",
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
    let expression = "SELECT s.name || char(0) || l.\"unique\" FROM sqlite_schema s, pragma_index_list(?1) l WHERE s.name = l.name \
         AND s.type = 'index' AND s.sql IS NOT NULL";
    for found in names(connection, expression, &[&table.name])? {
        let (index, unique) = found.split_once('\0').unwrap_or((&found, "0"));
        let index = &index.to_owned();
        let sql = schema_sql(connection, index)?;
        let body = sql.split_once('(').map_or("", |(_, body)| body);
        let plain = "SELECT EXISTS (SELECT 1 FROM pragma_index_xinfo(?1) WHERE name = ?2 COLLATE NOCASE AND key = 1)";
        let listed =
            connection.query_row(plain, [index, &column.name], |row| row.get::<_, bool>(0)).map_err(classify)?;
        if listed || !mentions(body, &column.name) {
            continue;
        }
        if unique == "1" {
            misfits.push(refuse(
                format!(
                    "index `{index}` makes unique by column `{}`, and protected values are all different",
                    column.name
                ),
                "drop the index: it would keep nothing out any more",
            ));
        } else {
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
    connection: &mut Connection,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    let own_sql = schema_sql(connection, &table.name)?;
    let views = views(connection, table)?;
    let virtuals = "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage = 0";
    let virtuals: Vec<(String, String)> = with_sql(connection, names(connection, virtuals, &[])?)?;
    let triggers = "SELECT name FROM sqlite_schema WHERE type = 'trigger'";
    let triggers: Vec<(String, String)> = with_sql(connection, names(connection, triggers, &[])?)?;
    for name in spec.columns() {
        let computed = table.columns.iter().filter(|column| column.generated);
        for column in computed.filter(|column| computes_with(&own_sql, &column.name, name)) {
            misfits.push(refuse(
                format!("column `{}` is computed from `{name}`", column.name),
                "drop the computed column, or leave this one out",
            ));
        }
        for (other, _) in virtuals.iter().filter(|(_, sql)| mentions(sql, &table.name) && mentions(sql, name)) {
            misfits.push(refuse(
                format!("`{other}` indexes column `{name}` and keeps its words in plaintext"),
                "drop it, or leave the column out",
            ));
        }
        for (view, _) in views.iter().filter(|(_, reads)| reads.iter().any(|read| read.eq_ignore_ascii_case(name))) {
            misfits.push(warn(
                format!("view `{view}` reads column `{name}` and shows protected values"),
                "let the application decrypt what it reads through the view",
            ));
        }
        for (trigger, sql) in &triggers {
            if mentions(sql, &table.name) && mentions(sql, name) {
                misfits.push(warn(
                    format!("trigger `{trigger}` names column `{name}`: it sees protected values, and former ones while the table is protected"),
                    "look at where it writes them: a copy that it makes is not scrubbed",
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

/// Every view with the columns of the table that it reads, as the database itself resolves them.
fn views(connection: &mut Connection, table: &Table) -> Result<BTreeMap<String, Vec<String>>, AssetError> {
    let mut found = BTreeMap::new();
    for view in names(connection, "SELECT name FROM sqlite_schema WHERE type = 'view'", &[])? {
        let read = Arc::new(Mutex::new(Vec::new()));
        let (seen, own) = (read.clone(), table.name.clone());
        let watch = move |context: AuthContext<'_>| {
            if let AuthAction::Read { table_name, column_name } = context.action
                && table_name.eq_ignore_ascii_case(&own)
            {
                seen.lock().push(column_name.to_owned());
            }
            Authorization::Allow
        };
        connection.authorizer(Some(watch)).map_err(classify)?;
        let prepared = connection.prepare(&format!("SELECT * FROM {}", quoted(&view))).map(drop);
        connection.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).map_err(classify)?;
        let mut columns = std::mem::take(&mut *read.lock());
        if prepared.is_err() {
            // A view that needs a function of the application, or is broken: its text has to do.
            let sql = schema_sql(connection, &view)?;
            columns.extend(table.columns.iter().map(|column| column.name.clone()).filter(|name| mentions(&sql, name)));
        }
        found.insert(view, columns);
    }
    Ok(found)
}

/// Tables for whose sake the file is not vacuumed.
fn not_vacuumed(connection: &Connection, misfits: &mut Vec<Misfit>) -> Result<(), AssetError> {
    let renumbered = scrub::renumbered(connection)?;
    if !renumbered.is_empty() {
        let tables = scrub::listed(&renumbered);
        misfits.push(warn(
            format!("VACUUM is not run after protecting: it may change the rowids of {tables}, without an INTEGER PRIMARY KEY"),
            "former values may stay in free pages of the file; run VACUUM if nothing refers to the rowids",
        ));
    }
    Ok(())
}

/// Columns of JSON that hold something else in some rows.
fn not_json(
    connection: &Connection,
    spec: &AssetSpec,
    table: &Table,
    misfits: &mut Vec<Misfit>,
) -> Result<(), AssetError> {
    for cell in spec.cells.iter().filter(|cell| cell.json_path.is_some()) {
        let (name, column) = (quoted(&table.name), quoted(&cell.column));
        let sql = format!(
            "SELECT count(*) FROM {name} WHERE {column} IS NOT NULL AND (typeof({column}) <> 'text' OR NOT json_valid({column}))"
        );
        let rows: i64 = connection.query_row(&sql, [], |row| row.get(0)).map_err(classify)?;
        if rows > 0 {
            misfits.push(warn(
                format!(
                    "{rows} rows of column `{}` hold no JSON: nothing in them is protected, and they count as damaged",
                    cell.column
                ),
                "mend them, or take each out of the count with `keyrail asset accept-damaged`",
            ));
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
    !places(sql, word).is_empty()
}

/// Where a word stands in SQL text.
fn places(sql: &str, word: &str) -> Vec<usize> {
    let (sql, word) = (sql.to_ascii_lowercase(), word.to_ascii_lowercase());
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let alone = |at: &usize| {
        let before = sql.get(..*at).and_then(|text| text.chars().next_back());
        let after = sql.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    };
    sql.match_indices(&word).map(|(at, _)| at).filter(alone).collect()
}

/// Whether the expression of a generated column names another one. It may err towards "yes".
fn computes_with(table_sql: &str, generated: &str, column: &str) -> bool {
    places(table_sql, generated).into_iter().any(|at| {
        let rest = table_sql.get(at + generated.len()..).unwrap_or_default();
        let start = places(rest, "as").into_iter().next();
        start.and_then(|start| rest.get(start..)).is_some_and(|rest| mentions(first_parentheses(rest), column))
    })
}

/// The text up to the end of its first parentheses.
fn first_parentheses(text: &str) -> &str {
    let mut depth = 0_usize;
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return text.get(..index).unwrap_or_default(),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_column_is_read_by_its_own_name() {
        let sql = "CREATE TABLE t (a, mailx AS (upper(b)), mail TEXT GENERATED ALWAYS\nAS (lower(a || (c))) STORED, d)";
        let rows = [
            ("mail", "a", true),
            ("mail", "b", false),
            ("mailx", "b", true),
            ("mailx", "a", false),
            ("mail", "c", true),
            ("mail", "d", false),
        ];
        for (generated, column, want) in rows {
            assert_eq!(computes_with(sql, generated, column), want, "{generated} of {column}");
        }
    }
}

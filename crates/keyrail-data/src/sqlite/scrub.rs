//! What overwritten values leave in SQLite's files, and how it is removed.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::adapter::Scrubbed;
use crate::error::AssetError;
use crate::sqlite::classify;
use crate::sqlite::table::{Table, quoted};

/// How long other connections may hold the file while it is scrubbed.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// What no database can scrub.
pub const BEYOND: &str = "copies, backups and snapshots of the file, and blocks that the file system has freed: \
                                 what they hold of former values stays there";

/// The tables whose rows VACUUM may give other rowids: those with neither an INTEGER PRIMARY KEY nor WITHOUT ROWID
/// (<https://www.sqlite.org/lang_vacuum.html>). What refers to such a rowid, as a full-text index over the table or
/// the application itself may, would refer to another row after it.
pub(super) fn renumbered(connection: &Connection) -> Result<Vec<String>, AssetError> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND NOT wr \
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    let mut statement = connection.prepare(sql).map_err(classify)?;
    let names = statement.query_map([], |row| row.get(0)).map_err(classify)?;
    let names: Vec<String> = names.collect::<Result<_, _>>().map_err(classify)?;
    let mut found = Vec::new();
    for name in names {
        if Table::read(connection, &name)?.rowid_alias.is_none() {
            found.push(name);
        }
    }
    Ok(found)
}

/// Rewrites the file without free pages and empties its logs.
///
/// VACUUM copies what is alive, so that nothing of old values stays in free pages or in the unused parts of
/// pages; the write-ahead log or journal, which still holds former pages, is cut to nothing after it. It is left out
/// where it might change what rows are known by; then the table's indexes are made anew, each on pages of its own. Secure
/// deletion clears what is overwritten or freed, but not the copy that stays behind where SQLite moves a value to another
/// page, as it does when longer values split pages.
pub(super) fn scrub(connection: &Connection, table: &str) -> Result<Scrubbed, AssetError> {
    samples(connection, table)?;
    let deadline = Instant::now() + PATIENCE;
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).map_err(classify)?;
    if mode == "persist" {
        // A persistent journal keeps its content after its header is cleared.
        connection.pragma_update_and_check(None, "journal_mode", "TRUNCATE", |_| Ok(())).map_err(classify)?;
    }
    let mut left = Vec::new();
    let renumbered = renumbered(connection)?;
    if !renumbered.is_empty() {
        left.push(format!(
            "free pages of the file and unused parts of its pages, where former values may lie: VACUUM was not run \
             because it may change the rowids of {}; run it if nothing refers to them",
            listed(&renumbered)
        ));
        if !reindex(connection, table, deadline)? {
            left.push(
                "indexes of the table: they could not be made anew; run REINDEX when nobody is connected".to_owned(),
            );
        }
    } else if !vacuum(connection, deadline)? {
        left.push("free pages of the file: another connection held it, so that VACUUM could not run; run it when nobody is connected".to_owned());
    }
    if mode == "wal" && !truncate_wal(connection, deadline)? {
        left.push(
            "the write-ahead log: another connection reads from it; it is emptied when the last one closes".to_owned(),
        );
    }
    left.push(BEYOND.to_owned());
    Ok(Scrubbed { left })
}

/// ANALYZE may have kept values of indexed columns as samples; the next one makes new ones.
fn samples(connection: &Connection, table: &str) -> Result<(), AssetError> {
    for samples in ["sqlite_stat4", "sqlite_stat3"] {
        let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
        if connection.query_row(sql, [samples], |row| row.get(0)).map_err(classify)? {
            let sql = format!("DELETE FROM {} WHERE tbl = ?1 COLLATE NOCASE", quoted(samples));
            connection.execute(&sql, [table]).map_err(classify)?;
        }
    }
    Ok(())
}

fn vacuum(connection: &Connection, deadline: Instant) -> Result<bool, AssetError> {
    retry(deadline, || match connection.execute_batch("VACUUM") {
        Ok(()) => Ok(Some(true)),
        Err(error) if is_busy(&error) => Ok(None),
        Err(error) => Err(classify(error)),
    })
}

/// An index may need a collation or function that only the application has, or be out of step with its table: then it
/// stays as it is, and that is told.
fn reindex(connection: &Connection, table: &str, deadline: Instant) -> Result<bool, AssetError> {
    let sql = format!("REINDEX main.{}", quoted(table));
    retry(deadline, || match connection.execute_batch(&sql) {
        Ok(()) => Ok(Some(true)),
        Err(error) if is_busy(&error) => Ok(None),
        Err(error) if cannot_be_made(&error) => Ok(Some(false)),
        Err(error) => Err(classify(error)),
    })
}

fn truncate_wal(connection: &Connection, deadline: Instant) -> Result<bool, AssetError> {
    retry(deadline, || match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0)) {
        Ok(0) => Ok(Some(true)),
        Ok(_) => Ok(None),
        Err(error) if is_busy(&error) => Ok(None),
        Err(error) => Err(classify(error)),
    })
}

fn cannot_be_made(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn retry(deadline: Instant, mut attempt: impl FnMut() -> Result<Option<bool>, AssetError>) -> Result<bool, AssetError> {
    loop {
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Names of tables, the first few of them: a platform can have hundreds.
pub(super) fn listed(tables: &[String]) -> String {
    let shown = tables.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match tables.len().saturating_sub(LISTED_MAX) {
        0 => shown,
        1 => format!("{shown} and one more"),
        more => format!("{shown} and {more} more"),
    }
}

/// How many tables are named.
const LISTED_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn of_many_tables_the_first_are_named() {
        let tables = |count: usize| (1..=count).map(|number| format!("t{number}")).collect::<Vec<_>>();
        assert_eq!(listed(&tables(2)), "`t1`, `t2`");
        assert_eq!(listed(&tables(4)), "`t1`, `t2`, `t3` and one more");
        assert_eq!(listed(&tables(115)), "`t1`, `t2`, `t3` and 112 more");
    }
}

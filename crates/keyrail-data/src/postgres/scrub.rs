//! What overwritten values leave on a PostgreSQL server, and how much of it can be removed from here.

use std::time::Duration;

use crate::adapter::{AssetSpec, Scrubbed};
use crate::error::AssetError;
use crate::postgres::fit::LOGGED;
use crate::postgres::session::Session;
use crate::postgres::table::{Table, fields};

/// How long other sessions may hold the table while it is scrubbed.
const PATIENCE: Duration = Duration::from_secs(15);

/// What no session of a role can scrub.
const BEYOND: &str = "the write-ahead log and its archive, standbys and subscribers, backups and snapshots, and blocks that \
                      the file system has freed: what they hold of former values stays there until they are recycled";

/// Takes former values out of the planner's statistics and lets the space of dead rows be used again.
///
/// VACUUM makes the place of a dead row free and writes nothing over it: its bytes go when another row needs the place,
/// or with the whole file when VACUUM FULL writes the table anew. That locks the table for as long as it takes, and is
/// the owner's to run.
pub(super) fn scrub(session: &mut Session, table: &Table, spec: &AssetSpec) -> Result<Scrubbed, AssetError> {
    let sql = table.sql();
    let mut left = Vec::new();
    if !may_maintain(session, table)? {
        let problem = "the planner's statistics and dead rows: the role may neither ANALYZE nor VACUUM the table";
        left.push(format!("{problem}; its owner runs VACUUM (ANALYZE) {sql}"));
    } else if !vacuum(session, &sql)? {
        let problem = "the planner's statistics and dead rows: another session held the table";
        left.push(format!("{problem}; run VACUUM (ANALYZE) {sql}"));
    }
    let dead = format!(
        "free space of the table's files, where dead rows lay: run VACUUM FULL {sql} when the application can wait"
    );
    left.push(dead);
    left.extend(statistics_left(session, table, spec)?);
    left.push(BEYOND.to_owned());
    Ok(Scrubbed { left })
}

/// Waits for an autovacuum of the table, which gives way, and for a while for whatever else holds it.
fn vacuum(session: &mut Session, table: &str) -> Result<bool, AssetError> {
    session.execute(&format!("SET lock_timeout = {}", PATIENCE.as_millis()))?;
    match session.execute(&format!("VACUUM (ANALYZE) {table}")) {
        Ok(()) => Ok(true),
        Err(AssetError::Busy(_) | AssetError::Collided(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// VACUUM and ANALYZE pass over a table of somebody else with no more than a warning.
fn may_maintain(session: &mut Session, table: &Table) -> Result<bool, AssetError> {
    let owner = "SELECT (pg_has_role(c.relowner, 'USAGE') OR pg_has_role(d.datdba, 'USAGE'))::text FROM pg_class c, pg_database d \
                 WHERE c.oid = $1::oid AND d.datname = current_database()";
    let maintain = "SELECT has_table_privilege($1::oid, 'MAINTAIN')::text";
    // From PostgreSQL 17 on the right can be granted.
    let newer = session.texts("SELECT (current_setting('server_version_num')::int >= 170000)::text", &[])?;
    let is = |found: Vec<Vec<Option<String>>>| found.into_iter().flatten().flatten().next().as_deref() == Some("true");
    let owned = is(session.texts(owner, &[&table.oid])?);
    Ok(owned || (is(newer) && is(session.texts(maintain, &[&table.oid])?)))
}

/// Settings of the server under which it keeps what was sent to it.
fn statistics_left(session: &mut Session, table: &Table, spec: &AssetSpec) -> Result<Vec<String>, AssetError> {
    let mut left = Vec::new();
    let views = "SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
                 JOIN pg_class c ON c.oid = r.ev_class JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
                 WHERE d.refobjid = $1::oid AND c.relkind = 'm' AND a.attname = ANY (string_to_array($2, chr(1)))";
    let columns = spec.columns().join("\u{1}");
    for [view] in session.texts(views, &[&table.oid, &columns])?.into_iter().filter_map(fields) {
        left.push(format!("materialized view {view}, which keeps a copy: REFRESH MATERIALIZED VIEW {view}"));
    }
    if !session.texts(LOGGED, &[])?.is_empty() {
        left.push(
            "the server's log, which has statements with their values: set log_parameter_max_length to 0".to_owned(),
        );
    }
    left.push("former versions of the planner's statistics: an administrator runs VACUUM FULL pg_statistic".to_owned());
    Ok(left)
}

//! The schema of the database: numbered steps up and down, each a transaction of its own under a lock.

use std::path::PathBuf;

use super::errors::classify;
#[cfg(test)]
use super::errors::told;
use super::session::{Session, answered};
use crate::error::StoreError;

/// A step from one schema to the next, and back.
pub(super) struct Migration {
    pub(super) up: &'static str,
    #[cfg_attr(not(test), allow(dead_code, reason = "the way back is tested, and run by hand only"))]
    pub(super) down: &'static str,
}

/// Every step. They are numbered for themselves: PostgreSQL came later than SQLite.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        up: include_str!("migrations/0001-initial.up.sql"),
        down: include_str!("migrations/0001-initial.down.sql"),
    },
    Migration {
        up: include_str!("migrations/0002-audit.up.sql"),
        down: include_str!("migrations/0002-audit.down.sql"),
    },
    Migration { up: include_str!("migrations/0003-map.up.sql"), down: include_str!("migrations/0003-map.down.sql") },
    Migration {
        up: include_str!("migrations/0004-nodes.up.sql"),
        down: include_str!("migrations/0004-nodes.down.sql"),
    },
];

/// The newest schema.
pub const POSTGRES_SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The lock that one process holds while it changes the schema; "keyrail" and a number of ours.
const MIGRATION_LOCK: i64 = 0x6b65_7972_6169_0001;

/// The schema of a database: 0 if it holds no store.
///
/// # Errors
/// [`StoreError::NotAStore`]: the schema `keyrail` is somebody else's.
pub(super) async fn identify(session: &Session, place: &str) -> Result<i64, StoreError> {
    // Whoever made the schema beforehand may have left more in it than tables.
    let sql = "/* identify */ SELECT to_regclass('keyrail.meta') IS NOT NULL, \
               (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('keyrail')) \
               + (SELECT count(*) FROM pg_proc WHERE pronamespace = to_regnamespace('keyrail')) \
               + (SELECT count(*) FROM pg_operator WHERE oprnamespace = to_regnamespace('keyrail')) \
               + (SELECT count(*) FROM pg_type WHERE typnamespace = to_regnamespace('keyrail'))";
    let row = session.client().query_one(sql, &[]).await.map_err(classify)?;
    match (row.try_get(0).map_err(classify)?, row.try_get(1).map_err(classify)?) {
        (false, 0_i64) => Ok(0),
        (false, _) => Err(StoreError::NotAStore { path: PathBuf::from(place) }),
        (true, _) => {
            let sql = "/* identify */ SELECT schema_version FROM keyrail.meta";
            let row = session.client().query_opt(sql, &[]).await.map_err(classify)?;
            let row = row.ok_or_else(|| StoreError::NotAStore { path: PathBuf::from(place) })?;
            row.try_get(0).map_err(classify)
        }
    }
}

/// Brings the database to the newest schema.
///
/// # Errors
/// [`StoreError::UnknownSchema`]; [`StoreError::OldSchema`] if the user may not change it.
pub(super) async fn migrate(session: &Session, place: &str, steps: &[Migration]) -> Result<(), StoreError> {
    let known = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    loop {
        let found = identify(session, place).await?;
        if found > known || found < 0 {
            return Err(StoreError::UnknownSchema { found, known });
        }
        let Some(step) = usize::try_from(found).ok().and_then(|next| steps.get(next)) else { return Ok(()) };
        match run(session, place, found, found + 1, step.up).await {
            Ok(()) => {}
            Err(StoreError::Denied(_)) if found > 0 => return Err(StoreError::OldSchema { found, known }),
            Err(error) => return Err(error),
        }
    }
}

/// One step, unless another process was faster. A failed one leaves the session in a broken transaction: it is dropped.
async fn run(session: &Session, place: &str, from: i64, to: i64, sql: &str) -> Result<(), StoreError> {
    let begin = format!("/* migrate */ BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK});");
    answered(async {
        session.client().batch_execute(&begin).await.map_err(classify)?;
        if identify(session, place).await? != from {
            return session.client().batch_execute("ROLLBACK").await.map_err(classify);
        }
        let schema = "/* migrate */ SELECT to_regnamespace('keyrail') IS NOT NULL";
        let made: bool =
            session.client().query_one(schema, &[]).await.and_then(|row| row.try_get(0)).map_err(classify)?;
        let make = if made { "" } else { "CREATE SCHEMA keyrail;" };
        let mark = if to == 0 { String::new() } else { format!("UPDATE keyrail.meta SET schema_version = {to};") };
        // The catalog comes first by itself: nothing that somebody put into the schema stands in for what PostgreSQL has.
        let step = format!("{make} SET LOCAL search_path = keyrail; {sql} {mark} COMMIT");
        session.client().batch_execute(&step).await.map_err(classify)
    })
    .await
}

/// One step back; for tests and for an operator's hands, never by itself.
#[cfg(test)]
pub(super) async fn step_down(session: &Session, steps: &[Migration]) -> Result<(), StoreError> {
    let found = identify(session, "").await?;
    let last = usize::try_from(found).ok().and_then(|found| found.checked_sub(1)).and_then(|last| steps.get(last));
    let step = last.ok_or_else(|| StoreError::Database(told("no step")))?;
    run(session, "", found, found - 1, step.down).await
}

/// Refuses a database that is not of the newest schema.
///
/// # Errors
/// [`StoreError::NotAStore`], [`StoreError::OldSchema`], [`StoreError::UnknownSchema`].
pub(super) async fn require_newest(session: &Session, place: &str) -> Result<(), StoreError> {
    let known = POSTGRES_SCHEMA_VERSION;
    match identify(session, place).await? {
        0 => Err(StoreError::NotAStore { path: PathBuf::from(place) }),
        found if found == known => Ok(()),
        found if found < known && found > 0 => Err(StoreError::OldSchema { found, known }),
        found => Err(StoreError::UnknownSchema { found, known }),
    }
}

#[cfg(test)]
mod tests;

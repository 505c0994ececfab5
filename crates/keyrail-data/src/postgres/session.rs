//! One session of a PostgreSQL server, with a limit on everything that it waits for.

use std::time::{Duration, Instant};

use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row as _, ValueRef};
use tokio::runtime::{Builder, Runtime};

use crate::error::AssetError;
use crate::postgres::failure::{classify, is_away};
use crate::postgres::url::Place;
use crate::postgres::wire::Param;

/// How long a connection may take.
const CONNECT_SECONDS_MAX: u64 = 10;

/// How long a server that went away is waited for in the middle of the work.
const AWAY_SECONDS_MAX: u64 = 20;

/// The longest pause between two attempts to reach it.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long a statement of a page may run on the server, in milliseconds.
const STATEMENT_MILLIS_MAX: u64 = 60_000;

/// How long a transaction may be open with nobody at work, in milliseconds: the server ends it, should this process
/// be stopped in the middle. No transaction of ours lasts longer than one page.
const IDLE_MILLIS_MAX: u64 = 60_000;

/// How long an answer is waited for beyond what the server may take: one that says nothing at all is away.
const ANSWER_MARGIN: Duration = Duration::from_secs(15);

/// How long looking at a table and cleaning up may take.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(3_600);

/// A session, which is made anew where it is lost.
pub(super) struct Session {
    place: Place,
    connection: Option<PgConnection>,
    /// How long the next statements may take.
    limit: Duration,
    /// A runtime of its own, driven by the calling thread alone: an answer wakes nobody else on its way.
    runtime: Option<Runtime>,
}

impl Session {
    /// Connects once.
    pub(super) fn open(place: &Place) -> Result<Self, AssetError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| classify(error.into()))?;
        let limit = Duration::from_millis(STATEMENT_MILLIS_MAX);
        let mut session = Self { place: place.clone(), connection: None, limit, runtime: Some(runtime) };
        session.connect()?;
        Ok(session)
    }

    fn connect(&mut self) -> Result<(), AssetError> {
        let Some(runtime) = &self.runtime else { return Err(away()) };
        // Each time anew: the password may be another one by now.
        let options = &self.place.options()?;
        let connecting = async {
            let mut connection = PgConnection::connect_with(options).await?;
            sqlx::raw_sql(AssertSqlSafe(settings())).execute(&mut connection).await?;
            Ok(connection)
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(CONNECT_SECONDS_MAX), connecting).await };
        let connection = runtime.block_on(limited).map_err(|_| away())?.map_err(classify)?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Makes the session anew if it was lost, and waits a while for a server that is away.
    pub(super) fn ensure(&mut self) -> Result<(), AssetError> {
        let (deadline, mut pause) = (Instant::now() + Duration::from_secs(AWAY_SECONDS_MAX), Duration::from_millis(20));
        while self.connection.is_none() {
            match self.connect() {
                Err(error) if is_away(&error) && Instant::now() < deadline => std::thread::park_timeout(pause),
                done => done?,
            }
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
        Ok(())
    }

    /// Ends the session; the next statement makes another.
    pub(super) fn drop_connection(&mut self) {
        self.connection = None;
    }

    /// Runs a statement without parameters, or several.
    pub(super) fn execute(&mut self, sql: &str) -> Result<(), AssetError> {
        let limit = self.limit + ANSWER_MARGIN;
        self.ask(|connection, runtime| {
            let asked = async {
                let running = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection);
                tokio::time::timeout(limit, running).await
            };
            runtime.block_on(asked).ok().map(|done| done.map(drop))
        })
    }

    /// The rows of a statement that will be asked again: it is prepared once.
    pub(super) fn rows(&mut self, sql: &str, params: Vec<Param>) -> Result<Vec<PgRow>, AssetError> {
        self.fetch(sql, params, true)
    }

    /// The rows of a statement that is asked once, as text.
    pub(super) fn texts(&mut self, sql: &str, params: &[&str]) -> Result<Vec<Vec<Option<String>>>, AssetError> {
        let rows = self.fetch(sql, params.iter().map(|text| Param::text(text)).collect(), false)?;
        let text = |row: &PgRow, at| cell(row, at).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Ok(rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect()).collect())
    }

    fn fetch(&mut self, sql: &str, params: Vec<Param>, again: bool) -> Result<Vec<PgRow>, AssetError> {
        let mut arguments = PgArguments::default();
        for param in params {
            sqlx::Arguments::add(&mut arguments, param).map_err(|error| classify(sqlx::Error::Encode(error)))?;
        }
        let limit = self.limit + ANSWER_MARGIN;
        self.ask(|connection, runtime| {
            let query = sqlx::query_with(AssertSqlSafe(sql.to_owned()), arguments).persistent(again);
            let asked = async { tokio::time::timeout(limit, query.fetch_all(connection)).await };
            runtime.block_on(asked).ok()
        })
    }

    /// Asks the server something; a connection that failed is not used again.
    fn ask<T>(
        &mut self,
        asked: impl FnOnce(&mut PgConnection, &Runtime) -> Option<Result<T, sqlx::Error>>,
    ) -> Result<T, AssetError> {
        let (Some(connection), Some(runtime)) = (&mut self.connection, &self.runtime) else { return Err(away()) };
        let done = asked(connection, runtime).map_or_else(|| Err(away()), |done| done.map_err(classify));
        if done.as_ref().is_err_and(is_away) {
            self.connection = None;
        }
        done
    }

    /// Lets the statements within take as long as looking at a large table does, and plan as they like.
    pub(super) fn at_leisure<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, AssetError>,
    ) -> Result<T, AssetError> {
        self.ensure()?;
        self.execute(&format!("SET statement_timeout = {}; RESET enable_seqscan; RESET enable_hashjoin; RESET enable_mergejoin; RESET enable_bitmapscan; RESET plan_cache_mode", LOOK_LIMIT.as_millis()))?;
        self.limit = LOOK_LIMIT;
        let done = work(self);
        self.limit = Duration::from_millis(STATEMENT_MILLIS_MAX);
        if self.connection.is_some() && self.execute(&settings()).is_err() {
            self.connection = None;
        }
        done
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection = None;
        if let Some(runtime) = self.runtime.take() {
            // A runtime that waits for its threads may not be dropped where async code runs.
            runtime.shutdown_background();
        }
    }
}

/// The bytes of a column; `None` for null.
pub(super) fn cell(row: &PgRow, at: usize) -> Option<&[u8]> {
    let value = row.try_get_raw(at).ok()?;
    if value.is_null() { None } else { value.as_bytes().ok() }
}

fn away() -> AssetError {
    classify(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
}

/// What a session is told first.
///
/// Where the role may say so, the server does not log the values of a page: former ones are among them, for comparison.
/// Policies that hide rows from this role fail a statement instead of shortening its answer. Locks of others are waited
/// for briefly, and never long enough for a deadlock of ours to end a transaction of theirs. A page goes by an index,
/// whatever the statistics of a table say that was never analysed. What a trigger says beside its work is not sent: it
/// may tell values, and the driver logs it. A commit is durable when it is answered, also where the application's own
/// are not: what is retired afterwards is retired for good.
fn settings() -> String {
    format!(
        "SELECT set_config('log_parameter_max_length', '0', false) WHERE has_parameter_privilege('log_parameter_max_length', 'SET'); \
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
         SET client_min_messages = error; \
         SET log_parameter_max_length_on_error = 0; SET row_security = off; SET client_encoding = 'UTF8'; SET standard_conforming_strings = on; \
         SET statement_timeout = {STATEMENT_MILLIS_MAX}; SET idle_in_transaction_session_timeout = {IDLE_MILLIS_MAX}; \
         SET lock_timeout = {}; SET default_transaction_isolation = 'read committed'; SET jit = off; \
         SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; \
         SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan; SET max_parallel_workers_per_gather = 0",
        super::LOCK_MILLIS_MAX
    )
}

//! The audit log in PostgreSQL: the head in one row, the records in one row per group commit.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use keyrail_audit::{Appended, Batch, LogStore, LogStoreError, Peaks, StoredHead, Turn};
use keyrail_core::fence::Epoch;
use keyrail_core::id::NodeId;
use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error as SqlError, Row};

use super::errors::{describe, is_broken, told};
use super::session::{Connector, POSTGRES_ANSWER_MILLIS_MAX, Session};
use super::url::PostgresUrl;
use crate::error::StoreError;

/// How many batches are read at a time.
pub const LOG_BATCHES_READ_MAX: i64 = 512;

/// How many bytes of records are read at a time; one batch is read however long it is.
pub const LOG_BYTES_READ_MAX: i64 = 8 * 1024 * 1024;

/// One connection to the log, made when it is first needed, and anew when it broke.
///
/// It is for one thread, which waits here for the database: no longer than [`POSTGRES_ANSWER_MILLIS_MAX`] for an answer,
/// after [`super::session::POSTGRES_CONNECT_MILLIS_MAX`] for each host.
pub struct PgLog {
    connector: Arc<Connector>,
    session: Option<Session>,
    /// Whether the session holds the head in a transaction.
    holds: bool,
    /// Made on the thread that uses it, and the last to go.
    runtime: Option<Runtime>,
}

impl Drop for PgLog {
    /// Whoever drops it may be in an async runtime, where another one cannot be waited for.
    fn drop(&mut self) {
        self.session = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl PgLog {
    /// The log of the store at `url`; nothing is connected yet.
    ///
    /// # Errors
    /// [`StoreError::File`]: a certificate or key cannot be read.
    pub fn new(url: PostgresUrl) -> Result<Self, StoreError> {
        Ok(Self::of(Arc::new(Connector::new(url, true)?)))
    }

    /// The same for who only reads: a standby will do.
    ///
    /// # Errors
    /// As [`PgLog::new`].
    pub fn reading(url: PostgresUrl) -> Result<Self, StoreError> {
        Ok(Self::of(Arc::new(Connector::new(url, false)?)))
    }

    pub(super) fn of(connector: Arc<Connector>) -> Self {
        Self { connector, session: None, holds: false, runtime: None }
    }

    /// Another connection to the same log.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(Arc::clone(&self.connector))
    }

    /// Does `work` on a connection, within the limit of time. A connection that broke, or on which something is still on
    /// its way, is dropped, and with it a transaction that it was in.
    fn with<T>(
        &mut self,
        keeps_hold: bool,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, LogStoreError>,
    ) -> Result<T, LogStoreError> {
        let runtime = match self.runtime.take() {
            Some(runtime) => runtime,
            None => {
                let built = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
                built.map_err(|error| LogStoreError::Failed(error.into()))?
            }
        };
        let usable = !self.holds || keeps_hold;
        let kept = self.session.take().filter(|session| usable && !session.is_closed());
        self.holds = false;
        let connector = &self.connector;
        let done = runtime.block_on(async {
            let mut session = match kept {
                Some(session) => session,
                None => connector.connect().await.map_err(|error| LogStoreError::Failed(error.into()))?,
            };
            let limit = Duration::from_millis(POSTGRES_ANSWER_MILLIS_MAX);
            let done = tokio::time::timeout(limit, work(&mut session)).await;
            done.unwrap_or_else(|_| Err(LogStoreError::Unknown(told("no answer within the time"))))
                .map(|done| (done, session))
        });
        self.runtime = Some(runtime);
        let (done, session) = done?;
        self.session = Some(session);
        Ok(done)
    }

    /// Asks for rows; nothing is changed.
    fn rows(&mut self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, LogStoreError> {
        self.with(false, async |session| session.query(sql, values).await.map_err(failed))
    }

    /// Runs a statement that is a transaction for itself; gives its rows.
    fn run(&mut self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, LogStoreError> {
        self.with(false, async |session| {
            let statement = session.prepare(sql).await.map_err(failed)?;
            session.calm();
            let rows = session.client().query(&statement, values).await.map_err(unless_undone)?;
            require_calm(session)?;
            Ok(rows)
        })
    }

    fn append_alone(&mut self, values: &[&(dyn ToSql + Sync)]) -> Result<u64, LogStoreError> {
        self.with(false, async |session| {
            let statement = session.prepare(APPEND).await.map_err(failed)?;
            session.calm();
            let stored = session.client().execute(&statement, values).await.map_err(unless_occupied)?;
            require_calm(session)?;
            Ok(stored)
        })
    }

    /// Appends in the transaction that holds the head, and ends it.
    fn append_held(&mut self, values: &[&(dyn ToSql + Sync)]) -> Result<u64, LogStoreError> {
        self.with(true, async |session| {
            let statement = session.prepare(APPEND).await.map_err(failed)?;
            session.calm();
            let client = session.client();
            let (stored, committed) = join(client.execute(&statement, values), client.batch_execute("COMMIT")).await;
            // A statement that failed made the COMMIT a rollback.
            let stored = stored.map_err(unless_occupied)?;
            committed.map_err(unless_undone)?;
            require_calm(session)?;
            Ok(stored)
        })
    }
}

/// The wait for a standby was broken off: what was committed may be lost with this server.
fn require_calm(session: &Session) -> Result<(), LogStoreError> {
    match session.warning() {
        Some(_) => Err(LogStoreError::Unknown(told("the wait for the standby was broken off"))),
        None => Ok(()),
    }
}

fn failed(error: SqlError) -> LogStoreError {
    LogStoreError::Failed(describe(error))
}

/// An error that the server answers with undoes the statement. Where it ends the session instead, or nothing is heard
/// of it, the statement may be done.
fn unless_undone(error: SqlError) -> LogStoreError {
    let unknown = is_broken(&error);
    let said = describe(error);
    if unknown { LogStoreError::Unknown(said) } else { LogStoreError::Failed(said) }
}

/// The same of an append: the head was the expected one, so that no writer of the log left the row that is in the way.
fn unless_occupied(error: SqlError) -> LogStoreError {
    match error.code() {
        Some(&SqlState::UNIQUE_VIOLATION) => LogStoreError::Occupied,
        _ => unless_undone(error),
    }
}

impl LogStore for PgLog {
    fn create(&mut self, head: &StoredHead, note: &str) -> Result<(), LogStoreError> {
        let row = HeadRow::of(head)?;
        let size = row.size;
        let made = self.run(CREATE, &[&size, &row.root, &row.peaks, &row.tag, &row.epoch, &row.fence, &note])?;
        if made.is_empty() { Err(LogStoreError::Failed(told("there is a log with records already"))) } else { Ok(()) }
    }

    fn head(&mut self, turn: Turn) -> Result<StoredHead, LogStoreError> {
        let rows = match turn {
            Turn::Look => self.rows(HEAD, &[])?,
            Turn::Take => {
                let rows = self.with(false, async |session| {
                    let statement = session.prepare(HEAD_HELD).await.map_err(failed)?;
                    let client = session.client();
                    let (begun, rows) = join(client.batch_execute(BEGIN), client.query(&statement, &[])).await;
                    begun.map_err(failed)?;
                    rows.map_err(failed)
                })?;
                self.holds = true;
                rows
            }
        };
        head_of(&rows)
    }

    fn release(&mut self) {
        if self.holds {
            // A session on which it fails is dropped, and the server ends its transaction.
            let _ended =
                self.with(true, async |session| session.client().batch_execute("ROLLBACK").await.map_err(failed));
        }
    }

    fn append(&mut self, former: &StoredHead, batch: &Batch<'_>, next: &StoredHead) -> Result<Appended, LogStoreError> {
        let append = Append::new(former, batch, next)?;
        let stored = if self.holds { self.append_held(&append.values()) } else { self.append_alone(&append.values()) };
        Ok(if stored? == 1 { Appended::Stored } else { Appended::Moved })
    }

    fn fence(&mut self) -> Result<StoredHead, LogStoreError> {
        head_of(&self.run(FENCE, &[])?)
    }

    fn find(&mut self, node: NodeId, number: u64) -> Result<Option<Batch<'static>>, LogStoreError> {
        let (node, number): (&[u8], i64) = (node.as_bytes(), self::number(number)?);
        let rows = self.rows(FIND, &[&node, &number])?;
        rows.first().map(batch_of).transpose()
    }

    fn read(&mut self, first: u64, count: usize) -> Result<Vec<Batch<'static>>, LogStoreError> {
        let end = i64::try_from(first.saturating_add(count as u64)).unwrap_or(i64::MAX);
        let rows = self.rows(READ, &[&number(first)?, &end, &LOG_BATCHES_READ_MAX, &LOG_BYTES_READ_MAX])?;
        rows.iter().map(batch_of).collect()
    }

    fn checkpoint(&mut self) -> Result<String, LogStoreError> {
        let rows = self.rows(CHECKPOINT, &[])?;
        column(rows.first().ok_or(LogStoreError::NoLog)?, "note")
    }

    fn publish(&mut self, former: &str, size: u64, note: &str) -> Result<bool, LogStoreError> {
        Ok(!self.run(PUBLISH, &[&number(size)?, &note, &former])?.is_empty())
    }
}

/// What [`APPEND`] is given.
pub(super) struct Append<'a> {
    former: HeadRow,
    next: HeadRow,
    count: i64,
    node: &'a [u8],
    number: i64,
    records: &'a [u8],
    tag: &'a [u8],
}

impl<'a> Append<'a> {
    pub(super) fn new(former: &StoredHead, batch: &'a Batch<'_>, next: &StoredHead) -> Result<Self, LogStoreError> {
        Ok(Self {
            former: HeadRow::of(former)?,
            next: HeadRow::of(next)?,
            count: number(batch.count)?,
            node: batch.node.as_bytes(),
            number: number(batch.number)?,
            records: &batch.records,
            tag: &batch.tag,
        })
    }

    pub(super) fn values(&self) -> [&(dyn ToSql + Sync); 14] {
        let Self { former, next, count, node, number, records, tag } = self;
        [
            &next.size,
            &next.peaks,
            &next.root,
            &next.tag,
            &former.size,
            &former.root,
            &former.epoch,
            &former.fence,
            count,
            node,
            number,
            records,
            tag,
            &next.epoch,
        ]
    }
}

/// The head in the forms that the columns have.
struct HeadRow {
    size: i64,
    root: Vec<u8>,
    peaks: Vec<u8>,
    tag: Vec<u8>,
    epoch: i64,
    fence: i64,
}

impl HeadRow {
    fn of(head: &StoredHead) -> Result<Self, LogStoreError> {
        Ok(Self {
            size: number(head.peaks.size())?,
            root: head.peaks.root().to_vec(),
            peaks: head.peaks.hashes().concat(),
            tag: head.tag.to_vec(),
            epoch: number(head.epoch.0)?,
            fence: number(head.fence)?,
        })
    }
}

pub(super) fn head_of(rows: &[Row]) -> Result<StoredHead, LogStoreError> {
    let row = rows.first().ok_or(LogStoreError::NoLog)?;
    let peaks: Vec<u8> = column(row, "peaks")?;
    let malformed = || LogStoreError::Malformed { column: "peaks" };
    let (hashes, rest) = peaks.as_chunks::<32>();
    let peaks =
        Peaks::new(unsigned(row, "size")?, hashes.to_vec()).filter(|_| rest.is_empty()).ok_or_else(malformed)?;
    Ok(StoredHead {
        peaks,
        tag: array(row, "tag")?,
        epoch: Epoch(unsigned(row, "epoch")?),
        fence: unsigned(row, "fence")?,
    })
}

pub(super) fn batch_of(row: &Row) -> Result<Batch<'static>, LogStoreError> {
    Ok(Batch {
        first: unsigned(row, "first")?,
        count: unsigned(row, "count")?,
        epoch: Epoch(unsigned(row, "epoch")?),
        node: NodeId::from_bytes(array(row, "node")?),
        number: unsigned(row, "number")?,
        root: array(row, "root")?,
        records: Cow::Owned(column(row, "records")?),
        tag: array(row, "tag")?,
    })
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &'static str) -> Result<T, LogStoreError> {
    row.try_get(name).map_err(|_| LogStoreError::Malformed { column: name })
}

fn unsigned(row: &Row, name: &'static str) -> Result<u64, LogStoreError> {
    let found: i64 = column(row, name)?;
    u64::try_from(found).map_err(|_| LogStoreError::Malformed { column: name })
}

fn array<const N: usize>(row: &Row, name: &'static str) -> Result<[u8; N], LogStoreError> {
    let found: &[u8] = column(row, name)?;
    found.try_into().map_err(|_| LogStoreError::Malformed { column: name })
}

/// A number as the database has it. None of the log's comes near the limit.
fn number(number: u64) -> Result<i64, LogStoreError> {
    i64::try_from(number).map_err(|error| LogStoreError::Failed(error.into()))
}

/// A log without records is what a maker left that was killed: it is no evidence.
const CREATE: &str = "/* log create */ WITH head AS (\
    INSERT INTO keyrail.audit_head AS known (size, root, peaks, tag, epoch, fence) VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (\"only\") DO UPDATE SET root = $2, peaks = $3, tag = $4 WHERE known.size = 0 RETURNING 1) \
    INSERT INTO keyrail.audit_checkpoint (size, note) SELECT $1, $7 FROM head \
    ON CONFLICT (\"only\") DO UPDATE SET size = $1, note = $7 RETURNING size";

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

const HEAD: &str = "/* log head */ SELECT size, peaks, tag, epoch, fence FROM keyrail.audit_head";

pub(super) const HEAD_HELD: &str =
    "/* log take */ SELECT size, peaks, tag, epoch, fence FROM keyrail.audit_head FOR UPDATE";

/// One statement, one round trip, one commit. Whoever changes the head meanwhile makes the condition be asked again of
/// what he left, under the row's lock: then nothing is stored.
pub(super) const APPEND: &str = "/* log append */ WITH head AS (\
    UPDATE keyrail.audit_head SET size = $1, peaks = $2, root = $3, tag = $4, epoch = $14 \
    WHERE size = $5 AND root = $6 AND epoch = $7 AND fence = $8 RETURNING 1) \
    INSERT INTO keyrail.audit_batch (first, count, epoch, node, number, root, records, tag) \
    SELECT $5, $9, $7, $10, $11, $3, $12, $13 FROM head";

pub(super) const FENCE: &str = "/* log fence */ UPDATE keyrail.audit_head SET fence = fence + 1 \
    RETURNING size, peaks, tag, epoch, fence";

pub(super) const FIND: &str = "/* log find */ SELECT first, count, epoch, node, number, root, records, tag \
    FROM keyrail.audit_batch WHERE node = $1 AND number = $2";

/// The batch that holds the first record, and the next ones, as far as they are not too many or too long together.
const READ: &str = "/* log read */ SELECT first, count, epoch, node, number, root, records, tag FROM (\
    SELECT found.*, sum(octet_length(records)) OVER (ORDER BY first) - octet_length(records) AS before FROM (\
    SELECT * FROM keyrail.audit_batch \
    WHERE first >= coalesce((SELECT max(first) FROM keyrail.audit_batch WHERE first <= $1), 0) AND first < $2 \
    ORDER BY first LIMIT $3) AS found) AS summed WHERE before <= $4 ORDER BY first";

const CHECKPOINT: &str = "/* log checkpoint */ SELECT note FROM keyrail.audit_checkpoint";

/// The column of the size is for people who look: nothing is decided by it.
const PUBLISH: &str = "/* log publish */ UPDATE keyrail.audit_checkpoint SET size = $1, note = $2 WHERE note = $3 \
    RETURNING size";

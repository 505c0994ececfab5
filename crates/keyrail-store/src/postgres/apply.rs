//! A transaction, from its first statement to a commit whose fate is known or said to be unknown.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{join, join_all, join3};
use keyrail_audit::{Appending, EncloseError, Enclosed, LogError, LogStoreError};
use keyrail_core::fence::Epoch;
use rand::RngExt as _;
use tokio_postgres::{Client, Row, Statement};

use super::Inner;
use super::errors::{classify, classify_commit, classify_write, is_broken, is_repeatable, told};
use super::lease::TELL;
use super::log::{APPEND, Append, HEAD_HELD, head_of};
use super::pool::Pooled;
use super::session::answered;
use super::sql::{Bound, DIALECT};
use crate::driver::{Transaction, Write};
use crate::error::StoreError;
use crate::statement::Statement as Words;

/// How often a transaction is done again that the server undid for the sake of another one.
pub const POSTGRES_RETRIES_MAX: u32 = 4;

/// How long the first repetition waits at most, in milliseconds; each further one twice as long.
pub const POSTGRES_RETRY_MILLIS: u64 = 10;

/// How many statements are sent before the first answer is awaited.
const PIPELINE_MAX: usize = 24;

/// Nothing here is read and decided upon: each write names the row and the generation that it is for, and the server
/// judges that under the row's lock. So this level is enough, and serialization failures come from the server's own
/// defaults alone.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// Whether a commit that is done now waits for a standby.
pub(super) const WAITS: &str = "/* waits */ SELECT current_setting('synchronous_standby_names') <> ''";

impl Inner {
    /// Does it, again where that is safe and has a chance.
    pub(super) async fn apply(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let mut tries = 0;
        loop {
            let error = match self.try_once(transaction).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = match &error {
                // A connection that broke before the commit was sent: once more, on a new one.
                StoreError::Unreachable(_) => tries == 0,
                busy => is_repeatable(busy) && tries < POSTGRES_RETRIES_MAX,
            };
            if !again {
                return Err(error);
            }
            let longest = POSTGRES_RETRY_MILLIS << tries;
            let wait = rand::rng().random_range(0..=longest);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            tries += 1;
        }
    }

    async fn try_once(&self, transaction: &Transaction) -> Result<(), StoreError> {
        if !self.writes {
            return Err(StoreError::ReadOnly);
        }
        let mut pooled = self.pool.get().await?;
        let placed = match answered(self.write(&mut pooled, transaction)).await {
            Ok(placed) => placed,
            Err(StoreError::Unreachable(source)) => {
                self.pool.distrust();
                return Err(StoreError::Unreachable(source));
            }
            Err(error) => {
                let undone =
                    answered(async { pooled.session.client().batch_execute("ROLLBACK").await.map_err(classify) });
                if undone.await.is_ok() {
                    pooled.keep();
                }
                return Err(error);
            }
        };
        self.commit(pooled).await?;
        if let (Some(enclosed), Some((first, epoch))) = (&transaction.enclosed, placed) {
            enclosed.stored(first, epoch);
        }
        Ok(())
    }

    /// Begins and does all writes; the first failure in their order is the one that counts. Gives the place of the record
    /// that goes with them, and the epoch after it.
    async fn write(&self, pooled: &mut Pooled, transaction: &Transaction) -> Result<Option<(u64, Epoch)>, StoreError> {
        let waits = pooled.session.prepare(WAITS).await.map_err(classify)?;
        let mut ready = Vec::with_capacity(transaction.writes.len());
        for write in &transaction.writes {
            let words = DIALECT.write(write);
            let failed = |error| classify_write(error, write.table().name);
            ready.push((write, pooled.session.prepare(&words.sql).await.map_err(failed)?, words));
        }
        // All is sent at once, in this order; the answers come in the same order.
        let (placed, mut rest) = (None, ready.as_slice());
        let placed = match &transaction.enclosed {
            None => {
                let (first, later) = ready.split_at(ready.len().min(PIPELINE_MAX));
                let client = pooled.session.client();
                let (begun, waits, done) =
                    join3(client.batch_execute(BEGIN), client.query_one(&waits, &[]), send(client, first)).await;
                begun.map_err(|error| match is_broken(&error) {
                    true => classify(error),
                    // What was sent behind it may have been done, each write for itself.
                    false => StoreError::Indeterminate { source: error.into() },
                })?;
                self.require_standby(&waits.map_err(classify)?)?;
                judge(first, done)?;
                rest = later;
                placed
            }
            // The record first: whoever holds the head comes before all others, also in the rows.
            Some(enclosed) => {
                let held = pooled.session.prepare(HEAD_HELD).await.map_err(classify)?;
                let append = pooled.session.prepare(APPEND).await.map_err(classify)?;
                let client = pooled.session.client();
                let (begun, waits, head) =
                    join3(client.batch_execute(BEGIN), client.query_one(&waits, &[]), client.query(&held, &[])).await;
                begun.map_err(classify)?;
                self.require_standby(&waits.map_err(classify)?)?;
                Some(append_enclosed(client, &append, enclosed, &head.map_err(classify)?).await?)
            }
        };
        let client = pooled.session.client();
        for next in rest.chunks(PIPELINE_MAX) {
            judge(next, send(client, next).await)?;
        }
        Ok(placed)
    }

    pub(super) fn require_standby(&self, waits: &Row) -> Result<(), StoreError> {
        let waits: bool = waits.try_get(0).map_err(classify)?;
        if !waits && self.standby_demanded.load(Ordering::Relaxed) {
            return Err(StoreError::NoStandby);
        }
        Ok(())
    }

    /// Commits, and looks whether that happened as it must: a warning means that the wait for the standby was broken
    /// off, and standbys that are named no more that there was no wait.
    async fn commit(&self, mut pooled: Pooled) -> Result<(), StoreError> {
        let work = async {
            let waits = pooled.session.prepare(WAITS).await.map_err(classify)?;
            pooled.session.calm();
            Ok(waits)
        };
        let waits = answered(work).await?;
        let client = pooled.session.client();
        let both = join(client.batch_execute("COMMIT"), client.query_one(&waits, &[]));
        let limit = Duration::from_millis(super::session::POSTGRES_ANSWER_MILLIS_MAX);
        let unknown = |why: &str| StoreError::Indeterminate { source: told(why) };
        let Ok((committed, waits)) = tokio::time::timeout(limit, both).await else {
            self.pool.distrust();
            return Err(unknown("no answer to the commit within the time"));
        };
        committed.map_err(|error| {
            if is_broken(&error) {
                self.pool.distrust();
            }
            classify_commit(error)
        })?;
        if pooled.session.warning().is_some() {
            return Err(unknown("the wait for the standby was broken off"));
        }
        if self.standby_demanded.load(Ordering::Relaxed) {
            let waits = waits.and_then(|row| row.try_get::<_, bool>(0));
            if !waits.is_ok_and(|waits| waits) {
                return Err(unknown("it is not known whether the commit waited for a standby"));
            }
        }
        pooled.keep();
        Ok(())
    }
}

/// Appends the record of a change to the head that is held.
async fn append_enclosed(
    client: &Client,
    statement: &Statement,
    enclosed: &Enclosed,
    head: &[Row],
) -> Result<(u64, Epoch), StoreError> {
    let head = match head_of(head) {
        Err(LogStoreError::NoLog) => return Err(StoreError::NoLog),
        head => head.map_err(|source| log_failed(LogError::Database { action: "read", source }))?,
    };
    let Appending { former, batch, next } = enclosed.onto(head).map_err(|error| match error {
        EncloseError::Log(error) => log_failed(error),
        // Whoever sees another state begins anew.
        _ => StoreError::Fenced,
    })?;
    let append = Append::new(&former, &batch, &next)
        .map_err(|source| log_failed(LogError::Database { action: "write", source }))?;
    let values = append.values();
    let tell = async {
        match next.epoch == former.epoch {
            true => Ok(()),
            false => client.batch_execute(TELL).await,
        }
    };
    let (appended, told) = join(client.execute(statement, &values), tell).await;
    let appended = appended.map_err(|error| match classify_write(error, "audit_batch") {
        // No writer of the log left what is in the way.
        StoreError::Exists { .. } => {
            log_failed(LogError::Database { action: "write", source: LogStoreError::Occupied })
        }
        other => other,
    })?;
    told.map_err(classify)?;
    match appended {
        1 => Ok((batch.first, next.epoch)),
        // The head is held: nobody else can have moved it.
        _ => Err(StoreError::Conflict { table: "audit_head" }),
    }
}

fn log_failed(error: LogError) -> StoreError {
    StoreError::Log(Box::new(error))
}

type Ready<'a> = (&'a Write, Statement, Words<'a>);

async fn send(client: &Client, ready: &[Ready<'_>]) -> Vec<Result<u64, tokio_postgres::Error>> {
    let sent = ready.iter().map(|(_, statement, words)| {
        let values = words.values.iter().map(|value| Bound(value));
        client.execute_raw(statement, values.collect::<Vec<_>>())
    });
    join_all(sent).await
}

fn judge(ready: &[Ready<'_>], done: Vec<Result<u64, tokio_postgres::Error>>) -> Result<(), StoreError> {
    for ((write, ..), done) in ready.iter().zip(done) {
        write.require(done.map_err(|error| classify_write(error, write.table().name))?)?;
    }
    Ok(())
}

//! Leases of nodes, on a connection of its own: what each node may work under, when that changes, and which of them does
//! the work that one does for all.

use std::sync::Arc;

use futures_util::future::{join, join3};
use keyrail_core::fence::{Epoch, LeaseRow, Renewal};
use keyrail_core::id::NodeId;
use tokio::sync::{Mutex, Notify};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Inner;
use super::errors::{classify, classify_commit, told};
use super::session::{Session, answered};
use crate::error::StoreError;

/// How long the server keeps a connection that a node lets rest, in milliseconds: with it goes the right to do the work
/// of all, also that of a process that was halted.
pub const LEASE_SESSION_IDLE_MILLIS: u64 = 10_000;

/// The lock of the node that does the work of all; "keyrail" and a number of ours.
const WORK_LOCK: i64 = 0x6b65_7972_6169_0003;

/// What a raised epoch is told by.
pub(super) const TELL: &str = "/* tell */ NOTIFY keyrail_epoch";

/// The leases of a store's nodes, as one of them sees them.
pub struct PgLeases {
    inner: Arc<Inner>,
    /// The connection that renews, holds the lock and hears of epochs.
    session: Mutex<Option<Held>>,
    heard: Arc<Notify>,
}

struct Held {
    session: Session,
    works: bool,
}

/// What a renewal brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Renewed {
    /// The node's row as it is now.
    pub row: LeaseRow,
    /// The epoch that is granted.
    pub epoch: Epoch,
    /// Whether this node does the work that one does for all.
    pub works: bool,
}

/// Why there is no renewal.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// A renewal that was given up was granted all the same, or somebody took the row away: it is of this generation.
    #[error("the lease is of generation {found}")]
    Superseded {
        /// The generation of the row; 0 if there is none.
        found: u64,
    },
    /// The database does not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PgLeases {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self { inner, session: Mutex::default(), heard: Arc::default() }
    }

    /// Renews a lease. A renewal that fails may be granted all the same: the next one says which generation it knows.
    ///
    /// # Errors
    /// [`RenewError`].
    pub async fn renew(&self, asked: &Renewal) -> Result<Renewed, RenewError> {
        let mut place = self.session.lock().await;
        // Taken out while it is used: whoever gives up leaves none that something is still on its way on.
        let mut held = match place.take().filter(|held| !held.session.is_closed()) {
            Some(held) => held,
            None => self.connect().await?,
        };
        let renewed = renew_on(&held.session, asked).await?;
        if !held.works {
            held.works = try_lock(&held.session).await?;
        }
        let works = held.works;
        *place = Some(held);
        Ok(Renewed { works, ..renewed })
    }

    async fn connect(&self) -> Result<Held, StoreError> {
        let session = self.inner.pool.connector().connect().await?;
        session.tell_of_news(Arc::clone(&self.heard));
        let sql = format!("/* hear */ SET idle_session_timeout = {LEASE_SESSION_IDLE_MILLIS}; LISTEN keyrail_epoch");
        answered(async { session.client().batch_execute(&sql).await.map_err(classify) }).await?;
        Ok(Held { session, works: false })
    }

    /// Ends when another epoch was told of; a connection that broke tells of none.
    pub async fn heard(&self) {
        self.heard.notified().await;
    }

    /// All leases.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn all(&self) -> Result<Vec<LeaseRow>, StoreError> {
        self.inner.query(ALL, &[]).await?.iter().map(lease_of).collect()
    }

    /// Takes a lease away that is over, unless it was renewed since.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer.
    pub async fn remove(&self, row: &LeaseRow) -> Result<(), StoreError> {
        let (node, generation): (&[u8], i64) = (row.node.as_bytes(), signed(row.generation)?);
        self.inner.query(REMOVE, &[&node, &generation]).await.map(drop)
    }

    /// Gives up a node's lease, and the right to do the work of all. The node decides nothing any more.
    ///
    /// # Errors
    /// [`StoreError`] when the database does not answer: then the lease ends by itself.
    pub async fn release(&self, node: NodeId) -> Result<(), StoreError> {
        *self.session.lock().await = None;
        let node: &[u8] = node.as_bytes();
        self.inner.query(RELEASE, &[&node]).await.map(drop)
    }
}

/// The renewal itself. Whoever makes a change holds the head until it is committed: the epoch that is read here stands
/// until this is committed, and then he finds the row.
async fn renew_on(session: &Session, asked: &Renewal) -> Result<Renewed, RenewError> {
    let (node, client): (&[u8], _) = (asked.node.as_bytes(), session.client());
    let former: [&(dyn ToSql + Sync); 1] = [&node];
    let read = async {
        let (begun, epoch, row) =
            join3(client.batch_execute(BEGIN), client.query(EPOCH, &[]), client.query(FORMER, &former)).await;
        begun.map_err(classify)?;
        Ok((epoch.map_err(classify)?, row.map_err(classify)?))
    };
    let (epoch, row) = answered(read).await?;
    let epoch: i64 = epoch.first().ok_or(StoreError::NoLog)?.try_get(0).map_err(classify)?;
    let epoch = Epoch(unsigned(epoch)?);
    let former = row.first().map(lease_of).transpose()?;
    let row = match LeaseRow::renewed(former.as_ref(), asked, epoch) {
        Ok(row) => row,
        Err(superseded) => {
            answered(async { client.batch_execute("ROLLBACK").await.map_err(classify) }).await?;
            return Err(RenewError::Superseded { found: superseded.found });
        }
    };
    let (its_epoch, millis, generation) = (signed(row.epoch.0)?, signed(row.millis)?, signed(row.generation)?);
    let values: [&(dyn ToSql + Sync); 4] = [&node, &its_epoch, &millis, &generation];
    session.calm();
    let stored = async { Ok(join(client.execute(RENEW, &values), client.batch_execute("COMMIT")).await) };
    let (stored, committed) = answered(stored).await?;
    stored.map_err(classify)?;
    committed.map_err(classify_commit)?;
    if session.warning().is_some() {
        // Lost with this server, nobody would wait for it.
        return Err(StoreError::Unreachable(told("the wait for the standby was broken off")).into());
    }
    Ok(Renewed { row, epoch, works: false })
}

async fn try_lock(session: &Session) -> Result<bool, StoreError> {
    let sql = format!("/* work */ SELECT pg_try_advisory_lock({WORK_LOCK})");
    answered(async { session.client().query_one(&sql, &[]).await.and_then(|row| row.try_get(0)).map_err(classify) })
        .await
}

fn lease_of(row: &Row) -> Result<LeaseRow, StoreError> {
    let malformed = |column| StoreError::Malformed { table: "node_lease", column };
    let number = |column: &'static str| row.try_get::<_, i64>(column).map_err(|_| malformed(column)).and_then(unsigned);
    let node: &[u8] = row.try_get("node").map_err(|_| malformed("node"))?;
    Ok(LeaseRow {
        node: NodeId::from_bytes(node.try_into().map_err(|_| malformed("node"))?),
        epoch: Epoch(number("epoch")?),
        // Whoever writes rows by hand makes no change wait for longer than that.
        millis: number("millis")?.min(LEASE_MILLIS_MAX),
        generation: number("generation")?,
    })
}

/// The longest that a change waits for one node, in milliseconds; no node asks for as much.
const LEASE_MILLIS_MAX: u64 = 60_000;

fn unsigned(number: i64) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|error| StoreError::Database(error.into()))
}

fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|error| StoreError::Database(error.into()))
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

/// The epoch, which stays as it is until this transaction has ended.
const EPOCH: &str = "/* lease epoch */ SELECT epoch FROM keyrail.audit_head FOR SHARE";

const FORMER: &str =
    "/* lease former */ SELECT node, epoch, millis, generation FROM keyrail.node_lease WHERE node = $1 FOR UPDATE";

const RENEW: &str = "/* lease renew */ INSERT INTO keyrail.node_lease (node, epoch, millis, generation) \
    VALUES ($1, $2, $3, $4) ON CONFLICT (node) DO UPDATE SET epoch = $2, millis = $3, generation = $4";

const ALL: &str = "/* leases */ SELECT node, epoch, millis, generation FROM keyrail.node_lease";

const REMOVE: &str = "/* lease remove */ DELETE FROM keyrail.node_lease WHERE node = $1 AND generation = $2";

const RELEASE: &str = "/* lease release */ DELETE FROM keyrail.node_lease WHERE node = $1";

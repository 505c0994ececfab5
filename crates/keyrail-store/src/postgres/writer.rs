//! One process writes: a lock of the server for its life, and an epoch that fences whoever lost it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::errors::{classify, told};
use super::pool::POSTGRES_ACQUIRE_MILLIS_MAX;
use super::session::{Connector, Session, answered};
use crate::error::StoreError;

/// The lock that the writer holds on a connection of its own; "keyrail" and a number of ours.
const WRITER_LOCK: i64 = 0x6b65_7972_6169_0002;

/// The right to write, which ends with the process or with its connection to the server.
///
/// The lock keeps a second process from starting. It is not enough against a process that was halted while the server
/// gave the lock away; so each writer raises an epoch when it begins, and every transaction holds the epoch that it was
/// begun under until it is committed ([`GUARD`]). A former writer's transactions are refused from then on.
pub(super) struct Writer {
    connector: Arc<Connector>,
    epoch: i64,
    session: Mutex<Option<Session>>,
}

/// The first statement of every transaction: no row means another writer. The row stays locked until the commit, so
/// that the next writer's epoch comes after it. Tells also whether a commit waits for a standby.
pub(super) const GUARD: &str = "/* guard */ SELECT current_setting('synchronous_standby_names') <> '' \
                                FROM keyrail.meta WHERE writer_epoch = $1 FOR SHARE";

impl Writer {
    /// Becomes the writer.
    ///
    /// # Errors
    /// [`StoreError::Busy`]: another process is.
    pub(super) async fn claim(connector: Arc<Connector>) -> Result<Self, StoreError> {
        let session = locked(&connector).await?;
        let sql = "/* claim */ UPDATE keyrail.meta SET writer_epoch = writer_epoch + 1 RETURNING writer_epoch";
        let row = answered(async { session.client().query_one(sql, &[]).await.map_err(classify) }).await?;
        let epoch = row.try_get(0).map_err(classify)?;
        Ok(Self { connector, epoch, session: Mutex::new(Some(session)) })
    }

    /// The epoch that this process writes under.
    pub(super) const fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Makes sure of the lock: where its connection broke, it is taken again, if nobody else has written meanwhile.
    ///
    /// # Errors
    /// [`StoreError::TakenOver`], [`StoreError::Busy`]: another process is or may be the writer.
    pub(super) async fn hold(&self) -> Result<(), StoreError> {
        // While one takes it again, others wait as long as for a connection.
        let limit = Duration::from_millis(POSTGRES_ACQUIRE_MILLIS_MAX);
        let Ok(mut held) = tokio::time::timeout(limit, self.session.lock()).await else {
            return Err(StoreError::Unreachable(told("the writer's lock is not back within the time")));
        };
        if held.as_ref().is_some_and(|session| !session.is_closed()) {
            return Ok(());
        }
        *held = None;
        let session = locked(&self.connector).await?;
        let sql = "/* hold */ SELECT writer_epoch FROM keyrail.meta";
        let row = answered(async { session.client().query_one(sql, &[]).await.map_err(classify) }).await?;
        if row.try_get::<_, i64>(0).map_err(classify)? != self.epoch {
            return Err(StoreError::TakenOver);
        }
        *held = Some(session);
        Ok(())
    }
}

/// Waits a little for the lock: the server may not have noticed yet that a former holder is gone.
async fn locked(connector: &Connector) -> Result<Session, StoreError> {
    let session = connector.connect().await?;
    let sql = format!("/* lock */ SELECT pg_advisory_lock({WRITER_LOCK})");
    match answered(async { session.client().query_one(&sql, &[]).await.map_err(classify) }).await {
        Ok(_) => Ok(session),
        Err(StoreError::Busy(_)) => Err(StoreError::Busy(told("another process is the writer of the store"))),
        Err(error) => Err(error),
    }
}

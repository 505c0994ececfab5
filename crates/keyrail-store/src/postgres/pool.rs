//! Connections that are kept for the next one who needs one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::errors::told;
use super::session::{Connector, Session};
use crate::error::StoreError;

/// How many connections a store has at the same time, beside the one that holds its lock.
pub const POSTGRES_CONNECTIONS_MAX: usize = 10;

/// How long an operation waits for a connection, in milliseconds.
pub const POSTGRES_ACQUIRE_MILLIS_MAX: u64 = 4_000;

/// A pool with a limit.
pub(crate) struct Pool {
    connector: Arc<Connector>,
    idle: Mutex<Vec<Session>>,
    free: Arc<Semaphore>,
}

impl Pool {
    pub(super) fn new(connector: Arc<Connector>) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(POSTGRES_CONNECTIONS_MAX));
        Arc::new(Self { connector, idle: Mutex::default(), free })
    }

    /// How its connections are made.
    pub(crate) const fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// A connection: one that is at hand, else a new one.
    ///
    /// # Errors
    /// [`StoreError::Busy`] if all are taken for too long, and what connecting fails with.
    pub(crate) async fn get(self: &Arc<Self>) -> Result<Pooled, StoreError> {
        let limit = Duration::from_millis(POSTGRES_ACQUIRE_MILLIS_MAX);
        let permit = match tokio::time::timeout(limit, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(StoreError::Closed),
            Err(_) => return Err(StoreError::Busy(told("no connection became free within the time"))),
        };
        let session = loop {
            let found = self.idle.lock().pop();
            match found {
                Some(session) if session.is_closed() => {}
                Some(session) => break session,
                None => break self.connector.connect().await?,
            }
        };
        Ok(Pooled { pool: Arc::clone(self), session, permit })
    }

    /// Drops the connections at hand: one of them was found to be lost, and the others may be, too.
    pub(crate) fn distrust(&self) {
        self.idle.lock().clear();
    }
}

/// A connection in use. Dropped, it is closed; [`Pooled::keep`] gives it back.
pub(crate) struct Pooled {
    pool: Arc<Pool>,
    pub(crate) session: Session,
    permit: OwnedSemaphorePermit,
}

impl Pooled {
    /// Gives the connection back, in no transaction.
    pub(crate) fn keep(self) {
        let Self { pool, session, permit } = self;
        if !session.is_closed() {
            pool.idle.lock().push(session);
        }
        drop(permit);
    }
}

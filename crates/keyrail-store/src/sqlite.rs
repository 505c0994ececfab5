//! The store on SQLite: one writer on a thread of its own, a few readers that never wait for it.

mod errors;
mod migrate;
mod reserve;
mod snapshot;
mod sql;

use std::fs::OpenOptions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::driver::{Condition, OpenMode, Room, Select, Store, Transaction, Value};
use crate::error::StoreError;
use crate::row::Table;
use errors::{classify, classify_commit};
pub use migrate::{APPLICATION_ID, SCHEMA_VERSION};
use migrate::{FileKind, MIGRATIONS, identify, migrate, require_known, schema_findings};
use reserve::Reserve;
use snapshot::Snapshot;

/// How many connections read at the same time.
const READERS: usize = 4;

/// How many transactions wait for the writer.
const WAITING_MAX: usize = 1_024;

/// How long another process may hold the file before that is an error, in milliseconds.
const BUSY_MILLIS_MAX: u64 = 5_000;

/// How many prepared statements a connection keeps.
const STATEMENTS_MAX: usize = 128;

/// The most bytes of findings that an integrity check tells.
const INTEGRITY_FINDINGS_MAX: usize = 100;

struct Job {
    transaction: Transaction,
    since: Instant,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// A store in one SQLite file: WAL, `synchronous=FULL`, readable by its owner alone.
pub struct SqliteStore {
    path: PathBuf,
    readers: Arc<parking_lot::Mutex<Vec<Connection>>>,
    reading: Arc<Semaphore>,
    writer: Option<mpsc::Sender<Job>>,
    reserve: Arc<Reserve>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SqliteStore {
    /// Opens the store in `path`.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`], [`StoreError::UnknownSchema`], [`StoreError::OldSchema`],
    /// [`StoreError::File`], and what SQLite fails with.
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self, StoreError> {
        let failed = |source| StoreError::File { path: path.to_owned(), source };
        if mode == OpenMode::Create {
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        }
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let writer = if mode == OpenMode::Read {
            require_newest(path)?;
            None
        } else {
            let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            // A file that is not ours stays as it is.
            require_known(&connection, path)?;
            if metadata.permissions().mode() & 0o077 != 0 {
                std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
            }
            connection.pragma_update(None, "journal_mode", "WAL").map_err(classify)?;
            migrate(&mut connection, path, MIGRATIONS)?;
            Some(connection)
        };
        let reserve = Arc::new(Reserve::of(path));
        if writer.is_some() && reserve.keep().is_err() {
            tracing::warn!("the disk of the store is full: changes are refused until there is room");
        }
        let readers =
            (0..READERS).map(|_| connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)).collect::<Result<Vec<_>, _>>()?;
        let start = |connection| start_writer(connection, reserve.clone());
        let (sender, thread) = writer.map(start).transpose().map_err(failed)?.unzip();
        Ok(Self {
            path: path.to_owned(),
            readers: Arc::new(parking_lot::Mutex::new(readers)),
            reading: Arc::new(Semaphore::new(READERS)),
            writer: sender,
            reserve,
            thread,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.reading.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let readers = self.readers.clone();
        let joined = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let connection = readers.lock().pop().ok_or(StoreError::Closed)?;
            let result = work(&connection);
            readers.lock().push(connection);
            result
        });
        joined.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.writer = None;
        self.readers.lock().clear();
        if let Some(thread) = self.thread.take() {
            // The writer ends when its queue does; a panic there was told to whoever waited.
            let _ended = thread.join();
        }
    }
}

fn require_newest(path: &Path) -> Result<(), StoreError> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let known = SCHEMA_VERSION;
    match identify(&connection, path)? {
        FileKind::Store(found) if found == known => Ok(()),
        FileKind::Store(found) if found > known => Err(StoreError::UnknownSchema { found, known }),
        FileKind::Store(found) => Err(StoreError::OldSchema { found, known }),
        FileKind::Empty => Err(StoreError::NotAStore { path: path.to_owned() }),
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(classify)?;
    connection.busy_timeout(Duration::from_millis(BUSY_MILLIS_MAX)).map_err(classify)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    for (name, value) in [
        ("foreign_keys", "ON"),
        ("trusted_schema", "OFF"),
        ("synchronous", "FULL"),
        ("cell_size_check", "ON"),
        ("secure_delete", "ON"),
    ] {
        connection.pragma_update(None, name, value).map_err(classify)?;
    }
    Ok(connection)
}

/// What SQLite finds broken, and what of the schema is not as it was made.
fn findings_of(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let sql = format!("/* integrity */ PRAGMA integrity_check({INTEGRITY_FINDINGS_MAX})");
    let mut statement = connection.prepare(&sql).map_err(classify)?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0)).map_err(classify)?;
    let lines: Vec<String> = lines.collect::<Result<_, _>>().map_err(classify)?;
    let structures = lines.into_iter().filter(|line| line != "ok");
    Ok(structures.chain(schema_findings(connection)?).collect())
}

fn start_writer(
    mut connection: Connection,
    reserve: Arc<Reserve>,
) -> std::io::Result<(mpsc::Sender<Job>, std::thread::JoinHandle<()>)> {
    let (sender, mut jobs) = mpsc::channel::<Job>(WAITING_MAX);
    let thread = std::thread::Builder::new().name("keyrail-store".to_owned()).spawn(move || {
        while let Some(job) = jobs.blocking_recv() {
            let result = run(&mut connection, &job, &reserve);
            if let Err(Err(lost)) = job.done.send(result) {
                tracing::warn!(error = %lost, "a change failed and nobody waited for it");
            }
        }
    })?;
    Ok((sender, thread))
}

fn run(connection: &mut Connection, job: &Job, reserve: &Reserve) -> Result<(), StoreError> {
    let work = &job.transaction;
    if work.room == Room::Usual {
        reserve.keep()?;
    }
    // The limit holds from the moment that somebody waits: a queue behind a locked file fails as a whole.
    let left = Duration::from_millis(BUSY_MILLIS_MAX).saturating_sub(job.since.elapsed());
    connection.busy_timeout(left).map_err(classify)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(classify)?;
    for write in &work.writes {
        // Dropping the transaction rolls it back.
        sql::write(&transaction, write)?;
    }
    transaction.commit().map_err(classify_commit)
}

#[async_trait]
impl Store for SqliteStore {
    async fn select(&self, select: Select) -> Result<Vec<Vec<Value>>, StoreError> {
        self.read(move |connection| sql::select(connection, &select)).await
    }

    async fn count(&self, table: &'static Table, conditions: Vec<Condition>) -> Result<u64, StoreError> {
        self.read(move |connection| sql::count(connection, table, &conditions)).await
    }

    async fn apply(&self, transaction: Transaction) -> Result<(), StoreError> {
        let writer = self.writer.as_ref().ok_or(StoreError::ReadOnly)?;
        if transaction.enclosed.is_some() {
            return Err(StoreError::NoLog);
        }
        let (done, result) = oneshot::channel();
        writer.send(Job { transaction, since: Instant::now(), done }).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        self.read(findings_of).await
    }

    async fn snapshot(&self) -> Result<Arc<dyn Store>, StoreError> {
        let path = self.path.clone();
        let begun = tokio::task::spawn_blocking(move || Snapshot::begin(&path));
        Ok(Arc::new(begun.await.map_err(|_| StoreError::Closed)??))
    }

    async fn health(&self) -> Result<(), StoreError> {
        if self.writer.as_ref().is_some_and(mpsc::Sender::is_closed) {
            return Err(StoreError::Closed);
        }
        self.reserve.still_short()?;
        self.read(|connection| connection.query_row("/* health */ SELECT 1", [], |_| Ok(())).map_err(classify)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WAL, synced at every commit (2), rules of the schema kept, and what is deleted overwritten.
    #[test]
    fn every_connection_is_set_up_alike_and_the_file_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let store = SqliteStore::open(&path, OpenMode::Create).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let writer = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        let readers = store.readers.lock();
        assert_eq!(readers.len(), READERS);
        for connection in readers.iter().chain([&writer]) {
            let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
            let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
            assert_eq!(mode, "wal");
            let names = ["synchronous", "foreign_keys", "secure_delete", "trusted_schema", "cell_size_check"];
            assert_eq!(names.map(number), [2, 1, 1, 0, 1]);
            assert_eq!(number("busy_timeout"), BUSY_MILLIS_MAX.cast_signed());
        }
    }

    /// A full disk, played by SQLite's own limit of pages: nothing is changed, and it works again with room.
    #[test]
    fn a_full_disk_changes_nothing_and_works_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(SqliteStore::open(&path, OpenMode::Create).unwrap());
        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
        let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
        let limit = |connection: &Connection, pages: i64| {
            connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
        };
        let table = crate::row::TABLES[0];
        let job = |len: usize| {
            let row = |id: u8, len| vec![Value::Blob(vec![id; 16]), Value::Blob(vec![1; len]), Value::Integer(1)];
            let rows = [row(1, 10), row(2, len)];
            let writes = rows.into_iter().map(|mut values| {
                values.extend([Value::Integer(1), Value::Null, Value::Null, Value::Null, Value::Blob(vec![0; 32])]);
                crate::driver::Write::Insert { table, values }
            });
            let transaction = Transaction::of(writes.collect());
            Job { transaction, since: Instant::now(), done: oneshot::channel().0 }
        };
        limit(&connection, pages + 2);
        let error = run(&mut connection, &job(100_000), &Reserve::of(&path)).unwrap_err();
        assert!(matches!(error, StoreError::Full(_)), "{error}");
        assert_eq!(sql::count(&connection, table, &[]).unwrap(), 0);
        limit(&connection, pages + 1_000);
        run(&mut connection, &job(100_000), &Reserve::of(&path)).unwrap();
        assert_eq!(sql::count(&connection, table, &[]).unwrap(), 2);
    }
}

//! An application of a PostgreSQL database, with a connection of its own.

use keyrail_testkit::postgres::{Cluster, SUPERUSER};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tokio::runtime::{Builder, Runtime};

/// Its calls block; not for threads that run async code.
pub(crate) struct Client {
    connection: Option<PgConnection>,
    runtime: Runtime,
}

impl Client {
    pub(crate) fn new(cluster: &Cluster, database: &str) -> Self {
        let passwords = std::fs::read_to_string(cluster.passfile()).unwrap();
        let line = format!("*:*:*:{SUPERUSER}:");
        let password = passwords.lines().find_map(|found| found.strip_prefix(&line)).unwrap();
        let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(cluster.port());
        let options = options.username(SUPERUSER).password(password).database(database).ssl_mode(PgSslMode::Prefer);
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(options.disable_statement_logging().connect()).unwrap();
        Self { connection: Some(connection), runtime }
    }

    /// Runs statements.
    pub(crate) fn run(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let connection = self.connection.as_mut().unwrap();
        self.runtime
            .block_on(async { sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await })
            .map(drop)
    }

    /// Runs one statement with an id and, perhaps, a text.
    pub(crate) fn rows(&mut self, sql: &'static str, id: Option<i64>, text: Option<&str>) -> Vec<PgRow> {
        let connection = self.connection.as_mut().unwrap();
        let mut query = sqlx::query(sql);
        if let Some(id) = id {
            query = query.bind(id);
        }
        if let Some(text) = text {
            query = query.bind(text);
        }
        self.runtime.block_on(async { query.fetch_all(connection).await }).unwrap()
    }
}

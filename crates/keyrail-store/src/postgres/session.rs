//! One connection: made, set up, used within limits, and watched for what the server says beside its answers.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, NoTls, Row, SimpleQueryMessage, Statement};

use super::errors::{classify, told};
use super::passfile::password;
use super::tls::Rustls;
use super::url::{Host, PostgresUrl, Tls};
use crate::error::StoreError;

/// How long a server may take to accept a connection, in milliseconds, per host.
pub const POSTGRES_CONNECT_MILLIS_MAX: u64 = 3_000;

/// How long one statement may run in the server, in milliseconds.
pub const POSTGRES_STATEMENT_MILLIS_MAX: u64 = 6_000;

/// How long a statement waits for a lock, in milliseconds.
pub const POSTGRES_LOCK_MILLIS_MAX: u64 = 3_000;

/// How long an answer may take until the connection counts as lost, in milliseconds. More than a statement may run, so
/// that the server's own word comes first where it still speaks.
pub const POSTGRES_ANSWER_MILLIS_MAX: u64 = 8_000;

/// How long the server lets a transaction wait for us, in milliseconds.
pub const POSTGRES_IDLE_TRANSACTION_MILLIS_MAX: u64 = 10_000;

/// After how many quiet seconds a connection is probed, in both directions.
pub const POSTGRES_KEEPALIVE_SECONDS: u64 = 10;

/// How many prepared statements a connection keeps.
pub const POSTGRES_STATEMENTS_MAX: usize = 256;

/// The oldest server that is supported.
pub const POSTGRES_VERSION_MIN: u32 = 15;

/// How every connection of a store is made.
pub(crate) struct Connector {
    url: PostgresUrl,
    tls: Rustls,
    /// Whether a server that only follows another one is of no use.
    writes: bool,
}

impl Connector {
    /// # Errors
    /// [`StoreError::File`]: a certificate or key cannot be read.
    pub(super) fn new(url: PostgresUrl, writes: bool) -> Result<Self, StoreError> {
        let tls = Rustls::new(&url.tls)?;
        Ok(Self { url, tls, writes })
    }

    pub(super) fn url(&self) -> &PostgresUrl {
        &self.url
    }

    /// Connects to the first host that answers and is fit.
    ///
    /// # Errors
    /// What the last host failed with.
    pub(super) async fn connect(&self) -> Result<Session, StoreError> {
        let mut last = StoreError::Unreachable(told("the URL names no host"));
        for (host, port) in &self.url.hosts {
            let limit = Duration::from_millis(POSTGRES_CONNECT_MILLIS_MAX);
            match tokio::time::timeout(limit, self.connect_to(host, *port)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => last = error,
                Err(_) => last = StoreError::Unreachable(told("no connection within the time")),
            }
        }
        Err(last)
    }

    async fn connect_to(&self, host: &Host, port: u16) -> Result<Session, StoreError> {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.url.user).dbname(&self.url.database).port(port).application_name("keyrail");
        config.keepalives_idle(Duration::from_secs(POSTGRES_KEEPALIVE_SECONDS));
        config.keepalives_interval(Duration::from_secs(POSTGRES_KEEPALIVE_SECONDS)).keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_millis(POSTGRES_ANSWER_MILLIS_MAX));
        config.ssl_mode(if self.url.tls == Tls::Off { SslMode::Disable } else { SslMode::Require });
        match host {
            Host::Name(name) => config.host(name),
            Host::Socket(dir) => config.host_path(dir),
        };
        if let Some(password) = password(&self.url, host, port)? {
            config.password(password.as_bytes());
        }
        let session = match self.url.tls {
            Tls::Off => {
                let (client, connection) = config.connect(NoTls).await.map_err(classify)?;
                Session::drive(client, connection)
            }
            Tls::VerifyFull { .. } => {
                let (client, connection) = config.connect(self.tls.clone()).await.map_err(classify)?;
                Session::drive(client, connection)
            }
        };
        session.set_up(self.writes).await?;
        Ok(session)
    }
}

/// A connection that is set up.
pub(crate) struct Session {
    client: Client,
    /// Raised by a warning of the server; [`Session::commit`] looks at it.
    warned: Arc<Mutex<Option<String>>>,
    /// Who is told of notifications.
    news: Arc<Mutex<Option<Arc<Notify>>>>,
    statements: HashMap<String, Statement>,
    driver: tokio::task::AbortHandle,
}

impl Drop for Session {
    /// A session that still waits for a silent server would keep its socket for as long.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    fn drive<S, T>(client: Client, mut connection: tokio_postgres::Connection<S, T>) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (warned, news) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None::<Arc<Notify>>)));
        let (heard, listening) = (Arc::clone(&warned), Arc::clone(&news));
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    AsyncMessage::Notice(notice) if notice.parsed_severity() == Some(Severity::Warning) => {
                        *heard.lock() = Some(notice.code().code().to_owned());
                    }
                    AsyncMessage::Notification(_) => {
                        listening.lock().iter().for_each(|listener| listener.notify_one());
                    }
                    _ => {}
                }
            }
        });
        Self { client, warned, news, statements: HashMap::new(), driver: driver.abort_handle() }
    }

    async fn set_up(&self, writes: bool) -> Result<(), StoreError> {
        let sql = format!(
            "/* set up */ SET search_path = pg_catalog; SET client_min_messages = warning; \
             SET synchronous_commit = on; SET statement_timeout = {POSTGRES_STATEMENT_MILLIS_MAX}; \
             SET lock_timeout = {POSTGRES_LOCK_MILLIS_MAX}; \
             SET idle_in_transaction_session_timeout = {POSTGRES_IDLE_TRANSACTION_MILLIS_MAX}; \
             SET client_connection_check_interval = '1s'; \
             SET tcp_keepalives_idle = {POSTGRES_KEEPALIVE_SECONDS}; \
             SET tcp_keepalives_interval = {POSTGRES_KEEPALIVE_SECONDS}; SET tcp_keepalives_count = 3; \
             SELECT current_setting('server_version_num'), current_setting('server_encoding'), \
             current_setting('fsync'), pg_is_in_recovery()::text"
        );
        let answers = self.client.simple_query(&sql).await.map_err(classify)?;
        let facts = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some([0, 1, 2, 3].map(|index| row.get(index).unwrap_or_default())),
            _ => None,
        });
        let [version, encoding, fsync, follows] = facts.unwrap_or_default();
        let major = version.parse::<u32>().unwrap_or_default() / 10_000;
        if major < POSTGRES_VERSION_MIN {
            return Err(StoreError::OldServer { found: major, min: POSTGRES_VERSION_MIN });
        }
        if encoding != "UTF8" {
            return Err(StoreError::UnfitServer { setting: "server_encoding", wanted: "UTF8" });
        }
        // Also for who only reads: what a standby shows is older than what the log tells of.
        if follows == "true" {
            return Err(StoreError::UnfitServer { setting: "pg_is_in_recovery", wanted: "off" });
        }
        if writes && fsync != "on" {
            return Err(StoreError::UnfitServer { setting: "fsync", wanted: "on" });
        }
        Ok(())
    }

    /// Whether the connection is known to be gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The connection itself, for what has no method here.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The prepared form of a statement.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(known) = self.statements.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if self.statements.len() >= POSTGRES_STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Runs a query with its values.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, tokio_postgres::Error> {
        let statement = self.prepare(sql).await?;
        self.client.query(&statement, values).await
    }

    /// Tells of every notification from now on.
    pub(crate) fn tell_of_news(&self, listener: Arc<Notify>) {
        *self.news.lock() = Some(listener);
    }

    /// Forgets what the server warned of so far.
    pub(crate) fn calm(&self) {
        *self.warned.lock() = None;
    }

    /// What the server has warned of since.
    pub(crate) fn warning(&self) -> Option<String> {
        self.warned.lock().clone()
    }
}

/// Gives the server its time to answer.
///
/// # Errors
/// [`StoreError::Unreachable`] when it passes; the session must be dropped then.
pub(crate) async fn answered<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let limit = Duration::from_millis(POSTGRES_ANSWER_MILLIS_MAX);
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Unreachable(told("no answer within the time"))),
    }
}

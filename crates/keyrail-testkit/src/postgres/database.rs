//! Databases, users, and one cluster for all tests of a process.

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::ensure;

use super::{Cluster, SUPERUSER, Version};

/// The cluster that all tests of this process share, one per version. Tests that stop or kill a server start their own.
///
/// # Panics
/// It cannot be started.
#[expect(clippy::expect_used, reason = "a test without its server has nothing to say")]
pub fn shared(version: Version) -> &'static Cluster {
    static SHARED: [OnceLock<Cluster>; 2] = [const { OnceLock::new() }; 2];
    let [v15, v18] = &SHARED;
    let cell = match version {
        Version::V15 => v15,
        Version::V18 => v18,
    };
    cell.get_or_init(|| {
        let cluster = Cluster::start(version).expect("a shared PostgreSQL");
        cluster.sweep_later().expect("the sweeper of a shared PostgreSQL");
        cluster
    })
}

/// A database of one test, dropped with it.
pub struct Database<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Database<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its URL, for the superuser.
    #[must_use]
    pub fn url(&self) -> String {
        self.cluster.url(&self.name)
    }

    /// Its URL for another user.
    #[must_use]
    pub fn url_as(&self, user: &str) -> String {
        self.cluster.url_as(user, &self.name)
    }

    /// The cluster that it is in.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        self.cluster
    }

    /// Runs SQL in it as the superuser; see [`Cluster::sql`].
    ///
    /// # Errors
    /// A statement fails.
    pub fn sql(&self, sql: &str) -> anyhow::Result<String> {
        self.cluster.sql(&self.name, sql)
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // The server may be down by now; then the database goes with the cluster.
        let _not_running = self.cluster.sql("postgres", &format!("DROP DATABASE \"{}\" WITH (FORCE)", self.name));
    }
}

impl Cluster {
    /// Makes an empty database.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn create_database(&self, name: &str) -> anyhow::Result<()> {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\"")).map(drop)
    }

    /// Makes an empty database with a name of its own.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn database(&self) -> anyhow::Result<Database<'_>> {
        self.database_like("template0")
    }

    /// Makes a copy of a database, to which nobody is connected, with a name of its own.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn database_like(&self, template: &str) -> anyhow::Result<Database<'_>> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""))?;
        Ok(Database { cluster: self, name })
    }

    /// The superuser's password.
    ///
    /// # Errors
    /// Its file cannot be read.
    pub fn password(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("password"))?)
    }

    /// Makes a user with a password, which is added to the password file.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn create_user(&self, user: &str) -> anyhow::Result<()> {
        ensure!(user != SUPERUSER, "the superuser is there");
        let password = hex::encode(rand::random::<[u8; 16]>());
        self.sql("postgres", &format!("CREATE ROLE \"{user}\" LOGIN PASSWORD '{password}'"))?;
        self.add_password(user, &password)
    }

    /// Adds a password to the password file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_password(&self, user: &str, password: &str) -> anyhow::Result<()> {
        let known = std::fs::read_to_string(self.passfile())?;
        self.host.write(&self.passfile(), &(known + &super::password_lines(user, password)))
    }

    /// Has a process of its own remove the files once this process has ended: what is static is never dropped.
    fn sweep_later(&self) -> anyhow::Result<()> {
        let script = "cat; for try in 1 2 3 4 5 6 7 8 9; do rm -rf -- \"$1\" && exit; sleep 1; done";
        let mut sweeper = Command::new("sh");
        sweeper.args(["-c", script, "sweeper"]).arg(self.dir.path());
        let mut sweeper = sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // Its input ends with this process.
        std::mem::forget(sweeper.stdin.take());
        Ok(())
    }
}

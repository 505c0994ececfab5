//! Servers that follow another one.

use anyhow::ensure;

use super::{Cluster, SUPERUSER};

impl Cluster {
    /// Makes a server that follows this one under a name, and waits until it does.
    ///
    /// Its files are copied within a backup of the server, which is what `pg_basebackup` does; the package with
    /// PostgreSQL 18 does not hold that program.
    ///
    /// # Errors
    /// The copy fails, or the standby does not start or follow.
    pub fn standby(&self, name: &str) -> anyhow::Result<Self> {
        let standby = Self::place(self.version)?;
        let (from, to) = (self.data_dir(), standby.data_dir());
        let copy = format!(
            "SELECT pg_backup_start('standby', true) \\g /dev/null\n\
             \\! cp -a '{from}' '{to}' && rm -rf '{to}'/postmaster.* '{to}'/pg_wal/0* '{to}'/pg_replslot/*\n\
             SELECT labelfile FROM pg_backup_stop(false) \\g '{to}'/backup_label\n",
            from = from.display(),
            to = to.display()
        );
        self.sql("postgres", &copy)?;
        for file in ["passfile", "ca.pem"] {
            if self.dir.join(file).is_file() {
                standby.host.write(&standby.dir.join(file), &std::fs::read_to_string(self.dir.join(file))?)?;
            }
        }
        let primary = format!(
            "host=127.0.0.1 port={} user={SUPERUSER} passfile={} application_name={name}",
            self.port,
            standby.passfile().display()
        );
        let mut settings = standby.settings();
        settings.push(("primary_conninfo", primary));
        standby.configure(&settings)?;
        for file in ["standby.signal", "backup_label"] {
            let path = to.join(file);
            let text = if path.is_file() { std::fs::read_to_string(&path)? } else { String::new() };
            standby.host.write(&path, &text)?;
        }
        standby.run()?;
        self.wait_for(&format!(
            "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = '{name}' AND state = 'streaming')"
        ))?;
        Ok(standby)
    }

    /// Says which standbys a commit waits for, in the words of `synchronous_standby_names`; none with an empty text.
    /// Waits until it holds, not until a standby is there.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn wait_on_standbys(&self, names: &str) -> anyhow::Result<()> {
        let names = names.replace('\'', "''");
        self.sql("postgres", &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"))?;
        self.sql("postgres", "SELECT pg_reload_conf()")?;
        self.wait_for(&format!("current_setting('synchronous_standby_names') = '{names}'"))
    }

    /// Makes a standby a server of its own.
    ///
    /// # Errors
    /// It is none, or does not get there in time.
    pub fn promote(&self) -> anyhow::Result<()> {
        ensure!(self.sql("postgres", "SELECT pg_promote(true, 60)")? == "t", "the standby was not promoted");
        Ok(())
    }
}

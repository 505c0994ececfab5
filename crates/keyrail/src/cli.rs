//! The command line's nouns and verbs.

pub(crate) mod access;
pub(crate) mod assets;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod system;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use keyrail_engine::RootPlace;
use keyrail_engine::anchor::AnchorSpec;
use keyrail_seal::{RecoverySpec, RootSpec};

use access::{AppCommand, DomainCommand, LabelCommand, TokenCommand};
use assets::{AssetCommand, CampaignCommand};
use keys::{DataArgs, KeyCommand, MasterCommand};
use log::{AnchorCommand, AuditCommand};
use system::{RootCommand, SettingCommand, SharesOut};

/// Keys that turn, and data that follows.
#[derive(Debug, Parser)]
#[command(name = "keyrail", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands, anywhere on the line.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// The data directory; whoever can open its root of trust is the local operator.
    #[arg(long, global = true, value_name = "DIR", conflicts_with = "server")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The URL of a running server.
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// A file with the token; KEYRAIL_TOKEN holds one, too.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// A PEM file with the certificates that the server's is signed by.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// A place outside the data directory that remembers the head of the log: file:PATH, or witness:URL#KEY.
    #[arg(long, global = true, value_name = "ANCHOR")]
    pub(crate) anchor: Vec<AnchorSpec>,
    /// Refuse to open the store while one of its anchors cannot be used.
    #[arg(long, global = true)]
    pub(crate) anchor_required: bool,
    /// Print JSON, one object on one line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    /// Takes what the line leaves open from KEYRAIL_SERVER, KEYRAIL_DATA_DIR, KEYRAIL_CA_CERT and KEYRAIL_ANCHORS.
    pub(crate) fn with_environment(mut self) -> Result<Self, String> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if self.server.is_none() && self.data_dir.is_none() {
            self.server = set("KEYRAIL_SERVER").and_then(|value| value.into_string().ok());
            if self.server.is_none() {
                self.data_dir = set("KEYRAIL_DATA_DIR").map(PathBuf::from);
            }
        }
        self.ca_cert = self.ca_cert.or_else(|| set("KEYRAIL_CA_CERT").map(PathBuf::from));
        if let Some(anchors) = set("KEYRAIL_ANCHORS").filter(|_| self.anchor.is_empty()) {
            self.anchor = crate::anchors::from_environment(&anchors.to_string_lossy())?;
        }
        Ok(self)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the main job on a table of people, or on a copy of your own.
    Quickstart(Quickstart),
    /// Make a store.
    Init {
        /// The root of trust: keyfile:FILE, passphrase-file:FILE or pkcs11:MODULE?token=T&object=O&pin-file=F.
        #[arg(long, value_name = "ROOT")]
        root: Option<String>,
        /// A second root, for when the first is lost: shamir:3/5 makes five shares, any three of which open the store.
        #[arg(long, value_name = "shamir:T/N")]
        recovery: Option<RecoverySpec>,
        #[command(flatten)]
        shares: SharesOut,
        /// A PostgreSQL database for the store instead of a file: postgres://USER@HOST/DATABASE, without a password.
        #[arg(long, value_name = "URL")]
        store: Option<String>,
        /// Hand out keys though no standby has them: a lost server can take the latest ones with it.
        #[arg(long, requires = "store")]
        accept_async_loss: bool,
    },
    /// Serve the HTTP API.
    Serve(Serve),
    /// Isolation boundaries: tenants or data domains.
    #[command(subcommand)]
    Domain(DomainCommand),
    /// Low-code apps, workflows and flows.
    #[command(subcommand)]
    App(AppCommand),
    /// Classes of data, with what they demand of keys.
    #[command(subcommand)]
    Label(LabelCommand),
    /// Who may call.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Data keys and their versions.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Master keys, one for each domain and environment.
    #[command(subcommand)]
    Master(MasterCommand),
    /// Encrypt standard input; prints one line.
    Encrypt(DataArgs),
    /// Decrypt the line on standard input; prints the exact bytes.
    Decrypt(DataArgs),
    /// Put the line on standard input under the active version, with its context kept.
    Reencrypt(DataArgs),
    /// Tables of apps, with columns that are protected.
    #[command(subcommand)]
    Asset(AssetCommand),
    /// Walks over an asset that put every value where it belongs.
    #[command(subcommand)]
    Campaign(CampaignCommand),
    /// The log that cannot lie.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Places outside the data directory that remember the head of the log.
    #[command(subcommand)]
    Anchor(AnchorCommand),
    /// Check every row of the store, and the log; or a backup.
    Verify(Verify),
    /// Put all rows of the store into a sealed file, while it is in use. Only the store's roots of trust open it.
    Backup(Backup),
    /// Put the store back from a backup, with a new log. Without --accept-rollback-to it tells what would be lost.
    Restore(Restore),
    /// What opens the store.
    #[command(subcommand)]
    Root(RootCommand),
    /// Whether the service works.
    Health,
    /// How the service behaves.
    #[command(subcommand)]
    Setting(SettingCommand),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory.
    Man {
        /// The directory.
        dir: PathBuf,
    },
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
}

#[derive(Args, Debug)]
pub(crate) struct Quickstart {
    /// A SQLite database of your own; a copy of it is worked on.
    #[arg(long, value_name = "FILE", requires = "table", requires = "columns")]
    pub(crate) data: Option<PathBuf>,
    /// The table.
    #[arg(long, requires = "data")]
    pub(crate) table: Option<String>,
    /// The columns to protect.
    #[arg(long, value_delimiter = ',', requires = "data")]
    pub(crate) columns: Vec<String>,
    /// How many rows the made-up table has.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rows: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Where to listen; plain HTTP is for loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8440")]
    pub(crate) listen: SocketAddr,
    /// The certificate chain, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key, as PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Make backups in this directory while serving.
    #[arg(long, value_name = "DIR")]
    pub(crate) backup_dir: Option<PathBuf>,
    /// The time from one backup to the next, like 6h.
    #[arg(long, value_name = "TIME", default_value = "24h", requires = "backup_dir")]
    pub(crate) backup_every: String,
    /// How many backups stay in the directory.
    #[arg(long, value_name = "COUNT", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..), requires = "backup_dir")]
    pub(crate) backup_keep: u32,
    /// Let callers name roots of trust from there: keyfile:PATH or passphrase-file:PATH, a file or a directory of them, or
    /// pkcs11:MODULE. Without it the root that is written down, and other keys by its module.
    #[arg(long, value_name = "PLACE")]
    pub(crate) allow_root: Vec<RootPlace>,
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    /// Where it goes, on the machine of the service; made if its parent is there.
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// How many backups of this store stay there; all if left out.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    /// The backup, or a directory with backups, the newest of which is meant.
    #[arg(value_name = "DIR|FILE")]
    pub(crate) from: PathBuf,
    /// Take back all that came after this many records of the log.
    #[arg(long, value_name = "SIZE")]
    pub(crate) accept_rollback_to: Option<u64>,
    /// The root that opens the backup, in place of the one that is written down in the data directory.
    #[arg(long, value_name = "ROOT")]
    pub(crate) root: Option<RootSpec>,
    /// An export of the log from after the backup, or none; the log in the data directory if left out.
    #[arg(long, value_name = "DIR|none")]
    pub(crate) log: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// Open this backup and read it to its end, or each one in this directory; the store is left alone.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) backup: Option<PathBuf>,
    /// The root that opens the backup, in place of the one that is written down in the data directory.
    #[arg(long, value_name = "ROOT", requires = "backup")]
    pub(crate) root: Option<RootSpec>,
}

/// A part of a list.
#[derive(Args, Debug)]
pub(crate) struct Page {
    /// Only those after this one: the `next` of the page before.
    #[arg(long, value_name = "NEXT")]
    pub(crate) after: Option<String>,
    /// How many at most.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "COUNT")]
    pub(crate) limit: u32,
}

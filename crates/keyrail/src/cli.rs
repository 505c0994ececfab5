//! The command line's nouns and verbs.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use keyrail_core::access::Role;
use keyrail_core::id::{CampaignId, TokenId};
use keyrail_core::name::{AppPath, EnvironmentPath, KeyName, KeyVersionName, Name};
use keyrail_crypto::suite::Suite;
use keyrail_engine::anchor::AnchorSpec;
use keyrail_seal::{RecoverySpec, RootSpec};

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
    /// Check every row of the store, and the log.
    Verify,
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

#[derive(Debug, Subcommand)]
pub(crate) enum DomainCommand {
    /// Make a domain.
    Create {
        /// Its name.
        name: Name,
    },
    /// List the domains.
    List(Page),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AppCommand {
    /// Register an app.
    Create {
        /// domain/environment/app
        path: AppPath,
    },
    /// List the apps.
    List(Page),
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabelCommand {
    /// List the labels with what they demand.
    List(Page),
    /// Change what a label demands, or make one. Times are like 90d, 12h, 30m, 45s; none demands nothing.
    Set(Box<LabelSet>),
}

#[derive(Args, Debug)]
pub(crate) struct LabelSet {
    /// The label.
    pub(crate) name: Name,
    /// Content algorithm of new key versions.
    #[arg(long, value_parser = PossibleValuesParser::new(Suite::all().map(Suite::as_str)))]
    pub(crate) suite: Option<String>,
    /// Greatest age of a data key version.
    #[arg(long, value_name = "TIME|none")]
    pub(crate) data_key_age: Option<String>,
    /// How often a data key version may encrypt.
    #[arg(long, value_name = "COUNT|none")]
    pub(crate) data_key_uses: Option<String>,
    /// Greatest age of a master key version.
    #[arg(long, value_name = "TIME|none")]
    pub(crate) master_key_age: Option<String>,
    /// How long unwrapped keys may stay in memory.
    #[arg(long, value_name = "TIME")]
    pub(crate) cache: Option<String>,
    /// How long a caller may store a ciphertext after it was handed out.
    #[arg(long, value_name = "TIME")]
    pub(crate) write_window: Option<String>,
    /// How long a campaign may take.
    #[arg(long, value_name = "TIME|none")]
    pub(crate) campaign_deadline: Option<String>,
    /// How long destruction waits.
    #[arg(long, value_name = "TIME")]
    pub(crate) destroy_wait: Option<String>,
    /// Who must approve, like owner:2; none for nobody.
    #[arg(long, value_name = "ROLE:COUNT|none")]
    pub(crate) approval: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown once.
    Create {
        /// owner, operator, app or auditor
        #[arg(long)]
        role: Role,
        /// The one app it is confined to.
        #[arg(long)]
        app: Option<AppPath>,
        /// How long it is good, like 1h.
        #[arg(long, default_value = "24h")]
        ttl: String,
    },
    /// List the tokens.
    List(Page),
    /// Revoke a token, at once.
    Revoke {
        /// Its id.
        id: TokenId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a data key.
    Create {
        /// domain/environment/app/name
        name: KeyName,
        /// The label whose demands it keeps.
        #[arg(long)]
        label: Name,
    },
    /// Show a key with its versions.
    Show {
        /// domain/environment/app/name
        name: KeyName,
    },
    /// List the keys.
    List {
        /// Only those of this app.
        #[arg(long)]
        app: Option<AppPath>,
        #[command(flatten)]
        page: Page,
    },
    /// Make a new active version.
    Rotate {
        /// domain/environment/app/name
        name: KeyName,
    },
    /// Give a key another label, and make the version that keeps its demands.
    Relabel {
        /// domain/environment/app/name
        name: KeyName,
        /// The new label.
        #[arg(long)]
        label: Name,
    },
    /// Show what speaks for and against retiring a version.
    Evidence {
        /// name@version
        name: KeyVersionName,
    },
    /// Retire a version: fence, write window, census, then it opens nothing.
    Retire {
        /// name@version
        name: KeyVersionName,
        /// Answer for the use of this principal outside every asset.
        #[arg(long, value_name = "PRINCIPAL")]
        acknowledge: Vec<String>,
        /// How long to wait for the end of the label's write window, from the first refusal on, like 5m; the request itself waits up to two minutes.
        #[arg(long, value_name = "TIME", default_value = "5m")]
        wait: String,
    },
    /// Bring a retired version back to decrypt.
    Reinstate {
        /// name@version
        name: KeyVersionName,
    },
    /// Destroy a retired or compromised version, after the wait of its label.
    Destroy {
        /// name@version
        name: KeyVersionName,
        /// Answer for the use of this principal outside every asset, where the version never was retired.
        #[arg(long, value_name = "PRINCIPAL")]
        acknowledge: Vec<String>,
    },
    /// Take the key material of a version out.
    Export {
        /// name@version
        name: KeyVersionName,
    },
    /// Suspend a version.
    Suspend {
        /// name@version
        name: KeyVersionName,
    },
    /// Resume a suspended version.
    Resume {
        /// name@version
        name: KeyVersionName,
    },
    /// Declare a version exposed.
    Compromise {
        /// name@version
        name: KeyVersionName,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MasterCommand {
    /// Show a master key with its versions.
    Show {
        /// domain/environment
        path: EnvironmentPath,
    },
    /// Make a new master key version; data keys are rewrapped in the background.
    Rotate {
        /// domain/environment
        path: EnvironmentPath,
    },
}

#[derive(Args, Debug)]
pub(crate) struct DataArgs {
    /// domain/environment/app/name
    pub(crate) key: KeyName,
    /// What the data belongs to; needed again to decrypt.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) context: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AssetCommand {
    /// Register a table with the columns to protect; nothing in it is changed.
    Add(AssetAdd),
    /// List the assets.
    List(Page),
    /// Show an asset.
    Show {
        /// Its name.
        name: Name,
    },
    /// Follow a table, column or file that got another name.
    Update {
        /// Its name.
        name: Name,
        /// Where the database is now.
        #[arg(long)]
        url: Option<String>,
        /// The schema that the table is in now.
        #[arg(long)]
        schema: Option<String>,
        /// What the table is called now.
        #[arg(long)]
        table: Option<String>,
        /// A column with its former and its present name.
        #[arg(long, value_name = "FORMER=NOW")]
        column: Vec<String>,
    },
    /// Encrypt an asset in place. With --json it prints two lines, as `campaign start` does
    Protect(CampaignStart),
    /// Put plaintext back; needs the right to decrypt. With --json it prints two lines, as `campaign start` does
    Unprotect(CampaignStart),
    /// Count what an asset really holds, by opening it.
    Census {
        /// Its name.
        name: Name,
    },
    /// Take the damaged values of a row out of the count; their bytes are kept.
    AcceptDamaged {
        /// The asset.
        name: Name,
        /// The row's identity, as the census lists it.
        row: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct AssetAdd {
    /// Its name.
    pub(crate) name: Name,
    /// Where the database is, like sqlite:FILE or postgres://USER@HOST/DATABASE. A password is never part of it: it comes
    /// from a password file, ?passfile=FILE or PGPASSFILE.
    #[arg(long)]
    pub(crate) url: String,
    /// The schema with the table, in PostgreSQL; the first of the search path that has it if left out.
    #[arg(long)]
    pub(crate) schema: Option<String>,
    /// The table.
    #[arg(long)]
    pub(crate) table: String,
    /// Columns that tell the rows apart and never change; `none` binds values to no row. The primary key if left out.
    /// A name with a colon, comma or quotation mark, or called none, stands in double quotes: '"none"'.
    #[arg(long, value_name = "COLUMN,...")]
    pub(crate) id: Vec<String>,
    /// A column to protect, or a path in its JSON. A name with a colon stands in double quotes: '"a:b":$.x'.
    #[arg(long, required = true, value_name = "COLUMN[:JSON-PATH]")]
    pub(crate) column: Vec<String>,
    /// The data key.
    #[arg(long)]
    pub(crate) key: KeyName,
}

#[derive(Args, Debug)]
pub(crate) struct CampaignStart {
    /// The asset.
    pub(crate) asset: Name,
    /// Tell what it would do, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// The most rows per second.
    #[arg(long, value_name = "ROWS")]
    pub(crate) rate: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CampaignCommand {
    /// Put an asset under the active version of its key. With --json it prints two lines: the id at once, the campaign at its end
    Start(CampaignStart),
    /// List the campaigns.
    List(Page),
    /// Tell how far a campaign is.
    Status {
        /// Its id.
        id: CampaignId,
    },
    /// Pause a campaign.
    Pause {
        /// Its id.
        id: CampaignId,
    },
    /// Let a campaign go on where it was.
    Resume {
        /// Its id.
        id: CampaignId,
    },
    /// Make the former version active again and move the data back.
    Rollback {
        /// Its id.
        id: CampaignId,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show records, newest first.
    Show {
        /// How many at most.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000), value_name = "COUNT")]
        limit: u32,
        /// Only records before this index.
        #[arg(long)]
        before: Option<u64>,
    },
    /// Print the signed head of the log, to be kept elsewhere.
    Checkpoint,
    /// Verify the log offline, with its files and its public key alone.
    Verify {
        /// A checkpoint that was saved earlier.
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// The log's public key, or a file with it; the data directory's copy if left out.
        #[arg(long, value_name = "KEY|FILE")]
        public_key: Option<String>,
        /// The log's directory; that of the data directory if left out.
        #[arg(long, value_name = "DIR")]
        audit_dir: Option<PathBuf>,
        /// The journal with records that are not signed yet; the `journal` beside the log's directory if left out.
        #[arg(long, value_name = "DIR")]
        journal_dir: Option<PathBuf>,
    },
    /// Write the log's files to another place, as far as they are signed; an earlier export there is brought up.
    Export {
        /// Where they go: a directory of their own.
        #[arg(value_name = "DIR")]
        to: PathBuf,
        /// The log's public key, or a file with it; the data directory's copy if left out.
        #[arg(long, value_name = "KEY|FILE")]
        public_key: Option<String>,
        /// The log's directory; that of the data directory if left out.
        #[arg(long, value_name = "DIR")]
        audit_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AnchorCommand {
    /// Make an anchor file that remembers the present head of the log.
    Create {
        /// The file, on another volume than the data.
        path: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RootCommand {
    /// Tell what opens the store, and whether it is open.
    Status,
    /// Ask the HSM what it says of itself and of the key: claims, not attestation.
    Evidence,
    /// Close the store of a running server.
    Seal,
    /// Open the store of a running server.
    Unseal {
        /// Another root than the one that is written down: recovery shares, as shamir:FILE,FILE,… or shares-dir:DIR.
        #[arg(long, value_name = "ROOT")]
        root: Option<RootSpec>,
    },
    /// Prove that a root opens the store, and note the date.
    Rehearse {
        /// The root: shamir:FILE,FILE,… or shares-dir:DIR for recovery shares; shamir:- reads them from standard input.
        #[arg(long, value_name = "ROOT")]
        root: RootSpec,
    },
    /// Move the store to another root of trust, while it is in use.
    Migrate {
        /// The root that opens the store from now on: keyfile:FILE or passphrase-file:FILE on the server's machine.
        #[arg(long, value_name = "ROOT")]
        to: RootSpec,
        /// Without a server: open the store with this root, since the one that is written down is lost.
        #[arg(long, value_name = "ROOT")]
        root: Option<RootSpec>,
    },
    /// Make a recovery root: shares for several people, some of which open the store.
    Deal {
        /// shamir:3/5 makes five shares, any three of which open the store.
        #[arg(long, value_name = "shamir:T/N")]
        recovery: RecoverySpec,
        #[command(flatten)]
        shares: SharesOut,
    },
    /// Take a recovery root away; its shares open nothing from then on.
    Remove {
        /// The id of its slot: `root status` tells it.
        slot: String,
    },
}

/// Where the shares of a recovery root go.
#[derive(Args, Debug)]
pub(crate) struct SharesOut {
    /// Encrypt a share to this age recipient (age1… or age1pq1…); one for each share, in their order.
    #[arg(long, value_name = "RECIPIENT", requires = "recovery")]
    pub(crate) share_recipient: Vec<String>,
    /// Write each share into a file of this directory, instead of printing them.
    #[arg(long, value_name = "DIR", requires = "recovery")]
    pub(crate) shares_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SettingCommand {
    /// Whether the holder of data directory and root may act without a token.
    LocalOperator {
        /// on or off
        #[arg(value_parser = ["on", "off"])]
        value: String,
    },
}

//! The log, and what remembers its head.

use std::path::PathBuf;

use clap::Subcommand;

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

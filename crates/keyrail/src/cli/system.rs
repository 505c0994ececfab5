//! What opens the store, and how the service behaves.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use keyrail_seal::{RecoverySpec, RootSpec};

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
    /// Put the store under another root key, while it is in use. Roots and shares stay the same.
    Rotate {
        /// A recovery root that is not to open the store through the former root key: its shares, as shamir:FILE,FILE,… or
        /// shares-dir:DIR.
        #[arg(long, value_name = "ROOT")]
        renew: Option<RootSpec>,
    },
    /// The root key is exposed: replace it and every key under it, and make all recovery shares void.
    Exposed {
        /// What happened, for the log.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// A new recovery root in place of those that are void: shamir:3/5 makes five shares, any three of which open.
        #[arg(long, value_name = "shamir:T/N")]
        recovery: Option<RecoverySpec>,
        #[command(flatten)]
        shares: SharesOut,
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

//! Keys, their versions, and data under them.

use clap::{Args, Subcommand};
use keyrail_core::name::{AppPath, EnvironmentPath, KeyName, KeyVersionName, Name};

use super::Page;

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

//! Domains, apps, labels and tokens.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use keyrail_core::access::Role;
use keyrail_core::id::TokenId;
use keyrail_core::name::{AppPath, Name};
use keyrail_crypto::suite::Suite;

use super::Page;

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

//! Assets and campaigns.

use clap::{Args, Subcommand};
use keyrail_core::id::CampaignId;
use keyrail_core::name::{KeyName, Name};

use super::Page;

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

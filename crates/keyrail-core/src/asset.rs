//! Assets: registered places where ciphertext lives.

use crate::id::{AssetId, ColumnId, DataKeyId};
use crate::name::Name;
use crate::text::text_enum;
use crate::time::Timestamp;

/// How many columns one asset may have.
pub const ASSET_COLUMNS_MAX: usize = 64;

text_enum! {
    /// What tells an asset's rows apart; every value is bound to it.
    IdentityKind, "row identity" {
        /// The table's primary key.
        PrimaryKey = "primary-key",
        /// Other immutable columns that the owner names.
        Columns = "columns",
        /// Nothing: a value can be copied to another row and opens there.
        None = "none",
    }
}

text_enum! {
    /// Whether new values of an asset are expected to be protected.
    AssetState, "asset state" {
        /// Registered; nothing was encrypted yet, or all was decrypted again.
        Registered = "registered",
        /// Protected in place.
        Protected = "protected",
    }
}

/// A registered table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Asset {
    /// Immutable id; every value is bound to it, so the asset may be renamed.
    pub id: AssetId,
    /// Unique name.
    pub name: Name,
    /// Where it lives, like `sqlite:/srv/crm/app.sqlite`. Never with a password in it.
    pub url: String,
    /// The schema with the table, in a database that has schemas.
    pub schema: Option<String>,
    /// The table.
    pub table: String,
    /// What tells its rows apart.
    pub identity: IdentityKind,
    /// The columns of the row identity, in the order in which they are bound.
    pub identity_columns: Vec<String>,
    /// The data key that protects it.
    pub key: DataKeyId,
    /// Whether it is protected.
    pub state: AssetState,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// A protected column of an asset, or one member of its JSON values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AssetColumn {
    /// Immutable id; every value is bound to it, so the column may be renamed.
    pub id: ColumnId,
    /// The asset.
    pub asset: AssetId,
    /// Its place in the asset's list, from 0.
    pub position: u32,
    /// The column.
    pub column: String,
    /// The path of the member within the column's JSON values.
    pub json_path: Option<String>,
    /// Counts the changes of this row.
    pub generation: u64,
}

/// A damaged cell that somebody took out of the count.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcceptedDamage {
    /// The asset.
    pub asset: AssetId,
    /// The column.
    pub column: ColumnId,
    /// The row, in the typed encoding of `spec/asset-value.md`.
    pub row: String,
    /// SHA-256 of the damaged bytes; if they change, the cell counts again.
    pub bytes_sha256: [u8; 32],
    /// Why it was accepted, in the words of who did it.
    pub reason: String,
    /// Who accepted it.
    pub accepted_by: String,
    /// When.
    pub accepted_at: Timestamp,
    /// Counts the changes of this row.
    pub generation: u64,
}

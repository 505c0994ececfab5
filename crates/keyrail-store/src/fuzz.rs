//! Private parsers of outside bytes, for the fuzz targets. No part of the API.

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::Campaign;
use keyrail_core::key::{App, DataKey, DataKeyVersion, Domain, MasterKey, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, MapHead, MapNode, ObservationRow, OutboxEntry, RootSecret, RootSlotRow, Setting,
    UsageMark,
};
use keyrail_core::token::Token;
use keyrail_core::usage::Usage;

use crate::driver::Value;
use crate::error::StoreError;
use crate::map::node::Node;
use crate::map::place::subject;
use crate::row::{Row, Values};

/// Reads a row of the table from its values and gives its values again.
///
/// # Errors
/// The first column whose value no row has.
pub fn row(table: &str, values: Vec<Value>) -> Result<Vec<Value>, StoreError> {
    macro_rules! of_tables {
        ($($row:ty),+ $(,)?) => {
            $(if table == <$row>::TABLE.name {
                return read::<$row>(values);
            })+
        };
    }
    crate::row_types!(of_tables);
    Err(StoreError::Malformed { table: "", column: "" })
}

/// Reads a node of the map, and what each of its keys is about; gives the node's bytes again.
pub fn node(bytes: &[u8]) -> Option<Vec<u8>> {
    let node = Node::from_bytes(bytes).ok()?;
    for entry in &node.entries {
        // Whatever it is about: reading it harms nobody.
        drop(subject(&entry.key));
    }
    Some(node.to_bytes())
}

fn read<R: Row>(values: Vec<Value>) -> Result<Vec<Value>, StoreError> {
    R::from_values(&mut Values::new(R::TABLE, values)).map(|row| row.values())
}

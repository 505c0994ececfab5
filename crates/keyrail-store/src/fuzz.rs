//! Private parsers of outside bytes, for the fuzz targets. No part of the API.

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::Campaign;
use keyrail_core::key::{App, DataKey, DataKeyVersion, Domain, MasterKey, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, ObservationRow, OutboxEntry, RootSecret, RootSlotRow, Setting, UsageMark,
};
use keyrail_core::token::Token;
use keyrail_core::usage::Usage;

use crate::driver::Value;
use crate::error::StoreError;
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

fn read<R: Row>(values: Vec<Value>) -> Result<Vec<Value>, StoreError> {
    R::from_values(&mut Values::new(R::TABLE, values)).map(|row| row.values())
}

//! How rows of `keyrail-core` become rows of a table.

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
use crate::field::Field;

/// A table, as far as programs know it; the rest is in the schema.
#[derive(Debug, Eq, PartialEq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its columns without the seal, which comes last in the table.
    pub columns: &'static [&'static str],
    /// The columns of its key.
    pub key: &'static [&'static str],
    /// The last of the columns: those that a later schema added. Where they are NULL no seal covers them, so that rows
    /// of an earlier schema keep theirs.
    pub added: &'static [&'static str],
    /// Columns beside the key that keep their first value. An update leaves them, and the indexes over them, alone; a row
    /// that says otherwise does not fit its seal.
    pub fixed: &'static [&'static str],
}

impl Table {
    /// Whether a column keeps its first value.
    pub(crate) fn is_fixed(&self, column: &str) -> bool {
        self.key.contains(&column) || self.fixed.contains(&column)
    }
}

/// A row that the store keeps.
pub trait Row: Sized + Send + 'static {
    /// Its table.
    const TABLE: &'static Table;

    /// The values, in the order of [`Table::columns`].
    fn values(&self) -> Vec<Value>;

    /// The row from the values, in the same order.
    ///
    /// # Errors
    /// [`StoreError::Malformed`].
    fn from_values(values: &mut Values) -> Result<Self, StoreError>;

    /// Counts the changes of the row.
    fn generation(&self) -> u64;

    /// The values of the key columns.
    fn key(&self) -> Vec<Value> {
        let values = Self::TABLE.columns.iter().zip(self.values());
        values.filter(|(column, _)| Self::TABLE.key.contains(column)).map(|(_, value)| value).collect()
    }
}

/// The values of a row that is being read, in column order.
pub struct Values {
    table: &'static Table,
    position: usize,
    values: std::vec::IntoIter<Value>,
}

impl Values {
    pub(crate) fn new(table: &'static Table, values: Vec<Value>) -> Self {
        Self { table, position: 0, values: values.into_iter() }
    }

    /// The next value.
    ///
    /// # Errors
    /// [`StoreError::Malformed`] if it is not of the type.
    pub fn next<F: Field>(&mut self) -> Result<F, StoreError> {
        let column = self.table.columns.get(self.position).copied().unwrap_or("seal");
        self.position += 1;
        let value = self.values.next().and_then(F::from_value);
        value.ok_or(StoreError::Malformed { table: self.table.name, column })
    }

    pub(crate) fn malformed(&self, column: &'static str) -> StoreError {
        StoreError::Malformed { table: self.table.name, column }
    }
}

/// Declares a row whose columns are the fields of a struct, one to one.
macro_rules! plain_row {
    ($type:ty, $table:literal, key [$($key:ident),+], { $($field:ident),+ $(,)? } $(added { $($added:ident),+ })?) => {
        impl $crate::row::Row for $type {
            const TABLE: &'static $crate::row::Table = &$crate::row::Table {
                name: $table,
                columns: &[$(stringify!($field)),+ $($(, stringify!($added))+)?],
                key: &[$(stringify!($key)),+],
                added: &[$($(stringify!($added)),+)?],
                fixed: &[],
            };

            fn values(&self) -> Vec<$crate::driver::Value> {
                vec![
                    $($crate::field::Field::to_value(&self.$field)),+
                    $($(, $crate::field::Field::to_value(&self.$added))+)?
                ]
            }

            fn from_values(values: &mut $crate::row::Values) -> Result<Self, $crate::error::StoreError> {
                Ok(Self { $($field: values.next()?),+ $($(, $added: values.next()?)+)? })
            }

            fn generation(&self) -> u64 {
                self.generation
            }
        }
    };
}
pub(crate) use plain_row;

/// Calls a macro with the type of every row, in an order in which rows can be inserted. The types are in scope where it
/// is called.
#[doc(hidden)]
#[macro_export]
macro_rules! row_types {
    ($call:ident) => {
        $call! {
            RootSlotRow,
            RootSecret,
            Setting,
            Domain,
            App,
            MasterKey,
            MasterVersion,
            Label,
            DataKey,
            DataKeyVersion,
            Token,
            Asset,
            AssetColumn,
            AcceptedDamage,
            Campaign,
            Usage,
            UsageMark,
            OutboxEntry,
            LogHeadRow,
            ObservationRow,
            IdempotencyEntry,
            MapNode,
            MapHead
        }
    };
}

macro_rules! tables {
    ($($row:ty),+) => {
        [$(<$row>::TABLE),+]
    };
}

/// Every table, in an order in which rows can be inserted.
pub const TABLES: [&Table; 23] = crate::row_types!(tables);

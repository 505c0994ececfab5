//! The `Store` trait and its implementations on SQLite and PostgreSQL.
//!
//! A [`Store`] knows tables, values and transactions, and nothing of keys. [`State`] on top of it knows the
//! rows of `keyrail-core`: it seals each row when it is written and checks the seal whenever it is read, so
//! that every driver gives the same guarantee.

mod build;
mod change;
mod driver;
mod error;
mod field;
mod finders;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod image;
mod map;
mod postgres;
mod proof;
mod row;
mod rows;
mod seal;
mod sqlite;
mod staged;
mod state;
mod statement;
mod verify;

pub use build::MapState;
pub use change::{Change, Recorded};
pub use driver::{Condition, OpenMode, Room, SELECT_ROWS_MAX, Select, Store, Transaction, Value, Write};
pub use error::{DatabaseError, Fault, StoreError};
pub use image::{IMAGE_ITEM_LEN_MAX, ImageCheck, ImageError, ImageLoader, RowCounts};
pub use postgres::{
    Durability, POSTGRES_SCHEMA_VERSION, PgLeases, PgLog, PgStore, PostgresOptions, PostgresUrl, PostgresUrlError,
    RenewError, Renewed, limits as postgres_limits,
};
pub use row::{Row, TABLES, Table};
pub use seal::RowSealer;
pub use sqlite::{APPLICATION_ID, SCHEMA_VERSION, SqliteStore};
pub use staged::Staged;
pub use state::{Bootstrap, LIST_ROWS_MAX, State, bootstrap};
pub use verify::{Finding, FindingKind};

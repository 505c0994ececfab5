//! Assets and campaigns over foreign data stores.

pub mod adapter;
pub mod campaign;
pub mod cells;
pub mod census;
mod cursor;
pub mod error;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
pub mod json;
mod keyset;
pub mod mover;
pub mod ops;
mod parallel;
mod port;
mod postgres;
pub mod sqlite;
pub mod value;

pub use campaign::{Outcome, Run, Stop};
pub use error::{AssetError, StoppedBy, stopped_by};
pub use keyset::Keyset;
pub use port::assets;

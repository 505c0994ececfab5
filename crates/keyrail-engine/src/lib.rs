//! The one pipeline and the background work.
//!
//! Every operation, whatever transport brought it, is a typed request that goes the same way once, forward:
//! authenticate → load → authorize → act → record (durable) → answer. The crate knows no transport.

pub mod anchor;
mod attempts;
mod authenticate;
mod authorize;
mod backup;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod bootstrap;
mod cache;
mod clock;
mod countdown;
mod counting;
mod engine;
pub mod error;
pub mod exposure;
mod health;
mod history;
mod idempotency;
mod journal;
mod kept;
mod keys;
mod log_place;
mod metrics;
mod migration;
pub mod ops;
mod outbox;
pub mod parallel;
pub mod paths;
mod pipeline;
pub mod ports;
mod refusals;
mod request;
mod restore;
mod retry;
pub mod root_key;
mod root_place;
mod roots;
mod scheduler;
mod store_place;
#[cfg(test)]
mod testing;
mod unsealed;
mod usage;

pub use authorize::Authorized;
pub use backup::problem::BackupProblem;
pub use backup::schedule::{BackupHealth, BackupPlan};
pub use backup::{BackupCheck, BackupView, backups_in, configured_root};
pub use bootstrap::{Access, Initialized};
pub use engine::{Engine, EngineOptions, MakeAssets};
pub use error::EngineError;
pub use health::{Health, HealthCheck};
pub use journal::Journal;
pub use metrics::MetricsSnapshot;
pub use pipeline::{Acted, Context, Further, Operation, Replay, Scope, Target};
pub use request::{Caller, Credential};
pub use restore::{FormerLog, RestoreAsk, RestoreReport};
pub use retry::SealCause;
pub use root_place::{RootPlace, RootPlaceError, RootPlaces};
pub use roots::RootSource;
pub use store_place::{AsyncLoss, StorePlace, log_in_database};
pub use unsealed::{Cached, Material, OpenKey, Unsealed};

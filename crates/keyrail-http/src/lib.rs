//! The native HTTP API: axum over the engine, the OpenAPI document made from the types, and the listener.

mod api;
mod body;
mod call;
mod campaigns;
mod listen;
mod metrics;
mod problem;
mod routes;
mod service;
mod wiped;

pub use api::{DOCUMENT_PATH, document};
pub use call::LocalCall;
pub use listen::{Limits, ListenError, Listener, Tls};
pub use problem::Problem;
pub use routes::router;
pub use service::Service;

//! What holds of PostgreSQL alone.

mod adapter;
mod remains;
mod rights;
mod session;
mod tables;
mod trouble;
mod types;

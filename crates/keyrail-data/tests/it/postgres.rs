//! What holds of PostgreSQL alone.

mod adapter;
mod remains;
mod rights;
mod tables;
mod trouble;
mod types;

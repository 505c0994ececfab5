//! What holds of PostgreSQL alone.

mod remains;
mod rights;
mod tables;
mod trouble;
mod types;

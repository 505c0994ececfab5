//! The audit log: transparency log files, group commit and offline verification.

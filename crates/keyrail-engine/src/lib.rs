//! The one pipeline and the background work.

//! Roots of trust: what protects the root key.

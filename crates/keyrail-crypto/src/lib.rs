//! Secret types, suites, wrapping and the envelope: the only crate that knows the ciphers.

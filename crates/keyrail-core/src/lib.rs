//! Domain types, key lifecycle, labels, rotation sweep and audit event types, without IO.

//! Assets and campaigns over foreign data stores.

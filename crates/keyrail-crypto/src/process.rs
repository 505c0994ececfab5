//! Hardening of the process: no core dump, no debugger of the same user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::CryptoError;

/// Makes the process non-dumpable and sets its core limit to zero. Called once, before any key is loaded.
///
/// A debugger run by root can still attach; secrets in [`crate::locked`] pages are then still out of its
/// core files, and out of its reach where the kernel offers secret memory.
///
/// # Errors
/// [`CryptoError::System`] when the kernel refuses.
pub fn harden() -> Result<(), CryptoError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|_| CryptoError::System { what: "protection from dumps" })?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|_| CryptoError::System { what: "limit for core dumps" })
}

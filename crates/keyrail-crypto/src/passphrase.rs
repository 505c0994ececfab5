//! Keys from passphrases: Argon2id (RFC 9106).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use crate::CryptoError;
use crate::secret::SlotKey;

/// Length of a salt, in bytes.
pub const SALT_LEN: usize = 16;

/// The longest passphrase, in bytes.
pub const PASSPHRASE_LEN_MAX: usize = 1024;

/// Parameters of Argon2id; stored with the slot, so that they can be raised later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Argon2Params {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Argon2Params {
    /// The second recommended option of RFC 9106, section 4: 64 MiB, three passes, four lanes. The first one
    /// (2 GiB) would fail on small machines.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 4 };

    /// What is accepted from a store: less would be weak, more would be a way to exhaust the machine.
    pub fn in_range(self) -> bool {
        (8 * 1024..=1024 * 1024).contains(&self.memory_kib)
            && (1..=16).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

/// Derives the key of a slot. The working memory is wiped.
///
/// # Errors
/// [`CryptoError::Parameters`] for parameters or a passphrase out of range.
pub fn derive(passphrase: &[u8], salt: &[u8; SALT_LEN], params: Argon2Params) -> Result<SlotKey, CryptoError> {
    if !params.in_range() || passphrase.is_empty() || passphrase.len() > PASSPHRASE_LEN_MAX {
        return Err(CryptoError::Parameters);
    }
    let argon_params = Params::new(params.memory_kib, params.passes, params.lanes, Some(crate::secret::SECRET_LEN))
        .map_err(|_| CryptoError::Parameters)?;
    let mut memory = vec![Block::default(); argon_params.block_count()];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, argon_params);
    let key = SlotKey::init_with(|out| {
        argon.hash_password_into_with_memory(passphrase, salt, out, &mut memory).map_err(|_| CryptoError::Parameters)
    });
    memory.iter_mut().for_each(Zeroize::zeroize);
    key
}

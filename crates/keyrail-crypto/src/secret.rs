//! Secret types: what cannot be printed, cloned, serialized, or compared in variable time.

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::locked::LockedBytes;
use crate::wrap::{self, WrapContext, WrappedKey};
use crate::{CryptoError, random};

/// Length of every key, in bytes.
pub const SECRET_LEN: usize = crate::locked::SLOT_LEN;

/// 32 secret bytes in locked memory.
pub struct Secret32(LockedBytes);

impl Secret32 {
    /// A random secret, made in place.
    ///
    /// # Errors
    /// [`CryptoError::System`] when the operating system gives no randomness or no memory.
    pub fn generate() -> Result<Self, CryptoError> {
        Self::init_with(|bytes| random::fill(bytes))
    }

    /// A secret that `init` writes in place.
    ///
    /// # Errors
    /// Those of `init`, and [`CryptoError::System`] when there is no memory.
    pub fn init_with<E: From<CryptoError>>(
        init: impl FnOnce(&mut [u8; SECRET_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut bytes = LockedBytes::zeroed()?;
        init(bytes.as_array_mut())?;
        Ok(Self(bytes))
    }

    /// Compares in constant time.
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.expose_secret().ct_eq(other.expose_secret()).into()
    }

    /// The bytes. The word is searched for in review; see the golden file of its call sites.
    pub(crate) fn expose_secret(&self) -> &[u8; SECRET_LEN] {
        self.0.as_array()
    }
}

macro_rules! keys {
    ($($(#[$meta:meta])* $name:ident,)+) => {$(
        $(#[$meta])*
        pub struct $name(Secret32);

        impl $name {
            /// A random key.
            ///
            /// # Errors
            /// [`CryptoError::System`] when the operating system gives no randomness or no memory.
            pub fn generate() -> Result<Self, CryptoError> {
                Ok(Self(Secret32::generate()?))
            }

            /// Compares in constant time.
            pub fn ct_eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0)
            }
        }

        impl AsSecret for $name {
            const PURPOSE: &'static str = stringify!($name);

            fn from_secret(secret: Secret32) -> Self {
                Self(secret)
            }

            fn secret(&self) -> &Secret32 {
                &self.0
            }
        }
    )+};
}

keys! {
    /// Encrypts data of one app.
    DataKey,
    /// Wraps the data keys of one domain and environment.
    MasterKey,
    /// Wraps master keys, the store key and the log's signing seed.
    RootKey,
    /// Seed of the log's Ed25519 key.
    SigningSeed,
    /// What a root of trust gives: wraps the root key in one slot.
    SlotKey,
    /// Seals the store's rows, hashes tokens and guards the journal, through derived keys of one use each.
    StoreKey,
}

/// Every key type over [`Secret32`]; sealed, for this crate only.
pub trait AsSecret: sealed::Sealed {
    /// The purpose that the key's wrapping is bound to.
    #[doc(hidden)]
    const PURPOSE: &'static str;
    #[doc(hidden)]
    fn from_secret(secret: Secret32) -> Self;
    #[doc(hidden)]
    fn secret(&self) -> &Secret32;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::DataKey {}
    impl Sealed for super::MasterKey {}
    impl Sealed for super::RootKey {}
    impl Sealed for super::SigningSeed {}
    impl Sealed for super::SlotKey {}
    impl Sealed for super::StoreKey {}
}

/// `Self` wraps keys of type `K`; which wraps which is the key hierarchy of the design.
pub trait Wraps<K: AsSecret>: AsSecret {
    /// Wraps `key`, bound to `context`.
    ///
    /// # Errors
    /// [`CryptoError::System`] without randomness.
    fn wrap(&self, key: &K, context: &WrapContext<'_>) -> Result<WrappedKey, CryptoError> {
        wrap::wrap(self.secret(), K::PURPOSE, key.secret(), context)
    }

    /// Unwraps a key that was wrapped under this one with the same context.
    ///
    /// # Errors
    /// [`CryptoError::Unopenable`].
    fn unwrap(&self, wrapped: &WrappedKey, context: &WrapContext<'_>) -> Result<K, CryptoError> {
        Ok(K::from_secret(wrap::unwrap(self.secret(), K::PURPOSE, wrapped, context)?))
    }
}

impl Wraps<RootKey> for SlotKey {}
// What a rotation leaves for shares that stay away: the next root key, under the one that they open.
impl Wraps<RootKey> for RootKey {}
impl Wraps<MasterKey> for RootKey {}
impl Wraps<StoreKey> for RootKey {}
impl Wraps<SigningSeed> for RootKey {}
impl Wraps<DataKey> for MasterKey {}

impl DataKey {
    /// The key's bytes, for an authorized export: in locked memory, since what is handed on by value leaves copies behind.
    ///
    /// # Errors
    /// [`CryptoError::System`] when there is no memory.
    pub fn danger_export(&self) -> Result<Exported, CryptoError> {
        Ok(Exported(Secret32::init_with(|out| -> Result<(), CryptoError> {
            out.copy_from_slice(self.0.expose_secret());
            Ok(())
        })?))
    }

    /// The key with these bytes, for tests and for opening what others made.
    ///
    /// # Errors
    /// [`CryptoError::System`] when there is no memory.
    pub fn danger_import(bytes: &[u8; SECRET_LEN]) -> Result<Self, CryptoError> {
        Ok(Self(Secret32::init_with(|out| -> Result<(), CryptoError> {
            out.copy_from_slice(bytes);
            Ok(())
        })?))
    }
}

impl SlotKey {
    /// Makes the key in place from what a root of trust gives.
    ///
    /// # Errors
    /// Those of `init`.
    pub fn init_with<E: From<CryptoError>>(
        init: impl FnOnce(&mut [u8; SECRET_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        Ok(Self(Secret32::init_with(init)?))
    }
}

/// The bytes of an exported key; wiped when dropped.
pub struct Exported(Secret32);

impl Exported {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; SECRET_LEN] {
        self.0.expose_secret()
    }
}

/// Decrypted data; wiped when dropped, never printed, cloned or compared by accident.
pub struct Plaintext(Vec<u8>);

impl Plaintext {
    /// Takes data over; the vector is wiped when this is dropped.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The data.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for Plaintext {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Lets another key type call [`Wraps::unwrap`] with the type named at the call.
macro_rules! unwrap_key {
    ($($name:ident),+) => {$(
        impl $name {
            /// [`Wraps::unwrap`] with the type named at the call.
            ///
            /// # Errors
            /// [`CryptoError::Unopenable`].
            pub fn unwrap_key<K: AsSecret>(&self, wrapped: &WrappedKey, context: &WrapContext<'_>) -> Result<K, CryptoError>
            where
                Self: Wraps<K>,
            {
                Wraps::unwrap(self, wrapped, context)
            }
        }
    )+};
}

unwrap_key!(MasterKey, RootKey, SlotKey);

//! A key on a token of an HSM as root of trust, reached over PKCS #11.
//!
//! The token's AES key never leaves it. It computes the slot key: the token encrypts two blocks that are the digest of
//! the slot's own head, which is a pseudo-random function of them (see `spec/root-slot.md`). The root key itself never
//! passes through the module.

mod claims;
mod error;
mod pin;
mod spec;
mod token;
mod token_key;
mod turn;

pub use error::TokenError;
pub use spec::Pkcs11Spec;
pub use token_key::TokenKey;
pub use turn::OPERATION_SECONDS_MAX;

use cryptoki::object::ObjectHandle;
use keyrail_crypto::digest::Sha256;
use keyrail_crypto::secret::{RootKey, SlotKey, Wraps};
use keyrail_crypto::{CryptoError, random};

use self::pin::Pin;
use self::token::Token;
use self::token_key::NAME_LEN_MAX;
use crate::slot::{head, wrap_context};
use crate::{Claim, RootKind, RootOfTrust, RootSlot, SealError, SlotParameters};

/// A key on a token as root of trust.
pub struct Pkcs11Root {
    spec: Pkcs11Spec,
}

impl Pkcs11Root {
    /// The key that `spec` names; the token is asked when it is needed.
    pub const fn new(spec: Pkcs11Spec) -> Self {
        Self { spec }
    }

    /// Makes the key on the token if none has its label.
    ///
    /// # Errors
    /// [`SealError::Token`], and those of reading the PIN's file.
    pub fn make_key_if_absent(&self) -> Result<(), SealError> {
        let object = self.spec.object.clone();
        self.operate(move |token| match token.key(&object, None) {
            Err(TokenError::KeyMissing { .. }) => token.make_key(&object),
            found => Ok(found.map(drop)?),
        })
    }

    /// Does `work` with the token, which is connected to for this alone. A connection that is lost is made once more.
    fn operate<T: Send + 'static>(
        &self,
        work: impl Fn(&Token) -> Result<T, SealError> + Send + 'static,
    ) -> Result<T, SealError> {
        let mut spec = self.spec.clone();
        // A link and what it leads to are one module, which is initialised once.
        spec.module = std::fs::canonicalize(&spec.module).unwrap_or(spec.module);
        let (module, pin) = (spec.module.clone(), Pin::read(&spec.pin_file)?);
        turn::within_limit(&module, move || {
            let attempt = || work(&Token::connect(&spec, &pin)?);
            match attempt() {
                Err(SealError::Token(error)) if error.is_lost() => attempt(),
                result => result,
            }
        })
    }
}

impl RootOfTrust for Pkcs11Root {
    fn kind(&self) -> RootKind {
        RootKind::Pkcs11
    }

    fn describe(&self) -> String {
        format!("key {} on token {}", self.spec.object, self.spec.token)
    }

    fn protect(&self, root: &RootKey) -> Result<RootSlot, SealError> {
        let id: [u8; 16] = random::array()?;
        let object = self.spec.object.clone();
        let (parameters, slot_key) = self.operate(move |token| {
            let key = token.key(&object, None)?;
            token.require_safe(key, &object)?;
            let parameters = SlotParameters::Pkcs11(TokenKey {
                serial: name(token.info.serial_number()),
                token: name(token.info.label()),
                object: object.clone(),
                key_id: token.id_of(key)?,
                fingerprint: fingerprint(token, key)?,
            });
            let slot_key = slot_key(token, key, &id, &parameters)?;
            Ok((parameters, slot_key))
        })?;
        let wrapped = slot_key.wrap(root, &wrap_context(&id))?;
        Ok(RootSlot { id, parameters, wrapped, links: Vec::new() })
    }

    fn open(&self, slot: &RootSlot) -> Result<RootKey, SealError> {
        let SlotParameters::Pkcs11(expected) = &slot.parameters else {
            return Err(SealError::OtherKind { found: slot.kind().as_str(), given: self.kind().as_str() });
        };
        let (expected, id, parameters) = (expected.clone(), slot.id, slot.parameters.clone());
        let object = self.spec.object.clone();
        // What the token says of the key is not asked here: a store that can be opened is opened.
        let slot_key = self.operate(move |token| {
            let key = token.key(&object, Some(&expected.key_id))?;
            if fingerprint(token, key)? != expected.fingerprint {
                return Err(TokenError::OtherKey { object: object.clone() }.into());
            }
            slot_key(token, key, &id, &parameters)
        })?;
        slot_key.unwrap_key(&slot.wrapped, &wrap_context(&slot.id)).map_err(|_| SealError::SlotDamaged)
    }

    fn claims(&self) -> Result<Vec<Claim>, SealError> {
        let object = self.spec.object.clone();
        self.operate(move |token| {
            let key = token.key(&object, None)?;
            let mut claims = claims::claims(token, key, &object)?;
            let fingerprint: String = fingerprint(token, key)?.iter().map(|byte| format!("{byte:02x}")).collect();
            claims.push(Claim { name: FINGERPRINT, value: fingerprint });
            Ok(claims)
        })
    }
}

/// The fingerprint as a claim is no claim: the key computed it.
const FINGERPRINT: &str = "key.fingerprint";

/// Tells one key from another, whatever slot it is asked for.
fn fingerprint(token: &Token, key: ObjectHandle) -> Result<[u8; 16], TokenError> {
    let input = Sha256::new().with(b"keyrail/pkcs11/key-check/v1").finish();
    let output = token.compute(key, &input)?;
    let digest = Sha256::new().with(b"keyrail/pkcs11/fingerprint/v1").with(output.as_slice()).finish();
    let mut fingerprint = [0; 16];
    fingerprint.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Ok(fingerprint)
}

/// The slot key, which is bound to everything that stands before the wrapped key in the slot.
fn slot_key(
    token: &Token,
    key: ObjectHandle,
    id: &[u8; 16],
    parameters: &SlotParameters,
) -> Result<SlotKey, SealError> {
    let input = Sha256::new().with(b"keyrail/pkcs11/slot-key/v1").with(&head(id, parameters)).finish();
    let output = token.compute(key, &input)?;
    Ok(SlotKey::init_with(|out| -> Result<(), CryptoError> {
        out.copy_from_slice(output.as_slice());
        Ok(())
    })?)
}

/// What a token calls itself, as far as a slot keeps it.
fn name(told: &str) -> String {
    let mut name: String = told.chars().filter(|c| !c.is_control()).collect();
    while name.len() > NAME_LEN_MAX {
        name.pop();
    }
    name
}

//! A token: the module is initialised, the session opened and the user logged in for one operation, and all of it is
//! undone at its end. Between operations no session is open that others in this process could use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Info, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use keyrail_crypto::random;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::error::TokenError;
use super::pin::Pin;
use super::spec::Pkcs11Spec;
use super::token_key::NAME_LEN_MAX;
use crate::SealError;

/// Modules stay loaded: their makers do not expect to be unloaded while threads of theirs may run.
static LOADED: LazyLock<Mutex<HashMap<PathBuf, Pkcs11>>> = LazyLock::new(Default::default);

/// Length of the keys that are used, in bytes.
const KEY_LEN: u64 = 32;

/// What C_Login returns before it looks at a PIN.
const NOT_LOOKED_AT: [RvError; 4] =
    [RvError::PinExpired, RvError::PinLocked, RvError::UserPinNotInitialized, RvError::UserTooManyTypes];

/// A token with its user logged in. Dropped, the session is closed, then the module ended.
pub(super) struct Token {
    pub(super) session: Session,
    pub(super) info: TokenInfo,
    module: Module,
}

/// An initialised module.
struct Module(Pkcs11);

impl Drop for Module {
    fn drop(&mut self) {
        // A module that cannot be ended is ended again before its next use.
        let _ended = self.0.clone().finalize();
    }
}

impl Module {
    fn begin(path: &Path) -> Result<Self, TokenError> {
        let module = load(path)?;
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match module.initialize(arguments) {
            Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {
                module.clone().finalize()?;
                module.initialize(arguments)?;
            }
            begun => begun?,
        }
        Ok(Self(module))
    }

    /// The one token with this label.
    fn find(&self, label: &str) -> Result<(Slot, TokenInfo), TokenError> {
        let mut found = None;
        let mut failed = None;
        for slot in self.0.get_slots_with_token()? {
            match self.0.get_token_info(slot) {
                Ok(info) if info.label() != label => {}
                Ok(_) if found.is_some() => return Err(TokenError::TokenAmbiguous { token: label.to_owned() }),
                Ok(info) => found = Some((slot, info)),
                Err(error) => failed = Some(error),
            }
        }
        match (found, failed) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err(TokenError::TokenMissing { token: label.to_owned() }),
        }
    }
}

fn load(path: &Path) -> Result<Pkcs11, TokenError> {
    if let Some(loaded) = LOADED.lock().get(path) {
        return Ok(loaded.clone());
    }
    // Loading may hang, and is not waited for under the lock; no other call has this module's turn.
    let failed = |source| TokenError::Module { module: path.to_owned(), source: Box::new(source) };
    let loaded = Pkcs11::new(path).map_err(failed)?;
    LOADED.lock().insert(path.to_owned(), loaded.clone());
    Ok(loaded)
}

impl Token {
    /// Opens a session and logs the user in.
    pub(super) fn connect(spec: &Pkcs11Spec, pin: &Pin) -> Result<Self, TokenError> {
        let module = Module::begin(&spec.module)?;
        let (slot, info) = module.find(&spec.token)?;
        if info.user_pin_locked() {
            return Err(TokenError::PinLocked);
        }
        if !info.user_pin_initialized() || info.user_pin_to_be_changed() {
            return Err(TokenError::PinNotSet);
        }
        // Asked with the module in hand: who waited for his turn learns what became of the PIN before.
        pin.require_untried(spec, info.user_pin_count_low())?;
        // The last try is left to people: what runs by itself never locks a token.
        if info.user_pin_final_try() {
            return Err(TokenError::PinLastTry);
        }
        let session = module.0.open_rw_session(slot)?;
        pin.given(spec);
        match session.login_with_raw(UserType::User, &pin.to_raw()) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Pin::taken(spec),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                let counts = module.0.get_token_info(slot).is_ok_and(|info| info.user_pin_count_low());
                pin.refused(spec, counts);
                return Err(TokenError::PinRefused { path: pin.path().to_owned() });
            }
            Err(error) => {
                if matches!(error, Error::Pkcs11(code, _) if NOT_LOOKED_AT.contains(&code)) {
                    pin.not_looked_at(spec);
                }
                return Err(error.into());
            }
        }
        Ok(Self { session, info, module })
    }

    /// What the module says of itself.
    pub(super) fn library(&self) -> Result<Info, TokenError> {
        Ok(self.module.0.get_library_info()?)
    }

    /// The key with this label; of several the one with this id. If there are several and none has it, all of them are
    /// others.
    pub(super) fn key(&self, label: &str, id: Option<&[u8]>) -> Result<ObjectHandle, TokenError> {
        let template =
            [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::Token(true), Attribute::Label(label.into())];
        let found = self.session.find_objects(&template)?;
        match (found.as_slice(), id) {
            ([], _) => Err(TokenError::KeyMissing { object: label.to_owned() }),
            ([one], _) => Ok(*one),
            (several, Some(id)) => {
                let ids = several.iter().map(|key| self.id_of(*key)).collect::<Result<Vec<_>, _>>()?;
                let mut named = several.iter().zip(&ids).filter(|(_, found)| *found == id);
                match (named.next(), named.next()) {
                    (Some((only, _)), None) => Ok(*only),
                    (None, _) => Err(TokenError::OtherKey { object: label.to_owned() }),
                    (Some(_), Some(_)) => Err(TokenError::KeyAmbiguous { object: label.to_owned() }),
                }
            }
            (_, None) => Err(TokenError::KeyAmbiguous { object: label.to_owned() }),
        }
    }

    /// Makes the key: it encrypts and does nothing else, and never leaves the token.
    pub(super) fn make_key(&self, label: &str) -> Result<(), SealError> {
        let id: [u8; 16] = random::array()?;
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::ValueLen(KEY_LEN.into()),
            Attribute::Label(label.into()),
            Attribute::Id(id.to_vec()),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Modifiable(false),
            Attribute::Encrypt(true),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
            Attribute::Verify(false),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        self.session.generate_key(&Mechanism::AesKeyGen, &template).map_err(TokenError::from)?;
        Ok(())
    }

    /// The id of a key, as far as a slot keeps it.
    pub(super) fn id_of(&self, key: ObjectHandle) -> Result<Vec<u8>, TokenError> {
        match self.attribute(key, AttributeType::Id)? {
            Some(Attribute::Id(mut id)) => {
                id.truncate(NAME_LEN_MAX);
                Ok(id)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// One attribute; `None` if the token does not tell it.
    pub(super) fn attribute(&self, key: ObjectHandle, wanted: AttributeType) -> Result<Option<Attribute>, TokenError> {
        match self.session.get_attributes(key, &[wanted]) {
            Ok(told) => Ok(told.into_iter().next()),
            Err(Error::Pkcs11(RvError::AttributeTypeInvalid | RvError::AttributeSensitive, _)) => Ok(None),
            // Only what the library does not know how to read; the token has answered.
            Err(error) if !matches!(error, Error::Pkcs11(..)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an attribute is there and true.
    fn is(&self, key: ObjectHandle, expected: &Attribute) -> Result<bool, TokenError> {
        Ok(self.attribute(key, expected.attribute_type())?.as_ref() == Some(expected))
    }

    /// Refuses a key that is not what a root of trust needs, or of which the token does not say that it never left.
    pub(super) fn require_safe(&self, key: ObjectHandle, label: &str) -> Result<(), TokenError> {
        for expected in
            [Attribute::KeyType(KeyType::AES), Attribute::ValueLen(KEY_LEN.into()), Attribute::Encrypt(true)]
        {
            if !self.is(key, &expected)? {
                return Err(TokenError::KeyUnfit { object: label.to_owned() });
            }
        }
        for (expected, claim) in [
            (Attribute::Extractable(false), "CKA_EXTRACTABLE is not false"),
            (Attribute::NeverExtractable(true), "CKA_NEVER_EXTRACTABLE is not true"),
            (Attribute::Sensitive(true), "CKA_SENSITIVE is not true"),
            (Attribute::AlwaysSensitive(true), "CKA_ALWAYS_SENSITIVE is not true"),
        ] {
            if !self.is(key, &expected)? {
                return Err(TokenError::KeyWeak { object: label.to_owned(), claim });
            }
        }
        Ok(())
    }

    /// 32 bytes that whoever does not have the key cannot tell from random ones: two blocks, encrypted one by one. The
    /// blocks are a digest, so no two of them are ever alike.
    pub(super) fn compute(&self, key: ObjectHandle, input: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, TokenError> {
        let output = Zeroizing::new(self.session.encrypt(&Mechanism::AesEcb, key, input)?);
        let short = || TokenError::Failed { function: "C_Encrypt", code: "an answer of another length".to_owned() };
        <[u8; 32]>::try_from(output.as_slice()).map(Zeroizing::new).map_err(|_| short())
    }
}

//! What keeps a token from being used, told apart as far as it tells.

use std::path::PathBuf;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

/// What keeps a token from being used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token failed, or what stands between it and this process.
    #[error("the token fails: {code} from {function}")]
    Failed {
        /// The function of PKCS #11 that was called.
        function: &'static str,
        /// What it returned.
        code: String,
    },
    /// Several keys have the label.
    #[error("several keys on the token are named `{object}`")]
    KeyAmbiguous {
        /// The label.
        object: String,
    },
    /// There is no key with the label.
    #[error("no key on the token is named `{object}`")]
    KeyMissing {
        /// The label.
        object: String,
    },
    /// The key is no AES-256 key that encrypts.
    #[error("the key `{object}` is no AES key of 256 bits that may encrypt")]
    KeyUnfit {
        /// The label.
        object: String,
    },
    /// The token says that the key may leave it, or might have.
    #[error("the key `{object}` may have left the token: {claim}")]
    KeyWeak {
        /// The label.
        object: String,
        /// The attribute that says so, and its value.
        claim: &'static str,
    },
    /// The module cannot be loaded.
    #[error("the module `{module}` cannot be loaded")]
    Module {
        /// The library.
        module: PathBuf,
        /// What the loader said.
        #[source]
        source: Box<Error>,
    },
    /// The key on the token is not the one that the slot was made with.
    #[error("the key `{object}` on the token is not the one that protects the store")]
    OtherKey {
        /// The label.
        object: String,
    },
    /// The token has counted a wrong PIN, and it is not known whether that was this one.
    #[error("the token has counted a wrong PIN, which may be the one in `{path}`: it gave no clear answer")]
    PinDoubtful {
        /// The file that holds the PIN.
        path: PathBuf,
    },
    /// One more wrong PIN would lock the token.
    #[error("the token has one try for its PIN left, and it is not used up")]
    PinLastTry,
    /// The token takes no PIN any more.
    #[error("the token is locked after too many wrong PINs")]
    PinLocked,
    /// The token has no user PIN, or one that must be changed first.
    #[error("the token has no user PIN that can be used")]
    PinNotSet,
    /// The token refused the PIN, now or before; it is not tried again.
    #[error("the token refused the PIN in `{path}`")]
    PinRefused {
        /// The file that holds the PIN.
        path: PathBuf,
    },
    /// No answer in time, or a call from before still has none.
    #[error("the token did not answer within {seconds} seconds")]
    Slow {
        /// How long was waited.
        seconds: u64,
    },
    /// Several tokens have the label.
    #[error("several tokens are named `{token}`")]
    TokenAmbiguous {
        /// The label.
        token: String,
    },
    /// There is no token with the label.
    #[error("no token is named `{token}`")]
    TokenMissing {
        /// The label.
        token: String,
    },
}

impl TokenError {
    /// The word for programs.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "token-failed",
            Self::KeyAmbiguous { .. } => "key-ambiguous",
            Self::KeyMissing { .. } => "key-missing",
            Self::KeyUnfit { .. } => "key-unfit",
            Self::KeyWeak { .. } => "key-weak",
            Self::Module { .. } => "module-missing",
            Self::OtherKey { .. } => "other-key",
            Self::PinDoubtful { .. } => "pin-doubtful",
            Self::PinLastTry => "pin-last-try",
            Self::PinLocked => "pin-locked",
            Self::PinNotSet => "pin-not-set",
            Self::PinRefused { .. } => "pin-refused",
            Self::Slow { .. } => "token-slow",
            Self::TokenAmbiguous { .. } => "token-ambiguous",
            Self::TokenMissing { .. } => "token-missing",
        }
    }

    /// What to do about it.
    pub(crate) const fn hint(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "look at the HSM and at what connects it; it is tried again by itself",
            Self::KeyAmbiguous { .. } => "give each key a label of its own, or name another with object=",
            Self::KeyMissing { .. } => "bring the key back onto the token, or open the store by its other root",
            Self::KeyUnfit { .. } => "name another label with object=: `keyrail init` makes a key that is not there",
            Self::KeyWeak { .. } => {
                "name another label with object=: `keyrail init` makes a key there that cannot leave the token"
            }
            Self::Module { .. } => "install the library of the HSM's maker, or correct its path",
            Self::OtherKey { .. } => "connect the token that the store was made with; it is tried again by itself",
            Self::PinDoubtful { .. } => {
                "log in with the right PIN by the HSM's own tool, and put it into the PIN file if it is another one"
            }
            Self::PinLastTry => "log in with the right PIN by the HSM's own tool, then put it into the PIN file",
            Self::PinLocked => "let the HSM's security officer set a new PIN, then put it into the PIN file",
            Self::PinNotSet => "let the HSM's security officer set the user PIN, then put it into the PIN file",
            Self::PinRefused { .. } => {
                "write the right PIN into the file, or set that one on the token: a refused one is not tried again before"
            }
            Self::Slow { .. } => "look at the HSM and at what connects it; it is tried again by itself",
            Self::TokenAmbiguous { .. } => "give each token a label of its own",
            Self::TokenMissing { .. } => "connect the token, or correct token=; it is tried again by itself",
        }
    }

    /// Whether the connection to the token was lost: a new one may work. Lost while the PIN was given, it is not made anew
    /// at once: the token may have counted it as wrong.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Failed { function, code } if LOST.contains(&code.as_str()) && *function != LOGIN)
    }
}

/// As errors name the function that is given the PIN.
const LOGIN: &str = "C_Login";

/// What is returned when a session, a device or the module's own state is gone.
const LOST: [&str; 8] = [
    "CKR_CRYPTOKI_NOT_INITIALIZED",
    "CKR_DEVICE_ERROR",
    "CKR_DEVICE_REMOVED",
    "CKR_OBJECT_HANDLE_INVALID",
    "CKR_SESSION_CLOSED",
    "CKR_SESSION_HANDLE_INVALID",
    "CKR_TOKEN_NOT_PRESENT",
    "CKR_USER_NOT_LOGGED_IN",
];

impl From<Error> for TokenError {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(RvError::PinLocked, _) => Self::PinLocked,
            Error::Pkcs11(RvError::UserPinNotInitialized | RvError::PinExpired, _) => Self::PinNotSet,
            Error::Pkcs11(code, function) => Self::Failed { function: function_name(function), code: code_name(code) },
            _ => Self::Failed { function: "the module", code: "an answer that PKCS #11 does not allow".to_owned() },
        }
    }
}

/// The codes that are told apart by their names in PKCS #11; others as the library names them.
fn code_name(code: RvError) -> String {
    let name = match code {
        RvError::CryptokiNotInitialized => "CKR_CRYPTOKI_NOT_INITIALIZED",
        RvError::DeviceError => "CKR_DEVICE_ERROR",
        RvError::DeviceMemory => "CKR_DEVICE_MEMORY",
        RvError::DeviceRemoved => "CKR_DEVICE_REMOVED",
        RvError::FunctionFailed => "CKR_FUNCTION_FAILED",
        RvError::GeneralError => "CKR_GENERAL_ERROR",
        RvError::MechanismInvalid => "CKR_MECHANISM_INVALID",
        RvError::ObjectHandleInvalid => "CKR_OBJECT_HANDLE_INVALID",
        RvError::SessionClosed => "CKR_SESSION_CLOSED",
        RvError::SessionHandleInvalid => "CKR_SESSION_HANDLE_INVALID",
        RvError::TokenNotPresent => "CKR_TOKEN_NOT_PRESENT",
        RvError::UserNotLoggedIn => "CKR_USER_NOT_LOGGED_IN",
        RvError::VendorDefined(number) => return format!("the maker's code {number:#x}"),
        other => return format!("{other:?}"),
    };
    name.to_owned()
}

const fn function_name(function: Function) -> &'static str {
    match function {
        Function::Initialize => "C_Initialize",
        Function::GetSlotList => "C_GetSlotList",
        Function::GetTokenInfo => "C_GetTokenInfo",
        Function::OpenSession => "C_OpenSession",
        Function::Login => LOGIN,
        Function::FindObjectsInit | Function::FindObjects | Function::FindObjectsFinal => "C_FindObjects",
        Function::GetAttributeValue => "C_GetAttributeValue",
        Function::GenerateKey => "C_GenerateKey",
        Function::EncryptInit => "C_EncryptInit",
        Function::Encrypt => "C_Encrypt",
        _ => "a function of PKCS #11",
    }
}

//! Who calls, from where, and under which request id.

use keyrail_core::id::RequestId;
use keyrail_core::record::Origin;
use keyrail_crypto::random;
use zeroize::Zeroizing;

use crate::error::EngineError;

/// What the caller shows. The token's text is wiped by its owner, and is never recorded.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// Nothing, or nothing usable.
    None,
    /// A token.
    Token(&'a str),
    /// The process holds the data directory and opened its root.
    LocalOperator,
    /// The scheduler; only the engine can make it.
    System(SystemCredential),
}

/// Shows that the engine itself calls.
#[derive(Clone, Copy)]
pub struct SystemCredential(());

/// Of a caller who says nothing of itself.
static NOTHING_SAID: Origin = Origin {
    app: None,
    component: None,
    environment: None,
    build: None,
    from: None,
    trace: None,
    caller_request: None,
};

/// One call of the engine.
pub struct Caller<'a> {
    /// What the caller shows.
    pub credential: Credential<'a>,
    /// What it says of itself, and its address.
    pub origin: &'a Origin,
    /// The id of the request and of its record.
    pub request: RequestId,
    /// The key under which a change is made at most once.
    pub idempotency_key: Option<&'a str>,
    /// The generation that a changed thing must still have.
    pub if_match: Option<u64>,
}

impl Caller<'static> {
    /// A call by the engine itself.
    pub(crate) fn system() -> Result<Self, EngineError> {
        Self::new(Credential::System(SystemCredential(())))
    }
}

impl<'a> Caller<'a> {
    /// A call with nothing but a credential.
    ///
    /// # Errors
    /// [`EngineError::Crypto`] when the operating system gives no randomness.
    pub fn new(credential: Credential<'a>) -> Result<Self, EngineError> {
        let request = RequestId::from_bytes(random::array()?);
        Ok(Self { credential, origin: &NOTHING_SAID, request, idempotency_key: None, if_match: None })
    }
}

/// A call that goes on when its caller is gone. The token's text is wiped with it.
pub(crate) struct KeptCaller {
    credential: KeptCredential,
    origin: Origin,
    request: RequestId,
    idempotency_key: Option<String>,
    if_match: Option<u64>,
}

enum KeptCredential {
    None,
    Token(Zeroizing<String>),
    LocalOperator,
    System(SystemCredential),
}

impl KeptCaller {
    pub(crate) fn of(caller: &Caller<'_>) -> Self {
        let credential = match caller.credential {
            Credential::None => KeptCredential::None,
            Credential::Token(text) => KeptCredential::Token(Zeroizing::new(text.to_owned())),
            Credential::LocalOperator => KeptCredential::LocalOperator,
            Credential::System(shown) => KeptCredential::System(shown),
        };
        Self {
            credential,
            origin: caller.origin.clone(),
            request: caller.request,
            idempotency_key: caller.idempotency_key.map(str::to_owned),
            if_match: caller.if_match,
        }
    }

    pub(crate) fn caller(&self) -> Caller<'_> {
        let credential = match &self.credential {
            KeptCredential::None => Credential::None,
            KeptCredential::Token(text) => Credential::Token(text),
            KeptCredential::LocalOperator => Credential::LocalOperator,
            KeptCredential::System(shown) => Credential::System(*shown),
        };
        Caller {
            credential,
            origin: &self.origin,
            request: self.request,
            idempotency_key: self.idempotency_key.as_deref(),
            if_match: self.if_match,
        }
    }
}

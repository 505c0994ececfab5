//! Who calls, from where, and under which request id.

use keyrail_core::id::RequestId;
use keyrail_core::record::Origin;
use keyrail_crypto::random;

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

/// One call of the engine.
pub struct Caller<'a> {
    /// What the caller shows.
    pub credential: Credential<'a>,
    /// What it says of itself, and its address.
    pub origin: Origin,
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
        Ok(Self { credential, origin: Origin::default(), request, idempotency_key: None, if_match: None })
    }
}

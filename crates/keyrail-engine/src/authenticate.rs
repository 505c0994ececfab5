//! Authentication: from what the caller shows to a principal.

use keyrail_core::access::Principal;
use keyrail_core::time::Timestamp;
use keyrail_core::token::Token;
use keyrail_crypto::digest::Sha256;

use crate::error::EngineError;
use crate::request::Credential;
use crate::unsealed::Unsealed;

/// Every token begins so; scanners for leaked secrets look for it.
pub(crate) const TOKEN_PREFIX: &str = "krt_";

/// The longest text that is looked at as a token, in bytes.
const TOKEN_LEN_MAX: usize = 128;

/// How long a token's row may be believed without a change of state, in seconds. A revocation is a change
/// and takes effect at once; this bounds memory, not trust.
const TOKEN_CACHE_SECONDS: u64 = 60;

/// Whether a credential may be good at all, told without opening anything.
pub(crate) fn is_plausible(credential: Credential<'_>) -> bool {
    match credential {
        Credential::LocalOperator | Credential::System(_) => true,
        Credential::Token(text) => text.len() <= TOKEN_LEN_MAX && text.starts_with(TOKEN_PREFIX),
        Credential::None => false,
    }
}

/// Who the caller is. All reasons for "no" look the same to the caller.
pub(crate) async fn authenticate(
    open: &Unsealed,
    credential: Credential<'_>,
    now: Timestamp,
) -> Result<Principal, EngineError> {
    let text = match credential {
        Credential::LocalOperator if open.local_operator_allowed().await? => return Ok(Principal::local_operator()),
        Credential::LocalOperator => {
            return Err(EngineError::Refused { reason: "acting without a token is switched off" });
        }
        Credential::System(_) => return Ok(Principal::system()),
        Credential::Token(text) if is_plausible(credential) => text,
        Credential::Token(_) | Credential::None => return Err(EngineError::Unauthenticated),
    };
    // In memory a plain hash will do: a token has more randomness than anybody can try out. The store's is a keyed one.
    let shown = Sha256::new().with(text.as_bytes()).finish();
    let generation = open.generation();
    let token = match open.tokens.get(generation, now, &shown) {
        Some(token) => token,
        None => Box::pin(load(open, generation, now, text, shown)).await?,
    };
    token.principal(now).map_err(|_| EngineError::Unauthenticated)
}

async fn load(
    open: &Unsealed,
    generation: u64,
    now: Timestamp,
    text: &str,
    shown: [u8; 32],
) -> Result<std::sync::Arc<Token>, EngineError> {
    let token = open.state().token_by_hash(&open.token_hash(text)).await?.ok_or(EngineError::Unauthenticated)?;
    let token = std::sync::Arc::new(token);
    let good_until = token.expires_at.min(now.plus_seconds(TOKEN_CACHE_SECONDS));
    open.tokens.put(generation, shown, token.clone(), good_until);
    Ok(token)
}

//! Tokens.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyrail_core::access::{Action, Role};
use keyrail_core::id::TokenId;
use keyrail_core::name::AppPath;
use keyrail_core::time::Timestamp;
use keyrail_core::token::{TOKEN_TTL_SECONDS_MAX, Token};
use keyrail_crypto::random;
use keyrail_store::Change;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::authenticate::TOKEN_PREFIX;
use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::ops::{TOKENS_MAX, room_for};
use crate::pipeline::{Acted, Context, Operation, Replay, Scope, Target, replay_answer};
use crate::unsealed::Unsealed;

/// Makes a token.
#[derive(Clone, Debug)]
pub struct CreateToken {
    /// What its holder may do.
    pub role: Role,
    /// The app it is confined to; needed for the role `app`.
    pub app: Option<AppPath>,
    /// How long it lives, in seconds.
    pub ttl_seconds: u64,
}

/// A new token. Its text is shown this once.
pub struct NewToken {
    /// What was stored of it.
    pub view: TokenView,
    /// The token.
    pub text: Zeroizing<String>,
}

/// A token as callers see it.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// What its holder may do.
    pub role: Role,
    /// The app it is confined to.
    pub app: Option<AppPath>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

impl From<Token> for TokenView {
    fn from(row: Token) -> Self {
        Self {
            id: row.id,
            role: row.role,
            app: row.app,
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
        }
    }
}

/// The random part of a token, in bytes.
const TOKEN_LEN: usize = 32;

/// A new token's text and row.
pub(crate) fn new_token(
    hash: impl FnOnce(&str) -> [u8; 32],
    request: &CreateToken,
    now: Timestamp,
) -> Result<(Token, Zeroizing<String>), EngineError> {
    let secret = Zeroizing::new(random::array::<TOKEN_LEN>()?);
    let mut text = Zeroizing::new(String::with_capacity(64));
    text.push_str(TOKEN_PREFIX);
    URL_SAFE_NO_PAD.encode_string(secret.as_slice(), &mut text);
    let row = Token {
        id: TokenId::from_bytes(random::array()?),
        hash: hash(&text),
        role: request.role,
        app: request.app.clone(),
        created_at: now,
        expires_at: now.plus_seconds(request.ttl_seconds),
        revoked_at: None,
        generation: 1,
    };
    Ok((row, text))
}

impl Operation for CreateToken {
    const ACTION: Action = Action::TokenCreate;
    const REPLAY: Replay = Replay::SecretAnswer;
    type Loaded = bool;
    type Answer = NewToken;

    fn fingerprint(&self) -> String {
        format!("{self:?}")
    }

    async fn load(&self, open: &Arc<Unsealed>) -> Result<bool, EngineError> {
        match &self.app {
            Some(path) => open.app_exists(path).await,
            None => Ok(true),
        }
    }

    fn target(&self, _: &bool) -> Target {
        match &self.app {
            Some(path) => Target::of_app("app", path.to_string(), path.clone()),
            None => Target::service("token", None),
        }
    }

    async fn act(
        authorized: &Authorized<Self>,
        app_exists: bool,
        cx: &Context<'_>,
    ) -> Result<Acted<NewToken>, EngineError> {
        let op = authorized.op();
        if op.role == Role::App && op.app.is_none() {
            return Err(EngineError::Invalid {
                problem: "a token with the role `app` belongs to one app".to_owned(),
                hint: "name it: --app acme/prod/crm",
            });
        }
        if let Some(path) = op.app.as_ref().filter(|_| !app_exists) {
            return Err(EngineError::NotFound { what: "app", name: path.to_string() });
        }
        if op.ttl_seconds == 0 || op.ttl_seconds > TOKEN_TTL_SECONDS_MAX {
            return Err(EngineError::Invalid {
                problem: format!("a token lives from 1 to {TOKEN_TTL_SECONDS_MAX} seconds"),
                hint: "choose another --ttl",
            });
        }
        room_for(cx.open.state().count::<Token>(Vec::new()).await?, "tokens", TOKENS_MAX)?;
        let (row, text) = new_token(|text| cx.open.token_hash(text), op, cx.now)?;
        let mut change = Change::new();
        change.insert(&row);
        let (id, expires_at) = (row.id, row.expires_at);
        let acted = Acted::new(NewToken { view: row.into(), text }).change(change);
        Ok(acted.detail("token", id).detail("role", op.role).detail("expires_at", expires_at))
    }
}

/// Lists the tokens.
#[derive(Clone, Debug)]
pub struct ListTokens;

impl Operation for ListTokens {
    const ACTION: Action = Action::TokenRead;
    type Loaded = Vec<Token>;
    type Answer = Vec<TokenView>;

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().tokens().await?)
    }

    fn target(&self, _: &Self::Loaded) -> Target {
        Target::service("tokens", None)
    }

    async fn act(
        _: &Authorized<Self>,
        loaded: Self::Loaded,
        _: &Context<'_>,
    ) -> Result<Acted<Self::Answer>, EngineError> {
        Ok(Acted::new(loaded.into_iter().map(TokenView::from).collect()))
    }
}

/// Revokes a token; complete when it returns.
#[derive(Clone, Debug)]
pub struct RevokeToken {
    /// Which one.
    pub id: TokenId,
}

impl Operation for RevokeToken {
    const ACTION: Action = Action::TokenRevoke;
    type Loaded = Option<Token>;
    type Answer = TokenView;
    replay_answer!();

    async fn load(&self, open: &Arc<Unsealed>) -> Result<Self::Loaded, EngineError> {
        Ok(open.state().token(&self.id).await?)
    }

    fn target(&self, loaded: &Self::Loaded) -> Target {
        let scope = Scope::of_app_or_elsewhere(loaded.as_ref().and_then(|token| token.app.clone()));
        Target { what: "token", name: Some(self.id.to_string()), scope }
    }

    async fn act(
        authorized: &Authorized<Self>,
        loaded: Self::Loaded,
        cx: &Context<'_>,
    ) -> Result<Acted<TokenView>, EngineError> {
        let token =
            loaded.ok_or_else(|| EngineError::NotFound { what: "token", name: authorized.op().id.to_string() })?;
        if token.revoked_at.is_some() {
            return Ok(Acted::new(token.into()));
        }
        let row = Token { revoked_at: Some(cx.now), generation: token.generation + 1, ..token };
        let mut change = Change::new();
        change.update(&row);
        Ok(Acted::new(row.into()).change(change))
    }
}

//! Encrypt, decrypt, re-encrypt and data keys.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::BoxError;
use axum::body::{Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method};
use keyrail_core::name::{KeyName, VersionNumber};
use keyrail_crypto::envelope::Context;
use keyrail_crypto::secret::Plaintext;
use keyrail_engine::EngineError;
use keyrail_engine::ops::data::{
    CiphertextItem, Decrypt, Decrypted, Encrypt, EncryptItem, Encrypted, ITEMS_MAX, Item, MakeDataKey, Reencrypt,
};
use keyrail_engine::parallel::spread;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::api::{About, Api};
use crate::body::body_bytes;
use crate::call::{Arrival, Call};
use crate::problem::{Failure, Problem};
use crate::routes::{Answer, Answered, Json, KeyInPath, Shared, invalid_json, run};

/// The most bytes of a body with items.
pub(crate) const BODY_LEN_MAX: usize = 64 * 1024 * 1024;

/// The length of a data key that is asked for without saying how long, in bytes.
const DATA_KEY_LEN_DEFAULT: usize = 32;

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<EncryptBody<'static>, EncryptAnswer>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/encrypt",
            "encrypt",
            "Encrypts items under the active version",
        ),
        post(encrypt),
    )
    .route::<CiphertextBody<'static>, DecryptAnswer>(
        About::post("/v1/keys/{domain}/{environment}/{app}/{name}/decrypt", "decrypt", "Decrypts items"),
        post(decrypt),
    )
    .route::<CiphertextBody<'static>, EncryptAnswer>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/reencrypt",
            "reencrypt",
            "Puts items under the active version, each with its context kept",
        ),
        post(reencrypt),
    )
    .route::<DataKeyBody, DataKeyAnswer>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/data-key",
            "makeDataKey",
            "Makes a data key for a caller who encrypts by itself",
        ),
        post(data_key),
    )
}

/// The pairs of a context, as they were sent: a key that is there twice is seen and refused.
struct ContextIn<T>(Vec<(T, T)>);

impl<T> Default for ContextIn<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ContextIn<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
    type Value = ContextIn<T>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ContextIn<T>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(ContextIn(pairs))
    }
}

/// A text that is borrowed where the body holds it as it is.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl From<Text<'_>> for String {
    fn from(text: Text<'_>) -> Self {
        text.0.into_owned()
    }
}

/// Items to encrypt.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EncryptBody<'a> {
    /// Up to 10,000 items.
    #[serde(borrow)]
    items: Vec<EncryptIn<'a>>,
}

/// An item to encrypt.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EncryptIn<'a> {
    /// The data, in base64 with padding.
    #[serde(borrow)]
    #[schema(value_type = String)]
    plaintext: Cow<'a, str>,
    /// What it belongs to: needed again to decrypt it.
    #[serde(borrow, default)]
    #[schema(value_type = BTreeMap<String, String>)]
    context: ContextIn<Text<'a>>,
}

/// Items to decrypt or to re-encrypt.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CiphertextBody<'a> {
    /// Up to 10,000 items.
    #[serde(borrow)]
    items: Vec<CiphertextIn<'a>>,
}

/// An item to decrypt or to re-encrypt.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CiphertextIn<'a> {
    /// The ciphertext: a text that begins with `kr1.`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    ciphertext: Cow<'a, str>,
    /// The context it was encrypted with.
    #[serde(borrow, default)]
    #[schema(value_type = BTreeMap<String, String>)]
    context: ContextIn<Text<'a>>,
}

/// What became of each item, in their order.
#[derive(Serialize, ToSchema)]
struct EncryptAnswer {
    /// One answer per item.
    items: Vec<EncryptOut>,
}

/// A ciphertext, or why there is none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum EncryptOut {
    /// Done.
    Done {
        /// The ciphertext.
        ciphertext: String,
        /// The version it is under.
        version: VersionNumber,
    },
    /// Not done.
    Failed {
        /// Why.
        error: ItemError,
    },
}

/// What became of each item, in their order.
#[derive(Serialize, ToSchema)]
struct DecryptAnswer {
    /// One answer per item.
    items: Vec<DecryptOut>,
}

impl EncryptAnswer {
    /// The answer as JSON, the same as a serializer writes. A ciphertext is a text of letters, digits, `.`, `-` and `_`
    /// and needs no look at every character: a batch has hundreds of thousands of them.
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let len = |item: &EncryptOut| match item {
            EncryptOut::Done { ciphertext, .. } => ciphertext.len() + ITEM_FRAME_LEN,
            EncryptOut::Failed { .. } => ITEM_FRAME_LEN,
        };
        let mut out = Vec::with_capacity(ITEM_FRAME_LEN + self.items.iter().map(len).sum::<usize>());
        out.extend_from_slice(br#"{"items":["#);
        for (index, item) in self.items.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            match item {
                EncryptOut::Done { ciphertext, version } => {
                    out.extend_from_slice(br#"{"ciphertext":""#);
                    out.extend_from_slice(ciphertext.as_bytes());
                    out.extend_from_slice(br#"","version":"#);
                    serde_json::to_writer(&mut out, version)?;
                    out.push(b'}');
                }
                failed @ EncryptOut::Failed { .. } => serde_json::to_writer(&mut out, failed)?,
            }
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }
}

/// The usual length of what stands around a ciphertext, in bytes.
const ITEM_FRAME_LEN: usize = 48;

impl Answer<EncryptAnswer> {
    fn written(self) -> Response {
        let body = self.body.to_json().map(Bytes::from);
        self.with_json(body)
    }
}

/// A plaintext, or why there is none.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum DecryptOut {
    /// Done.
    Done {
        /// The data, in base64.
        #[serde(serialize_with = "base64_text")]
        #[schema(value_type = String)]
        plaintext: Plaintext,
        /// The version it was under.
        version: VersionNumber,
    },
    /// Not done.
    Failed {
        /// Why.
        error: ItemError,
    },
}

fn base64_text<S: Serializer>(plaintext: &Plaintext, serializer: S) -> Result<S::Ok, S::Error> {
    base64_secret(plaintext.as_bytes(), serializer)
}

/// Writes secret bytes as base64: in memory that is wiped, and of the length they need at once.
pub(super) fn base64_secret<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Zeroizing::new(STANDARD.encode(bytes)))
}

/// Why an item failed.
#[derive(Serialize, ToSchema)]
struct ItemError {
    /// The stable code.
    code: String,
    /// What happened.
    title: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl ItemError {
    fn of(error: &EngineError) -> Self {
        Self { code: error.code().to_owned(), title: error.to_string(), hint: error.hint() }
    }
}

fn context<T: Into<String>>(pairs: ContextIn<T>) -> Item<Context> {
    Context::from_pairs(pairs.0).map_err(|_| EngineError::BadContext)
}

fn encrypt_item(item: EncryptIn<'_>) -> Item<EncryptItem> {
    let invalid = |_| EngineError::Invalid {
        problem: "`plaintext` is not base64".to_owned(),
        hint: "standard base64 with padding",
    };
    let plaintext = STANDARD.decode(item.plaintext.as_bytes()).map(Plaintext::new).map_err(invalid)?;
    Ok(EncryptItem { plaintext, context: context(item.context)? })
}

fn ciphertext_item(item: CiphertextIn<'_>) -> Item<CiphertextItem> {
    Ok(CiphertextItem { ciphertext: item.ciphertext.into_owned(), context: context(item.context)? })
}

fn encrypted(item: Item<Encrypted>) -> EncryptOut {
    match item {
        Ok(done) => EncryptOut::Done { ciphertext: done.ciphertext, version: done.version },
        Err(error) => EncryptOut::Failed { error: ItemError::of(&error) },
    }
}

fn decrypted(item: Item<Decrypted>) -> DecryptOut {
    match item {
        Ok(done) => DecryptOut::Done { plaintext: done.plaintext, version: done.version },
        Err(error) => DecryptOut::Failed { error: ItemError::of(&error) },
    }
}

/// The operations that come by the thousand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Frequent {
    Encrypt,
    Decrypt,
}

impl Frequent {
    /// What a request asks for, if it is one of these and its path is written plainly. The router answers the same
    /// requests in the same way: this only spares them the search among all paths.
    pub(crate) fn of(method: &Method, path: &str) -> Option<(Self, KeyName)> {
        let (name, asked) = path.strip_prefix("/v1/keys/")?.rsplit_once('/')?;
        let asked = match asked {
            "encrypt" => Self::Encrypt,
            "decrypt" => Self::Decrypt,
            _ => return None,
        };
        Some((asked, name.parse().ok()?)).filter(|_| *method == Method::POST)
    }

    /// Answers such a request.
    pub(crate) async fn answer<B: HttpBody<Data = Bytes, Error: Into<BoxError>>>(
        self,
        key: KeyName,
        service: &Shared,
        arrival: &Arc<Arrival>,
        headers: &HeaderMap,
        body: B,
    ) -> Response {
        let call = match Call::arrived(headers, arrival) {
            Ok(call) => call,
            Err(error) => return Failure { error, request_id: arrival.request.to_string() }.into_response(),
        };
        let bytes = body_bytes(&call, headers, body, service, BODY_LEN_MAX).await;
        match self {
            Self::Encrypt => match encrypt_items(&call, bytes) {
                Ok(items) => encrypt_all(service, &call, key, items).await,
                Err(response) => *response,
            },
            Self::Decrypt => match ciphertext_items(&call, bytes) {
                Ok(items) => decrypt_all(service, &call, key, items).await,
                Err(response) => *response,
            },
        }
    }
}

async fn bytes_of(call: &Call, request: Request, service: &Shared) -> Result<Bytes, Problem> {
    let (parts, body) = request.into_parts();
    body_bytes(call, &parts.headers, body, service, BODY_LEN_MAX).await
}

async fn encrypt(State(service): State<Shared>, call: Call, KeyInPath(key): KeyInPath, request: Request) -> Response {
    match encrypt_items(&call, bytes_of(&call, request, &service).await) {
        Ok(items) => encrypt_all(&service, &call, key, items).await,
        Err(response) => *response,
    }
}

async fn encrypt_all(service: &Shared, call: &Call, key: KeyName, items: Vec<Item<EncryptItem>>) -> Response {
    let answered = run(service, call, Encrypt { key, items }).await;
    answered
        .map(|done| done.map(|items| EncryptAnswer { items: items.into_iter().map(encrypted).collect() }).written())
        .into_response()
}

async fn decrypt(State(service): State<Shared>, call: Call, KeyInPath(key): KeyInPath, request: Request) -> Response {
    match ciphertext_items(&call, bytes_of(&call, request, &service).await) {
        Ok(items) => decrypt_all(&service, &call, key, items).await,
        Err(response) => *response,
    }
}

async fn decrypt_all(service: &Shared, call: &Call, key: KeyName, items: Vec<Item<CiphertextItem>>) -> Response {
    let answered = run(service, call, Decrypt { key, items }).await;
    answered
        .map(|done| done.map(|items| DecryptAnswer { items: items.into_iter().map(decrypted).collect() }))
        .into_response()
}

async fn reencrypt(State(service): State<Shared>, call: Call, KeyInPath(key): KeyInPath, request: Request) -> Response {
    let items = match ciphertext_items(&call, bytes_of(&call, request, &service).await) {
        Ok(items) => items,
        Err(response) => return *response,
    };
    let answered = run(&service, &call, Reencrypt { key, items }).await;
    answered
        .map(|done| done.map(|items| EncryptAnswer { items: items.into_iter().map(encrypted).collect() }).written())
        .into_response()
}

/// The items own their data: the body is gone when this returns.
fn encrypt_items(call: &Call, bytes: Result<Bytes, Problem>) -> Result<Vec<Item<EncryptItem>>, Box<Response>> {
    let bytes = bytes.map_err(|problem| Box::new(problem.into_response()))?;
    match serde_json::from_slice::<EncryptBody<'_>>(&bytes) {
        Ok(parsed) if parsed.items.len() > ITEMS_MAX => Err(Box::new(too_many(call, parsed.items.len()))),
        Ok(parsed) => Ok(spread(parsed.items, encrypt_item)),
        Err(error) => Err(Box::new(invalid_json(&error).under(call.request).into_response())),
    }
}

/// As [`encrypt_items`].
fn ciphertext_items(call: &Call, bytes: Result<Bytes, Problem>) -> Result<Vec<Item<CiphertextItem>>, Box<Response>> {
    let bytes = bytes.map_err(|problem| Box::new(problem.into_response()))?;
    match serde_json::from_slice::<CiphertextBody<'_>>(&bytes) {
        Ok(parsed) if parsed.items.len() > ITEMS_MAX => Err(Box::new(too_many(call, parsed.items.len()))),
        Ok(parsed) => Ok(spread(parsed.items, ciphertext_item)),
        Err(error) => Err(Box::new(invalid_json(&error).under(call.request).into_response())),
    }
}

fn too_many(call: &Call, len: usize) -> Response {
    call.fail(EngineError::TooLarge { what: "the batch", unit: "items", len, max: ITEMS_MAX }).into_response()
}

/// What kind of data key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DataKeyBody {
    /// Its length in bytes: 16, 32 or 64; 32 if left out.
    #[serde(default)]
    bytes: Option<usize>,
    /// What it belongs to: needed again to decrypt it.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, String>)]
    context: ContextIn<String>,
}

/// A data key.
#[derive(Serialize, ToSchema)]
struct DataKeyAnswer {
    /// The key, in base64: to be forgotten after use.
    #[serde(serialize_with = "base64_text")]
    #[schema(value_type = String)]
    plaintext: Plaintext,
    /// The same key, encrypted: to be kept beside the data.
    ciphertext: String,
    /// The version it is under.
    version: VersionNumber,
}

async fn data_key(
    State(service): State<Shared>,
    call: Call,
    KeyInPath(key): KeyInPath,
    Json(body): Json<DataKeyBody>,
) -> Answered<DataKeyAnswer> {
    let context = context(body.context).map_err(|error| call.fail(error))?;
    let made =
        run(&service, &call, MakeDataKey { key, context, len: body.bytes.unwrap_or(DATA_KEY_LEN_DEFAULT) }).await?;
    Ok(made.map(|pair| DataKeyAnswer { plaintext: pair.plaintext, ciphertext: pair.ciphertext, version: pair.version }))
}

#[cfg(test)]
mod tests {
    use keyrail_crypto::envelope::{TEXT_PREFIX, to_text};

    use super::*;

    #[test]
    fn what_is_written_by_hand_is_what_a_serializer_writes() {
        let done = |bytes: &[u8]| EncryptOut::Done { ciphertext: to_text(bytes), version: VersionNumber::FIRST };
        let failed = EncryptOut::Failed { error: ItemError::of(&EngineError::NotCiphertext) };
        let every_byte: Vec<u8> = (0..=255).collect();
        for items in [vec![], vec![done(b"")], vec![done(&every_byte), failed, done(b"x")]] {
            let answer = EncryptAnswer { items };
            assert_eq!(answer.to_json().unwrap(), serde_json::to_vec(&answer).unwrap());
        }
        // Every character that a ciphertext can have stands for itself in JSON.
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        assert!(plain(TEXT_PREFIX) && plain(&to_text(&every_byte)));
    }
}

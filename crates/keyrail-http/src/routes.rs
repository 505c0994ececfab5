//! The routes, one module per resource.

mod access;
mod assets;
mod audit;
mod backups;
pub(crate) mod data;
mod keys;
mod page;
mod roots;
mod system;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use keyrail_core::id::{ID_LEN, RequestId};
use keyrail_core::name::{AppPath, EnvironmentPath, KeyName, KeyVersionName, Name, NameError, VersionNumber};
use keyrail_engine::{EngineError, Operation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::OpenApi;

use crate::api::{Api, DOCUMENT_PATH};
use crate::body::body_bytes;
use crate::call::{Call, REQUEST_ID, known_id};
use crate::problem::{Failure, Problem, RequestRefusal};
use crate::service::Service;
use crate::wiped::Wiped;

/// The most bytes of an ordinary body.
const BODY_LEN_MAX: usize = 1024 * 1024;

pub(crate) type Shared = Arc<Service>;

/// The routes and their document.
pub(crate) fn api() -> (Router<Shared>, OpenApi) {
    let api = access::routes(Api::new());
    let api = keys::routes(api);
    let api = data::routes(api);
    let api = assets::routes(api);
    let api = audit::routes(api);
    let api = roots::routes(api);
    let api = backups::routes(api);
    system::routes(api).finish()
}

/// The whole API around a service.
pub fn router(service: Arc<Service>) -> Router {
    let (router, document) = api();
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let serve_document = axum::routing::get(move || {
        let document = document.clone();
        async move { ([(header::CONTENT_TYPE, "application/json")], document.to_string()) }
    });
    router
        .route(DOCUMENT_PATH, serve_document)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(service)
}

async fn no_route(call: Call) -> Problem {
    Problem::request(RequestRefusal::Path).under(call.request)
}

async fn no_method(call: Call) -> Problem {
    Problem::request(RequestRefusal::Method).under(call.request)
}

/// An answer as JSON, with the request's id and, where there is one, the ETag.
pub(crate) struct Answer<T> {
    pub(crate) status: StatusCode,
    pub(crate) body: T,
    pub(crate) etag: Option<u64>,
    pub(crate) request_id: RequestId,
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let body = Wiped::json(&self.body).map(Wiped::into_bytes);
        self.with_json(body)
    }
}

impl<T> Answer<T> {
    /// The answer with a body that is written already.
    pub(crate) fn with_json(self, body: serde_json::Result<Bytes>) -> Response {
        let Ok(body) = body else {
            return Problem::of(&EngineError::Bug { what: "an answer that is no JSON" })
                .under(self.request_id)
                .into_response();
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(value) = request_id_value(&self.request_id) {
            headers.insert(REQUEST_ID, value);
        }
        if let Some(Ok(value)) = self.etag.map(|generation| HeaderValue::from_str(&format!("\"{generation}\""))) {
            headers.insert(header::ETAG, value);
        }
        response
    }
}

pub(crate) type Answered<T> = Result<Answer<T>, Failure>;

/// The id of a request as a header.
pub(crate) fn request_id_value(id: &RequestId) -> Result<HeaderValue, EngineError> {
    let mut digits = [0; 2 * ID_LEN];
    let encoded = hex::encode_to_slice(id.as_bytes(), &mut digits).ok();
    let value = encoded.and_then(|()| HeaderValue::from_bytes(&digits).ok());
    value.ok_or(EngineError::Bug { what: "an id that is no header" })
}

/// Runs an operation and answers with it.
pub(crate) async fn run<Op: Operation>(service: &Service, call: &Call, op: Op) -> Answered<Op::Answer> {
    match service.engine().execute(&call.caller(), op).await {
        Ok(body) => Ok(answer(call, body)),
        Err(error) => Err(call.fail(error)),
    }
}

pub(crate) fn answer<T>(call: &Call, body: T) -> Answer<T> {
    Answer { status: StatusCode::OK, body, etag: None, request_id: call.request }
}

impl<T> Answer<T> {
    pub(crate) fn map<U>(self, to: impl FnOnce(T) -> U) -> Answer<U> {
        Answer { status: self.status, body: to(self.body), etag: self.etag, request_id: self.request_id }
    }

    pub(crate) fn try_map<U>(self, to: impl FnOnce(T) -> Result<U, Failure>) -> Answered<U> {
        let body = to(self.body)?;
        Ok(Answer { status: self.status, body, etag: self.etag, request_id: self.request_id })
    }

    pub(crate) fn etag(mut self, generation: impl FnOnce(&T) -> u64) -> Self {
        self.etag = Some(generation(&self.body));
        self
    }
}

/// A body as JSON; its errors are problems like all others.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Shared> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, service: &Shared) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let call = Call::of(&mut parts).map_err(|error| Problem::of(&error).under(known_id(&parts.extensions)))?;
        let bytes = body_bytes(&call, &parts.headers, body, service, BODY_LEN_MAX).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| invalid_json(&error).under(call.request))
    }
}

/// The query as a type; its errors are problems like all others.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Shared> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Problem> {
        let parsed = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        let wrong = |_| Problem::request(RequestRefusal::Query).under(known_id(&parts.extensions));
        parsed.map(|query| Self(query.0)).map_err(wrong)
    }
}

/// What a parser says about the names of fields; what it says about values is left out, for they may be secret.
fn about_fields(said: &str) -> Option<String> {
    let about = ["unknown field ", "missing field ", "duplicate field "].iter().any(|start| said.starts_with(start));
    let text = said.rsplit_once(" at line ").map_or(said, |(text, _)| text);
    about.then(|| text.chars().filter(|c| !c.is_control()).take(FIELDS_TEXT_LEN_MAX).collect())
}

/// How much of that is told, in characters.
const FIELDS_TEXT_LEN_MAX: usize = 200;

/// What is wrong with a JSON body, by place and kind; never with its content.
pub(crate) fn invalid_json(error: &serde_json::Error) -> Problem {
    let what = match error.classify() {
        serde_json::error::Category::Data => "is not of the expected form",
        _ => "is not JSON",
    };
    let (line, column) = (error.line(), error.column());
    let problem = match about_fields(&error.to_string()) {
        Some(fields) => format!("the body {what}: {fields} at line {line}, column {column}"),
        None => format!("the body {what} at line {line}, column {column}"),
    };
    Problem::of(&EngineError::Invalid { problem, hint: "the OpenAPI document tells the form of each body" })
}

fn name(text: &str) -> Result<Name, EngineError> {
    text.parse().map_err(|error: NameError| EngineError::Invalid { problem: error.to_string(), hint: error.hint() })
}

/// Extracts something from the path.
macro_rules! from_path {
    ($($(#[$meta:meta])* $wrapper:ident($inner:ty) from $tuple:ty, |$args:pat_param| $make:expr;)+) => {$(
        $(#[$meta])*
        pub(crate) struct $wrapper(pub(crate) $inner);

        impl FromRequestParts<Shared> for $wrapper {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
                let found = Path::<$tuple>::from_request_parts(parts, state).await;
                let failed = |error: EngineError| Problem::of(&error).under(known_id(&parts.extensions));
                let Path($args) = found.map_err(|_| failed(malformed_path()))?;
                let make = || -> Result<$inner, EngineError> { Ok($make) };
                make().map(Self).map_err(failed)
            }
        }
    )+};
}

fn malformed_path() -> EngineError {
    EngineError::Invalid {
        problem: "the path is not well formed".to_owned(),
        hint: "a path has names of lower-case letters, digits and hyphens, percent-encoded where needed",
    }
}

fn environment_path(domain: &str, environment: &str) -> Result<EnvironmentPath, EngineError> {
    Ok(EnvironmentPath { domain: name(domain)?, environment: name(environment)? })
}

fn key_name(domain: &str, environment: &str, app: &str, key: &str) -> Result<KeyName, EngineError> {
    let app = AppPath { environment: environment_path(domain, environment)?, app: name(app)? };
    Ok(KeyName { app, key: name(key)? })
}

fn version(text: &str) -> Result<VersionNumber, EngineError> {
    let number = text.parse().ok().and_then(VersionNumber::new);
    number.ok_or(EngineError::Invalid {
        problem: "a version is a number from 1".to_owned(),
        hint: "`keyrail key show` lists the versions",
    })
}

type Four = (String, String, String, String);
type Five = (String, String, String, String, String);

from_path! {
    /// `{domain}/{environment}`.
    EnvironmentInPath(EnvironmentPath) from (String, String), |(domain, environment)| environment_path(&domain, &environment)?;
    /// `{domain}/{environment}/{app}/{name}`.
    KeyInPath(KeyName) from Four, |(domain, environment, app, key)| key_name(&domain, &environment, &app, &key)?;
    /// The same with a version.
    VersionInPath(KeyVersionName) from Five, |(domain, environment, app, key, number)|
        KeyVersionName { key: key_name(&domain, &environment, &app, &key)?, version: version(&number)? };
    /// A single name.
    NameInPath(Name) from String, |text| name(&text)?;
}

/// Any id in the path.
pub(crate) struct IdInPath<T>(pub(crate) T);

impl<T: std::str::FromStr> FromRequestParts<Shared> for IdInPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, Problem> {
        let id = known_id(&parts.extensions);
        let wrong = || {
            let problem = "an id has 32 hex digits".to_owned();
            Problem::of(&EngineError::Invalid { problem, hint: "copy it from an answer" }).under(&id)
        };
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| wrong())?;
        text.parse().map(Self).map_err(|_| wrong())
    }
}

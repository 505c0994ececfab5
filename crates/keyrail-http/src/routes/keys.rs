//! Data keys and their versions.

use axum::extract::State;
use axum::routing::{get, post};
use keyrail_core::id::DataKeyId;
use keyrail_core::name::{AppPath, KeyName, Name};
use keyrail_core::rotation::RotationReason;
use keyrail_crypto::secret::Exported;
use keyrail_engine::ops::key::{
    CompromiseVersion, CreateKey, ExportVersion, KeyPage, KeyView, ListKeys, ReinstateVersion, RelabelKey,
    ResumeVersion, RotateKey, ShowKey, SuspendVersion,
};
use keyrail_engine::ops::retire::{DestroyVersion, Destruction, Evidence, RetireVersion, Retired, ShowEvidence};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;
use utoipa::openapi::Type;

use crate::api::{About, Api, Nothing, Parameter};
use crate::call::Call;
use crate::routes::data::base64_secret;
use crate::routes::page::{AFTER, LIMIT, page_len};
use crate::routes::{Answered, Json, KeyInPath, Query, Shared, VersionInPath, run};

const APP: Parameter = Parameter { name: "app", about: "Only keys of this app.", kind: Type::String };

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    version_routes(key_routes(api))
}

fn key_routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, KeyPage>(
        About::get("/v1/keys", "listKeys", "Lists data keys, a page at a time").query(&[LIMIT, AFTER, APP]),
        get(list),
    )
    .route::<NewKey, KeyView>(About::post("/v1/keys", "createKey", "Makes a data key").once(), post(create))
    .route::<Nothing, KeyView>(
        About::get("/v1/keys/{domain}/{environment}/{app}/{name}", "showKey", "Shows a data key"),
        get(show),
    )
    .route::<Nothing, KeyView>(
        About::post("/v1/keys/{domain}/{environment}/{app}/{name}/rotate", "rotateKey", "Makes a new active version")
            .once_if_match(),
        post(rotate),
    )
    .route::<NewLabel, KeyView>(
        About::post("/v1/keys/{domain}/{environment}/{app}/{name}/relabel", "relabelKey", "Gives a key another label")
            .once_if_match(),
        post(relabel),
    )
}

fn version_routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, Evidence>(
        About::get(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/evidence",
            "showEvidence",
            "Shows what speaks for and against retiring a version",
        ),
        get(evidence),
    )
    .route::<RetireRequest, Retired>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/retire",
            "retireVersion",
            "Retires a version behind a fence",
        )
        .once_if_match(),
        post(retire),
    )
    .route::<RetireRequest, Destruction>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/destroy",
            "destroyVersion",
            "Destroys a version after a wait",
        )
        .once_if_match(),
        post(destroy),
    )
    .route::<Nothing, ExportAnswer>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/export",
            "exportVersion",
            "Takes the key material out",
        ),
        post(export),
    )
    .route::<Nothing, KeyView>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/suspend",
            "suspendVersion",
            "Suspends a version",
        )
        .once_if_match(),
        post(suspend),
    )
    .route::<Nothing, KeyView>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/resume",
            "resumeVersion",
            "Resumes a suspended version",
        )
        .once_if_match(),
        post(resume),
    )
    .route::<Nothing, KeyView>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/compromise",
            "compromiseVersion",
            "Declares a version exposed",
        )
        .once_if_match(),
        post(compromise),
    )
    .route::<Nothing, KeyView>(
        About::post(
            "/v1/keys/{domain}/{environment}/{app}/{name}/versions/{version}/reinstate",
            "reinstateVersion",
            "Brings a retired version back",
        )
        .once_if_match(),
        post(reinstate),
    )
}

/// Which keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    app: Option<AppPath>,
    after: Option<KeyName>,
    limit: Option<usize>,
}

async fn list(State(service): State<Shared>, call: Call, Query(query): Query<ListQuery>) -> Answered<KeyPage> {
    let limit = page_len(&call, query.limit)?;
    run(&service, &call, ListKeys { app: query.app, after: query.after, limit }).await
}

/// A new data key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewKey {
    /// Its full name.
    name: KeyName,
    /// The label whose demands it keeps.
    label: Name,
}

async fn create(State(service): State<Shared>, call: Call, Json(body): Json<NewKey>) -> Answered<KeyView> {
    Ok(run(&service, &call, CreateKey { name: body.name, label: body.label }).await?.etag(|key| key.generation))
}

async fn show(State(service): State<Shared>, call: Call, KeyInPath(name): KeyInPath) -> Answered<KeyView> {
    Ok(run(&service, &call, ShowKey { name }).await?.etag(|key| key.generation))
}

async fn rotate(State(service): State<Shared>, call: Call, KeyInPath(name): KeyInPath) -> Answered<KeyView> {
    Ok(run(&service, &call, RotateKey { name, reason: RotationReason::Demand }).await?.etag(|key| key.generation))
}

/// Another label.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewLabel {
    /// The label whose demands it keeps from its next version on, which is made at once.
    label: Name,
}

async fn relabel(
    State(service): State<Shared>,
    call: Call,
    KeyInPath(name): KeyInPath,
    Json(body): Json<NewLabel>,
) -> Answered<KeyView> {
    Ok(run(&service, &call, RelabelKey { name, label: body.label }).await?.etag(|key| key.generation))
}

async fn evidence(State(service): State<Shared>, call: Call, VersionInPath(name): VersionInPath) -> Answered<Evidence> {
    run(&service, &call, ShowEvidence { name }).await
}

/// How a version is retired, or destroyed without that.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RetireRequest {
    /// Principals whose use outside assets somebody answers for.
    #[serde(default)]
    acknowledge: Vec<String>,
}

async fn retire(
    State(service): State<Shared>,
    call: Call,
    VersionInPath(name): VersionInPath,
    Json(body): Json<RetireRequest>,
) -> Answered<Retired> {
    Ok(run(&service, &call, RetireVersion { name, acknowledged: body.acknowledge })
        .await?
        .etag(|done| done.key.generation))
}

async fn destroy(
    State(service): State<Shared>,
    call: Call,
    VersionInPath(name): VersionInPath,
    Json(body): Json<RetireRequest>,
) -> Answered<Destruction> {
    Ok(run(&service, &call, DestroyVersion { name, acknowledged: body.acknowledge })
        .await?
        .etag(|done| done.key.generation))
}

/// Exported key material.
#[derive(Serialize, ToSchema)]
struct ExportAnswer {
    /// The version's id, in hex.
    kid: String,
    /// The material, in base64.
    #[serde(serialize_with = "base64_text")]
    #[schema(value_type = String)]
    key: Exported,
    /// The data key's id, part of the external AAD of every ciphertext.
    key_id: DataKeyId,
    /// The content algorithm.
    suite: String,
}

fn base64_text<S: Serializer>(key: &Exported, serializer: S) -> Result<S::Ok, S::Error> {
    base64_secret(key.as_bytes(), serializer)
}

async fn export(
    State(service): State<Shared>,
    call: Call,
    VersionInPath(name): VersionInPath,
) -> Answered<ExportAnswer> {
    let exported = run(&service, &call, ExportVersion { name }).await?;
    Ok(exported.map(|row| ExportAnswer {
        kid: row.kid.to_string(),
        key: row.material,
        key_id: row.key_id,
        suite: row.suite.to_string(),
    }))
}

macro_rules! moves {
    ($($handler:ident => $op:ident,)+) => {$(
        async fn $handler(State(service): State<Shared>, call: Call, VersionInPath(name): VersionInPath) -> Answered<KeyView> {
            Ok(run(&service, &call, $op { name }).await?.etag(|key| key.generation))
        }
    )+};
}

moves! {
    suspend => SuspendVersion,
    resume => ResumeVersion,
    compromise => CompromiseVersion,
    reinstate => ReinstateVersion,
}

//! Domains, apps, labels, tokens and master keys.

use axum::extract::State;
use axum::routing::{delete, get, post};
use keyrail_core::access::Role;
use keyrail_core::id::TokenId;
use keyrail_core::label::ApprovalDemand;
use keyrail_core::name::{AppPath, Name};
use keyrail_core::rotation::RotationReason;
use keyrail_core::time::Timestamp;
use keyrail_core::token::TOKEN_TTL_SECONDS_DEFAULT;
use keyrail_crypto::suite::Suite;
use keyrail_engine::EngineError;
use keyrail_engine::ops::app::{AppView, CreateApp, ListApps};
use keyrail_engine::ops::domain::{CreateDomain, DomainView, ListDomains};
use keyrail_engine::ops::label::{DemandsPatch, LabelView, ListLabels, SetLabel};
use keyrail_engine::ops::master::{MasterView, RotateMaster, ShowMaster};
use keyrail_engine::ops::token::{CreateToken, ListTokens, RevokeToken, TokenView};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::api::{About, Api, Nothing};
use crate::call::Call;
use crate::routes::page::{AppPage, DomainPage, LabelPage, PAGE, PageQuery, TokenPage};
use crate::routes::{Answered, EnvironmentInPath, IdInPath, Json, NameInPath, Query, Shared, run};

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, DomainPage>(
        About::get("/v1/domains", "listDomains", "Lists the domains").query(PAGE),
        get(domains),
    )
    .route::<NewDomain, DomainView>(
        About::post("/v1/domains", "createDomain", "Makes a domain").once(),
        post(create_domain),
    )
    .route::<Nothing, AppPage>(About::get("/v1/apps", "listApps", "Lists the apps").query(PAGE), get(apps))
    .route::<NewApp, AppView>(About::post("/v1/apps", "createApp", "Registers an app").once(), post(create_app))
    .route::<Nothing, LabelPage>(
        About::get("/v1/labels", "listLabels", "Lists the labels with what they demand").query(PAGE),
        get(labels),
    )
    .route::<LabelPatch, LabelView>(
        About::patch("/v1/labels/{name}", "setLabel", "Changes what a label demands, or makes one").once_if_match(),
        axum::routing::patch(set_label),
    )
    .route::<Nothing, TokenPage>(About::get("/v1/tokens", "listTokens", "Lists the tokens").query(PAGE), get(tokens))
    .route::<NewTokenRequest, NewTokenAnswer>(
        About::post("/v1/tokens", "createToken", "Makes a token; it is shown once").once(),
        post(create_token),
    )
    .route::<Nothing, TokenView>(
        About::delete("/v1/tokens/{id}", "revokeToken", "Revokes a token, at once").once(),
        delete(revoke_token),
    )
    .route::<Nothing, MasterView>(
        About::get("/v1/masters/{domain}/{environment}", "showMaster", "Shows a master key"),
        get(master),
    )
    .route::<Nothing, MasterView>(
        About::post("/v1/masters/{domain}/{environment}/rotate", "rotateMaster", "Makes a new master key version")
            .once(),
        post(rotate_master),
    )
}

async fn domains(State(service): State<Shared>, call: Call, Query(query): Query<PageQuery>) -> Answered<DomainPage> {
    run(&service, &call, ListDomains).await?.try_map(|rows| DomainPage::cut(rows, &query, &call))
}

/// A new domain.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewDomain {
    /// Its name.
    name: Name,
}

async fn create_domain(State(service): State<Shared>, call: Call, Json(body): Json<NewDomain>) -> Answered<DomainView> {
    run(&service, &call, CreateDomain { name: body.name }).await
}

async fn apps(State(service): State<Shared>, call: Call, Query(query): Query<PageQuery>) -> Answered<AppPage> {
    run(&service, &call, ListApps).await?.try_map(|rows| AppPage::cut(rows, &query, &call))
}

/// A new app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewApp {
    /// Domain, environment and name.
    path: AppPath,
}

async fn create_app(State(service): State<Shared>, call: Call, Json(body): Json<NewApp>) -> Answered<AppView> {
    run(&service, &call, CreateApp { path: body.path }).await
}

async fn labels(State(service): State<Shared>, call: Call, Query(query): Query<PageQuery>) -> Answered<LabelPage> {
    run(&service, &call, ListLabels).await?.try_map(|rows| LabelPage::cut(rows, &query, &call))
}

/// What changes in a label. What is left out stays; `null` demands nothing.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LabelPatch {
    /// Content algorithm of new key versions.
    #[serde(default)]
    suite: Option<String>,
    /// The greatest age of a data key version, in seconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    data_key_age_seconds_max: Option<Option<u64>>,
    /// How often a data key version may encrypt.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    data_key_uses_max: Option<Option<u64>>,
    /// The greatest age of a master key version, in seconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    master_key_age_seconds_max: Option<Option<u64>>,
    /// How long unwrapped keys may stay in memory, in seconds.
    #[serde(default)]
    cache_seconds_max: Option<u64>,
    /// How long a caller may store a ciphertext after it was handed out, in seconds.
    #[serde(default)]
    write_window_seconds: Option<u64>,
    /// How long a campaign may take, in seconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    campaign_deadline_seconds: Option<Option<u64>>,
    /// How long destruction waits, in seconds.
    #[serde(default)]
    destroy_wait_seconds: Option<u64>,
    /// Who must approve grave changes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Approval>)]
    approval: Option<Option<Approval>>,
}

/// Who must approve.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Approval {
    /// The role.
    role: Role,
    /// How many of them.
    count: u32,
}

/// Tells `null` from a field that is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

async fn set_label(
    State(service): State<Shared>,
    call: Call,
    NameInPath(name): NameInPath,
    Json(body): Json<LabelPatch>,
) -> Answered<LabelView> {
    let suite = match body.suite.as_deref().map(str::parse::<Suite>) {
        None => None,
        Some(Ok(suite)) => Some(suite),
        Some(Err(unknown)) => {
            return Err(call.fail(EngineError::Invalid { problem: unknown.to_string(), hint: Suite::CHOICES }));
        }
    };
    let patch = DemandsPatch {
        suite,
        data_key_age_seconds_max: body.data_key_age_seconds_max,
        data_key_uses_max: body.data_key_uses_max,
        master_key_age_seconds_max: body.master_key_age_seconds_max,
        cache_seconds_max: body.cache_seconds_max,
        write_window_seconds: body.write_window_seconds,
        campaign_deadline_seconds: body.campaign_deadline_seconds,
        destroy_wait_seconds: body.destroy_wait_seconds,
        approval: body.approval.map(|row| row.map(|row| ApprovalDemand { role: row.role, count: row.count })),
    };
    Ok(run(&service, &call, SetLabel { name, patch }).await?.etag(|view| view.generation))
}

async fn tokens(State(service): State<Shared>, call: Call, Query(query): Query<PageQuery>) -> Answered<TokenPage> {
    run(&service, &call, ListTokens).await?.try_map(|rows| TokenPage::cut(rows, &query, &call))
}

/// A new token.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTokenRequest {
    /// What it may do.
    role: Role,
    /// The one app it is confined to.
    #[serde(default)]
    app: Option<AppPath>,
    /// How long it is good, in seconds; a day if left out.
    #[serde(default)]
    ttl_seconds: Option<u64>,
}

/// A new token, shown once.
#[derive(Serialize, ToSchema)]
struct NewTokenAnswer {
    /// The token. It is kept nowhere.
    #[serde(serialize_with = "secret_text")]
    #[schema(value_type = String)]
    token: Zeroizing<String>,
    /// Its id.
    id: TokenId,
    /// When it ends.
    expires_at: Timestamp,
}

fn secret_text<S: Serializer>(text: &Zeroizing<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

async fn create_token(
    State(service): State<Shared>,
    call: Call,
    Json(body): Json<NewTokenRequest>,
) -> Answered<NewTokenAnswer> {
    let ttl_seconds = body.ttl_seconds.unwrap_or(TOKEN_TTL_SECONDS_DEFAULT);
    let made = run(&service, &call, CreateToken { role: body.role, app: body.app, ttl_seconds }).await?;
    Ok(made.map(|new| NewTokenAnswer { token: new.text, id: new.view.id, expires_at: new.view.expires_at }))
}

async fn revoke_token(
    State(service): State<Shared>,
    call: Call,
    IdInPath(id): IdInPath<TokenId>,
) -> Answered<TokenView> {
    run(&service, &call, RevokeToken { id }).await
}

async fn master(
    State(service): State<Shared>,
    call: Call,
    EnvironmentInPath(path): EnvironmentInPath,
) -> Answered<MasterView> {
    run(&service, &call, ShowMaster { path }).await
}

async fn rotate_master(
    State(service): State<Shared>,
    call: Call,
    EnvironmentInPath(path): EnvironmentInPath,
) -> Answered<MasterView> {
    run(&service, &call, RotateMaster { path, reason: RotationReason::Demand }).await
}

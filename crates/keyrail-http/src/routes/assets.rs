//! Assets and campaigns.

use axum::extract::State;
use axum::routing::{get, patch, post};
use keyrail_core::campaign::CampaignState;
use keyrail_core::id::CampaignId;
use keyrail_core::name::{KeyName, Name};
use keyrail_data::ops::asset::{
    AcceptDamaged, AddAsset, AssetView, CensusAsset, CensusView, ColumnChoice, IdentityChoice, ListAssets, ShowAsset,
    UpdateAsset,
};
use keyrail_data::ops::campaign::{
    CampaignView, ListCampaigns, Pause, Plan, PlanGoal, PlanView, Protect, Reencrypt, Resume, Rollback, ShowCampaign,
    Start, Unprotect,
};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::{About, Api, Nothing};
use crate::call::Call;
use crate::routes::page::{AssetPage, CampaignPage, PAGE, PageQuery};
use crate::routes::{Answer, Answered, IdInPath, Json, NameInPath, Query, Shared, run};

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    campaign_routes(asset_routes(api))
}

fn asset_routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, AssetPage>(About::get("/v1/assets", "listAssets", "Lists the assets").query(PAGE), get(list))
        .route::<NewAsset, AssetView>(
            About::post("/v1/assets", "addAsset", "Registers a table with the columns to protect").once(),
            post(add),
        )
        .route::<Nothing, AssetView>(About::get("/v1/assets/{name}", "showAsset", "Shows an asset"), get(show))
        .route::<AssetPatch, AssetView>(
            About::patch("/v1/assets/{name}", "updateAsset", "Follows a table, column or file that got another name")
                .once_if_match(),
            patch(update),
        )
        .route::<Nothing, CensusView>(
            About::post("/v1/assets/{name}/census", "censusAsset", "Counts what an asset holds"),
            post(census),
        )
        .route::<PlanRequest, PlanView>(
            About::post("/v1/assets/{name}/plan", "planCampaign", "Tells what a campaign would do"),
            post(plan),
        )
        .route::<AcceptRequest, CensusView>(
            About::post(
                "/v1/assets/{name}/accept-damaged",
                "acceptDamaged",
                "Takes the damaged values of a row out of the count",
            )
            .once(),
            post(accept),
        )
        .route::<StartRequest, CampaignView>(
            About::post("/v1/assets/{name}/protect", "protectAsset", "Starts to encrypt an asset in place").once(),
            post(protect),
        )
        .route::<StartRequest, CampaignView>(
            About::post("/v1/assets/{name}/unprotect", "unprotectAsset", "Starts to put plaintext back").once(),
            post(unprotect),
        )
        .route::<StartRequest, CampaignView>(
            About::post(
                "/v1/assets/{name}/campaigns",
                "startCampaign",
                "Starts to put an asset under the active version",
            )
            .once(),
            post(start),
        )
}

fn campaign_routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, CampaignPage>(
        About::get("/v1/campaigns", "listCampaigns", "Lists the campaigns").query(PAGE),
        get(campaigns),
    )
    .route::<Nothing, CampaignView>(
        About::get("/v1/campaigns/{id}", "showCampaign", "Tells how far a campaign is"),
        get(campaign),
    )
    .route::<Nothing, CampaignView>(
        About::post("/v1/campaigns/{id}/pause", "pauseCampaign", "Pauses a campaign").once(),
        post(pause),
    )
    .route::<Nothing, CampaignView>(
        About::post("/v1/campaigns/{id}/resume", "resumeCampaign", "Lets a campaign go on").once(),
        post(resume),
    )
    .route::<Nothing, CampaignView>(
        About::post("/v1/campaigns/{id}/rollback", "rollbackCampaign", "Moves the data back").once(),
        post(rollback),
    )
}

async fn list(State(service): State<Shared>, call: Call, Query(query): Query<PageQuery>) -> Answered<AssetPage> {
    run(&service, &call, ListAssets).await?.try_map(|rows| AssetPage::cut(rows, &query, &call))
}

/// A new asset.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewAsset {
    /// Its name.
    name: Name,
    /// Where the database is, like `sqlite:/srv/app/data.sqlite` or `postgres://app@db.example/crm`. A password is in none.
    url: String,
    /// The schema with the table, in a database that has schemas; the first of the search path that has it if left out.
    #[serde(default)]
    schema: Option<String>,
    /// The table.
    table: String,
    /// Columns that tell the rows apart and never change; the primary key if left out, nothing if empty.
    #[serde(default)]
    id: Option<Vec<String>>,
    /// What is protected.
    columns: Vec<ColumnChoice>,
    /// The key.
    key: KeyName,
}

async fn add(State(service): State<Shared>, call: Call, Json(body): Json<NewAsset>) -> Answered<AssetView> {
    let identity = match body.id {
        None => IdentityChoice::PrimaryKey,
        Some(columns) if columns.is_empty() => IdentityChoice::None,
        Some(columns) => IdentityChoice::Columns(columns),
    };
    let NewAsset { name, url, schema, table, columns, key, .. } = body;
    let op = AddAsset { name, url, schema, table, identity, columns, key };
    Ok(run(&service, &call, op).await?.etag(|asset| asset.generation))
}

async fn show(State(service): State<Shared>, call: Call, NameInPath(name): NameInPath) -> Answered<AssetView> {
    Ok(run(&service, &call, ShowAsset { name }).await?.etag(|asset| asset.generation))
}

/// New names of what an asset consists of.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AssetPatch {
    /// Where the database is now.
    #[serde(default)]
    url: Option<String>,
    /// The schema that the table is in now.
    #[serde(default)]
    schema: Option<String>,
    /// What the table is called now.
    #[serde(default)]
    table: Option<String>,
    /// Columns: the present name by the former one.
    #[serde(default)]
    columns: std::collections::BTreeMap<String, String>,
}

async fn update(
    State(service): State<Shared>,
    call: Call,
    NameInPath(name): NameInPath,
    Json(body): Json<AssetPatch>,
) -> Answered<AssetView> {
    let AssetPatch { url, schema, table, columns } = body;
    let op = UpdateAsset { name: Some(name), url, schema, table, columns: columns.into_iter().collect() };
    Ok(run(&service, &call, op).await?.etag(|asset| asset.generation))
}

async fn census(State(service): State<Shared>, call: Call, NameInPath(name): NameInPath) -> Answered<CensusView> {
    run(&service, &call, CensusAsset { name }).await
}

/// How a campaign is started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StartRequest {
    /// The most rows per second.
    #[serde(default)]
    rate: Option<u32>,
}

/// What is planned.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PlanRequest {
    /// The most rows per second.
    #[serde(default)]
    rate: Option<u32>,
    /// Where values would go; under the active version if left out.
    #[serde(default)]
    goal: PlanGoal,
}

async fn plan(
    State(service): State<Shared>,
    call: Call,
    NameInPath(asset): NameInPath,
    Json(body): Json<PlanRequest>,
) -> Answered<PlanView> {
    run(&service, &call, Plan { asset, rate: body.rate, goal: body.goal }).await
}

/// Which damage is accepted, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AcceptRequest {
    /// The row's identity, as the census lists it.
    row: String,
    /// Why.
    reason: String,
}

async fn accept(
    State(service): State<Shared>,
    call: Call,
    NameInPath(name): NameInPath,
    Json(body): Json<AcceptRequest>,
) -> Answered<CensusView> {
    run(&service, &call, AcceptDamaged { name, row: body.row, reason: body.reason }).await
}

macro_rules! starts {
    ($($handler:ident => $op:ident,)+) => {$(
        async fn $handler(State(service): State<Shared>, call: Call, NameInPath(asset): NameInPath, Json(body): Json<StartRequest>) -> Answered<CampaignView> {
            let started = run(&service, &call, $op(Start { asset, rate: body.rate })).await?;
            go_on(&service, &call, started)
        }
    )+};
}

starts! {
    protect => Protect,
    unprotect => Unprotect,
    start => Reencrypt,
}

/// Lets a campaign that is stored as running run in this process, unless whoever called does that.
fn go_on(service: &Shared, call: &Call, started: Answer<CampaignView>) -> Answered<CampaignView> {
    if started.body.state == CampaignState::Running && service.runs_campaigns() {
        service.campaigns().start(service.engine(), started.body.id).map_err(|error| call.fail(error))?;
    }
    Ok(started)
}

async fn campaigns(
    State(service): State<Shared>,
    call: Call,
    Query(query): Query<PageQuery>,
) -> Answered<CampaignPage> {
    run(&service, &call, ListCampaigns).await?.try_map(|rows| CampaignPage::cut(rows, &query, &call))
}

async fn campaign(
    State(service): State<Shared>,
    call: Call,
    IdInPath(id): IdInPath<CampaignId>,
) -> Answered<CampaignView> {
    run(&service, &call, ShowCampaign { id }).await
}

async fn pause(
    State(service): State<Shared>,
    call: Call,
    IdInPath(id): IdInPath<CampaignId>,
) -> Answered<CampaignView> {
    run(&service, &call, Pause { id }).await
}

async fn resume(
    State(service): State<Shared>,
    call: Call,
    IdInPath(id): IdInPath<CampaignId>,
) -> Answered<CampaignView> {
    let started = run(&service, &call, Resume { id }).await?;
    go_on(&service, &call, started)
}

async fn rollback(
    State(service): State<Shared>,
    call: Call,
    IdInPath(id): IdInPath<CampaignId>,
) -> Answered<CampaignView> {
    let started = run(&service, &call, Rollback { id }).await?;
    go_on(&service, &call, started)
}

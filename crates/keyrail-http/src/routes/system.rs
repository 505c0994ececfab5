//! The service itself: health, metrics, sealing, verification, settings.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use http::{StatusCode, header};
use keyrail_core::access::Action;
use keyrail_engine::ops::evidence::{Evidence, TakeEvidence};
use keyrail_engine::ops::system::{SetLocalOperator, StoreReport, VerifyStore};
use keyrail_engine::{Engine, EngineError, Health, HealthCheck};
use keyrail_seal::SealState;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{About, Api, Nothing};
use crate::call::Call;
use crate::problem::Failure;
use crate::routes::roots::SharesGiven;
use crate::routes::{Answer, Answered, Json, Shared, answer, run};

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, Live>(About::get("/v1/health/live", "live", "Whether the process answers").open(), get(live))
        .route::<Nothing, Health>(
            About::get("/v1/health/ready", "ready", "Whether requests can be served").health(),
            get(ready),
        )
        .route::<Nothing, SealView>(
            About::get("/v1/health/seal", "sealHealth", "Whether the store is open").health(),
            get(seal_health),
        )
        .route::<Nothing, HealthCheck>(
            About::get("/v1/health/audit", "auditHealth", "Whether the log takes records").health(),
            get(audit_health),
        )
        .route::<Nothing, Nothing>(About::get("/v1/metrics", "metrics", "Metrics for Prometheus"), get(metrics))
        .route::<Nothing, Evidence>(
            About::post("/v1/system/root/evidence", "takeEvidence", "What the root of trust says of itself"),
            post(evidence),
        )
        .route::<Nothing, SealView>(About::post("/v1/system/seal", "seal", "Closes the store"), post(seal))
        .route::<SharesGiven, SealView>(About::post("/v1/system/unseal", "unseal", "Opens the store"), post(unseal))
        .route::<Nothing, StoreReport>(
            About::post("/v1/system/verify", "verifyStore", "Reads every row and names each that was altered"),
            post(verify),
        )
        .route::<LocalOperatorSetting, LocalOperatorSetting>(
            About::put(
                "/v1/system/settings/local-operator",
                "setLocalOperator",
                "Whether the holder of data directory and root may act without a token",
            )
            .once(),
            put(local_operator),
        )
}

/// The process answers.
#[derive(Serialize, ToSchema)]
struct Live {
    /// Always true.
    live: bool,
}

async fn live(call: Call) -> Answer<Live> {
    answer(&call, Live { live: true })
}

async fn ready(State(service): State<Shared>, call: Call) -> Answer<Health> {
    let health = service.engine().health().await;
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer { status, ..answer(&call, health) }
}

/// Whether the store is open.
#[derive(Serialize, ToSchema)]
struct SealView {
    /// `unsealed`, `sealed`, `unsealing`, `wrong-secret`, `root-unavailable`, `root-locked` or `uninitialized`.
    seal: &'static str,
    /// What keeps the root of trust from opening the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl SealView {
    fn of(engine: &Engine) -> Self {
        let (state, cause) = (engine.seal_state(), engine.seal_cause());
        let hint = cause.and_then(|cause| cause.hint).unwrap_or(state.hint());
        let cause = cause.map(|cause| cause.word);
        Self { seal: state.as_str(), cause, hint: (state != SealState::Unsealed).then_some(hint) }
    }
}

async fn seal_health(State(service): State<Shared>, call: Call) -> Answer<SealView> {
    let state = service.engine().seal_state();
    let status = if state == SealState::Unsealed { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Answer { status, ..answer(&call, SealView::of(service.engine())) }
}

async fn audit_health(State(service): State<Shared>, call: Call) -> Result<Answer<HealthCheck>, Failure> {
    let health = service.engine().health().await;
    let sealed = || call.fail(EngineError::Sealed { state: service.engine().seal_state() });
    let check = health.checks.into_iter().find(|check| check.name == "audit").ok_or_else(sealed)?;
    let status = if check.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(Answer { status, ..answer(&call, check) })
}

async fn metrics(State(service): State<Shared>, call: Call) -> Response {
    let engine = service.engine();
    // A sealed store knows no tokens; that it is sealed is all that is told then, as the health pages do.
    if engine.unsealed().is_ok()
        && let Err(error) = engine.allow(&call.caller(), Action::SystemRead).await
    {
        return call.fail(error).into_response();
    }
    match crate::metrics::render(engine).await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => call.fail(EngineError::Bug { what: "metrics that are no text" }).into_response(),
    }
}

async fn evidence(State(service): State<Shared>, call: Call) -> Answered<Evidence> {
    run(&service, &call, TakeEvidence).await
}

async fn seal(State(service): State<Shared>, call: Call) -> Answered<SealView> {
    service.engine().seal_for(&call.caller()).await.map_err(|error| call.fail(error))?;
    Ok(answer(&call, SealView::of(service.engine())))
}

async fn unseal(State(service): State<Shared>, call: Call, Json(body): Json<SharesGiven>) -> Answered<SealView> {
    service.engine().unseal_for_with(&call.caller(), body.into_source()).await.map_err(|error| call.fail(error))?;
    Ok(answer(&call, SealView::of(service.engine())))
}

async fn verify(State(service): State<Shared>, call: Call) -> Answered<StoreReport> {
    run(&service, &call, VerifyStore).await
}

/// Whether the holder of data directory and root may act without a token.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct LocalOperatorSetting {
    /// `true` lets it.
    allowed: bool,
}

async fn local_operator(
    State(service): State<Shared>,
    call: Call,
    Json(body): Json<LocalOperatorSetting>,
) -> Answered<LocalOperatorSetting> {
    let done = run(&service, &call, SetLocalOperator { allowed: body.allowed }).await?;
    Ok(done.map(|()| LocalOperatorSetting { allowed: body.allowed }))
}

//! The log.

use axum::extract::State;
use axum::routing::get;
use keyrail_engine::ops::audit::{AuditPage, CheckpointView, ShowAudit, ShowCheckpoint};
use serde::Deserialize;
use utoipa::openapi::Type;

use crate::api::{About, Api, Nothing, Parameter};
use crate::call::Call;
use crate::routes::page::{LIMIT, page_len};
use crate::routes::{Answered, Query, Shared, run};

const BEFORE: Parameter = Parameter {
    name: "before",
    about: "Only records with a smaller index: the `before` of the page before.",
    kind: Type::Integer,
};

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, AuditPage>(
        About::get("/v1/audit/records", "listRecords", "Reads the log, newest first").query(&[LIMIT, BEFORE]),
        get(records),
    )
    .route::<Nothing, CheckpointView>(
        About::get("/v1/audit/checkpoint", "showCheckpoint", "The signed head of the log"),
        get(checkpoint),
    )
}

/// Which records.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordsQuery {
    before: Option<u64>,
    limit: Option<usize>,
}

async fn records(State(service): State<Shared>, call: Call, Query(query): Query<RecordsQuery>) -> Answered<AuditPage> {
    let limit = page_len(&call, query.limit)?;
    run(&service, &call, ShowAudit { before: query.before, limit }).await
}

async fn checkpoint(State(service): State<Shared>, call: Call) -> Answered<CheckpointView> {
    run(&service, &call, ShowCheckpoint).await
}

//! The log.

use axum::extract::{Query, State};
use axum::routing::get;
use keyrail_engine::ops::audit::{AuditPage, CheckpointView, ShowAudit, ShowCheckpoint};
use serde::Deserialize;

use crate::api::{About, Api, Nothing};
use crate::call::Call;
use crate::routes::{Answered, Shared, run};

/// How many records one page has, unless the caller says so.
const PAGE_LEN_DEFAULT: usize = 100;

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<Nothing, AuditPage>(
        About::get("/v1/audit/records", "listRecords", "Reads the log, newest first"),
        get(records),
    )
    .route::<Nothing, CheckpointView>(
        About::get("/v1/audit/checkpoint", "showCheckpoint", "The signed head of the log"),
        get(checkpoint),
    )
}

/// Which records.
#[derive(Deserialize)]
struct RecordsQuery {
    before: Option<u64>,
    limit: Option<usize>,
}

async fn records(State(service): State<Shared>, call: Call, Query(query): Query<RecordsQuery>) -> Answered<AuditPage> {
    run(&service, &call, ShowAudit { before: query.before, limit: query.limit.unwrap_or(PAGE_LEN_DEFAULT) }).await
}

async fn checkpoint(State(service): State<Shared>, call: Call) -> Answered<CheckpointView> {
    run(&service, &call, ShowCheckpoint).await
}

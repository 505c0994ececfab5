//! Backups.

use std::path::PathBuf;

use axum::extract::State;
use axum::routing::post;
use keyrail_engine::BackupView;
use keyrail_engine::ops::backup::MakeBackup;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::api::{About, Api};
use crate::call::Call;
use crate::routes::{Answered, Json, Shared, run};

pub(super) fn routes(api: Api<Shared>) -> Api<Shared> {
    api.route::<BackupRequest, BackupView>(
        About::post("/v1/system/backup", "makeBackup", "Makes a backup on the machine of the service"),
        post(backup),
    )
}

/// Where a backup goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BackupRequest {
    /// A directory on the machine of the service, as an absolute path; made if its parent is there.
    #[schema(value_type = String)]
    dir: PathBuf,
    /// How many backups of this store stay there, 1 or more; absent keeps all.
    #[serde(default)]
    keep: Option<u32>,
}

async fn backup(State(service): State<Shared>, call: Call, Json(body): Json<BackupRequest>) -> Answered<BackupView> {
    let op = MakeBackup::new(body.dir, body.keep).map_err(|error| call.fail(error))?;
    run(&service, &call, op).await
}

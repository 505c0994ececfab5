//! The log, for who may read it.

use std::sync::Arc;

use keyrail_core::access::Action;
use keyrail_core::record::Record;
use serde::{Deserialize, Serialize};

use crate::authorize::Authorized;
use crate::error::EngineError;
use crate::journal::BUNDLE_LEN;
use crate::ops::PAGE_LEN_MAX;
use crate::pipeline::{Acted, Context, Operation, Target};
use crate::unsealed::Unsealed;

/// How long the records of one page are together, in bytes; a page has one record at least.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Reads records, newest first.
#[derive(Clone, Debug)]
pub struct ShowAudit {
    /// Only records before this index; `None` begins at the newest.
    pub before: Option<u64>,
    /// How many at most; fewer come if they are long.
    pub limit: usize,
}

/// A page of the log.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct AuditPage {
    /// Records in the log.
    pub size: u64,
    /// The records, newest first, each with its index.
    pub records: Vec<Indexed>,
    /// Where the next page ends, if there is one.
    pub before: Option<u64>,
}

/// A record with its place.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct Indexed {
    /// Its index in the log.
    pub index: u64,
    /// The record.
    #[serde(flatten)]
    pub record: Record,
}

impl Operation for ShowAudit {
    const ACTION: Action = Action::AuditRead;
    type Loaded = ();
    type Answer = AuditPage;

    async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
        Ok(())
    }

    fn target(&self, (): &()) -> Target {
        Target::service("log", None)
    }

    async fn act(authorized: &Authorized<Self>, (): (), cx: &Context<'_>) -> Result<Acted<AuditPage>, EngineError> {
        let (op, log) = (authorized.op(), cx.open.log());
        let size = log.size_now()?;
        let end = op.before.unwrap_or(size).min(size);
        let limit = op.limit.clamp(1, PAGE_LEN_MAX);
        let least = end.saturating_sub(limit as u64);
        let (mut first, mut len, mut records) = (end, 0, Vec::new());
        'page: while first > least {
            let from = least.max((first - 1) / BUNDLE_LEN * BUNDLE_LEN);
            let bodies = log.read_bundle(from, usize::try_from(first - from).unwrap_or(limit))?;
            if bodies.is_empty() {
                return Err(EngineError::Bug { what: "the log is shorter than its size" });
            }
            for body in bodies.iter().rev() {
                len += body.body.len();
                if len > PAGE_BYTES_MAX && !records.is_empty() {
                    break 'page;
                }
                let record = serde_json::from_slice(&body.body)
                    .map_err(|_| EngineError::Bug { what: "a record that is not readable" })?;
                first -= 1;
                records.push(Indexed { index: first, record });
            }
        }
        Ok(Acted::new(AuditPage { size, records, before: (first > 0).then_some(first) }))
    }
}

/// The signed head of the log, with everything published that is durable.
#[derive(Clone, Debug)]
pub struct ShowCheckpoint;

/// The signed head and the key to check it with.
#[derive(Clone, Debug, Deserialize, Serialize, utoipa::ToSchema)]
pub struct CheckpointView {
    /// Records in the log.
    pub size: u64,
    /// The signed note.
    pub checkpoint: String,
    /// The log's public key.
    pub public_key: String,
}

impl Operation for ShowCheckpoint {
    const ACTION: Action = Action::AuditRead;
    type Loaded = ();
    type Answer = CheckpointView;

    async fn load(&self, _: &Arc<Unsealed>) -> Result<(), EngineError> {
        Ok(())
    }

    fn target(&self, (): &()) -> Target {
        Target::service("checkpoint", None)
    }

    async fn act(_: &Authorized<Self>, (): (), cx: &Context<'_>) -> Result<Acted<CheckpointView>, EngineError> {
        cx.open.log().publish().await?;
        let (checkpoint, head) = cx.open.published_checkpoint()?;
        let public_key = cx.open.verifier_key().to_string();
        Ok(Acted::new(CheckpointView { size: head.size, checkpoint, public_key }))
    }
}

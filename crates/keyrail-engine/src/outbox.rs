//! Records that were committed with their change and may not have reached the log before a crash.

use std::collections::BTreeSet;
use std::sync::Arc;

use keyrail_core::fence::Epoch;
use keyrail_core::id::RequestId;
use keyrail_core::record::Record;

use crate::error::EngineError;
use crate::journal::Journal;
use crate::unsealed::Unsealed;

/// Gives the log every record that it misses, once, in the order of the changes.
pub(crate) async fn replay(open: &Arc<Unsealed>) -> Result<usize, EngineError> {
    let mut pending = open.state().pending_outbox().await?;
    let Some(first) = pending.iter().map(|entry| entry.log_index_min).min() else { return Ok(0) };
    pending.sort_by_key(|entry| entry.log_index_min);
    let known = requests_since(open.log(), first)?;
    let mut moved = 0;
    for entry in pending.iter().filter(|entry| !known.contains(&entry.request)) {
        open.log().append(entry.body.clone(), Epoch(open.generation())).await.map_err(EngineError::AuditUnavailable)?;
        moved += 1;
    }
    open.note_settled(pending.iter().map(|entry| entry.request));
    Ok(moved)
}

/// The requests that have a record from `first` on.
pub(crate) fn requests_since(log: &Journal, first: u64) -> Result<BTreeSet<RequestId>, EngineError> {
    let mut known = BTreeSet::new();
    let (mut next, end) = (first, log.size());
    while next < end {
        let bodies = log.read_bundle(next, usize::MAX)?;
        if bodies.is_empty() {
            return Err(EngineError::Bug { what: "the log is shorter than its size" });
        }
        next += bodies.len() as u64;
        known.extend(
            bodies.iter().filter_map(|body| serde_json::from_slice::<Record>(&body.body).ok()).map(|record| record.id),
        );
    }
    Ok(known)
}

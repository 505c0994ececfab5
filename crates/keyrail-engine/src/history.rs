//! Whether the rows of a store are those that its log tells of: an older copy of them is consistent in itself.

use std::sync::Arc;

use keyrail_audit::Fencing;
use keyrail_core::id::RequestId;
use keyrail_core::record::{Record, StateMark};
use keyrail_core::system::OutboxEntry;
use keyrail_core::time::Timestamp;
use keyrail_crypto::random;
use keyrail_store::{MapState, State, StoreError};
use serde::Deserialize;

use crate::bootstrap::Access;
use crate::error::EngineError;
use crate::journal::{BUNDLE_LEN, Journal};
use crate::pipeline::encode;
use crate::unsealed::told;

/// What a record tells of the rows. Reading no more than that keeps the search short.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
struct Stated {
    id: RequestId,
    state: StateMark,
}

/// Stands in every record that tells of the rows. Within a text of a record each quotation mark is escaped.
const STATED: &[u8] = br#""state":{"#;

/// It is the last member of a record: so many bytes from the end it has begun.
const STATED_LEN_MAX: usize = 512;

impl Stated {
    fn of(body: &[u8]) -> Option<Self> {
        let end = body.get(body.len().saturating_sub(STATED_LEN_MAX)..)?;
        let stated = end.windows(STATED.len()).any(|part| part == STATED);
        stated.then(|| serde_json::from_slice(body).ok()).flatten()
    }
}

/// What is to be done with a store whose rows are of the time of its log.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// It is as it was left.
    Whole,
    /// Its map was never made, or not to its end.
    Unmapped,
}

/// Refuses rows that are older than the log, and a log that is older than the rows. A store that has no map yet gets one.
/// Gives the index of the last record that tells of the rows.
///
/// Only the end of the log is read: every change tells of the rows, and a running service does so now and then.
pub(crate) async fn require_present(
    state: &State,
    log: &Journal,
    access: Access,
    now: Timestamp,
) -> Result<u64, EngineError> {
    for _ in 0..LOOKS_MAX {
        let size = log.size_now()?;
        match look(state, log, access, now).await {
            // Another node made a change between the look at the log and the one at the rows.
            Err(EngineError::StateUnrecorded { .. }) if log.is_shared() && log.size_now()? > size => {}
            looked => return looked,
        }
    }
    look(state, log, access, now).await
}

/// How often the rows are compared anew because another node made a change meanwhile.
const LOOKS_MAX: usize = 16;

async fn look(state: &State, log: &Journal, access: Access, now: Timestamp) -> Result<u64, EngineError> {
    // In this order: what is changed meanwhile by another process makes the rows newer than the log, which is no harm to
    // who only reads.
    let (index, logged) = last_in(log)?.unzip();
    let waiting = state.pending_outbox().await?;
    let waiting = waiting.iter().filter_map(|entry| Stated::of(&entry.body));
    let told = waiting.chain(logged).max_by_key(|stated| stated.state.generation);
    let verdict = match access {
        Access::Write => judge(state.map_state().await?, told)?,
        Access::Read => judge_beside_a_writer(state.map_state().await?, told)?,
    };
    match (verdict, access) {
        (Verdict::Whole, _) => {}
        (Verdict::Unmapped, Access::Read) => return Err(StoreError::NoMap.into()),
        (Verdict::Unmapped, Access::Write) => build(state, log, now).await?,
    }
    Ok(index.unwrap_or_default())
}

/// The last record of the log that tells of the rows.
fn last_in(log: &Journal) -> Result<Option<(u64, Stated)>, EngineError> {
    let mut end = log.size();
    while end > 0 {
        let first = (end - 1) / BUNDLE_LEN * BUNDLE_LEN;
        let records = log.read_bundle(first, usize::try_from(end - first).unwrap_or(usize::MAX))?;
        for record in records.iter().rev() {
            end -= 1;
            if let Some(stated) = Stated::of(&record.body) {
                return Ok(Some((end, stated)));
            }
        }
        end = end.min(first);
    }
    Ok(None)
}

fn judge(state: Option<MapState>, told: Option<Stated>) -> Result<Verdict, EngineError> {
    let recorded = state.and_then(|state| Some((state, state.recorded?)));
    match (recorded, told) {
        // A map that was ever whole has a record of it.
        (None, None) => Ok(Verdict::Unmapped),
        (None, Some(told)) => Err(EngineError::StateOlder { found: 0, logged: told.state.generation }),
        (Some((_, (_, generation))), None) => Err(EngineError::StateUnrecorded { generation }),
        (Some((state, (request, generation))), Some(told)) => {
            let logged = told.state.generation;
            if generation < logged {
                return Err(EngineError::StateOlder { found: state.generation, logged });
            }
            let same = generation == logged && request == told.id;
            if !same || (state.generation == logged && state.root != told.state.root) || state.generation < generation {
                return Err(EngineError::StateUnrecorded { generation });
            }
            Ok(Verdict::Whole)
        }
    }
}

/// The process that writes may have committed what it has not published yet.
fn judge_beside_a_writer(state: Option<MapState>, told: Option<Stated>) -> Result<Verdict, EngineError> {
    match (state.filter(|state| state.recorded.is_some()), told) {
        (Some(state), Some(told)) if state.generation > told.state.generation => Ok(Verdict::Whole),
        (Some(_), None) => Ok(Verdict::Whole),
        _ => judge(state, told),
    }
}

async fn build(state: &State, log: &Journal, now: Timestamp) -> Result<(), EngineError> {
    let request = RequestId::from_bytes(random::array()?);
    tracing::info!("the map over the rows of the store is made");
    let staged = state.build_map(request).await?;
    let record = Record { state: staged.mark(), ..told::record(request, now) };
    let body = encode(&record).map_err(EngineError::AuditUnavailable)?;
    match log.enclose(body.clone(), request, Fencing::Leaves).map_err(EngineError::AuditUnavailable)? {
        Some(enclosed) => state.commit_enclosed(staged, Arc::new(enclosed)).await?,
        None => state.commit_staged(staged, &OutboxEntry { request, log_index_min: log.size(), body }).await?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(number: u8) -> RequestId {
        RequestId::from_bytes([number; 16])
    }

    fn state(generation: u64, root: u8, recorded: Option<(u8, u64)>) -> Option<MapState> {
        let recorded = recorded.map(|(number, generation)| (request(number), generation));
        Some(MapState { generation, root: [root; 32], recorded })
    }

    fn told(number: u8, generation: u64, root: u8) -> Option<Stated> {
        Some(Stated { id: request(number), state: StateMark { generation, root: [root; 32] } })
    }

    #[test]
    fn rows_are_those_that_the_log_tells_of() {
        let fits = |state, told| judge(state, told).ok();
        assert_eq!(fits(state(7, 1, Some((4, 7))), told(4, 7, 1)), Some(Verdict::Whole));
        // Changes without a record came after it.
        assert_eq!(fits(state(9, 2, Some((4, 7))), told(4, 7, 1)), Some(Verdict::Whole));
        assert_eq!(fits(None, None), Some(Verdict::Unmapped));
        assert_eq!(fits(state(3, 1, None), None), Some(Verdict::Unmapped));

        let code = |state, told| judge(state, told).unwrap_err().to_string();
        let older = "state is older than the log: generation 6, the log says 7";
        assert_eq!(code(state(6, 1, Some((3, 6))), told(4, 7, 1)), older);
        assert!(code(None, told(4, 7, 1)).contains("generation 0, the log says 7"));
        assert!(code(state(8, 1, None), told(4, 7, 1)).contains("older"));
        // Bookkeeping of another history brings no older row past it.
        assert!(code(state(9, 1, Some((3, 6))), told(4, 7, 1)).contains("older"));
        let unrecorded = "the state holds a change without its record: generation 8";
        assert_eq!(code(state(8, 1, Some((5, 8))), told(4, 7, 1)), unrecorded);
        assert_eq!(code(state(8, 1, Some((5, 8))), None), unrecorded);
        // Two histories of one length.
        assert!(code(state(7, 1, Some((5, 7))), told(4, 7, 1)).contains("without its record"));
        assert!(code(state(7, 2, Some((4, 7))), told(4, 7, 1)).contains("without its record"));
    }

    #[test]
    fn who_only_reads_may_find_newer_rows() {
        let whole = |state, told| matches!(judge_beside_a_writer(state, told), Ok(Verdict::Whole));
        assert!(whole(state(9, 1, Some((5, 9))), told(4, 7, 1)));
        assert!(whole(state(9, 1, Some((5, 9))), None));
        assert!(whole(state(7, 1, Some((4, 7))), told(4, 7, 1)));
        assert!(!whole(state(6, 1, Some((3, 6))), told(4, 7, 1)));
        assert!(!whole(state(7, 2, Some((4, 7))), told(4, 7, 1)));
    }

    /// A caller can write anything into the texts of a record, and tells nothing of the rows by that.
    #[test]
    fn what_a_caller_says_is_no_statement() {
        let mut record = told::record(request(1), Timestamp::from_millis(0));
        record.reason = r#"","state":{"generation":9,"root":"00"}"#.to_owned();
        let body = encode(&record).unwrap();
        assert_eq!(Stated::of(&body), None);
        record.state = Some(StateMark { generation: 3, root: [7; 32] });
        let stated = Stated::of(&encode(&record).unwrap()).unwrap();
        assert_eq!((stated.id, stated.state.generation), (request(1), 3));
    }

    /// A store of an earlier release: rows, and a log that tells nothing of them. It gets its map once, whatever an
    /// attempt before left behind.
    #[tokio::test]
    async fn a_store_without_a_map_gets_one() {
        use keyrail_audit::{Keys, Log, LogOptions};
        use keyrail_core::label::default_labels;
        use keyrail_crypto::secret::{SigningSeed, StoreKey};
        use keyrail_store::{Change, OpenMode, RowSealer, SqliteStore};

        let dir = tempfile::tempdir().unwrap();
        let key = StoreKey::generate().unwrap();
        let path = |name: &str| dir.path().join(name);
        let options = || LogOptions::new(path("audit"), path("journal"), "keyrail/test".to_owned());
        let keys = Keys { seed: SigningSeed::generate().unwrap(), journal: key.mac_key("keyrail/journal").unwrap() };
        Log::create(&options(), &keys).unwrap();
        let log = Journal::Write(Log::open(options(), keys).unwrap().0);
        let open = |mode| {
            let store = std::sync::Arc::new(SqliteStore::open(&path("s"), mode).unwrap());
            State::new(store, RowSealer::new(&key).unwrap())
        };
        let now = Timestamp::from_millis(0);
        let mut change = Change::new();
        default_labels(now).unwrap().iter().for_each(|label| {
            change.insert(label);
        });
        open(OpenMode::Create).commit(change.unrecorded("rows of an earlier release")).await.unwrap();
        let sql = rusqlite::Connection::open(path("s")).unwrap();
        sql.execute_batch("DELETE FROM map_head; DELETE FROM map_node").unwrap();

        let reader = open(OpenMode::Read);
        let refused = require_present(&reader, &log, Access::Read, now).await.unwrap_err();
        assert!(matches!(refused, EngineError::Store(StoreError::NoMap)), "{refused}");
        // Begun and not ended: whoever opens it next begins anew.
        let state = open(OpenMode::Write);
        drop(state.build_map(request(1)).await.unwrap());
        assert_eq!(state.map_state().await.unwrap().unwrap().recorded, None);
        let state = open(OpenMode::Write);
        require_present(&state, &log, Access::Write, now).await.unwrap();
        assert_eq!(state.verify_all().await.unwrap(), []);
        let waiting = state.pending_outbox().await.unwrap();
        let stated = Stated::of(&waiting[0].body).unwrap();
        let built = state.map_state().await.unwrap().unwrap();
        assert_eq!((waiting.len(), built.recorded), (1, Some((stated.id, stated.state.generation))));
        require_present(&state, &log, Access::Write, now).await.unwrap();
        assert_eq!(state.map_state().await.unwrap().unwrap(), built, "it is made once");
        // Its record is in the outbox: from here on it may not be missing.
        sql.execute_batch("DELETE FROM map_head; DELETE FROM map_node").unwrap();
        let refused = require_present(&open(OpenMode::Write), &log, Access::Write, now).await.unwrap_err();
        assert_eq!(refused.code(), "state_older");
    }
}

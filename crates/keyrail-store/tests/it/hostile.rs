//! Rows that are whole and not what they should be: older, missing, put back. Seals alone do not see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn};
use keyrail_core::campaign::Campaign;
use keyrail_core::key::{App, DataKey, DataKeyVersion, Domain, MasterKey, MasterVersion};
use keyrail_core::label::Label;
use keyrail_core::system::{
    IdempotencyEntry, LogHeadRow, MapHead, MapNode, ObservationRow, RootSecret, RootSlotRow, Setting, SettingName,
    UsageMark,
};
use keyrail_core::token::Token;
use keyrail_core::usage::{Usage, UsageCount, UsageKey, UsagePlace};
use keyrail_crypto::envelope::Kid;
use keyrail_store::{Change, Fault, Finding, FindingKind, Row, State, StoreError, TABLES, Table};
use keyrail_testkit::postgres::Version;
use rusqlite::types::Value;

use crate::attacked::{Attacked, rows_of};
use crate::rows::{AT, fill, outbox};
use crate::stores::TestStore;
use crate::tamper::read;

/// The tables in the map: all but the outbox, whose rows hold its root, and those of the map itself.
fn mapped() -> Vec<&'static Table> {
    TABLES.into_iter().filter(|table| !["outbox", "map_node", "map_head"].contains(&table.name)).collect()
}

/// Writes the first row of every table once more.
async fn renew(state: &State, record: u8) {
    let mut change = Change::new();
    macro_rules! renew {
        ($($row:ty),+ $(,)?) => {$(
            let mut row = state.all::<$row>(Vec::new()).await.unwrap().remove(0);
            row.generation += 1;
            change.update(&row);
        )+};
    }
    renew!(
        RootSlotRow,
        RootSecret,
        Setting,
        Domain,
        App,
        MasterKey,
        MasterVersion,
        Label,
        DataKey,
        DataKeyVersion,
        Token,
        Asset,
        AssetColumn,
        AcceptedDamage,
        Campaign,
        Usage,
        UsageMark,
        LogHeadRow,
        ObservationRow,
        IdempotencyEntry
    );
    state.commit(change.recorded(outbox(record))).await.unwrap();
}

/// So many rows that the map has many nodes.
async fn many(state: &State) {
    let mut change = Change::new();
    for number in 0..2_000 {
        let key = UsageKey {
            kid: Kid::from_bytes([1; 16]),
            principal: format!("token:{number}"),
            action: keyrail_core::access::Action::DataEncrypt,
            place: UsagePlace::Outside,
        };
        change.insert(&Usage { key, count: UsageCount::once(1, AT), generation: 1 });
    }
    state.commit(change.unrecorded("many rows")).await.unwrap();
}

async fn findings(state: &State) -> Vec<Finding> {
    state.verify_all().await.unwrap()
}

/// The rows that were changed are refused by who had the store open and by who opens it now, and `verify` names each of
/// them and nothing else.
async fn require_told(attacked: &Attacked, table: &'static Table, kind: &FindingKind, count: usize) {
    for state in [attacked.state.clone(), attacked.opened_anew()] {
        let error = read(&state, table).await.unwrap_err();
        let told = matches!(
            (&error, kind),
            (StoreError::RowStale { table: named, .. }, FindingKind::Stale)
                | (StoreError::RowMissing { table: named, .. }, FindingKind::Missing)
                | (StoreError::RowUnexpected { table: named, .. }, FindingKind::Unexpected) if *named == table.name
        );
        assert!(told, "{}, {kind:?}: {error}", table.name);
        let found = findings(&state).await;
        assert_eq!(found.len(), count, "{}: {found:?}", table.name);
        assert!(found.iter().all(|finding| finding.table == table.name && finding.kind == *kind), "{found:?}");
        assert!(found.iter().all(|finding| !finding.id.is_empty()), "{found:?}");
    }
}

#[tokio::test]
async fn an_older_row_of_any_table_is_refused_and_named() {
    let attacked = Attacked::new().await;
    let former: Vec<_> = mapped().into_iter().map(|table| (table, attacked.rows(table))).collect();
    renew(&attacked.state, 2).await;
    assert_eq!(findings(&attacked.state).await, []);
    for (table, former) in former {
        let present = attacked.rows(table);
        attacked.put(table, &former);
        require_told(&attacked, table, &FindingKind::Stale, 1).await;
        attacked.put(table, &present);
        assert_eq!(read(&attacked.state, table).await.unwrap(), present.len());
    }
    assert_eq!(findings(&attacked.state).await, []);
}

#[tokio::test]
async fn a_missing_row_of_any_table_is_refused_and_named() {
    let attacked = Attacked::new().await;
    for table in mapped() {
        let whole = attacked.rows(table);
        attacked.put(table, &whole[1..]);
        require_told(&attacked, table, &FindingKind::Missing, 1).await;
        attacked.put(table, &[]);
        require_told(&attacked, table, &FindingKind::Missing, whole.len()).await;
        attacked.put(table, &whole);
    }
    assert_eq!(findings(&attacked.state).await, []);
}

/// Rows that were sealed, and are not in the store any more, or never were in this one.
#[tokio::test]
async fn a_row_of_any_table_that_is_put_back_is_refused_and_named() {
    let attacked = Attacked::new().await;
    let dir = tempfile::tempdir().unwrap();
    let beside = attacked.beside(dir.path());
    let mut change = Change::new();
    change.insert(&crate::rows::domain());
    beside.commit(change.recorded(outbox(1))).await.unwrap();
    let attacker = rusqlite::Connection::open(dir.path().join("s")).unwrap();
    attacker.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    for table in mapped().into_iter().filter(|table| table.name != "domain") {
        let rows = attacked.rows(table);
        attacker.execute("ATTACH ? AS other", [attacked.attacker.path().unwrap()]).unwrap();
        let copy = format!("INSERT INTO main.\"{0}\" SELECT * FROM other.\"{0}\"", table.name);
        attacker.execute(&copy, []).unwrap();
        attacker.execute("DETACH other", []).unwrap();
        let error = read(&beside, table).await.unwrap_err();
        assert!(matches!(error, StoreError::RowUnexpected { .. }), "{}: {error}", table.name);
        let found = findings(&beside).await;
        assert_eq!(found.len(), rows.len(), "{found:?}");
        assert!(found.iter().all(|finding| finding.table == table.name && finding.kind == FindingKind::Unexpected));
        attacker.execute(&format!("DELETE FROM \"{}\"", table.name), []).unwrap();
    }
    assert_eq!(findings(&beside).await, []);
    assert_eq!(rows_of(&attacker, Domain::TABLE).len(), 1);
}

/// What belongs to something is asked for by that: a row that is not found then is missed all the same.
#[tokio::test]
async fn a_missing_row_is_missed_by_what_it_belongs_to() {
    let attacked = Attacked::new().await;
    let state = &attacked.state;
    let key = state.data_keys().await.unwrap().remove(0);
    let asset = state.assets().await.unwrap().remove(0);
    let master = state.master_keys().await.unwrap().remove(0);
    let damage = state.accepted_of(&asset.id).await.unwrap().remove(0);
    assert_eq!((state.usage_of(&Kid::from_bytes([1; 16])).await.unwrap().len(), damage.asset), (1, asset.id));
    let missed = |error: StoreError, table: &str| match error {
        StoreError::RowMissing { table: named, .. } => assert_eq!(named, table),
        other => panic!("{table}: {other}"),
    };
    for table in
        ["data_key_version", "asset", "asset_column", "campaign", "master_key_version", "accepted_damage", "usage"]
    {
        let table = TABLES.into_iter().find(|known| known.name == table).unwrap();
        let whole = attacked.rows(table);
        attacked.put(table, &whole[1..]);
        let error = match table.name {
            "data_key_version" => state.keyring(key.clone()).await.unwrap_err(),
            "asset" => state.assets_of_key(&key.id).await.unwrap_err(),
            "asset_column" => state.columns_of(&asset.id).await.unwrap_err(),
            "campaign" => state.campaigns_of(&asset.id).await.unwrap_err(),
            "master_key_version" => state.master_versions(&master.id).await.unwrap_err(),
            "accepted_damage" => state.accepted_of(&asset.id).await.unwrap_err(),
            _ => state.usage_of(&Kid::from_bytes([1; 16])).await.unwrap_err(),
        };
        missed(error, table.name);
        attacked.put(table, &whole);
    }
    // Single rows, by their keys.
    for (sql, table) in [("DELETE FROM setting", "setting"), ("DELETE FROM idempotency", "idempotency")] {
        attacked.attacker.execute(sql, []).unwrap();
        let error = match table {
            "setting" => state.setting(&SettingName::LocalOperator).await.unwrap_err(),
            _ => state.idempotency_entry(&[1; 32]).await.unwrap_err(),
        };
        missed(error, table);
    }
}

/// Nodes and head of the map: whatever is done to them, nothing false is believed, and `verify` names them.
#[tokio::test]
async fn an_attacked_map_is_refused_and_named() {
    let attacked = Attacked::new().await;
    many(&attacked.state).await;
    let (nodes, head) = (MapNode::TABLE, MapHead::TABLE);
    let former = (attacked.rows(nodes), attacked.rows(head));
    renew(&attacked.state, 2).await;
    let present = (attacked.rows(nodes), attacked.rows(head));
    assert!(present.0.len() > 20, "{} nodes", present.0.len());
    let changed = former.0.iter().zip(&present.0).filter(|(former, present)| former != present).count();
    assert!(changed > 1 && changed < present.0.len());

    let missing = |id: &Value| Finding { table: "map_node", id: number(id), kind: FindingKind::Missing };
    let stale = |id: &Value| Finding { table: "map_node", id: number(id), kind: FindingKind::Stale };
    for (place, row) in present.0.iter().enumerate() {
        let mut rows = present.0.clone();
        rows.remove(place);
        attacked.put(nodes, &rows);
        assert_eq!(findings(&attacked.opened_anew()).await, [missing(&row[0])]);
        // Who has it open remembers it, and finds what is stored wrong all the same.
        assert_eq!(findings(&attacked.state).await, [missing(&row[0])]);
        if former.0[place] != *row {
            let mut rows = present.0.clone();
            rows[place] = former.0[place].clone();
            attacked.put(nodes, &rows);
            assert_eq!(findings(&attacked.opened_anew()).await, [stale(&row[0])]);
            assert_eq!(findings(&attacked.state).await, [stale(&row[0])]);
        }
    }
    // Two nodes, each in the place of the other: neither opens under the other's id.
    let mut rows = present.0.clone();
    (rows[0], rows[1]) = (present.0[1].clone(), present.0[0].clone());
    (rows[0][0], rows[1][0]) = (present.0[0][0].clone(), present.0[1][0].clone());
    attacked.put(nodes, &rows);
    let found = findings(&attacked.opened_anew()).await;
    assert!(
        found.iter().all(|finding| finding.table == "map_node" && finding.kind == FindingKind::Altered),
        "{found:?}"
    );
    assert_eq!(found.len(), 2);
    // An older node under an id that was never given.
    attacked.put(nodes, &present.0);
    attacked.attacker.execute("UPDATE map_node SET id = 9999 WHERE id = 1", []).unwrap();
    assert!(!findings(&attacked.opened_anew()).await.is_empty());
    attacked.put(nodes, &present.0);

    // The former head does not go with the nodes of now.
    attacked.put(head, &former.1);
    let state = attacked.opened_anew();
    assert!(read(&state, Domain::TABLE).await.is_err());
    let found = findings(&state).await;
    assert!(!found.is_empty() && found.iter().all(|finding| finding.table == "map_node"), "{found:?}");
    // Who knows a newer one believes no older one.
    let older = Finding { table: "map_head", id: "1".to_owned(), kind: FindingKind::Stale };
    assert_eq!(findings(&attacked.state).await, [older]);
    attacked.put(head, &[]);
    let gone = Finding { table: "map_head", id: "1".to_owned(), kind: FindingKind::Missing };
    assert_eq!(findings(&attacked.state).await, std::slice::from_ref(&gone));
    assert_eq!(findings(&attacked.opened_anew()).await, [gone]);
    assert!(read(&attacked.opened_anew(), Domain::TABLE).await.is_err());
    attacked.put(head, &present.1);
    assert_eq!(findings(&attacked.opened_anew()).await, []);
}

fn number(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        other => panic!("{other:?}"),
    }
}

/// All tables as they were before, consistent in themselves: who has the store open sees it. Who opens it needs the log,
/// which the engine compares it with.
#[tokio::test]
async fn an_older_copy_of_all_tables_is_told_while_the_store_is_open() {
    let attacked = Attacked::new().await;
    let former: Vec<_> = TABLES.into_iter().map(|table| (table, attacked.rows(table))).collect();
    let before = attacked.state.map_state().await.unwrap().unwrap();
    renew(&attacked.state, 2).await;
    let after = attacked.state.map_state().await.unwrap().unwrap();
    assert!(after.generation > before.generation && after.root != before.root);
    former.iter().for_each(|(table, rows)| attacked.put(table, rows));
    let error = read(&attacked.state, Domain::TABLE).await.unwrap_err();
    assert!(matches!(error, StoreError::RowStale { table: "map_head", .. }), "{error}");
    let found = findings(&attacked.state).await;
    assert_eq!((found[0].table, &found[0].kind), ("map_head", &FindingKind::Stale));
    assert_eq!(attacked.opened_anew().map_state().await.unwrap().unwrap(), before);
    assert_eq!(findings(&attacked.opened_anew()).await, []);
}

/// A change does not make good what somebody did to the rows.
#[tokio::test]
async fn a_change_takes_no_foreign_row_in() {
    let attacked = Attacked::new().await;
    let mut damage: AcceptedDamage = attacked.state.all(Vec::new()).await.unwrap().remove(0);
    attacked.attacker.execute("DELETE FROM accepted_damage", []).unwrap();
    let mut change = Change::new();
    change.insert(&damage);
    let error = attacked.state.commit(change.recorded(outbox(2))).await.unwrap_err();
    assert!(matches!(error, StoreError::RowMissing { table: "accepted_damage", .. }), "{error}");
    // A row of another history: the map does not know it, so it is not brought up to date.
    let dir = tempfile::tempdir().unwrap();
    let beside = attacked.beside(dir.path());
    let mut change = fill(&beside).await;
    damage.row = "i8".to_owned();
    change.insert(&damage);
    beside.commit(change.recorded(outbox(1))).await.unwrap();
    let other = rusqlite::Connection::open(dir.path().join("s")).unwrap();
    attacked.put(AcceptedDamage::TABLE, &rows_of(&other, AcceptedDamage::TABLE));
    damage.generation += 1;
    let mut change = Change::new();
    change.update(&damage);
    let error = attacked.state.commit(change.recorded(outbox(2))).await.unwrap_err();
    assert!(matches!(error, StoreError::RowUnexpected { table: "accepted_damage", .. }), "{error}");
    let found = findings(&attacked.state).await;
    assert_eq!((found.len(), &found[0].kind), (1, &FindingKind::Unexpected), "{found:?}");
}

/// Who has the nodes of the map at hand finds out that somebody touched the stored ones: it does not look like a change of
/// another process for ever.
#[tokio::test]
async fn a_change_over_an_altered_map_is_refused_as_damage() {
    let attacked = Attacked::new().await;
    let mut damage: AcceptedDamage = attacked.state.all(Vec::new()).await.unwrap().remove(0);
    damage.generation += 1;
    for alter in ["UPDATE map_node SET generation = generation + 1", "DELETE FROM map_node"] {
        let (nodes, rows) = (MapNode::TABLE, attacked.rows(MapNode::TABLE));
        attacked.attacker.execute(alter, []).unwrap();
        let mut told = Vec::new();
        for _ in 0..2 {
            let mut change = Change::new();
            change.update(&damage);
            told.push(attacked.state.commit(change.recorded(outbox(2))).await.unwrap_err());
        }
        assert_eq!(told[1].fault(), Fault::StoredData, "{alter}: {told:?}");
        attacked.put(nodes, &rows);
    }
    let mut change = Change::new();
    change.update(&damage);
    attacked.state.commit(change.recorded(outbox(2))).await.unwrap();
}

/// Who deletes a row has seen it as it was: one that was written again meanwhile stays.
#[tokio::test]
async fn a_row_that_was_renewed_is_not_deleted() {
    let attacked = Attacked::new().await;
    let entry: IdempotencyEntry = attacked.state.all(Vec::new()).await.unwrap().remove(0);
    renew(&attacked.state, 2).await;
    let mut change = Change::new();
    change.delete(&entry);
    let error = attacked.state.commit(change.unrecorded("it is over")).await.unwrap_err();
    assert!(matches!(error, StoreError::Conflict { table: "idempotency" }), "{error}");
    let entry: IdempotencyEntry = attacked.state.all(Vec::new()).await.unwrap().remove(0);
    let mut change = Change::new();
    change.delete(&entry);
    attacked.state.commit(change.unrecorded("it is over")).await.unwrap();
    // What is gone already is no failure.
    let mut change = Change::new();
    change.delete(&entry);
    attacked.state.commit(change.unrecorded("it is over")).await.unwrap();
    assert_eq!(findings(&attacked.state).await, []);
}

/// A row that is there twice, in place of another: as many rows as the map has entries, and nothing in the catalog shows
/// it.
#[tokio::test]
async fn a_doubled_row_hides_no_missing_one() {
    let place = TestStore::postgres(Version::V15);
    let state = place.state().await;
    many(&state).await;
    let attacker = place.attacker().await;
    let unique =
        |on: bool| format!("UPDATE pg_index SET indisunique = {on} WHERE indexrelid = 'keyrail.usage_pk'::regclass");
    attacker.execute("SET allow_system_table_mods = on").await.unwrap();
    assert_eq!(attacker.execute(&unique(false)).await, Some(1));
    let copy = "INSERT INTO usage SELECT * FROM usage WHERE principal = 'token:7'";
    assert_eq!(attacker.execute(copy).await, Some(1));
    assert_eq!(attacker.execute("DELETE FROM usage WHERE principal = 'token:9'").await, Some(1));
    assert_eq!(attacker.execute(&unique(true)).await, Some(1));
    let found = findings(&state).await;
    let mut kinds: Vec<_> = found.iter().map(|finding| (finding.table, finding.kind.clone())).collect();
    kinds.sort();
    assert_eq!(kinds, [("usage", FindingKind::Missing), ("usage", FindingKind::Unexpected)], "{found:?}");
}

/// Whoever reads, or verifies, while rows are changed, here and in another process, sees changes and no attack.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_beside_changes_see_no_attack() {
    let attacked = Attacked::new().await;
    many(&attacked.state).await;
    let kid = Kid::from_bytes([1; 16]);
    let looks: Arc<[AtomicU32; 3]> = Arc::default();
    let enough = |looks: &[AtomicU32]| looks.iter().all(|looks| looks.load(Ordering::SeqCst) >= 3);
    let mut readers = tokio::task::JoinSet::new();
    let states = [attacked.state.clone(), attacked.opened_anew(), attacked.opened_anew()];
    for (reader, state) in states.into_iter().enumerate() {
        let looks = looks.clone();
        readers.spawn(async move {
            while !enough(&*looks) {
                if reader == 2 {
                    assert_eq!(findings(&state).await, []);
                }
                assert!(state.usage_of(&kid).await.unwrap().len() >= 2_000);
                assert_eq!(state.labels().await.unwrap().len(), 4);
                state.setting(&SettingName::LocalOperator).await.unwrap().unwrap();
                assert_eq!(state.idempotency_entry(&[9; 32]).await.unwrap(), None);
                looks[reader].fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let until = std::time::Instant::now() + std::time::Duration::from_secs(120);
    for round in 0_u64.. {
        assert!(std::time::Instant::now() < until, "{looks:?}");
        let mut rows: Vec<Usage> = state_page(&attacked.state, round % 280).await;
        let mut change = Change::new();
        for row in &mut rows {
            row.generation += 1;
            row.count = row.count.plus(UsageCount::once(1, AT));
            change.update(row);
        }
        let mut setting: Setting = attacked.state.all(Vec::new()).await.unwrap().remove(0);
        setting.generation += 1;
        change.update(&setting);
        let mut extra = rows[0].clone();
        (extra.key.principal, extra.generation) = (format!("late:{round}"), 1);
        change.insert(&extra);
        attacked.state.commit(change.unrecorded("readers are beside it")).await.unwrap();
        if enough(&*looks) || readers.len() < 3 {
            break;
        }
        while let Some(ended) = readers.try_join_next() {
            ended.unwrap();
        }
    }
    readers.join_all().await;
    assert_eq!(findings(&attacked.state).await, []);
}

async fn state_page(state: &State, round: u64) -> Vec<Usage> {
    let after = vec![
        keyrail_store::Value::Blob(vec![1; 16]),
        keyrail_store::Value::Text(format!("token:{}", round * 7)),
        keyrail_store::Value::Text(String::new()),
        keyrail_store::Value::Text(String::new()),
    ];
    state.page(Vec::new(), Usage::TABLE.key, Some(after), 100).await.unwrap()
}

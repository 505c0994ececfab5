//! What every store does alike, told in raw values: order, pages, conditions, counts, and writes that are refused.

use std::sync::Arc;

use keyrail_store::{
    Condition, OpenMode, SELECT_ROWS_MAX, Select, Store, StoreError, TABLES, Table, Transaction, Value, Write,
};

use crate::stores::{TestStore, on_every_store, rows};

on_every_store!(
    text_and_bytes_come_in_the_order_of_their_bytes_a_page_at_a_time,
    conditions_and_counts_say_the_same,
    values_of_every_size_and_letter_read_back,
    a_transaction_that_fails_anywhere_leaves_nothing,
    a_row_that_is_gone_can_be_deleted_again,
    a_value_that_its_column_does_not_take_is_refused,
    what_is_opened_anew_has_what_was_stored,
    a_store_says_that_it_is_whole,
    a_snapshot_shows_one_moment_while_others_write,
);

fn table(name: &str) -> &'static Table {
    TABLES.iter().find(|table| table.name == name).unwrap()
}

fn usage(kid: u8, principal: &str, uses: i64) -> Vec<Value> {
    vec![
        Value::Blob(vec![kid; 16]),
        Value::Text(principal.to_owned()),
        Value::Text("data.encrypt".to_owned()),
        Value::Text("outside".to_owned()),
        Value::Integer(uses),
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Integer(1),
        Value::Blob(vec![0; 32]),
    ]
}

fn insert(table: &'static Table, values: Vec<Value>) -> Write {
    Write::Insert { table, values }
}

async fn apply(store: &Arc<dyn Store>, writes: Vec<Write>) -> Result<(), StoreError> {
    store.apply(Transaction::of(writes)).await
}

/// Where a language would say otherwise: capitals, accents, signs, what has no letter, and what is empty.
const PRINCIPALS: [&str; 14] =
    ["a", "B", "b", "A", "ä", "z", "a b", "a-b", "ab", "", "é", "e\u{301}", "\u{ffee}", "\u{1f600}"];

async fn text_and_bytes_come_in_the_order_of_their_bytes_a_page_at_a_time(store: TestStore) {
    let store = store.open(OpenMode::Create).await.unwrap();
    let mut wanted = Vec::new();
    for kid in [255, 0, 128, 1] {
        wanted.extend(PRINCIPALS.iter().map(|principal| usage(kid, principal, 1)));
    }
    apply(&store, wanted.iter().cloned().map(|values| insert(table("usage"), values)).collect()).await.unwrap();
    wanted.sort_by_key(|row| match (&row[0], &row[1]) {
        (Value::Blob(kid), Value::Text(principal)) => (kid.clone(), principal.as_bytes().to_vec()),
        other => panic!("{other:?}"),
    });
    let mut found: Vec<Vec<Value>> = Vec::new();
    loop {
        let after = found.last().map(|row| row[..2].to_vec());
        let order = &["kid", "principal"];
        let select = Select { table: table("usage"), conditions: Vec::new(), order, after, limit: 3 };
        let page = store.select(select).await.unwrap();
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, wanted);
}

async fn conditions_and_counts_say_the_same(store: TestStore) {
    let store = store.open(OpenMode::Create).await.unwrap();
    let writes = PRINCIPALS.iter().zip(0..).map(|(principal, uses)| insert(table("usage"), usage(1, principal, uses)));
    apply(&store, writes.collect()).await.unwrap();
    let text = |text: &str| Value::Text(text.to_owned());
    let below = |bound: &str| PRINCIPALS.iter().filter(|principal| principal.as_bytes() < bound.as_bytes()).count();
    let cases = [
        (vec![], PRINCIPALS.len()),
        (vec![Condition::Equal("principal", text("ä"))], 1),
        (vec![Condition::Equal("principal", text("Ä"))], 0),
        (vec![Condition::Equal("kid", Value::Blob(vec![1; 16]))], PRINCIPALS.len()),
        (vec![Condition::Equal("kid", Value::Blob(vec![1; 15]))], 0),
        (vec![Condition::Less("uses", Value::Integer(5))], 5),
        (vec![Condition::Less("uses", Value::Integer(5)), Condition::Equal("principal", text("B"))], 1),
        (vec![Condition::Less("principal", text("b"))], below("b")),
        (vec![Condition::Less("principal", text("é"))], below("é")),
        (vec![Condition::Equal("uses", Value::Null)], 0),
    ];
    for (conditions, wanted) in cases {
        let count = store.count(table("usage"), conditions.clone()).await.unwrap();
        let select = Select {
            table: table("usage"),
            conditions: conditions.clone(),
            order: table("usage").key,
            after: None,
            limit: usize::MAX,
        };
        let rows = store.select(select).await.unwrap();
        assert_eq!((count, rows.len()), (wanted as u64, wanted), "{conditions:?}");
    }
    let many = (0..SELECT_ROWS_MAX + 10).map(|number| insert(table("usage"), usage(2, &number.to_string(), 1)));
    apply(&store, many.collect()).await.unwrap();
    let select =
        Select { table: table("usage"), conditions: vec![], order: table("usage").key, after: None, limit: usize::MAX };
    assert_eq!(store.select(select).await.unwrap().len(), SELECT_ROWS_MAX);
}

async fn values_of_every_size_and_letter_read_back(store: TestStore) {
    let store = store.open(OpenMode::Create).await.unwrap();
    let bytes = |len: usize| (0..len).map(|place| (place % 251) as u8).collect::<Vec<_>>();
    let mut wanted: Vec<_> = [0, 1, 255, 65_536, 3_000_000]
        .iter()
        .zip(0_u8..)
        .map(|(len, id)| {
            let slot = [Value::Blob(vec![id; 16]), Value::Blob(bytes(*len))];
            let rest = [Value::Integer(0), Value::Integer(1), Value::Null, Value::Null, Value::Null];
            slot.into_iter().chain(rest).chain([Value::Blob(Vec::new())]).collect::<Vec<_>>()
        })
        .collect();
    apply(&store, wanted.iter().cloned().map(|values| insert(table("root_slot"), values)).collect()).await.unwrap();
    assert_eq!(rows(store.as_ref(), table("root_slot")).await, wanted);
    // An update replaces every value.
    let mut longer = wanted[0].clone();
    (longer[1], longer[3]) = (Value::Blob(bytes(70_000)), Value::Integer(2));
    let update = Write::Update { table: table("root_slot"), values: longer.clone(), former_generation: 1 };
    apply(&store, vec![update]).await.unwrap();
    wanted[0] = longer;
    assert_eq!(rows(store.as_ref(), table("root_slot")).await, wanted);

    let letters = ["", "'", "\"\\%_", "\n\t\u{1}", "ß\u{0301}", "\u{10ffff}", "$1 ?1", &"ü".repeat(30_000)];
    for letters in letters {
        let row = [
            Value::Text("local-operator".to_owned()),
            Value::Text(letters.to_owned()),
            Value::Integer(-1),
            Value::Integer(1),
            Value::Blob(vec![1]),
        ];
        let delete = Write::Delete { table: table("setting"), key: vec![row[0].clone()] };
        apply(&store, vec![delete, insert(table("setting"), row.to_vec())]).await.unwrap();
        assert_eq!(rows(store.as_ref(), table("setting")).await, [row.to_vec()]);
    }
}

/// A fault at every place of a transaction, also behind what is sent at once.
async fn a_transaction_that_fails_anywhere_leaves_nothing(store: TestStore) {
    let store = store.open(OpenMode::Create).await.unwrap();
    let row = |number: usize| insert(table("usage"), usage(1, &format!("{number:03}"), 1));
    apply(&store, vec![row(500)]).await.unwrap();
    let stale = Write::Update { table: table("usage"), values: usage(1, "500", 2), former_generation: 7 };
    let orphan = insert(
        table("app"),
        vec![
            Value::Blob(vec![1; 16]),
            Value::Blob(vec![2; 16]),
            Value::Text("prod".to_owned()),
            Value::Text("crm".to_owned()),
            Value::Integer(0),
            Value::Integer(1),
            Value::Blob(vec![0]),
        ],
    );
    type Is = fn(&StoreError) -> bool;
    let faults: [(Write, Is); 3] = [
        (row(500), |error| matches!(error, StoreError::Exists { table: "usage" })),
        (stale, |error| matches!(error, StoreError::Conflict { table: "usage" })),
        (orphan, |error| matches!(error, StoreError::Constraint { table: "app", .. })),
    ];
    for (fault, is_right) in faults {
        for place in [0, 1, 23, 24, 25, 60] {
            let mut writes: Vec<_> = (0..60).map(row).collect();
            writes.insert(place, fault.clone());
            let error = apply(&store, writes).await.unwrap_err();
            assert!(is_right(&error), "{fault:?} at {place}: {error:?}");
            assert_eq!(store.count(table("usage"), Vec::new()).await.unwrap(), 1);
        }
    }
    apply(&store, (0..60).map(row).collect()).await.unwrap();
    assert_eq!(store.count(table("usage"), Vec::new()).await.unwrap(), 61);
    apply(&store, Vec::new()).await.unwrap();
}

async fn a_row_that_is_gone_can_be_deleted_again(store: TestStore) {
    let store = store.open(OpenMode::Create).await.unwrap();
    apply(&store, vec![insert(table("usage"), usage(1, "x", 1))]).await.unwrap();
    let key = usage(1, "x", 1)[..4].to_vec();
    for _ in 0..3 {
        apply(&store, vec![Write::Delete { table: table("usage"), key: key.clone() }]).await.unwrap();
        assert_eq!(store.count(table("usage"), Vec::new()).await.unwrap(), 0);
    }
}

async fn a_value_that_its_column_does_not_take_is_refused(store: TestStore) {
    let store = store.open(OpenMode::Create).await.unwrap();
    for (place, value) in [
        (0, Value::Text("text for bytes".to_owned())),
        (0, Value::Integer(1)),
        (0, Value::Null),
        (1, Value::Blob(b"bytes for text".to_vec())),
        (3, Value::Text("nowhere".to_owned())),
        (4, Value::Text("text for a number".to_owned())),
        (4, Value::Null),
    ] {
        let mut values = usage(1, "x", 1);
        values[place] = value;
        let error = apply(&store, vec![insert(table("usage"), values.clone())]).await.unwrap_err();
        let StoreError::Constraint { table: "usage", source } = error else { panic!("{values:?}: {error:?}") };
        let told = source.to_string();
        assert!(
            ["for bytes", "for text", "nowhere", "for a number"].iter().all(|value| !told.contains(value)),
            "{told}"
        );
        assert_eq!(store.count(table("usage"), Vec::new()).await.unwrap(), 0);
    }
}

async fn what_is_opened_anew_has_what_was_stored(store: TestStore) {
    for number in 0..3 {
        let mode = if number == 0 { OpenMode::Create } else { OpenMode::Write };
        let opened = store.open(mode).await.unwrap();
        assert_eq!(opened.count(table("usage"), Vec::new()).await.unwrap(), number);
        apply(&opened, vec![insert(table("usage"), usage(1, &number.to_string(), 1))]).await.unwrap();
    }
    let read = store.open(OpenMode::Read).await.unwrap();
    assert_eq!(read.count(table("usage"), Vec::new()).await.unwrap(), 3);
    read.health().await.unwrap();
}

async fn a_store_says_that_it_is_whole(store: TestStore) {
    let opened = store.open(OpenMode::Create).await.unwrap();
    opened.health().await.unwrap();
    assert_eq!(opened.integrity().await.unwrap(), Vec::<String>::new());
    let attacker = store.attacker().await;
    attacker.execute("CREATE INDEX planted ON token (role)").await.unwrap();
    let findings = opened.integrity().await.unwrap();
    assert_eq!(findings, ["index `planted` is not in the schema"]);
}

async fn a_snapshot_shows_one_moment_while_others_write(store: TestStore) {
    let opened = store.open(OpenMode::Create).await.unwrap();
    let rows = |from: u8, to: u8| (from..to).map(|kid| insert(table("usage"), usage(kid, "token", 1))).collect();
    apply(&opened, rows(0, 10)).await.unwrap();
    let snapshot = opened.snapshot().await.unwrap();
    apply(&opened, rows(10, 20)).await.unwrap();
    let gone = Write::Delete { table: table("usage"), key: usage(3, "token", 1)[..4].to_vec() };
    apply(&opened, vec![gone]).await.unwrap();
    for (store, wanted) in [(&opened, 19), (&snapshot, 10), (&snapshot.snapshot().await.unwrap(), 10)] {
        assert_eq!(store.count(table("usage"), Vec::new()).await.unwrap(), wanted);
        let order = table("usage").key;
        let select = Select { table: table("usage"), conditions: Vec::new(), order, after: None, limit: 1_000 };
        assert_eq!(store.select(select).await.unwrap().len() as u64, wanted);
    }
    let refused = apply(&snapshot, rows(30, 31)).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly), "{refused}");
    assert_eq!(snapshot.integrity().await.unwrap(), [] as [String; 0]);
    snapshot.health().await.unwrap();
    drop(snapshot);
    let next = opened.snapshot().await.unwrap();
    assert_eq!(next.count(table("usage"), Vec::new()).await.unwrap(), 19);
}

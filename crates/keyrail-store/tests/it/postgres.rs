//! What is PostgreSQL's own: connections, users, several nodes, standbys, and servers that fail.

mod access;
mod commits;
mod enclosed;
mod nodes;
mod outages;

use std::sync::Arc;

use keyrail_store::{
    Durability, OpenMode, PgStore, PostgresOptions, Store, StoreError, TABLES, Table, Transaction, Value, Write,
};

/// Opens a store, which need not be there.
async fn open(url: &str, mode: OpenMode) -> Result<Arc<PgStore>, StoreError> {
    open_with(url, mode, Durability::LocalOnly).await
}

async fn open_with(url: &str, mode: OpenMode, demand: Durability) -> Result<Arc<PgStore>, StoreError> {
    let options = PostgresOptions { url: url.parse().unwrap(), mode, demand };
    PgStore::open(options).await.map(Arc::new)
}

/// Stores a row under a number; the same number is refused as there already.
async fn store_number(store: &PgStore, number: i64) -> Result<(), StoreError> {
    let (table, values) = row_of(number);
    store.apply(Transaction::of(vec![Write::Insert { table, values }])).await
}

/// A row under a number.
fn row_of(number: i64) -> (&'static Table, Vec<Value>) {
    let table = TABLES.iter().find(|table| table.name == "usage").unwrap();
    let values = vec![
        Value::Blob(number.to_be_bytes().to_vec()),
        Value::Text("x".to_owned()),
        Value::Text("data.encrypt".to_owned()),
        Value::Text("outside".to_owned()),
        Value::Integer(number),
        Value::Integer(0),
        Value::Integer(0),
        Value::Integer(1),
        Value::Blob(vec![0; 32]),
    ];
    (table, values)
}

async fn numbers(store: &PgStore) -> Result<u64, StoreError> {
    store.count(TABLES.iter().find(|table| table.name == "usage").unwrap(), Vec::new()).await
}

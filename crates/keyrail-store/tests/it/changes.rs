//! Changes: whole or not at all, in the order of generations.

use keyrail_core::lifecycle::VersionState;
use keyrail_store::{Change, Fault, OpenMode, StoreError};

use crate::rows::{domain, fill, outbox, version};
use crate::stores::{TestStore, on_every_store};

on_every_store!(
    a_change_is_whole_or_not_there,
    two_active_versions_cannot_be,
    of_many_writers_each_generation_has_one,
    a_store_that_is_only_read_is_not_changed,
);

async fn a_change_is_whole_or_not_there(store: TestStore) {
    let state = store.state().await;
    let change = fill(&state).await;
    state.commit(change.recorded(outbox(1))).await.unwrap();

    let mut renamed = domain();
    renamed.name = "other".parse().unwrap();
    renamed.generation = 2;
    let mut change = Change::new();
    change.update(&renamed).insert(&version(2, VersionState::Active));
    let error = state.commit(change.recorded(outbox(2))).await.unwrap_err();
    assert!(matches!(error, StoreError::Exists { table: "data_key_version" }));
    assert_eq!(state.domains().await.unwrap(), [domain()]);
    assert_eq!(state.pending_outbox().await.unwrap().len(), 1);
}

async fn two_active_versions_cannot_be(store: TestStore) {
    let state = store.state().await;
    let change = fill(&state).await;
    state.commit(change.recorded(outbox(1))).await.unwrap();
    let mut change = Change::new();
    change.insert(&version(4, VersionState::Active));
    assert!(matches!(state.commit(change.recorded(outbox(2))).await, Err(StoreError::Exists { .. })));
}

async fn of_many_writers_each_generation_has_one(store: TestStore) {
    let state = store.state().await;
    let mut change = Change::new();
    change.insert(&domain());
    state.commit(change.unrecorded("a row to fight over")).await.unwrap();
    let writers = (0..8_u8).map(|writer| {
        let state = state.clone();
        tokio::spawn(async move {
            let mut won = 0;
            while won < 5 {
                let mut row = state.domain(&domain().id).await.unwrap().unwrap();
                row.generation += 1;
                row.name = format!("w{writer}").parse().unwrap();
                let mut change = Change::new();
                change.update(&row);
                match state.commit(change.unrecorded("a fight")).await {
                    Ok(()) => won += 1,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(state.domain(&domain().id).await.unwrap().unwrap().generation, 41);
}

async fn a_store_that_is_only_read_is_not_changed(store: TestStore) {
    drop(store.state().await);
    let state = store.sealed(store.open(OpenMode::Read).await.unwrap());
    let mut change = Change::new();
    change.insert(&domain());
    let error = state.commit(change.unrecorded("must fail")).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly));
    assert_eq!(error.fault(), Fault::Dependency);
    assert_eq!(state.domains().await.unwrap(), []);
}

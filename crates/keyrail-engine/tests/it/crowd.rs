//! Keys that very many assets hold, and very many callers used: one record has an end.

use std::sync::Arc;

use keyrail_core::access::{Action, Role};
use keyrail_core::id::DataKeyId;
use keyrail_core::lifecycle::VersionState;
use keyrail_core::record::Record;
use keyrail_core::retirement::{AssetCount, AssetEvidence};
use keyrail_crypto::envelope::Kid;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::key::ExportVersion;
use keyrail_engine::ops::retire::{DestroyVersion, RetireVersion};
use keyrail_engine::ops::token::CreateToken;
use keyrail_engine::ports::AssetPort;
use keyrail_engine::{Access, Caller, Credential, Engine, EngineError, EngineOptions};

use crate::support::{TestClock, decrypt, details, encrypt, records_of, rotate, run, set_label, version, with_key};

const ASSETS: usize = 20_000;

/// Assets with the longest names, each counted.
struct Many;

#[async_trait::async_trait]
impl AssetPort for Many {
    async fn evidence(&self, _: DataKeyId, _: Kid) -> Result<Vec<AssetEvidence>, EngineError> {
        let census = Ok(AssetCount { left: 0, damaged: 0 });
        let row =
            |number| AssetEvidence { asset: format!("a{number:062}").parse().unwrap(), census, open_campaign: None };
        Ok((0..ASSETS).map(row).collect())
    }
}

fn last(engine: &Engine, action: Action) -> Record {
    records_of(engine, action).pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_lists_so_many_assets_and_counts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    drop(with_key(dir.path(), &clock, "internal").await);
    let engine = Engine::open(EngineOptions {
        data_dir: dir.path().to_owned(),
        access: Access::Write,
        clock: clock.clone(),
        assets: Some(|_| Arc::new(Many)),
    });
    let engine = engine.unwrap();
    engine.unseal().await.unwrap();
    rotate(&engine).await;
    clock.pass(61);
    let done = run(&engine, RetireVersion { name: version(1), acknowledged: Vec::new() }).await.unwrap();
    assert_eq!(done.key.versions[0].state, VersionState::Retired);
    assert_eq!(done.evidence.assets.len(), ASSETS, "whoever asked sees them all");
    run(&engine, DestroyVersion { name: version(1), acknowledged: Vec::new() }).await.unwrap();
    for action in [Action::KeyRetire, Action::KeyDestroy] {
        let record = last(&engine, action);
        let census = details(&record, "census");
        assert_eq!(census.len(), 1_001);
        assert_eq!(census[999], format!("a{:062}: 0 values left", 999));
        assert_eq!(census[1_000], format!("and {} more assets: 0 values left", ASSETS - 1_000));
    }
    // The log has the records: other changes do not wait for them.
    run(&engine, CreateDomain { name: "later".parse().unwrap() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_lists_so_many_callers_and_counts_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let engine = with_key(dir.path(), &clock, "internal").await;
    let wait = keyrail_engine::ops::label::DemandsPatch { destroy_wait_seconds: Some(0), ..Default::default() };
    set_label(&engine, "internal", wait).await;
    // As many as can be answered for: the operator in three ways, and each other in one.
    let (ciphertext, _) = encrypt(&engine, "one").await;
    decrypt(&engine, &ciphertext).await.unwrap();
    run(&engine, ExportVersion { name: version(1) }).await.unwrap();
    let mut acknowledged = vec!["local-operator".to_owned()];
    for _ in 0..255 {
        let made = CreateToken { role: Role::Owner, app: None, ttl_seconds: 3_600 };
        let made = run(&engine, made).await.unwrap();
        let caller = Caller::new(Credential::Token(&made.text)).unwrap();
        engine.execute(&caller, ExportVersion { name: version(1) }).await.unwrap();
        acknowledged.push(format!("token:{}", made.view.id));
    }
    rotate(&engine).await;
    clock.pass(61);
    let done = run(&engine, RetireVersion { name: version(1), acknowledged }).await.unwrap();
    assert_eq!(done.evidence.outside.len(), 258, "whoever asked sees them all");
    let record = last(&engine, Action::KeyRetire);
    let uses = details(&record, "used_outside");
    assert_eq!((uses.len(), uses[256]), (257, "and 2 more uses"));
    assert_eq!(details(&record, "acknowledged").len(), 256);

    let gone = run(&engine, DestroyVersion { name: version(1), acknowledged: Vec::new() }).await.unwrap();
    assert!(gone.destroyed);
    assert_eq!(gone.receipt.len(), 258);
    let record = last(&engine, Action::KeyDestroy);
    let receipt = details(&record, "could_bring_it_back");
    assert_eq!((receipt.len(), receipt[256]), (257, "and 2 more"));
}

//! One row of every kind, and a store with all of them.

use std::path::Path;
use std::sync::Arc;

use keyrail_core::access::{Action, Role};
use keyrail_core::asset::{AcceptedDamage, Asset, AssetColumn, AssetState, IdentityKind};
use keyrail_core::campaign::{Campaign, CampaignCounts, CampaignKind, CampaignState};
use keyrail_core::id::*;
use keyrail_core::key::*;
use keyrail_core::label::{ApprovalDemand, Label, default_labels};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::VersionNumber;
use keyrail_core::system::*;
use keyrail_core::time::{BootId, Observation, Timestamp};
use keyrail_core::token::Token;
use keyrail_core::usage::{Usage, UsageCount, UsageKey, UsagePlace};
use keyrail_crypto::envelope::Kid;
use keyrail_crypto::secret::StoreKey;
use keyrail_crypto::suite::Suite;
use keyrail_store::{Change, OpenMode, RowSealer, SqliteStore, State};

use crate::stores::{TestStore, on_every_store};

pub(crate) const AT: Timestamp = Timestamp::from_millis(1_795_512_600_007);

pub(crate) fn open(path: &Path, key: &StoreKey) -> State {
    State::new(Arc::new(SqliteStore::open(path, OpenMode::Create).unwrap()), RowSealer::new(key).unwrap())
}

pub(crate) fn domain() -> Domain {
    Domain { id: DomainId::from_bytes([1; 16]), name: "acme".parse().unwrap(), created_at: AT, generation: 1 }
}

pub(crate) fn version(number: u32, state: VersionState) -> DataKeyVersion {
    DataKeyVersion {
        kid: Kid::from_bytes([u8::try_from(number).unwrap(); 16]),
        key: DataKeyId::from_bytes([4; 16]),
        version: VersionNumber::new(number).unwrap(),
        state,
        suite: Suite::ChaCha20Poly1305,
        wrapped: (state != VersionState::Destroyed).then(|| vec![9; 93]),
        wrapped_by: MasterVersionId::from_bytes([3; 16]),
        wrap_generation: 1,
        created_at: AT,
        activated_at: Some(AT),
        state_changed_at: AT,
        fenced_at: None,
        fenced_window_seconds: None,
        destroy: None,
        generation: 1,
    }
}

fn master() -> (MasterKey, MasterVersion) {
    let key = MasterKey {
        id: MasterKeyId::from_bytes([2; 16]),
        domain: domain().id,
        environment: "prod".parse().unwrap(),
        created_at: AT,
        generation: 1,
    };
    let version = MasterVersion {
        id: MasterVersionId::from_bytes([3; 16]),
        master_key: key.id,
        version: VersionNumber::FIRST,
        state: VersionState::Active,
        wrapped: Some(vec![7; 93]),
        wrap_generation: 1,
        activated_at: AT,
        state_changed_at: AT,
        generation: 1,
    };
    (key, version)
}

fn asset() -> (Asset, AssetColumn, AcceptedDamage, Campaign) {
    let asset = Asset {
        id: AssetId::from_bytes([5; 16]),
        name: "people".parse().unwrap(),
        url: "sqlite:people.sqlite".to_owned(),
        schema: Some("crm".to_owned()),
        table: "people \"x\"".to_owned(),
        identity: IdentityKind::PrimaryKey,
        identity_columns: vec!["id".to_owned(), "ü".to_owned()],
        key: DataKeyId::from_bytes([4; 16]),
        state: AssetState::Registered,
        created_at: AT,
        updated_at: AT,
        generation: 1,
    };
    let column = AssetColumn {
        id: ColumnId::from_bytes([6; 16]),
        asset: asset.id,
        position: 0,
        column: "email".to_owned(),
        json_path: None,
        generation: 1,
    };
    let damage = AcceptedDamage {
        asset: asset.id,
        column: column.id,
        row: "i7".to_owned(),
        bytes_sha256: [8; 32],
        reason: "known".to_owned(),
        accepted_by: "local-operator".to_owned(),
        accepted_at: AT,
        generation: 1,
    };
    let campaign = Campaign {
        id: CampaignId::from_bytes([7; 16]),
        asset: asset.id,
        kind: CampaignKind::Reencrypt,
        target: Some(Kid::from_bytes([1; 16])),
        state: CampaignState::Paused,
        cursor: Some(vec![1, 2, 3]),
        rows_per_second_max: Some(10),
        counts: CampaignCounts {
            rows_total: 8,
            rows: 7,
            cells_moved: 6,
            cas_lost: 5,
            damaged: 4,
            bytes: 3,
            passes: 2,
            busy_millis: 1,
        },
        error_code: Some("busy".to_owned()),
        started_by: "local-operator".to_owned(),
        started_at: AT,
        updated_at: AT,
        finished_at: None,
        generation: 1,
        scrub_due: true,
        not_scrubbed: vec!["free pages".to_owned(), "the log".to_owned()],
        resumed_by: Some("token:y".to_owned()),
    };
    (asset, column, damage, campaign)
}

/// Puts a row of every kind into a store.
pub(crate) async fn fill(state: &State) -> Change {
    filled(state, true).await
}

/// The same, with nothing that the first schema had no place for.
pub(crate) async fn fill_first_schema(state: &State) -> Change {
    filled(state, false).await
}

async fn filled(state: &State, added: bool) -> Change {
    let mut change = Change::new();
    let app = App {
        id: AppId::from_bytes([2; 16]),
        domain: domain().id,
        environment: "prod".parse().unwrap(),
        name: "crm".parse().unwrap(),
        created_at: AT,
        generation: 1,
    };
    let (master, master_version) = master();
    change.insert(&domain()).insert(&app).insert(&master).insert(&master_version);
    for mut label in default_labels(AT).unwrap() {
        label.demands.approval = Some(ApprovalDemand { role: Role::Owner, count: 2 });
        change.insert(&label);
    }
    let key = DataKey {
        id: DataKeyId::from_bytes([4; 16]),
        app: app.id,
        name: "pii".parse().unwrap(),
        label: "restricted".parse().unwrap(),
        status: KeyStatus::Enabled,
        created_at: AT,
        updated_at: AT,
        generation: 1,
    };
    let mut waiting = version(1, VersionState::Deactivated);
    waiting.fenced_window_seconds = added.then_some(3_600);
    waiting.destroy = Some(DestroyWait {
        wait_seconds: 10,
        observed_seconds: 3,
        halt: Some(DestroyHalt::ClockJumped),
        began_at: added.then_some(AT),
    });
    change
        .insert(&key)
        .insert(&waiting)
        .insert(&version(2, VersionState::Active))
        .insert(&version(3, VersionState::Destroyed));
    let (mut asset, column, damage, mut campaign) = asset();
    if !added {
        asset.schema = None;
        campaign = Campaign { scrub_due: false, not_scrubbed: Vec::new(), resumed_by: None, ..campaign };
    }
    change.insert(&asset).insert(&column).insert(&damage).insert(&campaign);
    let token = Token {
        id: TokenId::from_bytes([9; 16]),
        hash: [3; 32],
        role: Role::App,
        app: Some("acme/prod/crm".parse().unwrap()),
        created_at: AT,
        expires_at: AT.plus_seconds(60),
        revoked_at: None,
        generation: 1,
    };
    change.insert(&token);
    let usage_key = UsageKey {
        kid: Kid::from_bytes([1; 16]),
        principal: "token:x".to_owned(),
        action: Action::DataEncrypt,
        place: UsagePlace::Outside,
    };
    change.insert(&Usage { key: usage_key, count: UsageCount::once(3, AT), generation: 1 });
    change.insert(&UsageMark { log_index: 4, generation: 1 });
    change.insert(&LogHeadRow { size: 4, root: [4; 32], generation: 1 });
    change.insert(&ObservationRow {
        observation: Observation { boot: BootId([1; 16]), wall: AT, uptime_millis: 5 },
        generation: 1,
    });
    change.insert(&RootSlotRow {
        id: [1; 16],
        slot: vec![1; 100],
        created_at: AT,
        generation: 1,
        role: if added { SlotRole::Recovery } else { SlotRole::Primary },
        recipients: if added { vec!["age1a".to_owned(), "age1b".to_owned()] } else { Vec::new() },
        rehearsed_at: added.then_some(AT),
    });
    change.insert(&RootSecret {
        purpose: RootSecretPurpose::Store,
        id: [2; 16],
        wrapped: vec![2; 93],
        wrap_generation: 1,
        created_at: AT,
        generation: 1,
    });
    change.insert(&Setting { name: SettingName::LocalOperator, value: "on".to_owned(), updated_at: AT, generation: 1 });
    change.insert(&IdempotencyEntry {
        key_hash: [1; 32],
        request_sha256: [2; 32],
        answer: None,
        request: RequestId::from_bytes([3; 16]),
        expires_at: AT,
        generation: 1,
        principal: added.then(|| "local-operator".to_owned()),
    });
    let _ = state;
    change
}

pub(crate) fn outbox(byte: u8) -> OutboxEntry {
    OutboxEntry { request: RequestId::from_bytes([byte; 16]), log_index_min: 12, body: b"{}".to_vec() }
}

on_every_store!(every_kind_of_row_reads_back_what_was_written);

async fn every_kind_of_row_reads_back_what_was_written(store: TestStore) {
    let state = store.state().await;
    let change = fill(&state).await;
    state.commit(change.recorded(outbox(1))).await.unwrap();

    assert_eq!(state.domain_by_name(&"acme".parse().unwrap()).await.unwrap(), Some(domain()));
    let (name, keyring) = state.keyrings_page(None, None, 10).await.unwrap().remove(0);
    assert_eq!(name.to_string(), "acme/prod/crm/pii");
    assert_eq!(keyring.versions[1], version(2, VersionState::Active));
    let wait = keyring.versions[0].destroy.unwrap();
    assert_eq!((wait.observed_seconds, wait.began_at), (3, Some(AT)));
    assert_eq!(keyring.versions[0].fenced_window_seconds, Some(3_600));
    assert_eq!(state.waiting_for_destruction().await.unwrap().len(), 1);
    let (asset_row, column, damage, campaign) = asset();
    assert_eq!(state.asset_by_name(&"people".parse().unwrap()).await.unwrap(), Some(asset_row.clone()));
    assert_eq!(state.columns_of(&asset_row.id).await.unwrap(), [column]);
    assert_eq!(state.accepted_of(&asset_row.id).await.unwrap(), [damage]);
    assert_eq!(state.campaigns_of(&asset_row.id).await.unwrap(), [campaign]);
    let slot = state.all::<RootSlotRow>(Vec::new()).await.unwrap().remove(0);
    assert_eq!((slot.role, slot.recipients.len(), slot.rehearsed_at), (SlotRole::Recovery, 2, Some(AT)));
    let labels: Vec<Label> = state.labels().await.unwrap();
    assert_eq!(labels.len(), 4);
    assert_eq!(labels[0].demands.approval, Some(ApprovalDemand { role: Role::Owner, count: 2 }));
    assert_eq!(state.token_by_hash(&[3; 32]).await.unwrap().unwrap().role, Role::App);
    assert_eq!(state.pending_outbox().await.unwrap(), [outbox(1)]);
    assert_eq!(state.log_head().await.unwrap().unwrap().root, [4; 32]);
    assert_eq!(state.observation().await.unwrap().unwrap().observation.uptime_millis, 5);
    assert_eq!(state.count_wrapped_by(&MasterVersionId::from_bytes([3; 16])).await.unwrap(), 3);
    assert_eq!(state.verify_all().await.unwrap(), []);
}

//! Seals of rows against vectors that code which is not ours made.

use std::path::Path;
use std::sync::Arc;

use keyrail_core::id::{DomainId, MasterKeyId, MasterVersionId, RequestId};
use keyrail_core::key::{Domain, MasterKey, MasterVersion};
use keyrail_core::lifecycle::VersionState;
use keyrail_core::name::VersionNumber;
use keyrail_core::system::{IdempotencyEntry, MapHead, MapNode};
use keyrail_core::time::Timestamp;
use keyrail_crypto::CryptoError;
use keyrail_crypto::secret::{RootKey, SlotKey, StoreKey};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use keyrail_store::{Change, OpenMode, Row, RowSealer, Select, SqliteStore, State, Store, Value as Column};
use serde_json::Value;

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

fn id(value: &Value) -> [u8; 16] {
    bytes(value).try_into().unwrap()
}

fn sealer(vectors: &Value) -> RowSealer {
    const CONTEXT: WrapContext<'_> = WrapContext { table: "test", id: &[0; 16], version: 1, generation: 1 };
    let wrapped = |name: &str| WrappedKey::from_bytes(&bytes(&vectors["keys"][name])).unwrap();
    let slot = SlotKey::init_with(|key| -> Result<(), CryptoError> {
        key.copy_from_slice(&bytes(&vectors["keys"]["slot_key"]));
        Ok(())
    });
    let root: RootKey = slot.unwrap().unwrap_key(&wrapped("root_key"), &CONTEXT).unwrap();
    let store: StoreKey = root.unwrap_key(&wrapped("store_key"), &CONTEXT).unwrap();
    RowSealer::new(&store).unwrap()
}

/// Stores the row of a vector, and gives what the store then holds.
async fn stored<R: Row>(vectors: &Value, row: &R, before: impl FnOnce(&mut Change)) -> Vec<Column> {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&dir.path().join("s"), OpenMode::Create).unwrap());
    let state = State::new(store.clone(), sealer(vectors));
    let mut change = Change::new();
    before(&mut change);
    change.insert(row);
    state.commit(change.unrecorded("a vector")).await.unwrap();
    let select = Select { table: R::TABLE, conditions: Vec::new(), order: R::TABLE.key, after: None, limit: 1 };
    store.select(select).await.unwrap().remove(0)
}

#[tokio::test]
async fn seals_are_those_that_others_made() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors/sealed-row.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut seals = Vec::new();
    for vector in vectors["valid"].as_array().unwrap() {
        let column = |name: &str| {
            let columns = vector["columns"].as_array().unwrap();
            columns.iter().find(|column| column[0] == name).unwrap()[1].clone()
        };
        let at = |name: &str| Timestamp::from_millis(column(name).as_i64().unwrap());
        let found = if vector["table"] == "domain" {
            let row = Domain {
                id: DomainId::from_bytes(id(&column("id"))),
                name: column("name").as_str().unwrap().parse().unwrap(),
                created_at: at("created_at"),
                generation: column("generation").as_u64().unwrap(),
            };
            stored(&vectors, &row, |_| {}).await
        } else if vector["table"] == "idempotency" {
            let row = IdempotencyEntry {
                key_hash: bytes(&column("key_hash")).try_into().unwrap(),
                request_sha256: bytes(&column("request_sha256")).try_into().unwrap(),
                answer: None,
                request: RequestId::from_bytes(id(&column("request"))),
                expires_at: at("expires_at"),
                generation: column("generation").as_u64().unwrap(),
                principal: column("principal").as_str().map(str::to_owned),
            };
            stored(&vectors, &row, |_| {}).await
        } else {
            let master_key = MasterKeyId::from_bytes(id(&column("master_key")));
            let row = MasterVersion {
                id: MasterVersionId::from_bytes(id(&column("id"))),
                master_key,
                version: VersionNumber::new(2).unwrap(),
                state: VersionState::Destroyed,
                wrapped: None,
                wrap_generation: 1,
                activated_at: at("activated_at"),
                state_changed_at: at("state_changed_at"),
                generation: 5,
            };
            let domain = crate::rows::domain();
            let environment = "prod".parse().unwrap();
            let key = MasterKey {
                id: master_key,
                domain: domain.id,
                environment,
                created_at: crate::rows::AT,
                generation: 1,
            };
            let before = |change: &mut Change| {
                change.insert(&domain).insert(&key);
            };
            stored(&vectors, &row, before).await
        };
        assert_eq!(found.last(), Some(&Column::Blob(bytes(&vector["seal"]))), "{}", vector["id"]);
        seals.push(found.last().cloned());
    }
    assert_eq!(seals.len(), 5);
    assert_ne!(seals[0], seals[1], "a generation is in the seal");
}

/// Every vector is named by its page, and every test that the page names is there.
#[test]
fn page_vectors_and_tests_agree() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../../spec/sealed-row.md")).unwrap();
    let mut sources = String::new();
    for entry in std::fs::read_dir(root.join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            sources.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let vectors = std::fs::read(root.join("../../testdata/vectors/sealed-row.json")).unwrap();
    let vectors: Value = serde_json::from_slice(&vectors).unwrap();
    for vector in vectors["valid"].as_array().unwrap() {
        assert!(page.contains(&format!("`{}`", vector["id"].as_str().unwrap())), "{} is not named", vector["id"]);
        assert_eq!(vector["id"] == "worked-example", page.contains(vector["seal"].as_str().unwrap()));
    }
    let words = page.split('`').skip(1).step_by(2);
    for name in words.filter(|word| word.matches('_').count() > 3 && !word.contains(' ')) {
        assert!(sources.contains(&format!("fn {name}(")), "there is no test `{name}`");
    }
}

/// The map of a store that holds these rows, node and head, against what code that is not ours made of the page.
#[tokio::test]
async fn the_map_is_the_one_that_others_made() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors/state-map.json");
    let vectors: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let rows = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/vectors/sealed-row.json");
    let rows: Value = serde_json::from_slice(&std::fs::read(rows).unwrap()).unwrap();
    let column = |row: usize, column: usize| rows["valid"][row]["columns"][column][1].clone();
    let at = Timestamp::from_millis(1_795_512_600_007);
    let domain = Domain {
        id: DomainId::from_bytes(id(&column(0, 0))),
        name: "acme".parse().unwrap(),
        created_at: at,
        generation: 1,
    };
    let key = MasterKey {
        id: MasterKeyId::from_bytes(id(&column(2, 1))),
        domain: domain.id,
        environment: "prod".parse().unwrap(),
        created_at: at,
        generation: 1,
    };
    let version = MasterVersion {
        id: MasterVersionId::from_bytes(id(&column(2, 0))),
        master_key: key.id,
        version: VersionNumber::new(2).unwrap(),
        state: VersionState::Destroyed,
        wrapped: None,
        wrap_generation: 1,
        activated_at: Timestamp::from_millis(-1),
        state_changed_at: at,
        generation: 5,
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&dir.path().join("s"), OpenMode::Create).unwrap());
    let state = State::new(store.clone(), sealer(&vectors));
    let (mut first, mut second) = (Change::new(), Change::new());
    first.insert(&domain);
    second.insert(&key).insert(&version);
    for (change, vector) in [first, second].into_iter().zip(vectors["valid"].as_array().unwrap()) {
        state.commit(change.unrecorded("a vector")).await.unwrap();
        let only = |table| Select { table, conditions: Vec::new(), order: &["seal"], after: None, limit: 2 };
        let nodes = store.select(only(MapNode::TABLE)).await.unwrap();
        let heads = store.select(only(MapHead::TABLE)).await.unwrap();
        assert_eq!((nodes.len(), heads.len()), (1, 1));
        assert_eq!(nodes[0][1], Column::Blob(bytes(&vector["bytes"])), "{}", vector["id"]);
        assert_eq!(nodes[0][3], Column::Blob(bytes(&vector["seal"])), "{}", vector["id"]);
        assert_eq!(heads[0].last(), Some(&Column::Blob(bytes(&vector["head_seal"]))), "{}", vector["id"]);
    }
}

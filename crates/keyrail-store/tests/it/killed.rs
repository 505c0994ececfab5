//! A kill at any moment leaves a change with its record, or neither.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyrail_core::id::RequestId;
use keyrail_core::system::{OutboxEntry, Setting, SettingName};
use keyrail_crypto::CryptoError;
use keyrail_crypto::secret::{RootKey, SlotKey, StoreKey, Wraps};
use keyrail_crypto::wrap::{WrapContext, WrappedKey};
use keyrail_store::{Change, OpenMode, RowSealer, SqliteStore, State, Store};
use rand::RngExt;

use crate::rows::AT;

const CHILD: &str = "KEYRAIL_STORE_CHILD";
const CHILD_KEYS: &str = "KEYRAIL_STORE_CHILD_KEYS";
const CONTEXT: WrapContext<'_> = WrapContext { table: "test", id: &[0; 16], version: 1, generation: 1 };

/// The keys of the test, wrapped under one that parent and child both know.
struct Keys {
    root: WrappedKey,
    store: WrappedKey,
}

fn known() -> SlotKey {
    SlotKey::init_with(|bytes| -> Result<(), CryptoError> {
        bytes.fill(7);
        Ok(())
    })
    .unwrap()
}

impl Keys {
    fn generate() -> Self {
        let root = RootKey::generate().unwrap();
        let store = root.wrap(&StoreKey::generate().unwrap(), &CONTEXT).unwrap();
        Self { root: known().wrap(&root, &CONTEXT).unwrap(), store }
    }

    fn to_text(&self) -> String {
        format!("{}:{}", hex::encode(self.root.as_bytes()), hex::encode(self.store.as_bytes()))
    }

    fn from_text(text: &str) -> Self {
        let key = |text: &str| WrappedKey::from_bytes(&hex::decode(text).unwrap()).unwrap();
        let (root, store) = text.split_once(':').unwrap();
        Self { root: key(root), store: key(store) }
    }

    fn open(&self, path: &Path, mode: OpenMode) -> (State, Arc<SqliteStore>) {
        let root: RootKey = known().unwrap_key(&self.root, &CONTEXT).unwrap();
        let key: StoreKey = root.unwrap_key(&self.store, &CONTEXT).unwrap();
        let store = Arc::new(SqliteStore::open(path, mode).unwrap());
        (State::new(store.clone(), RowSealer::new(&key).unwrap()), store)
    }
}

fn setting(number: u64) -> Setting {
    Setting { name: SettingName::LogOrigin, value: number.to_string(), updated_at: AT, generation: number }
}

/// Not a test by itself: commits changes with their records until it is killed, and tells each that returned.
#[tokio::test]
async fn child_that_commits_until_it_is_killed() {
    let (Some(path), Ok(keys)) = (std::env::var_os(CHILD), std::env::var(CHILD_KEYS)) else { return };
    let (state, _) = Keys::from_text(&keys).open(Path::new(&path), OpenMode::Write);
    for number in 2.. {
        let mut change = Change::new();
        change.update(&setting(number));
        let request = RequestId::from_bytes(u128::from(number).to_be_bytes());
        let entry = OutboxEntry { request, log_index_min: number, body: b"{}".to_vec() };
        state.commit(change.recorded(entry)).await.unwrap();
        println!("acknowledged {number}");
    }
}

#[tokio::test]
async fn no_kill_comes_between_a_change_and_its_record() {
    let keys = Keys::generate();
    let mut random = keyrail_testkit::seeded("no_kill_comes_between_a_change_and_its_record");
    for _ in 0..keyrail_testkit::scale(200) {
        let dir = keyrail_testkit::TempDir::new().unwrap();
        let path = dir.join("s");
        let mut change = Change::new();
        change.insert(&setting(1));
        keys.open(&path, OpenMode::Create).0.commit(change.unrecorded("the first")).await.unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::child_that_commits_until_it_is_killed", "--nocapture", "--test-threads=1"])
            .envs([(CHILD, path.as_os_str()), (CHILD_KEYS, keys.to_text().as_ref())])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let told = |line: String| line.rsplit_once("acknowledged ").and_then(|(_, number)| number.parse::<u64>().ok());
        let acknowledged = lines.filter_map(told).take(random.random_range(1..20)).last().unwrap();
        let until = Instant::now() + Duration::from_micros(random.random_range(0..3_000));
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (state, store) = keys.open(&path, OpenMode::Write);
        let last = state.setting(&SettingName::LogOrigin).await.unwrap().unwrap().generation;
        assert!(last >= acknowledged, "{acknowledged} was acknowledged, and {last} is there");
        let records: Vec<u64> = state.pending_outbox().await.unwrap().iter().map(|entry| entry.log_index_min).collect();
        assert_eq!(records, (2..=last).collect::<Vec<_>>());
        assert!(store.integrity().await.unwrap().is_empty());
        assert_eq!(state.verify_all().await.unwrap(), []);
    }
}

//! A move to another root that stops in its window, and a root that is away meanwhile.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyrail_testkit::softhsm::{PIN, SoftHsm, TOKEN, in_child};

use super::*;
use crate::bootstrap::Access;
use crate::engine::{Engine, EngineOptions};
use crate::ops::root::RehearseRoot;
use crate::request::Credential;
use crate::roots::RootSource;
use crate::testing::FixedClock;

fn key_file(dir: &Path, name: &str) -> RootSpec {
    RootSpec::KeyFile(dir.join(name))
}

/// A key on the token that the environment names.
fn on_token(dir: &Path, object: &str) -> RootSpec {
    let pin = dir.join("pin");
    std::fs::write(&pin, PIN).unwrap();
    std::fs::set_permissions(&pin, PermissionsExt::from_mode(0o600)).unwrap();
    let (module, token) = (SoftHsm::module().unwrap(), TOKEN.replace(' ', "%20"));
    let text = format!("pkcs11:{}?token={token}&object={object}&pin-file={}", module.display(), pin.display());
    text.parse().unwrap()
}

fn local() -> Caller<'static> {
    Caller::new(Credential::LocalOperator).unwrap()
}

async fn start(dir: &Path) -> Result<Engine, EngineError> {
    let options =
        EngineOptions { data_dir: dir.to_owned(), access: Access::Write, clock: Arc::new(FixedClock), assets: None };
    let engine = Engine::open(options)?;
    engine.unseal().await.map(|()| engine)
}

/// A store that is opened by `from`, and the slot of `to` beside it, as a move leaves it that stops there.
async fn begun(dir: &Path, from: &RootSpec, to: &RootSpec) -> (Engine, [u8; 16]) {
    Engine::init(dir.to_owned(), Some(from.clone()), &FixedClock).await.unwrap();
    let engine = start(dir).await.unwrap();
    let add = AddRoot { to: to.clone(), places: RootPlaces::Any, root: OnceLock::new() };
    let added = execute(&engine.unsealed().unwrap(), &local(), add).await.unwrap();
    let Place::Added(slot) = added.slot else { panic!("there was a slot of it already") };
    (engine, slot)
}

async fn roles(engine: &Engine) -> Vec<(SlotRole, [u8; 16])> {
    let rows = engine.unsealed().unwrap().state().root_slots().await.unwrap();
    let mut roles: Vec<_> = rows.into_iter().map(|row| (row.role, row.id)).collect();
    roles.sort_by_key(|(role, _)| *role == SlotRole::Pending);
    roles
}

/// Stopped before and after the new root is written down; what is written down opens the store each time.
async fn stopped_in_its_window(from: impl Fn(&Path) -> RootSpec, to: impl Fn(&Path) -> RootSpec) {
    let dir = tempfile::tempdir().unwrap();
    let (data, from, to) = (dir.path().join("D"), from(dir.path()), to(dir.path()));
    let (engine, added) = begun(&data, &from, &to).await;
    engine.close().await.unwrap();
    drop(engine);

    let engine = start(&data).await.unwrap_or_else(|error| panic!("before, from {from} to {to}: {error:?}"));
    assert_eq!(roles(&engine).await.len(), 2, "the former root opens it, and the move is not ended");
    engine.close().await.unwrap();
    drop(engine);

    write_root_spec(&Paths::new(&data), &to).unwrap();
    let engine = start(&data).await.unwrap_or_else(|error| panic!("after, from {from} to {to}: {error:?}"));
    assert_eq!(roles(&engine).await, [(SlotRole::Primary, added)], "the start ends the move");
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_move_that_stops_in_its_window_is_ended_by_the_next_start() {
    let hsm = SoftHsm::new().unwrap();
    let name = "migration::tests::a_move_that_stops_in_its_window_is_ended_by_the_next_start";
    if !in_child(name, |command| hsm.equip(command)).unwrap() {
        return;
    }
    run(async {
        stopped_in_its_window(|dir| key_file(dir, "a"), |dir| key_file(dir, "b")).await;
        stopped_in_its_window(|dir| on_token(dir, "a"), |dir| on_token(dir, "b")).await;
        stopped_in_its_window(|dir| on_token(dir, "b"), |dir| key_file(dir, "c")).await;
        stopped_in_its_window(|dir| key_file(dir, "d"), |dir| on_token(dir, "a")).await;
    });
}

/// Which slot the next start needs cannot be told while its token is away, so neither is taken away.
#[test]
fn the_slot_of_a_token_that_is_away_is_not_taken_away() {
    let hsm = SoftHsm::new().unwrap();
    let name = "migration::tests::the_slot_of_a_token_that_is_away_is_not_taken_away";
    let equip = |command: &mut std::process::Command| {
        hsm.equip(command);
        command.env("TOKENS", hsm.path());
    };
    if !in_child(name, equip).unwrap() {
        return;
    }
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let (data, from, to) = (dir.path().join("D"), key_file(dir.path(), "a"), on_token(dir.path(), "b"));
        let (engine, added) = begun(&data, &from, &to).await;
        let paths = Paths::new(&data);
        write_root_spec(&paths, &to).unwrap();
        let tokens = std::path::PathBuf::from(std::env::var_os("TOKENS").unwrap());
        let (there, away) = (tokens.join("tokens"), tokens.join("away"));
        std::fs::rename(&there, &away).unwrap();
        std::fs::create_dir(&there).unwrap();
        let remove = async || engine.remove_root(&local(), hex::encode(added)).await;
        let error = remove().await.unwrap_err();
        assert_eq!(error.code(), "root_failed", "{error}");
        // Nor is a second slot added for a root whose slots cannot be told.
        let again = engine.migrate_root(&local(), to.clone()).await.unwrap_err();
        assert_eq!(again.code(), "root_failed", "{again}");
        std::fs::remove_dir(&there).unwrap();
        std::fs::rename(&away, &there).unwrap();
        assert_eq!(remove().await.unwrap_err().code(), "invalid", "it is what the next start opens");
        assert_eq!(roles(&engine).await.len(), 2);
        write_root_spec(&paths, &from).unwrap();
        remove().await.unwrap();
        assert_eq!(roles(&engine).await.len(), 1);
    });
}

fn passphrase_file(dir: &Path, text: &str) -> RootSpec {
    let path = dir.join(text);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    RootSpec::PassphraseFile(path)
}

fn make_pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// How long anything may take that waits for nobody.
const SOON: std::time::Duration = std::time::Duration::from_secs(5);

const LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

async fn change(engine: &Engine, number: usize) {
    let name = format!("d{number}").parse().unwrap();
    engine.execute(&local(), crate::ops::domain::CreateDomain { name }).await.unwrap();
}

/// The passphrase of the new root comes through a pipe. It is read once, though the state changes meanwhile, and while it
/// is waited for whoever is unknown learns at once that he is.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_read_once_and_keeps_no_stranger_in_the_queue() {
    let dir = tempfile::tempdir().unwrap();
    let (data, pipe) = (dir.path().join("D"), dir.path().join("pipe"));
    make_pipe(&pipe);
    Engine::init(data.clone(), Some(key_file(dir.path(), "a")), &FixedClock).await.unwrap();
    let engine = Arc::new(start(&data).await.unwrap());
    let moving = {
        let (engine, to) = (engine.clone(), RootSpec::PassphraseFile(pipe.clone()));
        tokio::spawn(async move { engine.migrate_root(&local(), to).await })
    };
    // Opens once somebody reads.
    let mut writer = tokio::task::spawn_blocking(|| std::fs::OpenOptions::new().write(true).open(pipe)).await.unwrap();
    let bad = format!("krt_{}", "A".repeat(43));
    for credential in [Credential::None, Credential::Token("nonsense"), Credential::Token(&bad)] {
        let stranger = Caller::new(credential).unwrap();
        let queued = async {
            let to = key_file(dir.path(), "b");
            let refused = [
                engine.seal_for(&stranger).await.unwrap_err(),
                engine.remove_root(&stranger, "00".repeat(16)).await.unwrap_err(),
                engine.migrate_root(&stranger, to).await.unwrap_err(),
            ];
            refused.map(|error| error.code())
        };
        assert_eq!(tokio::time::timeout(SOON, queued).await.expect("a stranger waits"), ["unauthenticated"; 3]);
    }
    assert!(!moving.is_finished());
    change(&engine, 1).await;
    std::io::Write::write_all(writer.as_mut().unwrap(), b"once\n").unwrap();
    drop(writer);
    let moved = tokio::time::timeout(LIMIT, moving).await.expect("it waits for the pipe again").unwrap().unwrap();
    assert_eq!((moved.kind.as_str(), moved.in_use), ("passphrase", true));
    assert_eq!(roles(&engine).await.len(), 1);
}

/// What takes seconds is done once: a state that changes all the time overtakes it, and not what follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_and_a_rehearsal_get_through_while_the_state_changes_all_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("D");
    Engine::init(data.clone(), Some(passphrase_file(dir.path(), "one")), &FixedClock).await.unwrap();
    let engine = Arc::new(start(&data).await.unwrap());
    let changing = {
        let engine = engine.clone();
        tokio::spawn(async move {
            for number in 0.. {
                change(&engine, number).await;
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
            }
        })
    };
    let rehearse = RehearseRoot { root: RootSource::Configured, places: RootPlaces::Any };
    engine.execute(&local(), rehearse).await.unwrap();
    engine.migrate_root(&local(), passphrase_file(dir.path(), "two")).await.unwrap();
    changing.abort();
}

fn records(engine: &Engine, action: Action) -> Vec<keyrail_core::record::Record> {
    let open = engine.unsealed().unwrap();
    let size = usize::try_from(open.log().size()).unwrap();
    let records = open.log().read(0, size).unwrap().into_iter();
    let records = records.map(|body| serde_json::from_slice::<keyrail_core::record::Record>(&body.body).unwrap());
    records.filter(|record| record.action == action).collect()
}

/// Each record of a move tells where the new root is, or which request it goes on with.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_is_told_by_its_first_request_and_where_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (data, to) = (dir.path().join("D"), key_file(dir.path(), "b"));
    Engine::init(data.clone(), Some(key_file(dir.path(), "a")), &FixedClock).await.unwrap();
    let engine = start(&data).await.unwrap();
    let caller = local();
    engine.migrate_root(&caller, to.clone()).await.unwrap();
    let told = records(&engine, Action::RootMigrate);
    let [added, moved] = &told[..] else { panic!("{} records", told.len()) };
    assert_eq!((added.id, added.resource.as_deref()), (caller.request, Some(to.to_string().as_str())));
    let first = moved.detail.iter().find(|detail| detail.name == "request").unwrap();
    assert_eq!(first.value, caller.request.to_string());
}

/// The file of the root is put elsewhere: its slot stays as it is, and what is written down follows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_was_put_elsewhere_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, from, to) = (dir.path().join("D"), key_file(dir.path(), "a"), key_file(dir.path(), "b"));
    Engine::init(data.clone(), Some(from.clone()), &FixedClock).await.unwrap();
    let engine = start(&data).await.unwrap();
    let before = roles(&engine).await;
    std::fs::copy(dir.path().join("a"), dir.path().join("b")).unwrap();
    let same = engine.migrate_root(&local(), from).await.unwrap_err();
    assert!(same.to_string().contains("opens the store already"), "{same}");
    let kept = engine.migrate_root(&local(), to.clone()).await.unwrap();
    assert_eq!((kept.role, kept.in_use), (SlotRole::Primary, true));
    assert_eq!((roles(&engine).await, engine.configured_root().unwrap()), (before, to));
    engine.close().await.unwrap();
    drop(engine);
    std::fs::remove_file(dir.path().join("a")).unwrap();
    start(&data).await.unwrap();
}

/// A server takes a root from nowhere but where it was told to, and tells the log of whoever tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_from_elsewhere_is_refused_before_anything_of_it_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("D");
    Engine::init(data.clone(), Some(key_file(dir.path(), "a")), &FixedClock).await.unwrap();
    let engine = start(&data).await.unwrap();
    engine.confine_roots(&["keyfile:/nowhere".parse().unwrap()]);
    engine.confine_roots(&["keyfile:/".parse().unwrap()]);
    let to = key_file(dir.path(), "b");
    let refused = engine.migrate_root(&local(), to.clone()).await.unwrap_err();
    assert_eq!(refused.code(), "root_place");
    assert!(!dir.path().join("b").exists());
    let rehearse = |root| RehearseRoot { root, places: engine.root_places() };
    let elsewhere = engine.execute(&local(), rehearse(RootSource::Spec(to.clone()))).await.unwrap_err();
    assert_eq!(elsewhere.code(), "root_place");
    for action in [Action::RootMigrate, Action::RootRehearse] {
        let told = records(&engine, action);
        let of: Vec<_> = told.iter().map(|record| (record.code.as_deref(), record.resource.clone())).collect();
        assert_eq!(of, [(Some("root_place"), Some(to.to_string()))], "{action}");
    }
    engine.execute(&local(), rehearse(RootSource::Spec(key_file(dir.path(), "a")))).await.unwrap();
    engine.execute(&local(), rehearse(RootSource::Configured)).await.unwrap();
}

/// A passphrase says nothing of itself: nobody waits for a pipe to learn that.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_a_passphrase_reads_no_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("D");
    Engine::init(data.clone(), Some(passphrase_file(dir.path(), "one")), &FixedClock).await.unwrap();
    let engine = start(&data).await.unwrap();
    std::fs::remove_file(dir.path().join("one")).unwrap();
    make_pipe(&dir.path().join("one"));
    let taken = std::time::Instant::now();
    engine.execute(&local(), crate::ops::evidence::TakeEvidence).await.unwrap();
    assert!(taken.elapsed() < SOON, "{:?}", taken.elapsed());
}

/// A thread is kept by one request at a time, however many ask.
#[tokio::test(flavor = "multi_thread")]
async fn one_request_at_a_time_asks_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("D");
    Engine::init(data.clone(), Some(key_file(dir.path(), "a")), &FixedClock).await.unwrap();
    let engine = start(&data).await.unwrap();
    let open = engine.unsealed().unwrap();
    let turn = open.root_turn().await.unwrap();
    let caller = local();
    let rehearse = RehearseRoot { root: RootSource::Configured, places: RootPlaces::Any };
    let mut rehearsal = std::pin::pin!(engine.execute(&caller, rehearse));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut rehearsal).await;
    assert!(early.is_err(), "it did not wait for its turn");
    drop(turn);
    rehearsal.await.unwrap();
}

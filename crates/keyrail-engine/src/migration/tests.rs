//! A move to another root that stops in its window, and a root that is away meanwhile.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use keyrail_testkit::softhsm::{PIN, SoftHsm, TOKEN, in_child};

use super::*;
use crate::bootstrap::Access;
use crate::engine::{Engine, EngineOptions};
use crate::request::Credential;
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
    let added = execute(&engine.unsealed().unwrap(), &local(), AddRoot { to: to.clone() }).await.unwrap();
    (engine, added)
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
        let remove = async || engine.remove_root(&local(), added).await;
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

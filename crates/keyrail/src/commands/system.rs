//! Root of trust, health, settings.

use http::Method;
use keyrail_engine::{Access, Engine, EngineOptions};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::system::{RootCommand, SettingCommand};
use crate::clock::SystemClock;
use crate::commands::{finish, print, roots};
use crate::connect::{Api, data_dir};
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(super) async fn root(global: &Global, command: RootCommand) -> Result<(), Failure> {
    match command {
        RootCommand::Status if global.server.is_some() => remote_status(global).await,
        RootCommand::Status => local_status(global).await,
        RootCommand::Evidence => {
            print(global, Access::Write, Method::POST, "/v1/system/root/evidence", Value::Null).await
        }
        RootCommand::Seal => print(global, Access::Write, Method::POST, "/v1/system/seal", Value::Null).await,
        RootCommand::Unseal { root } => roots::unseal(global, root.as_ref()).await,
        RootCommand::Rehearse { root } => roots::rehearse(global, &root).await,
        RootCommand::Migrate { to, root } => roots::migrate(global, &to, root).await,
        RootCommand::Rotate { renew } => roots::rotate(global, renew.as_ref()).await,
        RootCommand::Exposed { reason, recovery, shares } => {
            roots::exposed(global, reason.as_deref(), recovery, &shares).await
        }
        RootCommand::Deal { recovery, shares } => roots::deal(global, recovery, &shares).await,
        RootCommand::Remove { slot } => {
            print(global, Access::Write, Method::POST, "/v1/system/root/remove", json!({ "slot": slot })).await
        }
    }
}

/// A server whose store is closed knows no tokens, and tells why it is closed to anybody.
async fn remote_status(global: &Global) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let api = Api::connect(global, Access::Read).await?;
    let shown = api.send(Method::GET, "/v1/system/root", &Value::Null).await;
    if let Err(failure) = &shown
        && failure.code == "sealed"
    {
        output.print(&api.send(Method::GET, "/v1/health/seal", &Value::Null).await?)?;
    }
    finish(api, shown, output).await
}

/// Without a server the root is tried, and its state shown even if it does not open the store.
async fn local_status(global: &Global) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let options = EngineOptions {
        data_dir: data_dir(global)?,
        access: Access::Read,
        clock: std::sync::Arc::new(SystemClock::new()),
        assets: None,
    };
    let engine = Engine::open_anchored(options, crate::anchors::named(global))?;
    if let Err(error) = engine.unseal().await {
        let state = engine.seal_state();
        let root = engine.configured_root().ok().map(|root| root.to_string());
        // That it does not open counts more than that this cannot be shown.
        let cause = engine.seal_cause();
        let hint = cause.and_then(|cause| cause.hint).unwrap_or(state.hint());
        let shown =
            json!({ "seal": state.as_str(), "cause": cause.map(|cause| cause.word), "root": root, "hint": hint });
        let _unshown = output.print(&shown);
        return Err(error.into());
    }
    drop(engine);
    print(global, Access::Read, Method::GET, "/v1/system/root", Value::Null).await
}

pub(super) async fn health(global: &Global) -> Result<(), Failure> {
    let api = Api::connect(global, Access::Read).await?;
    let health = api.send(Method::GET, "/v1/health/ready", &Value::Null).await;
    api.close().await?;
    let health = health?;
    Output { json: global.json }.print(&health)?;
    if health.get("ready").and_then(Value::as_bool) == Some(true) {
        return Ok(());
    }
    let hint = "each check says what is wrong";
    Err(Failure::new(Exit::Dependency, "not_ready", "the service is not ready", hint))
}

pub(super) async fn setting(global: &Global, command: SettingCommand) -> Result<(), Failure> {
    let SettingCommand::LocalOperator { value } = command;
    let body = json!({ "allowed": value == "on" });
    print(global, Access::Write, Method::PUT, "/v1/system/settings/local-operator", body).await
}

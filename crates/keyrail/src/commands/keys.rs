//! Data keys and their versions.

use std::time::{Duration, Instant};

use http::Method;
use keyrail_core::name::KeyVersionName;
use keyrail_engine::Access;
use serde_json::{Value, json};

use crate::cli::{Global, KeyCommand};
use crate::commands::{escaped, finish, list, print};
use crate::connect::Api;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::words::{seconds, time};

/// How long to wait between two attempts while a long write window is open.
const WINDOW_STEP: Duration = Duration::from_secs(30);

fn version_path(name: &KeyVersionName, verb: &str) -> String {
    format!("/v1/keys/{}/versions/{}/{verb}", name.key, name.version)
}

pub(super) async fn run(global: &Global, command: KeyCommand) -> Result<(), Failure> {
    let post = async |path: String| print(global, Access::Write, Method::POST, &path, Value::Null).await;
    match command {
        KeyCommand::Create { name, label } => {
            print(global, Access::Write, Method::POST, "/v1/keys", json!({ "name": name, "label": label })).await
        }
        KeyCommand::Show { name } => {
            print(global, Access::Read, Method::GET, &format!("/v1/keys/{name}"), Value::Null).await
        }
        KeyCommand::List { app, page } => {
            let path = app.map_or("/v1/keys".to_owned(), |app| format!("/v1/keys?app={}", escaped(&app.to_string())));
            list(global, &path, &page).await
        }
        KeyCommand::Rotate { name } => post(format!("/v1/keys/{name}/rotate")).await,
        KeyCommand::Relabel { name, label } => {
            let path = format!("/v1/keys/{name}/relabel");
            print(global, Access::Write, Method::POST, &path, json!({ "label": label })).await
        }
        KeyCommand::Evidence { name } => {
            print(global, Access::Write, Method::GET, &version_path(&name, "evidence"), Value::Null).await
        }
        KeyCommand::Retire { name, acknowledge, wait } => retire(global, &name, &acknowledge, &wait).await,
        KeyCommand::Reinstate { name } => post(version_path(&name, "reinstate")).await,
        KeyCommand::Destroy { name, acknowledge } => {
            let body = json!({ "acknowledge": acknowledge });
            print(global, Access::Write, Method::POST, &version_path(&name, "destroy"), body).await
        }
        KeyCommand::Export { name } => post(version_path(&name, "export")).await,
        KeyCommand::Suspend { name } => post(version_path(&name, "suspend")).await,
        KeyCommand::Resume { name } => post(version_path(&name, "resume")).await,
        KeyCommand::Compromise { name } => post(version_path(&name, "compromise")).await,
    }
}

/// Shows the census and the use outside assets first; waits out a write window that is longer than a request may wait,
/// up to a bound.
async fn retire(global: &Global, name: &KeyVersionName, acknowledge: &[String], wait: &str) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let deadline = Instant::now() + Duration::from_secs(seconds(wait)?);
    let api = Api::connect(global, Access::Write).await?;
    if !output.json
        && let Ok(evidence) = api.send(Method::GET, &version_path(name, "evidence"), &Value::Null).await
    {
        output.print(&evidence);
    }
    let body = json!({ "acknowledge": acknowledge });
    let answer = loop {
        let failure = match api.send(Method::POST, &version_path(name, "retire"), &body).await {
            Err(failure) if failure.code == "write_window_open" => failure,
            answer => break answer,
        };
        let left = window_left(&api, name).await;
        if Instant::now() + left > deadline {
            break Err(still_open(failure, name, left));
        }
        note(&format!("waiting: {}", failure.title));
        tokio::time::sleep(WINDOW_STEP.min(left)).await;
    };
    finish(api, answer, output).await
}

/// How long the write window stays open; a step if nobody tells.
async fn window_left(api: &Api, name: &KeyVersionName) -> Duration {
    let evidence = api.send(Method::GET, &version_path(name, "evidence"), &Value::Null).await.ok();
    let left = evidence.and_then(|evidence| evidence.get("window_left_seconds").and_then(Value::as_u64));
    left.map_or(WINDOW_STEP, |left| Duration::from_secs(left.max(1)))
}

/// The window stays open for longer than this command waits; its time goes by all the same.
fn still_open(failure: Failure, name: &KeyVersionName, left: Duration) -> Failure {
    let hint = format!(
        "the window runs on by itself: run `keyrail key retire {name}` again in {}, or wait here with --wait",
        time(left.as_secs())
    );
    Failure { hint: Some(hint), ..failure }
}

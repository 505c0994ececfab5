//! Data keys and their versions.

use std::time::Duration;

use http::Method;
use keyrail_core::name::KeyVersionName;
use keyrail_engine::Access;
use serde_json::{Value, json};

use crate::cli::{Global, KeyCommand};
use crate::commands::{escaped, finish, list, print};
use crate::connect::Api;
use crate::failure::Failure;
use crate::output::{Output, note};

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
        KeyCommand::Retire { name, acknowledge } => retire(global, &name, &acknowledge).await,
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

/// Shows the census and the use outside assets first; waits out a write window that is longer than a request may wait.
async fn retire(global: &Global, name: &KeyVersionName, acknowledge: &[String]) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let api = Api::connect(global, Access::Write).await?;
    if !output.json
        && let Ok(evidence) = api.send(Method::GET, &version_path(name, "evidence"), &Value::Null).await
    {
        output.print(&evidence);
    }
    let body = json!({ "acknowledge": acknowledge });
    let answer = loop {
        match api.send(Method::POST, &version_path(name, "retire"), &body).await {
            Err(failure) if failure.code == "write_window_open" => {
                note(&format!("waiting: {}", failure.title));
                tokio::time::sleep(WINDOW_STEP).await;
            }
            answer => break answer,
        }
    };
    finish(api, answer, output).await
}

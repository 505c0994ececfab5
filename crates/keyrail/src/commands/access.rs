//! Domains, apps, labels, tokens, master keys.

use http::Method;
use keyrail_engine::Access;
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::cli::access::{AppCommand, DomainCommand, LabelCommand, LabelSet, TokenCommand};
use crate::cli::keys::MasterCommand;
use crate::commands::{escaped, list, print};
use crate::connect::Api;
use crate::failure::Failure;
use crate::output::Output;
use crate::words::{count_or_none, seconds, seconds_or_none};

pub(super) async fn domain(global: &Global, command: DomainCommand) -> Result<(), Failure> {
    match command {
        DomainCommand::Create { name } => {
            print(global, Access::Write, Method::POST, "/v1/domains", json!({ "name": name })).await
        }
        DomainCommand::List(page) => list(global, "/v1/domains", &page).await,
    }
}

pub(super) async fn app(global: &Global, command: AppCommand) -> Result<(), Failure> {
    match command {
        AppCommand::Create { path } => {
            print(global, Access::Write, Method::POST, "/v1/apps", json!({ "path": path })).await
        }
        AppCommand::List(page) => list(global, "/v1/apps", &page).await,
    }
}

pub(super) async fn label(global: &Global, command: LabelCommand) -> Result<(), Failure> {
    match command {
        LabelCommand::List(page) => list(global, "/v1/labels", &page).await,
        LabelCommand::Set(set) => {
            let path = format!("/v1/labels/{}", escaped(set.name.as_str()));
            print(global, Access::Write, Method::PATCH, &path, patch(&set)?).await
        }
    }
}

fn patch(set: &LabelSet) -> Result<Value, Failure> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| body.insert(name.to_owned(), value);
    if let Some(suite) = &set.suite {
        put("suite", json!(suite));
    }
    if let Some(text) = &set.data_key_age {
        put("data_key_age_seconds_max", json!(seconds_or_none(text)?));
    }
    if let Some(text) = &set.data_key_uses {
        put("data_key_uses_max", json!(count_or_none(text)?));
    }
    if let Some(text) = &set.master_key_age {
        put("master_key_age_seconds_max", json!(seconds_or_none(text)?));
    }
    if let Some(text) = &set.cache {
        put("cache_seconds_max", json!(seconds(text)?));
    }
    if let Some(text) = &set.write_window {
        put("write_window_seconds", json!(seconds(text)?));
    }
    if let Some(text) = &set.campaign_deadline {
        put("campaign_deadline_seconds", json!(seconds_or_none(text)?));
    }
    if let Some(text) = &set.destroy_wait {
        put("destroy_wait_seconds", json!(seconds(text)?));
    }
    if let Some(text) = &set.approval {
        put("approval", approval(text)?);
    }
    Ok(Value::Object(body))
}

fn approval(text: &str) -> Result<Value, Failure> {
    if text == "none" {
        return Ok(Value::Null);
    }
    let wrong = || Failure::caller(format!("`{text}` is not an approval"), "write it like owner:2, or none");
    let (role, count) = text.split_once(':').ok_or_else(wrong)?;
    let count: u32 = count.parse().map_err(|_| wrong())?;
    Ok(json!({ "role": role, "count": count }))
}

pub(super) async fn token(global: &Global, command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Create { role, app, ttl } => {
            let body = json!({ "role": role, "app": app, "ttl_seconds": seconds(&ttl)? });
            let api = Api::connect(global, Access::Write).await?;
            let made = api.send(Method::POST, "/v1/tokens", &body).await;
            let closed = api.close().await;
            let printed = Output { json: global.json }.print_once(&made?).map_err(|failure| {
                failure.if_untold("a token is made and its text is lost: find it with `keyrail token list`, revoke it, and make another")
            });
            printed.and(closed)
        }
        TokenCommand::List(page) => list(global, "/v1/tokens", &page).await,
        TokenCommand::Revoke { id } => {
            print(global, Access::Write, Method::DELETE, &format!("/v1/tokens/{id}"), Value::Null).await
        }
    }
}

pub(super) async fn master(global: &Global, command: MasterCommand) -> Result<(), Failure> {
    match command {
        MasterCommand::Show { path } => {
            print(global, Access::Read, Method::GET, &format!("/v1/masters/{path}"), Value::Null).await
        }
        MasterCommand::Rotate { path } => {
            print(global, Access::Write, Method::POST, &format!("/v1/masters/{path}/rotate"), Value::Null).await
        }
    }
}

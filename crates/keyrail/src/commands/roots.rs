//! The ways to open the store: shares that go out and come in, and moving to another root.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use http::Method;
use keyrail_crypto::age::Recipient;
use keyrail_engine::ops::root::NewRecovery;
use keyrail_engine::{Access, EngineError, RootSource};
use keyrail_seal::{RecoverySpec, RootSpec, Shares};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::cli::Global;
use crate::cli::system::SharesOut;
use crate::commands::{finish, print};
use crate::connect::Api;
use crate::failure::Failure;
use crate::output::Output;

/// What goes wrong between making a recovery root and handing out its shares leaves a root that nobody can use.
const SHARES_LOST: &str = "the recovery root is made and shares of it are lost: make another with `keyrail root deal`, \
    and take this one away with `keyrail root remove`";

pub(super) async fn unseal(global: &Global, root: Option<&RootSpec>) -> Result<(), Failure> {
    let (method, path) = (Method::POST, "/v1/system/unseal");
    let Some(root) = root else { return print(global, Access::Write, method, path, Value::Null).await };
    if global.server.is_some() && !root.is_recovery() {
        return Err(Failure::caller(
            "a server opens its store with the root that is written down, or with recovery shares",
            "name shares, like shamir:FILE,FILE,FILE, or leave --root out",
        ));
    }
    let api = Api::connect_with(global, Access::Write, &RootSource::Spec(root.clone())).await?;
    let opened = match given(root) {
        Ok(body) => api.send(method, path, &body).await,
        Err(failure) => Err(failure),
    };
    finish(api, opened, Output { json: global.json }).await
}

pub(super) async fn rehearse(global: &Global, root: &RootSpec) -> Result<(), Failure> {
    print(global, Access::Write, Method::POST, "/v1/system/root/rehearse", given(root)?).await
}

pub(super) async fn migrate(global: &Global, to: &RootSpec, root: Option<RootSpec>) -> Result<(), Failure> {
    if global.server.is_some() && root.is_some() {
        return Err(Failure::caller(
            "a server has opened its store already",
            "leave --root out; `keyrail root unseal --root` opens one that is sealed",
        ));
    }
    let source = root.map_or(RootSource::Configured, RootSource::Spec);
    let api = Api::connect_with(global, Access::Write, &source).await?;
    let moved = api.send(Method::POST, "/v1/system/root/migrate", &json!({ "to": to.to_string() })).await;
    finish(api, moved, Output { json: global.json }).await
}

pub(super) async fn rotate(global: &Global, renew: Option<&RootSpec>) -> Result<(), Failure> {
    let body = match renew {
        None => json!({}),
        Some(root) if root.is_recovery() => given(root)?,
        Some(_) => {
            let hint =
                "name shares, like shamir:FILE,FILE,FILE; the root that opens the store at a start is renewed anyway";
            return Err(Failure::caller("--renew is for recovery shares", hint));
        }
    };
    print(global, Access::Write, Method::POST, "/v1/system/root/rotate", body).await
}

pub(super) async fn exposed(
    global: &Global,
    reason: Option<&str>,
    recovery: Option<RecoverySpec>,
    shares: &SharesOut,
) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let recipients: Vec<_> = recipients(shares)?.iter().map(ToString::to_string).collect();
    prepare(shares, output)?;
    let recovery = recovery.map(|spec| spec.to_string());
    let body = json!({ "reason": reason, "recovery": recovery, "recipients": recipients });
    let api = Api::connect(global, Access::Write).await?;
    // What is kept nowhere is handed out before anything else is done.
    let handed_out = match api.send(Method::POST, "/v1/system/root/exposed", &body).await {
        Ok(mut answered) => {
            let dealt = answered.as_object_mut().and_then(|all| all.remove("recovery"));
            let delivered = dealt.map_or(Ok(()), |dealt| {
                let (dealt, delivered) = deliver(dealt, shares);
                if let Some(all) = answered.as_object_mut() {
                    all.insert("recovery".to_owned(), dealt);
                }
                delivered
            });
            let printed = output.print_once(&answered).map_err(|failure| failure.if_untold(SHARES_LOST));
            printed.and(delivered)
        }
        Err(failure) => Err(failure),
    };
    let closed = api.close().await;
    handed_out.and(closed)
}

pub(super) async fn deal(global: &Global, recovery: RecoverySpec, shares: &SharesOut) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let recipients: Vec<_> = recipients(shares)?.iter().map(ToString::to_string).collect();
    prepare(shares, output)?;
    let body = json!({ "recovery": recovery.to_string(), "recipients": recipients });
    let api = Api::connect(global, Access::Write).await?;
    // What is kept nowhere is handed out before anything else is done.
    let handed_out = match api.send(Method::POST, "/v1/system/root/deal", &body).await {
        Ok(made) => {
            let (answer, delivered) = deliver(made, shares);
            let printed = output.print_once(&answer).map_err(|failure| failure.if_untold(SHARES_LOST));
            printed.and(delivered)
        }
        Err(failure) => Err(failure),
    };
    let closed = api.close().await;
    handed_out.and(closed)
}

/// A root as the body of a request. Shares are read here, where their holders are, and looked at before they are sent.
fn given(root: &RootSpec) -> Result<Value, Failure> {
    if !root.is_recovery() {
        return Ok(json!({ "root": root.to_string() }));
    }
    let texts = root.share_texts().map_err(EngineError::from)?;
    Shares::new(&texts).map_err(EngineError::from)?;
    Ok(json!({ "shares": texts.iter().map(|share| share.text.as_str()).collect::<Vec<_>>() }))
}

/// Whom the shares are encrypted to.
pub(super) fn recipients(shares: &SharesOut) -> Result<Vec<Recipient>, Failure> {
    let parse = |text: &String| {
        let parsed: Result<Recipient, _> = text.parse();
        parsed.map_err(|error| Failure::caller(format!("`{text}`: {error}"), "`age-keygen -y` prints it"))
    };
    shares.share_recipient.iter().map(parse).collect()
}

/// Looks whether shares can be handed out, before there are any.
pub(super) fn prepare(shares: &SharesOut, output: Output) -> Result<(), Failure> {
    let Some(dir) = &shares.shares_dir else {
        if shares.share_recipient.is_empty() || output.json {
            return Ok(());
        }
        let hint = "name a directory for them with --shares-dir, or ask for --json";
        return Err(Failure::caller("encrypted shares are files", hint));
    };
    let failed = |error| Failure::file("use", dir, &error);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name.to_string_lossy().starts_with("share-") {
            let title = format!("`{}` holds shares already", dir.display());
            return Err(Failure::caller(title, "name an empty directory"));
        }
    }
    Ok(())
}

/// A new recovery root, as the API tells of it.
pub(super) fn dealt(recovery: &NewRecovery) -> Value {
    let shares = recovery.shares.iter().map(|share| {
        let recipient = share.recipient.as_ref().map(ToString::to_string);
        json!({ "index": share.index, "recipient": recipient, "share": share.text.as_str() })
    });
    json!({ "slot": recovery.slot.id, "set": recovery.slot.shares, "shares": shares.collect::<Vec<_>>() })
}

/// Writes the shares into files, if that was asked for: what is told then is where they are.
pub(super) fn deliver(mut recovery: Value, shares: &SharesOut) -> (Value, Result<(), Failure>) {
    let Some(dir) = &shares.shares_dir else { return (recovery, Ok(())) };
    let about = about(&recovery);
    let rows = recovery.get_mut("shares").and_then(Value::as_array_mut);
    let mut written = Ok(());
    for row in rows.into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Err(failure) = put(dir, row, &about) {
            // The others are of use all the same; this one is told in its place.
            written = written.and(Err(Failure { hint: Some(SHARES_LOST.to_owned()), ..failure }));
        }
    }
    let synced = File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Failure::file("write", dir, &error));
    (recovery, written.and(synced))
}

/// What stands above a share in its file.
fn about(recovery: &Value) -> String {
    let set = recovery.get("set").unwrap_or(&Value::Null);
    let of = |name: &str| set.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    format!(
        "of {}; any {} of them open the store\n# set {}\n",
        of("total").unwrap_or_default(),
        of("threshold").unwrap_or_default(),
        of("set").unwrap_or_default()
    )
}

fn put(dir: &Path, row: &mut Map<String, Value>, about: &str) -> Result<(), Failure> {
    let index = row.get("index").map(Value::to_string).unwrap_or_default();
    let encrypted = row.get("recipient").is_some_and(Value::is_string);
    let path = dir.join(format!("share-{index}.{}", if encrypted { "age" } else { "txt" }));
    let text = row.get("share").and_then(Value::as_str).unwrap_or_default();
    let content = Zeroizing::new(match encrypted {
        true => text.to_owned(),
        false => format!("# Keyrail recovery share {index} {about}{text}\n"),
    });
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|error| Failure::file("write", &path, &error))?;
    row.remove("share");
    row.insert("file".to_owned(), json!(path));
    Ok(())
}

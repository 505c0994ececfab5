//! Backups: made, and looked at.

use std::path::{Path, PathBuf};

use http::Method;
use keyrail_engine::{
    Access, Caller, Credential, Engine, EngineError, FormerLog, RestoreAsk, backups_in, configured_root,
};
use keyrail_seal::RootSpec;
use serde_json::json;

use crate::cli::{Backup, Global, Restore};
use crate::clock::SystemClock;
use crate::commands::print;
use crate::connect::{data_dir, token};
use crate::failure::Failure;
use crate::output::Output;

pub(super) async fn make(global: &Global, args: Backup) -> Result<(), Failure> {
    // A server has another directory that paths begin at.
    let dir = if global.server.is_some() { args.dir } else { absolute(&args.dir)? };
    let body = json!({ "dir": dir, "keep": args.keep });
    print(global, Access::Write, Method::POST, "/v1/system/backup", body).await
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::file("find", path, &error))
}

/// Opens one backup, or each in a directory. It needs the root of trust, and no store.
pub(super) fn verify(global: &Global, path: &Path, root: Option<RootSpec>) -> Result<(), Failure> {
    if global.server.is_some() {
        return Err(Failure::caller(
            "a backup is opened where it lies",
            "leave --server out; name the root of trust with --root, or the data directory",
        ));
    }
    let root = match root {
        Some(root) => root,
        None => configured_root(&data_dir(global)?)?,
    };
    let root = root.resolve().map_err(EngineError::from)?;
    let output = Output { json: global.json };
    if !path.is_dir() {
        return output.print(&json!(Engine::check_backup(path, root.as_ref())?));
    }
    let found = backups_in(path)?;
    if found.is_empty() {
        return Err(Failure::caller(
            format!("`{}` holds no backup", path.display()),
            "name a directory that `keyrail backup` wrote to, or a file",
        ));
    }
    let (mut checks, mut first) = (Vec::new(), None);
    for file in found {
        match Engine::check_backup(&file, root.as_ref()) {
            Ok(check) => checks.push(json!(check)),
            Err(error) => {
                checks.push(json!({ "file": file, "whole": false, "code": error.code() }));
                first.get_or_insert(error);
            }
        }
    }
    let printed = output.print(&json!({ "backups": checks }));
    match first {
        Some(error) => Err(error.into()),
        None => printed,
    }
}

/// Puts a store back, or tells what that would take back.
pub(super) async fn restore(global: &Global, args: Restore) -> Result<(), Failure> {
    if global.server.is_some() {
        return Err(Failure::caller(
            "a store is restored on its own machine, while no server uses it",
            "leave --server out and name --data-dir",
        ));
    }
    let ask = RestoreAsk {
        data_dir: data_dir(global)?,
        from: args.from,
        root: args.root,
        accept: args.accept_rollback_to,
        log: match args.log {
            None => FormerLog::Beside,
            Some(path) if path.as_os_str() == "none" => FormerLog::Gone,
            Some(path) => FormerLog::Exported(path),
        },
    };
    let token = token(global)?;
    let credential = token.as_ref().map_or(Credential::LocalOperator, |text| Credential::Token(text));
    let caller = Caller::new(credential)?;
    let report = Engine::restore(&ask, &caller, std::sync::Arc::new(SystemClock::new())).await?;
    let printed = Output { json: global.json }.print(&json!(report));
    if report.restored {
        return printed;
    }
    Err(EngineError::RollbackNotAccepted { found: report.log_size, accepted: None }.into())
}

//! The log: shown, and verified offline.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use http::Method;
use keyrail_audit::{
    AnchorFile, Checkpoint, JournalPlace, LogError, Reader, Remembered, Report, VerifierKey, VerifyProblem, export,
    export_rows, verify, verify_with_journal,
};
use keyrail_engine::anchor::{AnchorSpec, Anchors};
use keyrail_engine::ops::system::StoreFinding;
use keyrail_engine::paths::Paths;
use keyrail_engine::{Access, Engine, EngineError, EngineOptions, Unsealed, log_in_database};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::log::AuditCommand;
use crate::clock::SystemClock;
use crate::commands::print;
use crate::connect::{Api, data_dir, open_engine};
use crate::failure::{Exit, Failure};
use crate::output::{Output, line, note};

pub(super) async fn run(global: &Global, command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Show { limit, before } => {
            let mut path = format!("/v1/audit/records?limit={limit}");
            if let Some(before) = before {
                path.push_str(&format!("&before={before}"));
            }
            print(global, Access::Read, Method::GET, &path, Value::Null).await
        }
        AuditCommand::Checkpoint => checkpoint(global).await,
        AuditCommand::Verify { checkpoint, public_key, audit_dir, journal_dir } => {
            let named = Named {
                checkpoint: checkpoint.as_deref(),
                public_key: public_key.as_deref(),
                audit_dir: audit_dir.as_deref(),
                journal_dir: journal_dir.as_deref(),
            };
            let answer = offline(global, &named).await?;
            Output { json: global.json }.print(&answer)
        }
        AuditCommand::Export { to, public_key, audit_dir } => {
            let answer = exported(global, &to, public_key.as_deref(), audit_dir)?;
            Output { json: global.json }.print(&answer)
        }
    }
}

/// Makes an anchor file, wherever the log is: on this machine's other volume, or on a machine of its own.
pub(super) async fn create_anchor(global: &Global, path: PathBuf) -> Result<(), Failure> {
    let api = Api::connect(global, Access::Read).await?;
    let answer = api.send(Method::GET, "/v1/audit/checkpoint", &Value::Null).await;
    api.close().await?;
    let answer = answer?;
    AnchorFile::new(path.clone()).create(text(&answer, "checkpoint")).map_err(|error| match error {
        LogError::File { action, path, source } => Failure::file(action, &path, &source),
        other => Failure::caller(other.to_string(), "name another file, or remove the one that is there"),
    })?;
    let spec = AnchorSpec::File(std::path::absolute(&path).unwrap_or(path));
    let made = json!({ "anchor": spec.to_string(), "size": answer.get("size") });
    Output { json: global.json }.print(&made)
}

/// What the line names for verification.
#[derive(Clone, Copy, Default)]
struct Named<'a> {
    checkpoint: Option<&'a Path>,
    public_key: Option<&'a str>,
    audit_dir: Option<&'a Path>,
    journal_dir: Option<&'a Path>,
}

/// Prints the signed note itself, so that a file with it can be kept and named again with `--checkpoint`.
async fn checkpoint(global: &Global) -> Result<(), Failure> {
    let api = Api::connect(global, Access::Read).await?;
    let answer = api.send(Method::GET, "/v1/audit/checkpoint", &Value::Null).await;
    api.close().await?;
    let answer = answer?;
    if global.json { Output { json: true }.print(&answer) } else { line(text(&answer, "checkpoint").trim_end()) }
}

async fn offline(global: &Global, named: &Named<'_>) -> Result<Value, Failure> {
    if global.server.is_some() {
        return Err(Failure::caller(
            "the log is verified from its files",
            "leave --server out; name --audit-dir and --public-key",
        ));
    }
    let key = match named.public_key {
        Some(text) => key_of(text)?,
        None => written_key(&Paths::new(data_dir(global)?))?,
    };
    for dir in [named.audit_dir, named.journal_dir].into_iter().flatten() {
        std::fs::read_dir(dir).map_err(|error| Failure::file("read", dir, &error))?;
    }
    let mut remembered = Vec::new();
    if let Some(path) = named.checkpoint {
        remembered.push(saved_head(path, &key)?);
    }
    remembered.extend(anchored(global, &key)?);
    // The store remembers a head, too, and guards the journal; both need the root of trust, which an auditor does not
    // have.
    let store = match named.audit_dir {
        Some(_) => None,
        None => opened(global).await?,
    };
    // Who may write beside the log may have put another key there, and a log of his own that goes with it.
    if let Some(store) = store.as_ref().filter(|store| named.public_key.is_none() && *store.open.verifier_key() != key)
    {
        return Err(Failure::stored_data(
            format!("`log-public-key` is not the key of this log, which is {}", store.open.verifier_key()),
            "keep the files as they are: they are evidence; look at who could write to them",
        ));
    }
    remembered.extend(store.as_ref().and_then(|store| store.head));
    if named.audit_dir.is_none() && log_in_database(&Paths::new(data_dir(global)?))?.is_some() {
        return in_database(store.as_ref(), &key, &remembered);
    }
    let dir = match named.audit_dir {
        Some(dir) => dir.to_owned(),
        None => Paths::new(data_dir(global)?).audit(),
    };
    let journal_dir = match named.journal_dir {
        Some(dir) => Some(dir.to_owned()),
        None => dir.parent().map(|parent| parent.join("journal")).filter(|beside| beside.is_dir()),
    };
    if store.is_some() && journal_dir.is_none() {
        return Err(Failure::stored_data(
            "the journal that lies beside every log is not there",
            "keep the files as they are: they are evidence; look at who could write to them",
        ));
    }
    let guard = store.as_ref().and_then(|store| store.open.log().guard());
    let verified = match &journal_dir {
        Some(dir_of_journal) => {
            let place = JournalPlace { dir: dir_of_journal, key: guard };
            verify_with_journal(&dir, &place, &key, &remembered)
        }
        None => verify(&dir, &key, &remembered),
    };
    let report = verified.map_err(|failure| {
        Failure::stored_data(format!("the log does not verify: {failure}"), hint(&failure.problem, &journal_dir))
    })?;
    warn(&report, &remembered);
    Ok(shown(&report, !remembered.is_empty()))
}

/// Verifies every row of a log in a database, up to the records that were written a moment ago.
fn in_database(store: Option<&Store>, key: &VerifierKey, remembered: &[Remembered]) -> Result<Value, Failure> {
    let verified = store.and_then(|store| store.open.log().verify_rows(key, remembered)).ok_or_else(|| {
        Failure::caller(
            "the rows of the log are guarded by a key under the root of trust, which cannot be used here",
            "`keyrail audit export` needs none; verify what it writes with --audit-dir",
        )
    })?;
    let report = verified.map_err(|error| match error {
        LogError::Database { .. } | LogError::NoAnswer { .. } => Failure::from(EngineError::from(error)),
        altered => Failure::stored_data(
            format!("the log does not verify: {altered}"),
            "keep the database as it is: it is evidence; look at who could write to it",
        ),
    })?;
    warn(&report, remembered);
    Ok(shown(&report, !remembered.is_empty()))
}

/// Writes what is signed of the log into another directory. It needs no root of trust, and no server.
fn exported(
    global: &Global,
    to: &Path,
    public_key: Option<&str>,
    audit_dir: Option<PathBuf>,
) -> Result<Value, Failure> {
    if global.server.is_some() {
        return Err(Failure::caller(
            "the log is exported from its files",
            "leave --server out; name --audit-dir and --public-key",
        ));
    }
    let key = match public_key {
        Some(text) => key_of(text)?,
        None => written_key(&Paths::new(data_dir(global)?))?,
    };
    let in_database = match audit_dir {
        Some(_) => None,
        None => log_in_database(&Paths::new(data_dir(global)?))?,
    };
    if let Some(mut rows) = in_database {
        // The database is asked on a thread of its own: this one is in an async runtime.
        let export = || export_rows(to, &key, &mut rows);
        let done = std::thread::scope(|scope| scope.spawn(export).join()).unwrap_or(Err(LogError::Closed));
        let done = done.map_err(not_exported)?;
        return Ok(json!({ "dir": to.display().to_string(), "records": done.size, "added": done.added }));
    }
    let dir = match audit_dir {
        Some(dir) => dir,
        None => Paths::new(data_dir(global)?).audit(),
    };
    require_apart(to, &dir)?;
    let path = dir.join("checkpoint");
    let note = std::fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
    let done = Reader::of(&dir, &note)
        .and_then(|reader| export(to, &note, &key, &mut |first, count| reader.read(first, count)));
    let done = done.map_err(not_exported)?;
    Ok(json!({ "dir": to.display().to_string(), "records": done.size, "added": done.added }))
}

/// Refuses the log itself as the place for its copy, and what is around it: an export takes files away that it did not
/// write, and a log that is in use looks like an earlier export.
fn require_apart(to: &Path, audit_dir: &Path) -> Result<(), Failure> {
    let (to, log) = (real(to)?, real(audit_dir)?);
    let around = log.parent().filter(|dir| dir.join("journal").is_dir()).unwrap_or(&log);
    if to.starts_with(around) || log.starts_with(&to) {
        let title = format!("`{}` is where the log itself is", to.display());
        return Err(Failure::caller(title, "name a directory that is neither in the data directory nor around it"));
    }
    Ok(())
}

/// A path without links, as far as it is there.
fn real(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| Failure::file("find", path, &error);
    let whole = std::path::absolute(path).map_err(failed)?;
    for there in whole.ancestors() {
        match there.canonicalize() {
            Ok(found) => {
                let rest = whole.strip_prefix(there).unwrap_or(Path::new(""));
                // What is not there yet leads down, and nowhere else.
                let down = rest.components().all(|part| matches!(part, Component::Normal(_)));
                return if down { Ok(found.join(rest)) } else { Err(failed(std::io::ErrorKind::NotFound.into())) };
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(whole)
}

fn not_exported(error: LogError) -> Failure {
    match error {
        LogError::Occupied { .. } => Failure::caller(
            error.to_string(),
            "name an empty directory, or one that holds an earlier export of this log",
        ),
        LogError::Older { .. } | LogError::Mismatch | LogError::Checkpoint(_) => Failure::stored_data(
            format!("the log does not continue what was exported before: {error}"),
            "keep both as they are: they are evidence; `keyrail audit verify` tells which one is whole",
        ),
        other => EngineError::from(other).into(),
    }
}

/// What was not seen.
fn warn(report: &Report, remembered: &[Remembered]) {
    if remembered.is_empty() {
        note("warning: an older copy of the log would not be seen: nothing remembers how long it was");
        note("hint: keep a checkpoint elsewhere (`keyrail audit checkpoint`) and name it with --checkpoint");
    }
    let Some(tail) = &report.tail else { return };
    if tail.torn_len > 0 {
        note(&format!(
            "note: the journal ends with {} bytes of a record that was not finished, and that nobody was told of",
            tail.torn_len
        ));
    }
    if tail.records > 0 && !tail.guarded {
        note(&format!(
            "warning: {} records in the journal are signed by nothing yet: only the holder of the root of trust sees a \
             change in them",
            tail.records
        ));
    }
}

/// The head in a file that was saved earlier.
fn saved_head(path: &Path, key: &VerifierKey) -> Result<Remembered, Failure> {
    let note = std::fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    let head = Checkpoint::verify_cosigned(&checkpoint_text(&note), key);
    let head = head.map_err(|error| {
        Failure::caller(
            format!("`{}` is no checkpoint of this log: {error}", path.display()),
            "name a file that `keyrail audit checkpoint` printed",
        )
    })?;
    Ok(Remembered { size: head.size, root: head.root })
}

/// What the anchor files that were named remember. One that cannot be read is told: it may be away.
fn anchored(global: &Global, key: &VerifierKey) -> Result<Vec<Remembered>, Failure> {
    let mut heads = Vec::new();
    for spec in &global.anchor {
        let AnchorSpec::File(path) = spec else { continue };
        match AnchorFile::new(path.clone()).read(key) {
            Ok(Some(found)) => heads.push(Remembered::from(&found.checkpoint)),
            Ok(None) => note(&format!("warning: the anchor `{}` is not there, and was not compared", path.display())),
            Err(LogError::Checkpoint(error)) => {
                let problem = format!("the anchor `{}` remembers no head of this log: {error}", path.display());
                return Err(Failure::stored_data(problem, "name the anchor of this log"));
            }
            Err(error) => note(&format!("warning: the anchor was not compared: {error}")),
        }
    }
    Ok(heads)
}

/// A power cut leaves files that no journal explains, until the next start writes them anew.
fn hint(problem: &VerifyProblem, journal_dir: &Option<PathBuf>) -> &'static str {
    match problem {
        VerifyProblem::Older { .. } | VerifyProblem::Uncovered if journal_dir.is_none() => {
            "if Keyrail was killed on this directory, name the journal that lies beside it, too (--journal-dir)"
        }
        VerifyProblem::Uncovered => {
            "if the machine lost power, copy the directory, start Keyrail once, which publishes what is durable, and verify \
             again; otherwise keep the files as they are: they are evidence"
        }
        VerifyProblem::Older { .. } => {
            "copy the directory before anything opens it for writing, which would go over the end of the log; then look for \
             who put back an older copy"
        }
        _ => "keep the files as they are: they are evidence; look at who could write to them",
    }
}

fn shown(report: &Report, remembered: bool) -> Value {
    let unsigned = report.tail.as_ref().map(|tail| tail.records);
    json!({
        "origin": report.origin,
        "records": report.records,
        "not_yet_signed": unsigned,
        "root": hex::encode(report.root),
        "verified": true,
        "checked_against_remembered_head": remembered,
    })
}

/// A checkpoint file holds the note itself, or the answer of `keyrail audit checkpoint --json`.
fn checkpoint_text(file: &str) -> String {
    let parsed: Option<Value> = serde_json::from_str(file).ok();
    let inner = parsed.as_ref().and_then(|answer| answer.get("checkpoint")).and_then(Value::as_str);
    inner.unwrap_or(file).to_owned()
}

fn key_of(text: &str) -> Result<VerifierKey, Failure> {
    let wrong = || {
        Failure::caller(format!("`{text}` is neither a public key nor a file with one"), "`keyrail init` printed it")
    };
    if let Ok(key) = text.parse() {
        return Ok(key);
    }
    let content = std::fs::read_to_string(text).map_err(|_| wrong())?;
    content.trim().parse().map_err(|_| wrong())
}

/// The key that `init` wrote beside the store.
fn written_key(paths: &Paths) -> Result<VerifierKey, Failure> {
    let path = paths.public_key();
    match std::fs::metadata(&path) {
        // Where nobody may look there may be a store all the same.
        Err(_)
            if [paths.store(), paths.store_url(), paths.audit()]
                .iter()
                .all(|path| matches!(path.try_exists(), Ok(false))) =>
        {
            Err(EngineError::NotInitialized.into())
        }
        Err(error) => Err(Failure::file("read", &path, &error)),
        Ok(_) => key_of(&path.display().to_string()),
    }
}

/// What the opened store knows of the log.
struct Store {
    open: Arc<Unsealed>,
    head: Option<Remembered>,
}

/// The store, as far as it can be opened. One that cannot be opened here (an auditor has no root of trust) is told and
/// left out; one that was altered is not.
async fn opened(global: &Global) -> Result<Option<Store>, Failure> {
    match open_store(global).await {
        Ok(store) => Ok(Some(store)),
        Err(failure) if failure.exit == Exit::StoredData => Err(failure),
        Err(failure) => {
            note(&format!("warning: the head that the store remembers was not compared: {}", failure.title));
            Ok(None)
        }
    }
}

async fn open_store(global: &Global) -> Result<Store, Failure> {
    let open = open_engine(data_dir(global)?, Access::Read, Anchors::default()).await?.unsealed()?;
    let head = open.state().log_head().await.map_err(EngineError::from)?;
    Ok(Store { open, head: head.map(|head| Remembered { size: head.size, root: head.root }) })
}

/// Every row of the store, then the log.
pub(super) async fn verify_all(global: &Global) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let store = match looked_through(global).await {
        Ok(store) => store,
        Err(refused) => return Err(refused_state(global, output, refused).await),
    };
    let log = if global.server.is_some() { Ok(Value::Null) } else { offline(global, &Named::default()).await };
    // What the store showed is told as well when the log does not verify.
    let audit = log.as_ref().map_or_else(|_| json!({ "verified": false }), Value::clone);
    let findings = store.get("findings").cloned().unwrap_or_default();
    let found = findings.as_array().map_or(&[][..], Vec::as_slice);
    let ok = found.is_empty() && log.is_ok();
    let printed = output.print(&json!({ "ok": ok, "findings": findings, "store": store, "audit": audit }));
    match found.first() {
        Some(first) => Err(Failure::stored_data(
            format!(
                "{} rows of the store are not as they were last written, first {} {}",
                found.len(),
                text(first, "table"),
                text(first, "id")
            ),
            "keep the files as they are, and put back a copy from before",
        )),
        None => log.and(printed),
    }
}

async fn looked_through(global: &Global) -> Result<Value, Failure> {
    let api = Api::connect(global, Access::Read).await?;
    let store = api.send(Method::POST, "/v1/system/verify", &Value::Null).await;
    api.close().await?;
    store
}

/// A store may be altered so that it does not open, or decides nothing. That is what was to be found out, so it is told as
/// what is found otherwise.
async fn refused_state(global: &Global, output: Output, refused: Failure) -> Failure {
    if refused.exit != Exit::StoredData || global.server.is_some() {
        return refused;
    }
    let findings = found_at_the_door(global).await.unwrap_or_default();
    if findings.is_empty() {
        return refused;
    }
    match output.print(&json!({ "ok": false, "findings": findings })) {
        Ok(()) => refused,
        Err(unprinted) => unprinted,
    }
}

/// What is wrong with the rows that the store is opened with; or, where it opens, with any.
async fn found_at_the_door(global: &Global) -> Result<Vec<StoreFinding>, Failure> {
    let (data_dir, clock) = (data_dir(global)?, Arc::new(SystemClock::new()));
    let engine = Engine::open(EngineOptions { data_dir, access: Access::Read, clock, assets: None })?;
    if let Err(error) = engine.unseal().await {
        return Ok(StoreFinding::of(&error).into_iter().collect());
    }
    Ok(StoreFinding::all(&*engine.unsealed()?).await?)
}

fn text<'a>(row: &'a Value, name: &str) -> &'a str {
    row.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Starting on an older copy would write over what shows that it is one.
    #[test]
    fn nobody_is_told_to_start_on_an_older_log() {
        let beside = Some(PathBuf::from("journal"));
        for journal_dir in [&None, &beside] {
            let said = hint(&VerifyProblem::Older { found: 1, remembered: 2 }, journal_dir);
            assert!(!said.contains("start"), "{said}");
        }
        assert!(hint(&VerifyProblem::Uncovered, &beside).contains("copy the directory, start"));
    }
}

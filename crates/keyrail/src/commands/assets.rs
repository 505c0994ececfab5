//! Assets and campaigns. Without a server a campaign runs here, in the foreground, and a signal pauses it.

use std::time::Duration;

use http::Method;
use keyrail_core::campaign::CampaignState;
use keyrail_core::id::CampaignId;
use keyrail_data::ops::campaign::{CampaignView, PlanGoal};
use keyrail_data::{Run, Stop, StoppedBy, stopped_by};
use keyrail_engine::Access;
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::cli::assets::{AssetAdd, AssetCommand, CampaignCommand, CampaignStart};
use crate::commands::serve::signal;
use crate::commands::{escaped, list, print};
use crate::connect::Api;
use crate::failure::{Exit, Failure};
use crate::output::{Output, line, note};
use crate::progress::Progress;
use crate::words::{name, names};

/// How often a server is asked how far a campaign is.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn asset(global: &Global, command: AssetCommand) -> Result<(), Failure> {
    match command {
        AssetCommand::Add(args) => {
            print(global, Access::Write, Method::POST, "/v1/assets", new_asset(global, args)?).await
        }
        AssetCommand::List(page) => list(global, "/v1/assets", &page).await,
        AssetCommand::Show { name } => {
            print(global, Access::Read, Method::GET, &format!("/v1/assets/{name}"), Value::Null).await
        }
        AssetCommand::Update { name, url, schema, table, column } => {
            let mut columns = Map::new();
            for text in &column {
                let (former, now) = renamed(text)?;
                columns.insert(former, json!(now));
            }
            let url = url.map(|url| absolute_url(global, &url)).transpose()?;
            let body = json!({ "url": url, "schema": schema, "table": table, "columns": columns });
            print(global, Access::Write, Method::PATCH, &format!("/v1/assets/{name}"), body).await
        }
        AssetCommand::Protect(args) => start(global, &args, "protect", "protecting").await,
        AssetCommand::Unprotect(args) => start(global, &args, "unprotect", "unprotecting").await,
        AssetCommand::Census { name } => {
            print(global, Access::Write, Method::POST, &format!("/v1/assets/{name}/census"), Value::Null).await
        }
        AssetCommand::AcceptDamaged { name, row, reason } => {
            let body = json!({ "row": row, "reason": reason });
            print(global, Access::Write, Method::POST, &format!("/v1/assets/{name}/accept-damaged"), body).await
        }
    }
}

fn new_asset(global: &Global, args: AssetAdd) -> Result<Value, Failure> {
    let column = |text: &String| -> Result<Value, Failure> {
        let (column, _, rest) = name(text, &[':'])?;
        Ok(match rest.strip_prefix(':') {
            Some(path) => json!({ "column": column, "json_path": path }),
            None => json!({ "column": column }),
        })
    };
    let columns = args.column.iter().map(column).collect::<Result<Vec<_>, _>>()?;
    let lists = args.id.iter().map(|text| names(text)).collect::<Result<Vec<_>, _>>()?.concat();
    let id = match lists.as_slice() {
        [] => Value::Null,
        [(none, false)] if none == "none" => json!([]),
        columns => columns.iter().map(|(column, _)| column.as_str()).collect(),
    };
    let url = absolute_url(global, &args.url)?;
    Ok(json!({
        "name": args.name, "url": url, "schema": args.schema, "table": args.table, "id": id, "columns": columns,
        "key": args.key,
    }))
}

/// The two names of `FORMER=NOW`.
fn renamed(text: &str) -> Result<(String, String), Failure> {
    let (former, _, rest) = name(text, &['='])?;
    let now = rest.strip_prefix('=').ok_or_else(|| {
        Failure::caller(
            format!("`{text}` has no ="),
            "write it like former=now, with names in double quotes if need be",
        )
    })?;
    // What follows the first name is the other one, whatever is in it; quotes are taken off if they enclose it all.
    let (now, _, _) = name(now, &[])?;
    Ok((former, now))
}

/// A relative path means a file here; on a server it would mean another one.
fn absolute_url(global: &Global, url: &str) -> Result<String, Failure> {
    match url.split_once(':') {
        Some(("sqlite", path)) if global.server.is_none() => {
            let absolute = std::path::absolute(path).map_err(|error| Failure::file("find", path.as_ref(), &error))?;
            Ok(format!("sqlite:{}", absolute.display()))
        }
        _ => Ok(url.to_owned()),
    }
}

pub(super) async fn campaign(global: &Global, command: CampaignCommand) -> Result<(), Failure> {
    match command {
        CampaignCommand::Start(args) => start(global, &args, "campaigns", "re-encrypting").await,
        CampaignCommand::List(page) => list(global, "/v1/campaigns", &page).await,
        CampaignCommand::Status { id } => {
            print(global, Access::Read, Method::GET, &format!("/v1/campaigns/{id}"), Value::Null).await
        }
        CampaignCommand::Pause { id } => {
            print(global, Access::Write, Method::POST, &format!("/v1/campaigns/{id}/pause"), Value::Null).await
        }
        // One that is still called running, because its process was killed, simply goes on.
        CampaignCommand::Resume { id } => {
            begin(global, &format!("/v1/campaigns/{id}/resume"), Value::Null, "going on").await
        }
        CampaignCommand::Rollback { id } => {
            begin(global, &format!("/v1/campaigns/{id}/rollback"), Value::Null, "moving back").await
        }
    }
}

async fn start(global: &Global, args: &CampaignStart, verb: &str, what: &str) -> Result<(), Failure> {
    let asset = escaped(args.asset.as_str());
    let body = json!({ "rate": args.rate });
    if args.dry_run {
        let goal = if verb == "unprotect" { PlanGoal::Plaintext } else { PlanGoal::Active };
        let body = json!({ "rate": args.rate, "goal": goal });
        return print(global, Access::Write, Method::POST, &format!("/v1/assets/{asset}/plan"), body).await;
    }
    begin(global, &format!("/v1/assets/{asset}/{verb}"), body, what).await
}

async fn begin(global: &Global, path: &str, body: Value, what: &str) -> Result<(), Failure> {
    let api = Api::connect(global, Access::Write).await?;
    let started = api.call(Method::POST, path, &body).await;
    go(api, global, started, what).await
}

async fn go(api: Api, global: &Global, started: Result<CampaignView, Failure>, what: &str) -> Result<(), Failure> {
    match started {
        Ok(started) => follow(api, global, started, what).await,
        Err(failure) => {
            api.close().await?;
            Err(failure)
        }
    }
}

/// Runs the campaign here, or watches it run on the server, until it ends.
async fn follow(api: Api, global: &Global, started: CampaignView, what: &str) -> Result<(), Failure> {
    let output = Output { json: global.json };
    let stop = Stop::default();
    // Who reads the id may send a signal at once: it is heard before the id is printed.
    let listener = matches!(api, Api::Local(_)).then(|| tokio::spawn(pause_on_signal(signal(), stop.clone())));
    let announced = if output.json {
        line(&json!({ "id": started.id }).to_string())
    } else {
        line(&format!("campaign {}", started.id))
    };
    let progress = Progress::new(what);
    let ran = match &api {
        Api::Local(local) => run_here(local.service.engine(), started.id, stop, &progress).await,
        Api::Remote(_) => watch(&api, started.id, &progress).await,
    };
    progress.done();
    if let Some(listener) = listener {
        listener.abort();
    }
    let shown = api.call::<CampaignView>(Method::GET, &format!("/v1/campaigns/{}", started.id), &Value::Null).await;
    let closed = api.close().await;
    ran?;
    let shown = shown?;
    closed?;
    for left in &shown.not_scrubbed {
        note(&format!("warning: not scrubbed: {left}"));
    }
    let printed = output.print(&told(&shown, output));
    // What the campaign left counts more than that it could not be told.
    ended(&shown).and(announced).and(printed)
}

async fn run_here(
    engine: &keyrail_engine::Engine,
    id: CampaignId,
    stop: Stop,
    progress: &Progress,
) -> Result<(), Failure> {
    let shown = progress.clone();
    let run = Run { open: engine.unsealed()?, id, stop, progress: Box::new(move |campaign| shown.campaign(campaign)) };
    run.run().await?;
    Ok(())
}

async fn pause_on_signal(signalled: impl Future<Output = ()>, stop: Stop) {
    signalled.await;
    note("pausing after this page; `keyrail campaign resume` goes on");
    stop.pause();
}

async fn watch(api: &Api, id: CampaignId, progress: &Progress) -> Result<(), Failure> {
    loop {
        let shown: CampaignView = api.call(Method::GET, &format!("/v1/campaigns/{id}"), &Value::Null).await?;
        progress.show(shown.rows, shown.rows_total.max(shown.rows), shown.cas_lost);
        if shown.state != CampaignState::Running {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is printed at the end. People have just read in a warning each what was not scrubbed; programs get it as a field.
fn told(shown: &CampaignView, output: Output) -> Value {
    let mut answer = serde_json::to_value(shown).unwrap_or_default();
    if let Some(fields) = answer.as_object_mut().filter(|_| !output.json) {
        fields.remove("not_scrubbed");
    }
    answer
}

/// Why a campaign that stopped elsewhere did so, and how it goes on.
fn stopped(code: Option<&str>, id: &CampaignId) -> Failure {
    let resume = format!("`keyrail campaign resume {id}`");
    let (exit, title, hint) = match code.and_then(stopped_by) {
        Some(StoppedBy { title, fault, hint }) => {
            (Exit::of_fault(fault), format!("the campaign stopped: {title}"), format!("{hint}; then {resume}"))
        }
        None => (
            Exit::Dependency,
            "the campaign stopped".to_owned(),
            format!("mend the cause, which the server's log names, then {resume}"),
        ),
    };
    Failure::new(exit, code.unwrap_or_default(), title, hint)
}

fn ended(shown: &CampaignView) -> Result<(), Failure> {
    let failure = |title: String, hint: String, exit| {
        Err(Failure::new(exit, shown.error.as_deref().unwrap_or_default(), title, hint))
    };
    match shown.state {
        CampaignState::Completed | CampaignState::Running | CampaignState::Paused => Ok(()),
        CampaignState::Incomplete => failure(
            "the campaign went over every row and some values are left".to_owned(),
            format!(
                "look at them with `keyrail asset census {}`, then `keyrail campaign resume {}`",
                shown.asset, shown.id
            ),
            Exit::StoredData,
        ),
        CampaignState::Stopped => Err(stopped(shown.error.as_deref(), &shown.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_that_stopped_elsewhere_tells_why_and_how_it_goes_on() {
        let id = CampaignId::from_bytes([7; 16]);
        for (code, exit, says) in [
            (Some("asset_full"), Exit::Dependency, "the disk of the database is full"),
            (Some("asset_damaged"), Exit::StoredData, "the database file is damaged"),
            (Some("asset_absent"), Exit::Absent, "a table or a column is not there any more"),
            (Some("value_too_long"), Exit::Caller, "longer than an envelope takes"),
            (Some("key_disabled"), Exit::Refused, "the key is disabled"),
            (Some("store_damaged"), Exit::StoredData, "damaged or was altered"),
            (Some("not_found"), Exit::Absent, "not there any more"),
            (Some("bug"), Exit::Bug, "a bug"),
            (Some("store_failed"), Exit::Dependency, "the campaign stopped"),
            (None, Exit::Dependency, "the campaign stopped"),
        ] {
            let failure = stopped(code, &id);
            assert_eq!((failure.exit as u8, failure.code.as_str()), (exit as u8, code.unwrap_or_default()));
            assert!(failure.title.contains(says), "{}", failure.title);
            let hint = failure.hint.unwrap();
            assert!(hint.ends_with(&format!("then `keyrail campaign resume {id}`")), "{hint}");
        }
    }
}

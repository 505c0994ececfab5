//! What each command does.

mod access;
mod assets;
mod audit;
mod backups;
mod data;
mod keys;
mod roots;
mod serve;
mod system;

use clap::CommandFactory;
use keyrail_engine::anchor::Anchors;
use keyrail_engine::ops::root::DealRecovery;
use keyrail_engine::{Access, AsyncLoss, Engine, Initialized, StorePlace};
use keyrail_seal::{RecoverySpec, RootSpec};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::log::AnchorCommand;
use crate::cli::system::SharesOut;
use crate::cli::{Cli, Command, Global, Page, Verify};
use crate::clock::SystemClock;
use crate::connect::{Api, data_dir};
use crate::failure::Failure;
use crate::output::{Output, line, line_once, note, raw};

/// What stands in a path or query as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A text as part of a path or query.
fn escaped(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// Runs a command.
pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    // The parser sees this only where both stand at the same place of the line.
    if global.data_dir.is_some() && global.server.is_some() {
        return Err(Failure::caller("`--data-dir` and `--server` exclude each other", "name the one that is meant"));
    }
    let global = global.with_environment().map_err(|problem| Failure::caller(problem, "separate anchors by spaces"))?;
    let output = Output { json: global.json };
    match command {
        Command::Quickstart(args) => crate::quickstart::run(args, output).await,
        Command::Init { root, recovery, shares, store, accept_async_loss } => {
            let recovery = recovery.map(|spec| (spec, shares));
            let place = store_place(store.as_deref(), accept_async_loss)?;
            init(&global, root.as_deref(), recovery.as_ref(), &place, output).await
        }
        Command::Serve(args) => serve::run(&global, args, output).await,
        Command::Domain(command) => access::domain(&global, command).await,
        Command::App(command) => access::app(&global, command).await,
        Command::Label(command) => access::label(&global, command).await,
        Command::Token(command) => access::token(&global, command).await,
        Command::Master(command) => access::master(&global, command).await,
        Command::Key(command) => keys::run(&global, command).await,
        Command::Encrypt(args) => data::encrypt(&global, args).await,
        Command::Decrypt(args) => data::decrypt(&global, args).await,
        Command::Reencrypt(args) => data::reencrypt(&global, args).await,
        Command::Asset(command) => assets::asset(&global, command).await,
        Command::Campaign(command) => assets::campaign(&global, command).await,
        Command::Audit(command) => audit::run(&global, command).await,
        Command::Anchor(AnchorCommand::Create { path }) => audit::create_anchor(&global, path).await,
        Command::Verify(Verify { backup: Some(path), root }) => backups::verify(&global, &path, root),
        Command::Verify(_) => audit::verify_all(&global).await,
        Command::Backup(args) => backups::make(&global, args).await,
        Command::Restore(args) => backups::restore(&global, args).await,
        Command::Root(command) => system::root(&global, command).await,
        Command::Health => system::health(&global).await,
        Command::Setting(command) => system::setting(&global, command).await,
        Command::Completions { shell } => {
            // Made whole first: the generator knows no reader that goes away.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "keyrail", &mut script);
            raw(&script)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|error| Failure::file("create", &dir, &error))?;
            clap_mangen::generate_to(Cli::command(), &dir).map_err(|error| Failure::file("write", &dir, &error))
        }
        Command::Openapi => {
            line(&keyrail_http::document().to_json().map_err(|_| Failure::bug("a document that is no JSON"))?)
        }
    }
}

/// One request, printed.
async fn print(global: &Global, access: Access, method: http::Method, path: &str, body: Value) -> Result<(), Failure> {
    let api = Api::connect(global, access).await?;
    let answer = api.send(method, path, &body).await;
    finish(api, answer, Output { json: global.json }).await
}

/// One page of a list, printed.
async fn list(global: &Global, path: &str, page: &Page) -> Result<(), Failure> {
    let mut path = format!("{path}{}limit={}", if path.contains('?') { '&' } else { '?' }, page.limit);
    if let Some(after) = &page.after {
        path.push_str(&format!("&after={}", escaped(after)));
    }
    print(global, Access::Read, http::Method::GET, &path, Value::Null).await
}

/// Closes the way to the API; the answer's failure counts more than that of closing.
async fn finish(api: Api, answer: Result<Value, Failure>, output: Output) -> Result<(), Failure> {
    let closed = api.close().await;
    output.print(&answer?)?;
    closed
}

/// Where the new store is to be.
fn store_place(store: Option<&str>, accept_async_loss: bool) -> Result<StorePlace, Failure> {
    let Some(url) = store else { return Ok(StorePlace::DataDir) };
    let loss = if accept_async_loss { AsyncLoss::Accepted } else { AsyncLoss::Refused };
    Ok(StorePlace::postgres(url, loss)?)
}

async fn init(
    global: &Global,
    root: Option<&str>,
    recovery: Option<&(RecoverySpec, SharesOut)>,
    place: &StorePlace,
    output: Output,
) -> Result<(), Failure> {
    if global.server.is_some() {
        return Err(Failure::caller("a store is made on its own machine", "leave --server out and name --data-dir"));
    }
    let parsed = root.map(str::parse::<RootSpec>).transpose();
    let root = parsed.map_err(|error| Failure::caller(error.to_string(), "like keyfile:/media/usb/root.key"))?;
    let dir = data_dir(global)?;
    let (recovery, shares) = match recovery {
        Some((spec, shares)) => {
            let asked = DealRecovery { spec: *spec, recipients: roots::recipients(shares)? };
            roots::prepare(shares, output)?;
            (Some(asked), Some(shares))
        }
        None => (None, None),
    };
    let made = Engine::init_with(dir.clone(), root, recovery, place, &SystemClock::new()).await?;
    if made.root_beside_data && !output.json {
        note(&format!("warning: the root key lies beside the data, in `{}`", dir.join("root.key").display()));
        note("hint: production keeps it on another disk: keyrail init --root keyfile:FILE");
    }
    let (recovery, delivered) = match (&made.recovery, shares) {
        (Some(recovery), Some(shares)) => roots::deliver(roots::dealt(recovery), shares),
        _ => (Value::Null, Ok(())),
    };
    let text =
        Zeroizing::new(if output.json { made_json(&made, &dir, recovery) } else { made_text(&made, &dir, &recovery) });
    let printed = line_once(&text).map_err(|failure| {
        failure.if_untold(
            "the store is made, and its owner's token is lost: `keyrail token create --role owner` makes another",
        )
    });
    // The first opening puts the record of making it into the log. What is kept nowhere is handed out before.
    let opened = open_and_close(dir).await;
    printed.and(delivered).and(opened)
}

fn made_json(made: &Initialized, dir: &std::path::Path, recovery: Value) -> String {
    let mut all = json!({"token": made.token.as_str(), "public_key": made.public_key, "root": made.root.to_string(), "data_dir": dir});
    if let (Some(all), false) = (all.as_object_mut(), recovery.is_null()) {
        all.insert("recovery".to_owned(), recovery);
    }
    all.to_string()
}

fn made_text(made: &Initialized, dir: &std::path::Path, recovery: &Value) -> String {
    let mut text = format!(
        "data directory  {}\nroot of trust   {}\npublic key      {}\nowner's token   {}\n\
         The token is shown once. Keep the public key elsewhere: it verifies the log.",
        dir.display(),
        made.root,
        made.public_key,
        made.token.as_str()
    );
    if !recovery.is_null() {
        text.push_str("\nRecovery shares, for as many people; they are kept nowhere:\n");
        text.push_str(crate::output::render(recovery).trim_end());
    }
    text
}

async fn open_and_close(dir: std::path::PathBuf) -> Result<(), Failure> {
    Ok(crate::connect::open_engine(dir, Access::Write, Anchors::default()).await?.close().await?)
}

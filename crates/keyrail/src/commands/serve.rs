//! The server.

use keyrail_crypto::locked::{Protection, protection};
use keyrail_engine::{Access, BackupPlan};
use keyrail_http::{Listener, Service, Tls};
use keyrail_seal::SealState;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal as listen};
use tokio::sync::watch;

use crate::cli::{Global, Serve};
use crate::clock::SystemClock;
use crate::commands::backups::absolute;
use crate::connect::data_dir;
use crate::failure::Failure;
use crate::output::{Output, line, note};
use crate::workers;

/// Ends at the first SIGINT or SIGTERM.
///
/// Signals are heard from the call on, not only once somebody waits: none falls between an announcement and its wait.
pub(super) fn signal() -> impl Future<Output = ()> + Send {
    let heard = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = heard else {
            note("warning: signals cannot be heard");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// Raises the soft limit of open files as far as the system lets it: each connection is one.
fn allow_connections() {
    let limits = getrlimit(Resource::Nofile);
    let wanted = limits.maximum.map_or(FILES_WANTED, |hard| hard.min(FILES_WANTED));
    if limits.current.is_some_and(|soft| soft < wanted) {
        // Where it cannot be raised, fewer connections are held.
        let _kept = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limits.maximum });
    }
}

/// Open files that a server can use: its connections, and what the store and the assets need.
const FILES_WANTED: u64 = 16_384;

pub(super) async fn run(global: &Global, args: Serve, output: Output) -> Result<(), Failure> {
    if global.server.is_some() {
        return Err(Failure::caller("a server serves a data directory", "leave --server out and name --data-dir"));
    }
    allow_connections();
    let tls = args.tls_cert.zip(args.tls_key).map(|(certificates, key)| Tls { certificates, key });
    let options = keyrail_engine::EngineOptions {
        data_dir: data_dir(global)?,
        access: Access::Write,
        clock: std::sync::Arc::new(SystemClock::new()),
        assets: Some(keyrail_data::assets),
    };
    let engine = keyrail_engine::Engine::open_anchored(options, crate::anchors::named(global))?;
    if let Some(dir) = &args.backup_dir {
        let every_seconds = crate::words::seconds(&args.backup_every)?;
        engine.schedule_backups(BackupPlan { dir: absolute(dir)?, every_seconds, keep: args.backup_keep })?;
    }
    engine.confine_roots(&args.allow_root);
    // A root that cannot be used, or a database that is away, does not keep the server from starting: it says so, and
    // health shows it.
    if let Err(error) = engine.unseal().await {
        let (state, failure) = (engine.seal_state(), Failure::from(error));
        match state {
            SealState::WrongSecret | SealState::RootUnavailable | SealState::RootLocked => {}
            _ if engine.opens_by_itself() => {}
            _ => return Err(failure),
        }
        note(&format!("warning: the store is {state}: {}", failure.title));
    }
    if protection() == Protection::Unlocked {
        note("warning: no more memory may be locked: keys are left out of dumps, and may be swapped");
        note("hint: raise the limit for locked memory to 16 MiB (ulimit -l, LimitMEMLOCK)");
    }
    let service = Service::new(engine, true);
    workers::tell(&service);
    let listener = Listener::bind(args.listen, tls.as_ref()).await?.for_service(&service);
    let url = listener.url();
    let signalled = signal();
    let announced =
        if output.json { line(&json!({ "url": url }).to_string()) } else { line(&format!("listening on {url}")) };
    if let Err(failure) = announced {
        // Applications need the service more than this line.
        note(&format!("warning: {}", failure.title));
    }
    let (stop, stopped) = watch::channel(false);
    let background = tokio::spawn(service.clone().work(stopped));
    listener.serve(keyrail_http::router(service.clone()), signalled).await;
    let _ended = stop.send(true);
    if background.await.is_err() {
        note("warning: the background work ended by a panic");
    }
    service.close().await?;
    Ok(())
}

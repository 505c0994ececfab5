//! The main job on the embedded default, from an empty directory to a retired version.

mod ledger;
mod names;
mod writer;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use keyrail_audit::{Remembered, VerifierKey, verify};
use keyrail_core::campaign::CampaignState;
use keyrail_core::name::{AppPath, KeyName, KeyVersionName, Name, NameError, VersionNumber};
use keyrail_core::rotation::RotationReason;
use keyrail_data::ops::asset::{AddAsset, AssetView, CensusAsset, CensusView, ColumnChoice, IdentityChoice};
use keyrail_data::ops::campaign::{CampaignView, Protect, Reencrypt, Start};
use keyrail_data::{Outcome, Run, Stop};
use keyrail_engine::anchor::Anchors;
use keyrail_engine::ops::app::CreateApp;
use keyrail_engine::ops::domain::CreateDomain;
use keyrail_engine::ops::key::{CreateKey, RotateKey};
use keyrail_engine::ops::label::{DemandsPatch, SetLabel};
use keyrail_engine::ops::master::RotateMaster;
use keyrail_engine::ops::retire::RetireVersion;
use keyrail_engine::{Access, Caller, Credential, Engine, Operation};
use serde_json::{Map, Value, json};

use crate::cli::Quickstart;
use crate::clock::SystemClock;
use crate::connect::{home, open_engine};
use crate::failure::Failure;
use crate::output::{Output, line, note};
use crate::people;
use crate::progress::Progress;
use ledger::Ledger;
use writer::Writer;

/// Whose table it is.
struct Job {
    database: PathBuf,
    table: String,
    columns: Vec<String>,
    /// Whether the table is ours, so that rows may be added and changed.
    made_up: bool,
}

/// Names that the quickstart uses.
struct Names {
    domain: Name,
    app: AppPath,
    key: KeyName,
    label: Name,
    asset: Name,
}

impl Names {
    fn new() -> Result<Self, Failure> {
        let made = || -> Result<Self, NameError> {
            Ok(Self {
                domain: "acme".parse()?,
                app: "acme/prod/crm".parse()?,
                key: "acme/prod/crm/customer-pii".parse()?,
                label: "quickstart".parse()?,
                asset: "people".parse()?,
            })
        };
        made().map_err(|_| Failure::bug("a name of the quickstart is none"))
    }
}

/// Says what happens, on standard error.
struct Told {
    quiet: bool,
}

impl Told {
    fn step(&self, text: &str) {
        if !self.quiet {
            note(text);
        }
    }
}

/// What the run measured.
#[derive(Default)]
struct Measured {
    /// Rows that were there when it began.
    rows: u64,
    /// Rows whose values were all under the first version after protecting.
    protected: u64,
    protect_seconds: f64,
    campaign_seconds: f64,
    written_meanwhile: u64,
    /// Rows that the second connection added.
    inserted: u64,
}

/// Runs the quickstart.
pub(crate) async fn run(args: Quickstart, output: Output) -> Result<(), Failure> {
    let told = Told { quiet: false };
    let place = home()?.join("quickstart");
    let names = Names::new()?;
    if let (Some(data), Some(table)) = (&args.data, &args.table) {
        // Before what a former run left is removed, and before anything is made.
        require_outside(data, &place)?;
        names::require(data, table, &args.columns)?;
    }
    make_place(&place)?;
    let job = prepare(&place, args, &told)?;
    let data_dir = place.join("data");
    let made = Engine::init(data_dir.clone(), None, &SystemClock::new()).await?;
    told.step(&format!("made a store in {} with a key file as root of trust", data_dir.display()));
    let engine = open_engine(data_dir.clone(), Access::Write, Anchors::default()).await?;
    let asset = set_up(&engine, &names, &job, &told).await?;
    let mut measured = Measured::default();
    let ledger = Ledger::read(&engine, &names).await?;
    measured.rows = ledger.rows();
    protect(&engine, &names, &mut measured, &told).await?;
    turn(&engine, &names, &told).await?;
    let ledger = move_data(&engine, &names, &job, asset, ledger, &mut measured, &told).await?;
    let census = execute(&engine, CensusAsset { name: names.asset.clone() }).await?;
    show_census(&census, &names, &told);
    retire(&engine, &names, &told).await?;
    let opened = ledger.compare(&engine, &names).await?;
    told.step(&format!("opened all {opened} rows again: each is what was written last"));
    let head = engine.unsealed()?.state().log_head().await.map_err(keyrail_engine::EngineError::from)?;
    engine.close().await?;
    drop(engine);
    let remembered: Vec<_> = head.map(|head| Remembered { size: head.size, root: head.root }).into_iter().collect();
    let records = verify_log(&data_dir, &made.public_key, &remembered)?;
    told.step(&format!("verified the log offline: {records} records, none altered"));
    if output.json {
        line(&summary(&names, &measured, &census, opened, records).to_string())
    } else {
        line(&what_next(&place, &names, &job))
    }
}

async fn execute<Op: Operation>(engine: &Engine, op: Op) -> Result<Op::Answer, Failure> {
    Ok(engine.execute(&Caller::new(Credential::LocalOperator)?, op).await?)
}

/// What lies in the quickstart's own directory would be removed before it is copied.
fn require_outside(data: &Path, place: &Path) -> Result<(), Failure> {
    match (data.canonicalize(), place.canonicalize()) {
        (Ok(data), Ok(place)) if data.starts_with(&place) => Err(Failure::caller(
            format!("`{}` lies in the quickstart's own directory, which every run makes anew", data.display()),
            "copy it elsewhere first, and name the copy with --data",
        )),
        _ => Ok(()),
    }
}

/// What is wrong with the database of somebody else; there is no campaign yet that could be resumed.
fn unusable(error: keyrail_data::AssetError, data: &Path) -> Failure {
    let mut failure = Failure::from(error.into_engine(&data.display().to_string()));
    failure.hint = failure.hint.map(|hint| hint.replace(", then resume the campaign", ", then try again"));
    failure
}

/// Makes the directory anew; what a former run left there goes. A link in it, or in its place, is removed and
/// not followed.
fn make_place(place: &Path) -> Result<(), Failure> {
    match std::fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::file("remove", place, &error));
        }
        _ => {}
    }
    // The table is in plaintext there for a moment, and the key file lies beside it.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(place);
    made.map_err(|error| Failure::file("create", place, &error))
}

fn prepare(place: &Path, args: Quickstart, told: &Told) -> Result<Job, Failure> {
    match (args.data, args.table) {
        (Some(data), Some(table)) => {
            let database = place.join("copy.sqlite");
            let copied = keyrail_data::sqlite::copy_database(&data, &database);
            copied.map_err(|error| unusable(error, &data))?;
            told.step(&format!("copied {} to {}", data.display(), database.display()));
            Ok(Job { database, table, columns: args.columns, made_up: false })
        }
        _ => {
            let database = place.join("people.sqlite");
            let made = people::create(&database, args.rows);
            made.map_err(|error| Failure::bug(&format!("the table of people cannot be made: {error}")))?;
            told.step(&format!("made {} with {} people", database.display(), args.rows));
            let columns = people::COLUMNS.map(str::to_owned).to_vec();
            Ok(Job { database, table: people::TABLE.to_owned(), columns, made_up: true })
        }
    }
}

/// Domain, app, label, key, asset.
async fn set_up(engine: &Engine, names: &Names, job: &Job, told: &Told) -> Result<AssetView, Failure> {
    execute(engine, CreateDomain { name: names.domain.clone() }).await?;
    execute(engine, CreateApp { path: names.app.clone() }).await?;
    let patch = DemandsPatch { write_window_seconds: Some(1), ..DemandsPatch::default() };
    execute(engine, SetLabel { name: names.label.clone(), patch }).await?;
    execute(engine, CreateKey { name: names.key.clone(), label: names.label.clone() }).await?;
    told.step(&format!("made the data key {} under the master key of acme/prod", names.key));
    let column = |name: &String| ColumnChoice { column: name.clone(), json_path: None };
    let add = AddAsset {
        name: names.asset.clone(),
        url: format!("sqlite:{}", job.database.display()),
        schema: None,
        table: job.table.clone(),
        identity: IdentityChoice::PrimaryKey,
        columns: job.columns.iter().map(column).collect(),
        key: names.key.clone(),
    };
    let unbound = AddAsset { identity: IdentityChoice::None, ..add.clone() };
    let added = match execute(engine, add).await {
        Err(failure) if failure.code == "asset_unfit" && failure.title.contains("no primary key") => {
            execute(engine, unbound).await?
        }
        added => added?,
    };
    for warning in &added.warnings {
        told.step(&format!("warning: {}", warning.problem));
    }
    Ok(added)
}

async fn campaign(engine: &Engine, started: CampaignView, what: &str) -> Result<Outcome, Failure> {
    let progress = Progress::new(what);
    let shown = progress.clone();
    let run = Run {
        open: engine.unsealed()?,
        id: started.id,
        stop: Stop::default(),
        progress: Box::new(move |campaign| shown.campaign(campaign)),
    };
    let outcome = run.run().await;
    progress.done();
    let outcome = outcome?;
    if outcome.campaign.state != CampaignState::Completed {
        return Err(Failure::stored_data(
            "the campaign left values behind",
            "run the quickstart on a table without ciphertexts of its own",
        ));
    }
    Ok(outcome)
}

async fn protect(engine: &Engine, names: &Names, measured: &mut Measured, told: &Told) -> Result<(), Failure> {
    let begun = Instant::now();
    let started = execute(engine, Protect(Start { asset: names.asset.clone(), rate: None })).await?;
    let outcome = campaign(engine, started, "protecting").await?;
    measured.protect_seconds = begun.elapsed().as_secs_f64();
    measured.protected =
        outcome.census.as_ref().map_or(0, |census| census.rows_by_version.values().sum::<u64>() + census.rows_empty);
    let moved = outcome.campaign.counts.cells_moved;
    // What lies beyond the file is always told; anything else is in the file still.
    let whole = outcome.campaign.not_scrubbed.iter().all(|left| left == keyrail_data::sqlite::BEYOND);
    let scrubbed = if whole { "the file was scrubbed of plaintext" } else { "former values may be left in the file" };
    told.step(&format!(
        "protected {} rows, {moved} values, in {:.2} s; {scrubbed}",
        measured.protected, measured.protect_seconds
    ));
    for left in outcome.campaign.not_scrubbed {
        told.step(&format!("warning: not scrubbed: {left}"));
    }
    Ok(())
}

async fn turn(engine: &Engine, names: &Names, told: &Told) -> Result<(), Failure> {
    execute(engine, RotateKey { name: names.key.clone(), reason: RotationReason::Demand }).await?;
    execute(engine, RotateMaster { path: names.app.environment.clone(), reason: RotationReason::Demand }).await?;
    engine.tick().await?;
    told.step("turned the data key and the master key; every data key is rewrapped");
    Ok(())
}

/// The campaign, while a second connection goes on writing.
async fn move_data(
    engine: &Engine,
    names: &Names,
    job: &Job,
    asset: AssetView,
    ledger: Ledger,
    measured: &mut Measured,
    told: &Told,
) -> Result<Ledger, Failure> {
    let begun = Instant::now();
    let mut writer = Writer::start(engine.unsealed()?, names.key.clone(), asset, job, ledger);
    writer.at_work().await;
    let started = execute(engine, Reencrypt(Start { asset: names.asset.clone(), rate: None })).await;
    let moved = match started {
        Ok(started) => campaign(engine, started, "re-encrypting").await,
        Err(failure) => Err(failure),
    };
    let (ledger, done) = writer.stop().await?;
    let outcome = moved?;
    let written = done.written;
    measured.campaign_seconds = begun.elapsed().as_secs_f64();
    measured.written_meanwhile = written;
    measured.inserted = done.inserted;
    let lost = outcome.campaign.counts.cas_lost;
    told.step(&format!(
        "moved {} values in {:.2} s while another connection wrote {written} rows ({lost} of ours gave way and were done again)",
        outcome.campaign.counts.cells_moved, measured.campaign_seconds
    ));
    Ok(ledger)
}

fn show_census(census: &CensusView, names: &Names, told: &Told) {
    told.step(&format!("census of {} rows:", census.rows));
    for version in &census.versions {
        told.step(&format!("  {}@{}  {} values", names.key, version.version, version.values));
    }
    told.step(&format!("  plaintext  {}\n  damaged    {}", census.plaintext, census.damaged));
}

fn former(names: &Names) -> KeyVersionName {
    KeyVersionName { key: names.key.clone(), version: VersionNumber::FIRST }
}

async fn retire(engine: &Engine, names: &Names, told: &Told) -> Result<(), Failure> {
    // The second connection was an application of this machine's operator; its use is answered for by name.
    let acknowledged = vec!["local-operator".to_owned()];
    execute(engine, RetireVersion { name: former(names), acknowledged }).await?;
    told.step(&format!("retired {}: fence, write window, census again; it opens nothing any more", former(names)));
    Ok(())
}

fn verify_log(data_dir: &Path, public_key: &str, remembered: &[Remembered]) -> Result<u64, Failure> {
    let key: VerifierKey = public_key.parse().map_err(|_| Failure::bug("a public key that is none"))?;
    let report = verify(&data_dir.join("audit"), &key, remembered);
    let report = report
        .map_err(|failure| Failure::stored_data(format!("the log does not verify: {failure}"), "look at the disk"))?;
    Ok(report.records)
}

fn summary(names: &Names, measured: &Measured, census: &CensusView, opened: u64, records: u64) -> Value {
    let mut counts = Map::new();
    let newest = census.versions.last().map(|row| row.version);
    let moved = census.versions.last().map_or(0, |row| row.rows) + census.rows_empty;
    for version in &census.versions {
        // Rows without a value are nowhere; they count with the version that new values get.
        let empty = if Some(version.version) == newest { census.rows_empty } else { 0 };
        counts.insert(format!("{}@{}", names.key, version.version), json!(version.rows + empty));
    }
    counts.insert("plaintext".to_owned(), json!(census.rows_plaintext));
    counts.insert("damaged".to_owned(), json!(census.rows_damaged));
    json!({
        "rows": measured.rows,
        "protected": measured.protected,
        "reencrypted": moved.saturating_sub(measured.inserted),
        "written_meanwhile": measured.written_meanwhile,
        "census": counts,
        "retired": [former(names)],
        "opened": opened,
        "audit": { "records": records, "verified": true },
        "seconds": { "protect": measured.protect_seconds, "campaign": measured.campaign_seconds },
    })
}

fn what_next(place: &Path, names: &Names, job: &Job) -> String {
    let dir = place.join("data");
    let dir = quoted(&dir.display().to_string());
    let table = if job.made_up { job.table.clone() } else { format!("\"{}\"", job.table.replace('"', "\"\"")) };
    let database = quoted(&job.database.display().to_string());
    let program = program();
    let mut lines = vec![
        String::new(),
        "All of it is there to look at:".to_owned(),
        format!("  {program} --data-dir {dir} key show {}", names.key),
        format!("  {program} --data-dir {dir} asset census {}", names.asset),
        format!("  {program} --data-dir {dir} audit show"),
        format!("  {program} --data-dir {dir} audit verify"),
        format!("  sqlite3 {database} {}", quoted(&format!("SELECT * FROM {table} LIMIT 3"))),
    ];
    if job.made_up {
        lines.push("Next, try it on a copy of your own database:".to_owned());
        lines.push(format!("  {program} quickstart --data FILE.sqlite --table TABLE --columns a,b"));
    }
    lines.push("Then make a store that stays, with its root key elsewhere:".to_owned());
    lines.push(format!("  {program} init --root keyfile:/another/disk/root.key"));
    lines.join("\n")
}

/// This program as a shell starts it again in the present directory: after `cargo run` it is on no search path.
fn program() -> String {
    let started = std::env::args_os().next().map(PathBuf::from);
    started.map_or_else(|| "keyrail".to_owned(), |path| as_started(&path, std::env::current_dir().ok().as_deref()))
}

fn as_started(path: &Path, here: Option<&Path>) -> String {
    let inside = here.and_then(|here| path.strip_prefix(here).ok());
    let text = match inside {
        // A name without a slash would be looked for on the search path.
        Some(inside) if inside.components().count() == 1 => format!("./{}", inside.display()),
        Some(inside) => inside.display().to_string(),
        None => path.display().to_string(),
    };
    quoted(&text)
}

/// A word as a shell takes it for one.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// A shared name of the opened store.
type Open = Arc<keyrail_engine::Unsealed>;

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell hands each path and each table on as it is called.
    #[test]
    fn the_next_lines_run_whatever_paths_and_tables_are_called() {
        let place = std::env::temp_dir().join("it's a home");
        for table in ["order", "my table", "a\"b", "it's"] {
            let database = place.join("copy.sqlite");
            let job = Job { database: database.clone(), table: table.to_owned(), columns: Vec::new(), made_up: false };
            let told = what_next(&place, &Names::new().unwrap(), &job);
            let words = |line: &str| {
                let script = format!("set -- {line}; for word; do echo \"$word\"; done");
                let ran = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
                String::from_utf8(ran.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
            };
            let line = told.lines().find(|line| line.contains("sqlite3 ")).unwrap();
            let sql = format!("SELECT * FROM \"{}\" LIMIT 3", table.replace('"', "\"\""));
            assert_eq!(words(line), ["sqlite3", database.to_str().unwrap(), &sql]);
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            connection.execute_batch(&format!("CREATE TABLE \"{}\" (v)", table.replace('"', "\"\""))).unwrap();
            connection.prepare(&sql).unwrap();
            let line = told.lines().find(|line| line.ends_with("audit show")).unwrap();
            assert_eq!(words(line)[2], place.join("data").to_str().unwrap());
        }
    }

    #[test]
    fn a_hint_before_there_is_a_campaign_names_none() {
        let error = keyrail_data::AssetError::Busy(rusqlite::Error::QueryReturnedNoRows.into());
        let hint = unusable(error, Path::new("shop.sqlite")).hint.unwrap();
        assert_eq!(hint, "end the long transaction of the other connection, then try again");
    }

    #[test]
    fn the_program_is_named_as_it_can_be_started_again() {
        for (started, want) in [
            ("keyrail", "keyrail"),
            ("target/release/keyrail", "target/release/keyrail"),
            ("/src/target/release/keyrail", "target/release/keyrail"),
            ("/src/keyrail", "./keyrail"),
            ("./keyrail", "./keyrail"),
            ("/usr/bin/keyrail", "/usr/bin/keyrail"),
            ("/opt/it's here/keyrail", r"'/opt/it'\''s here/keyrail'"),
        ] {
            assert_eq!(as_started(Path::new(started), Some(Path::new("/src"))), want);
        }
    }
}

//! Protecting leaves no plaintext in the files of the database, and says what it cannot reach.

use std::path::Path;

use keyrail_core::campaign::{Campaign, CampaignKind, CampaignState};
use keyrail_data::ops::asset::IdentityChoice;
use keyrail_data::ops::campaign::{Plan, PlanGoal, Protect, Reencrypt, Resume, Rollback};
use keyrail_data::{Run, Stop};
use keyrail_store::Change;
use rusqlite::Connection;

use crate::support::{World, connect, start};

/// In every value of the table, former ones included.
const MARK: &str = "planted-plaintext";

/// The files of the database that hold the mark.
fn found(database: &Path) -> Vec<String> {
    let dir = database.parent().unwrap();
    let name = database.file_name().unwrap().to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let own = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !own.starts_with(name) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if bytes.windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
            found.push(own.trim_start_matches(name).to_owned());
        }
    }
    found.sort();
    found
}

/// Values of all lengths, some of them changed, deleted and moved before, so that free pages and the unused parts
/// of pages hold former ones.
fn fill(app: &Connection, mode: &str) {
    app.execute_batch(&format!(
        "PRAGMA journal_mode = {mode}; PRAGMA secure_delete = OFF;
         CREATE TABLE people (id INTEGER PRIMARY KEY, v TEXT, b BLOB, w TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 900)
         INSERT INTO people SELECT i, '{MARK} ' || i, CAST(printf('%.*c', i * 11, 'x') || '{MARK}' AS BLOB), i FROM n;
         DELETE FROM people WHERE id % 3 = 0;
         UPDATE people SET v = '{MARK} changed ' || id WHERE id % 5 = 0;
         CREATE INDEX i ON people (v); ANALYZE;"
    ))
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_holds_plaintext_in_any_journal_mode() {
    for (mode, before) in
        [("WAL", &["", "-wal"][..]), ("DELETE", &[""]), ("TRUNCATE", &[""]), ("PERSIST", &["", "-journal"])]
    {
        let world = World::new().await;
        let app = world.connect();
        fill(&app, mode);
        assert_eq!(found(&world.database()), before, "{mode}: the search finds what was planted");
        world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
        let outcome = world.protect().await;
        assert_eq!(found(&world.database()), [""; 0], "{mode}");
        let left = outcome.campaign.not_scrubbed;
        assert_eq!(left.len(), 1, "{mode}: {left:?}");
        assert!(left[0].contains("backups") && left[0].contains("freed"), "{left:?}");
        assert_eq!(app.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_that_came_later_is_scrubbed_by_the_campaign_that_encrypts_it() {
    let world = World::new().await;
    let app = world.connect();
    fill(&app, "WAL");
    world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
    world.protect().await;
    world.rotate().await;
    assert_eq!(world.reencrypt().await.campaign.not_scrubbed, [""; 0], "nothing was plaintext");
    // A writer that knows of no protection; the campaign is paused after the page that encrypts its row.
    app.execute_batch(&format!("UPDATE people SET v = '{MARK} again' WHERE id = 1")).unwrap();
    world.rotate().await;
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    let stop = Stop::default();
    let handle = stop.clone();
    let paused = world.walk_with(id, stop, move || handle.pause()).await.unwrap();
    assert_eq!((paused.campaign.state, paused.campaign.counts.rows), (CampaignState::Paused, 500));
    assert_ne!(found(&world.database()), [""; 0]);
    world.run(Resume { id }).await.unwrap();
    let outcome = world.complete(id).await;
    assert_eq!(outcome.campaign.not_scrubbed.len(), 1, "{:?}", outcome.campaign.not_scrubbed);
    assert_eq!(found(&world.database()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_scrubbed_although_the_process_that_overwrote_it_was_killed() {
    let world = World::new().await;
    let app = world.connect();
    fill(&app, "WAL");
    world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
    world.protect().await;
    app.execute_batch(&format!("UPDATE people SET v = '{MARK} again' WHERE id = 1")).unwrap();
    world.rotate().await;
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    // Its first page is committed, and nothing is stored after it.
    let killed = world.walk_with(id, Stop::default(), || std::panic::resume_unwind(Box::new(()))).await;
    assert_eq!(killed.unwrap_err().code(), "bug");
    let stored = world.state_of(id).await;
    assert_eq!((stored.state, stored.moved), (CampaignState::Running, 0));
    assert_ne!(found(&world.database()), [""; 0]);
    let outcome = world.complete(id).await;
    assert_eq!(outcome.campaign.not_scrubbed.len(), 1, "{:?}", outcome.campaign.not_scrubbed);
    assert_eq!(found(&world.database()), [""; 0]);
    // It is scrubbed once.
    world.rotate().await;
    assert_eq!(world.reencrypt().await.campaign.not_scrubbed, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_scrubbed_although_its_campaign_was_turned_around() {
    let world = World::new().await;
    let app = world.connect();
    fill(&app, "WAL");
    world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
    world.rotate().await;
    // All is encrypted; the campaign is paused when it would count.
    let id = world.run(Protect(start())).await.unwrap().id;
    let stop = Stop::default();
    let handle = stop.clone();
    let progress = Box::new(move |campaign: &Campaign| {
        if campaign.counts.rows == campaign.counts.rows_total {
            handle.pause();
        }
    });
    let run = Run { open: world.engine.unsealed().unwrap(), id, stop, progress };
    let paused = run.run().await.unwrap();
    assert_eq!((paused.campaign.state, paused.campaign.counts.rows), (CampaignState::Paused, 600));
    assert_eq!(world.census().await.plaintext, 0);
    assert_ne!(found(&world.database()), [""; 0]);
    assert_eq!(world.run(Rollback { id }).await.unwrap().id, id);
    let outcome = world.complete(id).await;
    assert_eq!(outcome.campaign.kind, CampaignKind::Rollback);
    assert_eq!(outcome.campaign.not_scrubbed.len(), 1, "{:?}", outcome.campaign.not_scrubbed);
    assert_eq!(found(&world.database()), [""; 0]);
    assert_eq!(world.state_of(id).await.not_scrubbed, outcome.campaign.not_scrubbed, "the answer says it, too");
}

/// A store before schema 3 did not note that a scrub was due, and its rows say nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_that_a_former_schema_stored_is_scrubbed() {
    for turned in [false, true] {
        let world = World::new().await;
        let app = world.connect();
        fill(&app, "WAL");
        world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
        world.rotate().await;
        // All is encrypted, so that no page tells of plaintext any more.
        let id = world.run(Protect(start())).await.unwrap().id;
        let stop = Stop::default();
        let handle = stop.clone();
        let progress = Box::new(move |campaign: &Campaign| {
            if campaign.counts.rows == campaign.counts.rows_total {
                handle.pause();
            }
        });
        let open = world.engine.unsealed().unwrap();
        let paused = Run { open: open.clone(), id, stop, progress }.run().await.unwrap().campaign;
        assert_eq!((paused.state, world.census().await.plaintext), (CampaignState::Paused, 0));
        let former = Campaign { scrub_due: false, generation: paused.generation + 1, ..paused };
        let mut change = Change::new();
        change.update(&former);
        open.commit_unrecorded(change.unrecorded("a row as a former schema reads")).await.unwrap();
        assert_ne!(found(&world.database()), [""; 0]);
        if turned {
            world.run(Rollback { id }).await.unwrap();
        } else {
            world.run(Resume { id }).await.unwrap();
        }
        let outcome = world.complete(id).await;
        assert_eq!(outcome.campaign.not_scrubbed.len(), 1, "{:?}", outcome.campaign.not_scrubbed);
        assert_eq!(found(&world.database()), [""; 0], "turned around: {turned}");
    }
}

/// The row of a re-encryption does not tell whether it overwrote plaintext before schema 3: to protect once more scrubs.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_schema_does_not_know_is_scrubbed_by_protecting_again() {
    let world = World::new().await;
    let app = world.connect();
    fill(&app, "WAL");
    world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
    world.protect().await;
    app.execute_batch(&format!("UPDATE people SET v = '{MARK} again' WHERE id = 1")).unwrap();
    world.rotate().await;
    let id = world.run(Reencrypt(start())).await.unwrap().id;
    let stop = Stop::default();
    let handle = stop.clone();
    let paused = world.walk_with(id, stop, move || handle.pause()).await.unwrap().campaign;
    assert!(paused.scrub_due);
    let former = Campaign { scrub_due: false, generation: paused.generation + 1, ..paused };
    let mut change = Change::new();
    change.update(&former);
    let open = world.engine.unsealed().unwrap();
    open.commit_unrecorded(change.unrecorded("a row as a former schema reads")).await.unwrap();
    world.run(Resume { id }).await.unwrap();
    world.complete(id).await;
    assert_ne!(found(&world.database()), [""; 0], "nobody knew of it");
    let protected = world.protect().await.campaign;
    assert_eq!((protected.counts.cells_moved, protected.not_scrubbed.len()), (0, 1), "{:?}", protected.not_scrubbed);
    assert_eq!(found(&world.database()), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_unprotecting_leaves_no_plaintext() {
    for mode in ["WAL", "PERSIST"] {
        let world = World::new().await;
        let app = world.connect();
        // A page of the dry run, 500 rows, is more than SQLite's cache holds (2 MB).
        app.execute_batch(&format!(
            "PRAGMA journal_mode = {mode}; CREATE TABLE people (id INTEGER PRIMARY KEY, v TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
             INSERT INTO people SELECT i, replace(hex(zeroblob(240)), '00', '{MARK}') FROM n"
        ))
        .unwrap();
        world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        world.protect().await;
        assert_eq!(found(&world.database()), [""; 0], "{mode}: before");
        let plan = Plan { asset: "people".parse().unwrap(), rate: None, goal: PlanGoal::Plaintext };
        let told = world.run(plan).await.unwrap();
        assert_eq!((told.values, told.bytes, told.misfits.len()), (600, 600 * 240 * MARK.len() as u64, 0), "{mode}");
        assert_eq!(found(&world.database()), [""; 0], "{mode}: after");
        assert_eq!(world.census().await.plaintext, 0, "{mode}");
        // The search finds what unprotecting itself writes.
        world.unprotect().await;
        assert_ne!(found(&world.database()), [""; 0], "{mode}: unprotected");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_keeps_the_log_is_named() {
    let world = World::new().await;
    let app = world.connect();
    fill(&app, "WAL");
    world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
    let reader = connect(&world.database());
    reader.execute_batch("BEGIN; SELECT count(*) FROM people").unwrap();
    reader.query_row("SELECT count(*) FROM people", [], |row| row.get::<_, i64>(0)).unwrap();
    let outcome = world.protect().await;
    assert!(
        outcome.campaign.not_scrubbed.iter().any(|left| left.contains("write-ahead log")),
        "{:?}",
        outcome.campaign.not_scrubbed
    );
    assert!(!found(&world.database()).is_empty(), "what it names is there");
    reader.execute_batch("COMMIT").unwrap();
    app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert_eq!(found(&world.database()), [""; 0], "and gone as it said");
}

/// The pages of a database's indexes that hold the mark, by number.
fn of_indexes(database: &Path) -> Vec<usize> {
    let bytes = std::fs::read(database).unwrap();
    let len = usize::from(u16::from_be_bytes(bytes[16..18].try_into().unwrap()));
    // The first byte of a page of an index (https://www.sqlite.org/fileformat2.html, 1.6): 2 inside its tree, 10 at the
    // leaves. A page of a table has 5 or 13, one that holds the rest of a long value begins with another's number.
    let pages = bytes.chunks(len).enumerate().filter(|(_, page)| matches!(page[0], 2 | 10));
    let marked = pages.filter(|(_, page)| page.windows(MARK.len()).any(|window| window == MARK.as_bytes()));
    marked.map(|(index, _)| index + 1).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_vacuum_indexes_and_logs_hold_nothing_and_the_rest_is_named() {
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST"] {
        let world = World::new().await;
        let app = world.connect();
        // Former values are in unused parts of the pages of the index, which protecting does not write. It leaves some
        // of its own besides, where cells moved to other pages; which, depends on the ciphertexts.
        app.execute_batch(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA secure_delete = OFF;
             CREATE TABLE people (id TEXT PRIMARY KEY, v TEXT, w INTEGER); CREATE INDEX i ON people (w, v);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
             INSERT INTO people SELECT 'p' || (i * 7919 % 2003), '{MARK} ' || i, i * 104729 % 2003 FROM n;
             UPDATE people SET v = NULL WHERE w > 500; PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
        assert_ne!(of_indexes(&world.database()), [0; 0], "{mode}: the search finds what was planted");
        world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        let left = world.protect().await.campaign.not_scrubbed;
        assert!(left[0].contains("VACUUM was not run") && left[0].contains("rowids of `people`"), "{mode}: {left:?}");
        assert_eq!(of_indexes(&world.database()), [0; 0], "{mode}");
        assert!(found(&world.database()).iter().all(|file| file.is_empty()), "{mode}: nothing in a log");
        // A journal that is kept would hold the pages of before.
        app.execute_batch("PRAGMA journal_mode = DELETE; VACUUM").unwrap();
        assert_eq!(found(&world.database()), [""; 0], "{mode}: and gone as it said");
        assert_eq!(app.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap(), "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_only_the_application_can_make_is_named() {
    let world = World::new().await;
    let app = world.connect();
    let table = "CREATE TABLE people (id TEXT PRIMARY KEY, v TEXT, w TEXT); INSERT INTO people VALUES ('a', 'b', 'c')";
    app.execute_batch(table).unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    let id = world.run(Protect(start())).await.unwrap().id;
    // Made after the looks at the table, which refuse what they cannot read.
    app.execute_batch(
        "CREATE INDEX i ON people (w COLLATE NOCASE); PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'NOCASE', 'THEIRS')",
    )
    .unwrap();
    drop(app);
    let left = world.complete(id).await.campaign.not_scrubbed;
    assert!(left[1].contains("could not be made anew"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rowids_that_something_may_refer_to_stay_and_free_pages_are_named() {
    let world = World::new().await;
    let app = world.connect();
    fill(&app, "WAL");
    app.execute_batch(
        "CREATE TABLE notes (text); INSERT INTO notes VALUES ('one'), ('two'), ('three');
         CREATE TABLE named (id TEXT PRIMARY KEY); CREATE TABLE short (id TEXT PRIMARY KEY) WITHOUT ROWID;
         CREATE VIEW shown AS SELECT text FROM notes;
         CREATE VIRTUAL TABLE words USING fts5(text, content='notes');
         INSERT INTO words(words) VALUES ('rebuild');
         DELETE FROM notes WHERE text = 'one';",
    )
    .unwrap();
    let added = world.add("people", IdentityChoice::PrimaryKey, &["v", "b"]).await.unwrap();
    let warned: Vec<_> = added.warnings.iter().map(|warning| &warning.problem).collect();
    let named = warned
        .iter()
        .filter(|problem| problem.starts_with("VACUUM is not run") && problem.contains("`named`, `notes`"));
    assert_eq!(named.count(), 1, "{warned:?}");
    let left = world.protect().await.campaign.not_scrubbed;
    assert!(left[0].contains("free pages") && left[0].contains("`named`, `notes`"), "{left:?}");
    let word = "SELECT n.text FROM words w JOIN notes n ON n.rowid = w.rowid WHERE words MATCH 'three'";
    assert_eq!(app.query_row(word, [], |row| row.get::<_, String>(0)).unwrap(), "three");
    assert_eq!(found(&world.database()), [""], "what was deleted before is in the file, and nothing in its log");
    app.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    assert_eq!(found(&world.database()), [""; 0], "and gone as it said");
}

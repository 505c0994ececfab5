//! The audit log in PostgreSQL, in every version: the suite of every such log, kills, halts, and changes of rows.

use std::time::{Duration, Instant};

use keyrail_audit::{AppendError, Checkpoint, Log, LogError, LogStore};
use keyrail_core::fence::Epoch;
use keyrail_store::{OpenMode, PgLog, PgStore, PostgresOptions, PostgresUrl};
use keyrail_testkit::postgres::{Cluster, Version, shared};

use crate::suite::{self, Admitted, Database, Rows, all, crowd, require_once};

/// A database of a server, with the tables of a store.
pub(crate) struct Postgres {
    url: PostgresUrl,
    sql: Box<dyn Fn(&str) -> String + Send + Sync>,
}

impl Postgres {
    fn shared(version: Version) -> Self {
        let database = shared(version).database().unwrap();
        let url = database.url();
        Self::migrated(&url, Box::new(move |sql| database.sql(sql).unwrap()))
    }

    fn migrated(url: &str, sql: Box<dyn Fn(&str) -> String + Send + Sync>) -> Self {
        let url: PostgresUrl = url.parse().unwrap();
        let options =
            PostgresOptions { url: url.clone(), mode: OpenMode::Create, demand: keyrail_store::Durability::LocalOnly };
        suite::runtime().block_on(async { drop(PgStore::open(options).await.unwrap()) });
        Self { url, sql }
    }
}

impl Database for Postgres {
    fn store(&self) -> Box<dyn LogStore> {
        Box::new(PgLog::new(self.url.clone()).unwrap())
    }

    fn raise_epoch(&self, from: Epoch) {
        let sql = format!("UPDATE keyrail.audit_head SET epoch = epoch + 1 WHERE epoch = {}", from.0);
        (self.sql)(&format!("{sql} RETURNING epoch"));
    }
}

macro_rules! in_every_version {
    ($($test:ident),+ $(,)?) => {
        in_version!(postgres_15, V15, $($test),+);
        in_version!(postgres_18, V18, $($test),+);
    };
}
macro_rules! in_version {
    ($module:ident, $version:ident, $($test:ident),+) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test(keyrail_testkit::postgres::Version::$version);
                }
            )+
        }
    };
}

in_every_version!(
    two_nodes_make_one_dense_sequence,
    no_node_appends_under_an_older_epoch,
    who_was_fenced_holds_up_nobody,
    the_size_beside_the_signed_head_decides_nothing,
    rows_in_the_way_are_told_and_found,
    epochs_are_in_their_order,
    a_killed_server_loses_nothing_that_was_acknowledged,
    a_halted_server_holds_up_nobody_for_long,
    what_was_changed_in_the_rows_is_told,
    a_writer_that_is_halted_with_the_head_in_hand_holds_up_nobody,
);

fn two_nodes_make_one_dense_sequence(version: Version) {
    suite::two_nodes_make_one_dense_sequence(Postgres::shared(version), 3_000);
}

fn no_node_appends_under_an_older_epoch(version: Version) {
    suite::no_node_appends_under_an_older_epoch(Postgres::shared(version));
}

fn who_was_fenced_holds_up_nobody(version: Version) {
    suite::who_was_fenced_holds_up_nobody(Postgres::shared(version));
}

/// Whoever can write to the row of the signed head cannot keep a newer one out of it unseen.
fn the_size_beside_the_signed_head_decides_nothing(version: Version) {
    let rows = Rows::create(Postgres::shared(version));
    let node = rows.node();
    (rows.database.sql)("UPDATE keyrail.audit_checkpoint SET size = 9000000000000000000");
    node.append_blocking(b"first".to_vec(), Epoch(0)).unwrap();
    let head = suite::runtime().block_on(node.publish()).unwrap();
    assert_eq!(Checkpoint::verify(&node.checkpoint().unwrap(), node.verifier_key()).unwrap().size, 1);
    assert_eq!((head.size, (rows.database.sql)("SELECT size FROM keyrail.audit_checkpoint").trim()), (1, "1"));
    // A database that only says that it replaces it is told.
    (rows.database.sql)(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER keep BEFORE UPDATE ON keyrail.audit_checkpoint FOR EACH ROW EXECUTE FUNCTION keep()",
    );
    node.append_blocking(b"second".to_vec(), Epoch(0)).unwrap();
    assert!(suite::runtime().block_on(node.publish()).is_err());
    assert!(node.health().failure.unwrap().contains("publish"));
    assert_eq!(node.published().size, 1);
}

/// A row under the next number of a node is passed by; one where the next records go stops the log, which says so, and
/// goes on when it is gone. Who verifies finds both.
fn rows_in_the_way_are_told_and_found(version: Version) {
    let rows = Rows::create(Postgres::shared(version));
    let mut options = Rows::<Postgres>::options();
    options.patience = Duration::from_secs(1);
    let node = rows.node_with(&options).unwrap();
    node.append_blocking(b"first".to_vec(), Epoch(0)).unwrap();
    let sql = |sql: &str| (rows.database.sql)(sql);
    let plant = |first: &str, number: &str| {
        sql(&format!(
            "INSERT INTO keyrail.audit_batch (first, count, epoch, node, number, root, records, tag) \
             SELECT {first}, count, epoch, node, {number}, root, records, tag FROM keyrail.audit_batch WHERE first = 0"
        ));
    };
    plant("1000000", "number + 1");
    assert!(matches!(rows.verify(&[]), Err(LogError::RecordsAltered { first: 1_000_000, .. })));
    node.append_blocking(b"second".to_vec(), Epoch(0)).unwrap();
    sql("DELETE FROM keyrail.audit_batch WHERE first = 1000000");
    assert_eq!(rows.verify(&[]).unwrap().records, 2);
    plant("2", "number + 100");
    let failure = suite::failure_during(&node, || {
        assert_eq!(node.append_blocking(b"third".to_vec(), Epoch(0)), Err(AppendError::Unavailable));
    });
    assert!(failure.as_ref().is_some_and(|failure| failure.contains("none of the log's")), "{failure:?}");
    assert!(matches!(rows.verify(&[]), Err(LogError::RecordsAltered { first: 2, .. })));
    sql("DELETE FROM keyrail.audit_batch WHERE first = 2");
    node.append_reserved_blocking_until_admitted(b"third".to_vec(), Epoch(0));
    assert_eq!(rows.verify(&[]).unwrap().records, 3);
}

fn epochs_are_in_their_order(version: Version) {
    suite::epochs_are_in_their_order(Postgres::shared(version), 20);
}

/// A server of its own, which can be killed and halted.
fn own(version: Version) -> (Cluster, Rows<Postgres>) {
    let cluster = Cluster::start(version).unwrap();
    let rows = Rows::create(Postgres::migrated(&cluster.url("postgres"), Box::new(|_| unreachable!())));
    (cluster, rows)
}

fn a_killed_server_loses_nothing_that_was_acknowledged(version: Version) {
    let (cluster, rows) = own(version);
    let nodes = [rows.node(), rows.node()];
    let mut answered = Vec::new();
    let rounds = keyrail_testkit::scale(60);
    for round in 0..rounds {
        let cluster = &cluster;
        let nodes = &nodes;
        let more = std::thread::scope(|scope| {
            let killer = scope.spawn(move || {
                // Somewhere in the middle of what is written now.
                let size = nodes[0].size();
                let since = Instant::now();
                while nodes[0].size() < size + 10 + 7 * (round as u64 % 13) && since.elapsed().as_secs() < 30 {
                    std::thread::yield_now();
                }
                cluster.kill().unwrap();
                cluster.restart().unwrap();
            });
            let answered = crowd(nodes, 20, 400, Epoch(0));
            killer.join().unwrap();
            answered
        });
        let named = |body: Vec<u8>| [body, format!("/{round}").into_bytes()].concat();
        answered.extend(more.into_iter().map(|(body, answer)| (named(body), answer)));
        for node in nodes {
            node.append_reserved_blocking_until_admitted(b"still here".to_vec(), Epoch(0));
        }
        break_if_refused(&answered);
    }
    let records = rows.records();
    let acknowledged = answered.iter().filter(|(_, answer)| answer.is_ok()).count();
    assert!(records.len() >= acknowledged, "{} records, {acknowledged} acknowledged", records.len());
    for (body, answer) in &answered {
        if let Ok(index) = answer {
            let found = &records[usize::try_from(*index).unwrap()].body;
            assert!(body.starts_with(found), "another record is at its place");
        }
    }
    let indices: std::collections::BTreeSet<_> =
        answered.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    assert_eq!(indices.len(), acknowledged, "two records were acknowledged at one place");
}

/// A kill is over soon: nobody is told that it is not known what became of his record.
fn break_if_refused(answered: &[(Vec<u8>, Result<u64, AppendError>)]) {
    for (body, answer) in answered {
        let expected = matches!(answer, Ok(_) | Err(AppendError::Unavailable));
        assert!(expected, "{}: {answer:?}", String::from_utf8_lossy(body));
    }
}

fn a_halted_server_holds_up_nobody_for_long(version: Version) {
    let (cluster, rows) = own(version);
    let mut options = Rows::<Postgres>::options();
    (options.patience, options.limits.append_wait_max) = (Duration::from_millis(500), Duration::from_secs(3));
    let node = rows.node_with(&options).unwrap();
    let before = crowd(std::slice::from_ref(&node), 10, 100, Epoch(0));
    cluster.pause().unwrap();
    let since = Instant::now();
    let runtime = suite::runtime();
    let waiting = node.append(b"halted".to_vec(), Epoch(0));
    let answer = runtime.block_on(waiting);
    assert_eq!(answer, Err(AppendError::Indeterminate));
    assert!(since.elapsed() < Duration::from_secs(6), "{:?}", since.elapsed());
    // As soon as the database is given up nobody waits for it; until then for his own time at most.
    let mut refused = None;
    while since.elapsed() < Duration::from_secs(60) && refused.is_none() {
        let asked = Instant::now();
        let answer = runtime.block_on(node.append(b"refused".to_vec(), Epoch(0))).unwrap_err();
        assert!(asked.elapsed() < Duration::from_secs(5));
        refused = (answer == AppendError::Unavailable).then(|| asked.elapsed());
    }
    assert!(refused.is_some(), "nobody is refused");
    assert!(node.health().failure.is_some());
    cluster.resume().unwrap();
    node.append_reserved_blocking_until_admitted(b"after".to_vec(), Epoch(0));
    // What publishes waits for its own answer, that never comes, and then goes on, too.
    while node.health().failure.is_some() {
        assert!(since.elapsed() < Duration::from_secs(120), "{:?}", node.health());
        std::thread::yield_now();
    }
    let records = all(&node);
    let bodies = |body: &[u8]| records.iter().filter(|record| record.body == body).count();
    assert_eq!(bodies(b"after"), 1);
    // What was given up may be there, each once.
    let rest = records.len() - before.len() - 1;
    assert_eq!(rest, bodies(b"halted") + bodies(b"refused"), "something else is there");
    let mut records = records;
    records.truncate(before.len());
    require_once(&records, &before);
}

fn what_was_changed_in_the_rows_is_told(version: Version) {
    let rows = Rows::create(Postgres::shared(version));
    let node = rows.node();
    let sql = |sql: &str| (rows.database.sql)(sql);
    for number in 0..6_u8 {
        if number == 4 {
            sql("CREATE TABLE older AS SELECT * FROM keyrail.audit_head");
        }
        node.append_blocking(vec![number; 5_000], Epoch(0)).unwrap();
    }
    node.close().unwrap();
    sql("CREATE TABLE kept AS SELECT * FROM keyrail.audit_batch");
    let read = || {
        let node = rows.node_with(&Rows::<Postgres>::options())?;
        let records = node.read(0, 10)?;
        if (records.len() as u64) < node.size() { node.read(records.len() as u64, 10) } else { Ok(records) }
    };
    assert_eq!(read().unwrap().len(), 6);
    let changes = [
        ("UPDATE keyrail.audit_batch SET records = set_byte(records, 4000, 7) WHERE first = 2", 2),
        ("UPDATE keyrail.audit_batch SET root = tag WHERE first = 3", 3),
        ("UPDATE keyrail.audit_batch SET epoch = 1 WHERE first = 3", 3),
        ("UPDATE keyrail.audit_batch SET number = 100 WHERE first = 4", 4),
        ("DELETE FROM keyrail.audit_batch WHERE first = 1", 1),
        ("DELETE FROM keyrail.audit_batch WHERE first = 5", 5),
        ("DELETE FROM keyrail.audit_batch WHERE first = 0", 0),
        (
            "UPDATE keyrail.audit_batch b SET records = o.records FROM kept o WHERE b.first IN (1, 2) AND o.first = 3 - b.first",
            1,
        ),
    ];
    for (change, index) in changes {
        sql(change);
        let first = match read() {
            Err(LogError::RecordsAltered { first, .. } | LogError::RecordsMissing { first }) => first,
            other => panic!("{change}: {:?}", other.map(|records| records.len())),
        };
        assert_eq!(first, index, "{change}");
        match rows.verify(&[]) {
            Err(LogError::RecordsAltered { first, .. } | LogError::RecordsMissing { first }) => {
                assert_eq!(first, index, "{change}");
            }
            other => panic!("{change}: {other:?}"),
        }
        sql("DELETE FROM keyrail.audit_batch; INSERT INTO keyrail.audit_batch SELECT * FROM kept");
    }
    assert_eq!(read().unwrap().len(), 6);
    assert_eq!(rows.verify(&[]).unwrap().records, 6);
    // A head and records of before: the signed head tells.
    sql("DELETE FROM keyrail.audit_batch WHERE first >= 4; UPDATE keyrail.audit_head SET size = older.size, \
         root = older.root, peaks = older.peaks, tag = older.tag FROM older");
    assert!(matches!(rows.verify(&[]), Err(LogError::Mismatch)));
    assert!(matches!(read(), Err(LogError::Mismatch)));
    sql("UPDATE keyrail.audit_head SET size = 5, peaks = substr(peaks, 1, 32) || substr(peaks, 1, 32)");
    assert!(matches!(read(), Err(LogError::HeadAltered)));
}

/// Whoever halts in the transaction that holds the head loses it by the server's own clock.
fn a_writer_that_is_halted_with_the_head_in_hand_holds_up_nobody(version: Version) {
    let rows = Rows::create(Postgres::shared(version));
    let mut halted = rows.database.store();
    halted.head(keyrail_audit::Turn::Take).unwrap();
    let mut options = Rows::<Postgres>::options();
    options.patience = Duration::from_secs(60);
    options.limits.append_wait_max = Duration::from_secs(60);
    let node: Log = rows.node_with(&options).unwrap();
    let since = Instant::now();
    node.append_blocking(b"after".to_vec(), Epoch(0)).unwrap();
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

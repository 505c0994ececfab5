//! The schema, on real servers.

use std::collections::BTreeMap;
use std::sync::Arc;

use keyrail_testkit::postgres::{Database, Version, shared};

use super::super::catalog::{findings, objects};
use super::super::session::Connector;
use super::*;

async fn session(database: &Database<'_>) -> Session {
    Arc::new(Connector::new(database.url().parse().unwrap(), true).unwrap()).connect().await.unwrap()
}

async fn schema(session: &Session) -> BTreeMap<String, String> {
    objects(session).await.unwrap()
}

/// Every schema there ever was comes up to the newest one, goes down to nothing and comes up again; a fresh one is the
/// sum of the steps. Every version of the server says the same of it.
#[tokio::test]
async fn every_schema_comes_up_down_and_up_again() {
    for version in Version::ALL {
        let fresh = shared(version).database().unwrap();
        let fresh = session(&fresh).await;
        migrate(&fresh, "", MIGRATIONS).await.unwrap();
        let whole = schema(&fresh).await;
        let lines: String = whole.iter().map(|(name, definition)| format!("{name}: {definition}\n")).collect();
        if std::env::var_os("KEYRAIL_BLESS").is_some() {
            std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/postgres/catalog.txt"), &lines).unwrap();
        }
        let differs = lines.lines().zip(include_str!("../catalog.txt").lines()).find(|(found, known)| found != known);
        assert!(lines == include_str!("../catalog.txt"), "run again with KEYRAIL_BLESS=1 to accept {differs:?}");
        for from in 0..=MIGRATIONS.len() {
            let database = shared(version).database().unwrap();
            let session = session(&database).await;
            migrate(&session, "", &MIGRATIONS[..from]).await.unwrap();
            migrate(&session, "", MIGRATIONS).await.unwrap();
            assert_eq!(schema(&session).await, whole, "from {from}");
            assert_eq!(findings(&session).await.unwrap(), Vec::<String>::new());
            for back in (0..MIGRATIONS.len()).rev() {
                step_down(&session, MIGRATIONS).await.unwrap();
                assert_eq!(identify(&session, "").await.unwrap(), i64::try_from(back).unwrap());
            }
            assert!(schema(&session).await.is_empty());
            migrate(&session, "", MIGRATIONS).await.unwrap();
            assert_eq!(schema(&session).await, whole, "again, from {from}");
        }
    }
}

/// Each table and column has a comment, each constraint a name of ours, and the tables are those that rows know, and the
/// log's.
#[tokio::test]
async fn every_table_and_column_is_known_and_has_a_comment() {
    let database = shared(Version::V15).database().unwrap();
    migrate(&session(&database).await, "", MIGRATIONS).await.unwrap();
    let ask = |sql: &str| database.sql(&format!("SET search_path = keyrail; {sql}")).unwrap();
    let columns = "SELECT relname || '.' || attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid \
                   WHERE relnamespace = 'keyrail'::regnamespace AND relkind = 'r' AND attnum > 0 AND relname NOT IN ('meta', 'node_lease') AND relname NOT LIKE 'audit\\_%'";
    let mut known: Vec<_> = crate::row::TABLES
        .iter()
        .flat_map(|table| table.columns.iter().chain(&["seal"]).map(|column| format!("{}.{column}", table.name)))
        .collect();
    known.sort();
    let mut found: Vec<_> = ask(columns).lines().map(str::to_owned).collect();
    found.sort();
    assert_eq!(found, known);
    let bare = "SELECT count(*) FROM pg_class LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped \
                WHERE relnamespace = 'keyrail'::regnamespace AND relkind = 'r' \
                AND (col_description(pg_class.oid, attnum) IS NULL OR obj_description(pg_class.oid) IS NULL)";
    assert_eq!(ask(bare), "0");
    let types = "SELECT DISTINCT format_type(atttypid, atttypmod) || coalesce(' ' || collname, '') FROM pg_attribute \
                 JOIN pg_class ON attrelid = pg_class.oid LEFT JOIN pg_collation ON pg_collation.oid = attcollation \
                 WHERE pg_class.relnamespace = 'keyrail'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped ORDER BY 1";
    assert_eq!(ask(types), "bigint\nbytea\ntext C");
    let unnamed = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'keyrail'::regnamespace AND contype <> 'n' \
                   AND conname ~ '_(check|key|pkey|fkey)[0-9]*$' AND conname NOT LIKE '%\\_unique'";
    assert_eq!(ask(unnamed), "0");
}

#[tokio::test]
async fn a_newer_schema_and_a_foreign_one_are_refused_untouched() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let session = session(&database).await;
        database.sql("CREATE SCHEMA keyrail; CREATE TABLE keyrail.people (id int)").unwrap();
        let before = schema(&session).await;
        let error = migrate(&session, "postgres://x", MIGRATIONS).await.unwrap_err();
        assert!(matches!(&error, StoreError::NotAStore { path } if path.ends_with("x")), "{error}");
        assert_eq!(schema(&session).await, before);
        database.sql("DROP TABLE keyrail.people").unwrap();
        migrate(&session, "", MIGRATIONS).await.unwrap();
        database.sql("UPDATE keyrail.meta SET schema_version = 99").unwrap();
        let before = schema(&session).await;
        for refused in [migrate(&session, "", MIGRATIONS).await, require_newest(&session, "").await] {
            assert!(matches!(refused, Err(StoreError::UnknownSchema { found: 99, .. })));
        }
        assert_eq!(schema(&session).await, before);
        database.sql("UPDATE keyrail.meta SET schema_version = 0").unwrap();
        assert!(matches!(require_newest(&session, "").await, Err(StoreError::NotAStore { .. })));
    }
}

/// Many processes that start at once: one makes the schema, the others find it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_migrate_at_once_make_one_schema() {
    let database = shared(Version::V18).database().unwrap();
    let mut sessions = Vec::new();
    for _ in 0..6 {
        sessions.push(session(&database).await);
    }
    let all = sessions.iter().map(|session| migrate(session, "", MIGRATIONS));
    for done in futures_util::future::join_all(all).await {
        done.unwrap();
    }
    assert_eq!(findings(&sessions[0]).await.unwrap(), Vec::<String>::new());
}

/// What would change what a statement does, or what a row may be.
#[tokio::test]
async fn whatever_somebody_changes_in_the_schema_is_found() {
    for version in Version::ALL {
        let database = shared(version).database().unwrap();
        let session = session(&database).await;
        migrate(&session, "", MIGRATIONS).await.unwrap();
        let function = "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'";
        for (change, wanted) in [
            (format!("{function}; CREATE TRIGGER t BEFORE UPDATE ON token EXECUTE FUNCTION f()"), "trigger `token.t`"),
            (function.to_owned(), "function `keyrail.f()`"),
            ("CREATE RULE r AS ON DELETE TO token DO INSTEAD NOTHING".to_owned(), "rule `token.r`"),
            ("ALTER TABLE token ENABLE ROW LEVEL SECURITY".to_owned(), "table `token`"),
            ("CREATE POLICY p ON token USING (false)".to_owned(), "policy `token.p`"),
            ("ALTER TABLE token SET UNLOGGED".to_owned(), "table `token`"),
            ("ALTER TABLE token DROP CONSTRAINT token_role".to_owned(), "constraint `token.token_role`"),
            ("ALTER TABLE token ALTER COLUMN app TYPE text COLLATE \"en-x-icu\"".to_owned(), "column `token.app`"),
            ("ALTER TABLE token ALTER COLUMN app SET DEFAULT 'x'".to_owned(), "column `token.app`"),
            ("ALTER TABLE token ADD COLUMN more int".to_owned(), "column `token.more`"),
            ("ALTER TABLE token DROP COLUMN app".to_owned(), "column `token.app`"),
            ("ALTER TABLE app DISABLE TRIGGER ALL".to_owned(), "trigger `app.RI_Constraint"),
            ("DROP INDEX data_key_version_one_active".to_owned(), "index `data_key_version_one_active`"),
            ("CREATE TABLE child () INHERITS (token)".to_owned(), "child `keyrail.child` of `token`"),
            ("CREATE VIEW v AS SELECT 1".to_owned(), "table `v`"),
        ] {
            let sql = format!(
                "/* test */ BEGIN; SET LOCAL search_path = keyrail; {change}; SET LOCAL search_path = pg_catalog"
            );
            session.client().batch_execute(&sql).await.unwrap();
            let found = findings(&session).await.unwrap();
            assert!(found.iter().any(|found| found.starts_with(wanted)), "{change}: {found:?}");
            session.client().batch_execute("ROLLBACK").await.unwrap();
        }
        assert_eq!(findings(&session).await.unwrap(), Vec::<String>::new());
    }
}

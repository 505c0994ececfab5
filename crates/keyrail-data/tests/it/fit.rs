//! What does not go with protected values is refused or named before anything is changed.

use keyrail_data::ops::asset::{AddAsset, ColumnChoice, IdentityChoice, UpdateAsset};
use keyrail_data::ops::campaign::{Plan, PlanGoal, Protect};

use crate::support::{World, connect, dump, key, start};

enum Want {
    Refused(&'static str),
    Named(&'static str),
    Nothing,
}

use Want::{Named, Nothing, Refused};

/// What it is, the database, the protected column, and what is said of it.
const CASES: &[(&str, &str, &str, Want)] = &[
    ("an ordinary column", "CREATE TABLE people (id INTEGER PRIMARY KEY, v TEXT NOT NULL DEFAULT '')", "v", Nothing),
    (
        "a declared length",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v VARCHAR(20))",
        "v",
        Named("declared with a length of 20"),
    ),
    (
        "a unique column",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v UNIQUE)",
        "v",
        Refused("column `v` is unique by"),
    ),
    (
        "a unique pair",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w, UNIQUE (w, v))",
        "v",
        Refused("column `v` is unique by"),
    ),
    (
        "a unique partial index",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); CREATE UNIQUE INDEX u ON people (v) WHERE w",
        "v",
        Refused("unique by `u`"),
    ),
    (
        "a unique expression",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE UNIQUE INDEX u ON people (lower(v))",
        "v",
        Refused("index `u` makes unique by column `v`"),
    ),
    (
        "an index",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE INDEX i ON people (v)",
        "v",
        Named("index `i` on column `v` finds nothing"),
    ),
    (
        "an index on an expression",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE INDEX i ON people (v || 'x')",
        "v",
        Named("index `i` computes with column `v`"),
    ),
    (
        "a partial index by its condition",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); CREATE INDEX i ON people (w) WHERE v IS NOT NULL",
        "v",
        Named("index `i` computes with column `v`"),
    ),
    (
        "an index on another column",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, vv); CREATE INDEX i ON people (vv)",
        "v",
        Nothing,
    ),
    (
        "a CHECK on the content",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v CHECK (v LIKE '%@%')); INSERT INTO people VALUES (1, 'a@b')",
        "v",
        Refused("CHECK constraint refuses protected values in column `v`"),
    ),
    (
        "a CHECK on the length that a short value meets",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v CHECK (length(v) < 200)); INSERT INTO people VALUES (1, 'short'), (2, printf('%.100c', 'x'))",
        "v",
        Refused("CHECK constraint refuses"),
    ),
    (
        "a CHECK that lets a protected value pass",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v CHECK (length(v) < 400)); INSERT INTO people VALUES (1, 'short'), (2, printf('%.100c', 'x'))",
        "v",
        Nothing,
    ),
    (
        "a CHECK on the type",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v CHECK (typeof(v) = 'integer')); INSERT INTO people VALUES (1, 5)",
        "v",
        Refused("CHECK constraint refuses"),
    ),
    (
        "a CHECK on the length of JSON",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v CHECK (length(v) < 40)); INSERT INTO people VALUES (1, '{\"a\":\"x\"}')",
        "v:$.a",
        Refused("CHECK constraint refuses"),
    ),
    (
        "a reference to another table",
        "CREATE TABLE o (k PRIMARY KEY); CREATE TABLE people (id INTEGER PRIMARY KEY, v REFERENCES o (k))",
        "v",
        Refused("column `v` refers to another table"),
    ),
    (
        "a reference from another table",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v UNIQUE); CREATE TABLE o (w REFERENCES people (v))",
        "v",
        Refused("table `o` refers to column `v`"),
    ),
    ("a primary key", "CREATE TABLE people (id INTEGER, v, PRIMARY KEY (id, v))", "v", Refused("tells the rows apart")),
    (
        "a generated column",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, w, v AS (w || 'x'))",
        "v",
        Refused("column `v` is computed by the database"),
    ),
    (
        "a column that another is computed from",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w GENERATED ALWAYS\nAS (upper(v)) STORED)",
        "v",
        Refused("column `w` is computed from `v`"),
    ),
    (
        "a view that reads it",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); CREATE VIEW s AS SELECT p.v AS other FROM people p",
        "v",
        Named("view `s` reads column `v`"),
    ),
    (
        "a view of a view",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); CREATE VIEW s AS SELECT * FROM people; CREATE VIEW s2 AS SELECT * FROM s",
        "v",
        Named("view `s2` reads column `v`"),
    ),
    (
        "a view that sorts by it",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); CREATE VIEW s AS SELECT w FROM people ORDER BY v",
        "v",
        Named("view `s` reads column `v`"),
    ),
    (
        "a view that does not read it",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); CREATE VIEW s AS SELECT w FROM people -- v\n",
        "v",
        Nothing,
    ),
    (
        "a trigger that reads it",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE TABLE h (o); CREATE TRIGGER g AFTER DELETE ON people BEGIN INSERT INTO h VALUES (OLD.v); END",
        "v",
        Named("trigger `g` names column `v`"),
    ),
    (
        "a trigger that runs for each write",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, t); CREATE TRIGGER g AFTER UPDATE ON people BEGIN UPDATE people SET t = 1 WHERE id = NEW.id; END",
        "v",
        Named("trigger `g` runs for every row"),
    ),
    (
        "a trigger that refuses",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE TRIGGER g BEFORE UPDATE ON people WHEN NEW.v NOT LIKE '%@%' BEGIN SELECT RAISE(ABORT, 'no'); END; INSERT INTO people VALUES (1, 'a@b')",
        "v",
        Refused("a trigger refuses protected values"),
    ),
    (
        "a trigger that changes what is written",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE TRIGGER g AFTER UPDATE ON people WHEN NEW.v <> lower(NEW.v) BEGIN UPDATE people SET v = lower(NEW.v) WHERE id = NEW.id; END; INSERT INTO people VALUES (1, 'a@b')",
        "v",
        Refused("changes what is written to column `v`"),
    ),
    (
        "a full-text index",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); CREATE VIRTUAL TABLE f USING fts5(v, content='people', content_rowid='id')",
        "v",
        Refused("`f` indexes column `v`"),
    ),
    ("a virtual table", "CREATE VIRTUAL TABLE people USING fts5(v)", "v", Refused("only ordinary tables")),
    (
        "a view as the table",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE VIEW people AS SELECT * FROM t",
        "v",
        Refused("only ordinary tables"),
    ),
    (
        "a STRICT number",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v INTEGER) STRICT",
        "v",
        Refused("is INTEGER in a STRICT table"),
    ),
    (
        "a STRICT text",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v TEXT) STRICT; INSERT INTO people VALUES (1, 'x')",
        "v",
        Nothing,
    ),
    (
        "JSON that is none",
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v); INSERT INTO people VALUES (1, 'x'), (2, '{}')",
        "v:$.a",
        Named("1 rows of column `v` hold no JSON"),
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_looked_at_before_it_is_registered() {
    let mut wrong = Vec::new();
    for (what, sql, column, want) in CASES {
        let world = World::new().await;
        let app = world.connect();
        app.execute_batch(sql).unwrap_or_else(|error| panic!("{what}: {error}"));
        let before = dump(&app, "people");
        let added = world.add("people", IdentityChoice::PrimaryKey, &[column]).await;
        let (refused, warnings) = match added {
            Ok(asset) => (String::new(), asset.warnings),
            Err(error) => {
                assert_eq!(error.code(), "asset_unfit", "{what}");
                (error.to_string(), Vec::new())
            }
        };
        let named: Vec<_> = warnings.iter().map(|warning| warning.problem.as_str()).collect();
        let right = match want {
            Refused(text) => refused.contains(text),
            Named(text) => refused.is_empty() && named.iter().any(|problem| problem.contains(text)),
            Nothing => refused.is_empty() && named.is_empty(),
        };
        if !right {
            wrong.push(format!("{what}: refused `{refused}`, named {named:?}"));
        }
        assert_eq!(dump(&app, "people"), before, "{what}: nothing is changed");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_the_application_is_named() {
    let world = World::new().await;
    let app = world.connect();
    app.create_scalar_function("ours", 1, rusqlite::functions::FunctionFlags::SQLITE_DETERMINISTIC, |_| Ok(true))
        .unwrap();
    app.execute_batch(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v CHECK (ours(v))); INSERT INTO people VALUES (1, 'x')",
    )
    .unwrap();
    let refused = world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap_err();
    assert!(refused.to_string().contains("cannot be written without the application"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_named_once_and_belong_to_one_asset() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, v, j); INSERT INTO people VALUES (1, 'x', '{\"a\":1,\"ab\":2}')",
    )
    .unwrap();
    for twice in [&["v", "V"][..], &["v", "v"], &["j:$.a", "j"], &["j:$.a", "j:$.a.b"], &["j:$.a", "J:$.b"]] {
        assert_eq!(
            world.add("people", IdentityChoice::PrimaryKey, twice).await.unwrap_err().code(),
            "invalid",
            "{twice:?}"
        );
    }
    world.add("people", IdentityChoice::PrimaryKey, &["j:$.a", "j:$.ab"]).await.unwrap();
    let link = world.dir.path().join("link.sqlite");
    std::os::unix::fs::symlink(world.database(), &link).unwrap();
    let other = |column: &str, path: Option<&str>| keyrail_data::ops::asset::AddAsset {
        name: "other".parse().unwrap(),
        url: format!("sqlite:{}", link.display()),
        schema: None,
        table: "People".to_owned(),
        identity: IdentityChoice::PrimaryKey,
        columns: vec![keyrail_data::ops::asset::ColumnChoice {
            column: column.to_owned(),
            json_path: path.map(str::to_owned),
        }],
        key: crate::support::key(),
    };
    let taken = world.run(other("J", Some("$.a.x"))).await.unwrap_err();
    assert!(taken.to_string().contains("belongs to the asset `people`"), "{taken}");
    world.run(other("v", None)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keyrail_keeps_itself_is_no_asset() {
    let world = World::new().await;
    world.connect().execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, v)").unwrap();
    let data_dir = world.dir.path().join("D");
    let (own, inside) = (data_dir.join("store.sqlite"), data_dir.join("other.sqlite"));
    connect(&inside).execute_batch("CREATE TABLE label (name TEXT PRIMARY KEY, suite TEXT)").unwrap();
    let (link, copy) = (world.dir.path().join("link.sqlite"), world.dir.path().join("copy.sqlite"));
    std::os::unix::fs::symlink(&own, &link).unwrap();
    keyrail_data::sqlite::copy_database(&own, &copy).unwrap();
    let add = |path: &std::path::Path| AddAsset {
        name: "labels".parse().unwrap(),
        url: format!("sqlite:{}", path.display()),
        schema: None,
        table: "label".to_owned(),
        identity: IdentityChoice::PrimaryKey,
        columns: vec![ColumnChoice { column: "suite".to_owned(), json_path: None }],
        key: key(),
    };
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    for path in [&own, &link, &copy, &inside] {
        let refused = world.run(add(path)).await.unwrap_err();
        assert_eq!(refused.code(), "asset_unfit", "{}", path.display());
        assert!(refused.to_string().contains("belongs to Keyrail itself"), "{refused}");
        let (name, url) = (Some("people".parse().unwrap()), Some(format!("sqlite:{}", path.display())));
        let moved = UpdateAsset { name, url, table: Some("label".to_owned()), ..UpdateAsset::default() };
        let refused = world.run(moved).await.unwrap_err();
        assert!(refused.to_string().contains("belongs to Keyrail itself"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_rows_bytes_and_time_and_changes_nothing() {
    let world = World::new().await;
    let app = world.connect();
    app.execute_batch("CREATE TABLE people (id INTEGER PRIMARY KEY, v, w); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) INSERT INTO people SELECT i, printf('%.10c', 'x'), NULL FROM n").unwrap();
    world.add("people", IdentityChoice::PrimaryKey, &["v", "w"]).await.unwrap();
    let before = dump(&app, "people");
    let plan = |rate| world.run(Plan { asset: "people".parse().unwrap(), rate, goal: PlanGoal::Active });
    let unbound = plan(None).await.unwrap();
    assert_eq!((unbound.rows, unbound.values, unbound.bytes, unbound.target.unwrap().get()), (1200, 1200, 12_000, 1));
    assert!(unbound.seconds > 0.0 && unbound.seconds < 60.0, "{}", unbound.seconds);
    assert!(plan(Some(100)).await.unwrap().seconds >= 12.0);
    // What came to the table after it was registered is seen as well, and a campaign does not begin.
    app.execute_batch("CREATE UNIQUE INDEX u ON people (w)").unwrap();
    let named = plan(None).await.unwrap().misfits;
    assert!(named.iter().any(|misfit| misfit.problem.contains("unique by `u`")), "{named:?}");
    assert_eq!(world.run(Protect(start())).await.unwrap_err().code(), "asset_unfit");
    assert_eq!(dump(&app, "people"), before);
}

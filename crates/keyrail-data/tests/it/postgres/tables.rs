//! Tables of every form.

use keyrail_data::ops::asset::{IdentityChoice, UpdateAsset};
use keyrail_testkit::postgres::Version;

use crate::support::{Home, World};

async fn on(version: Version, sql: &str) -> World {
    let world = World::on(Home::Postgres(version)).await;
    world.sql(sql);
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_protected_is_refused_with_a_reason() {
    let cases = [
        (
            "CREATE TABLE root_slot (id int PRIMARY KEY, generation int); CREATE TABLE people (id int PRIMARY KEY, v text)",
            "people",
            "v",
            "belongs to Keyrail itself",
        ),
        (
            "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE MATERIALIZED VIEW people AS SELECT * FROM t",
            "people",
            "v",
            "materialized view",
        ),
        (
            "CREATE EXTENSION postgres_fdw; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw; CREATE FOREIGN TABLE people (id int, v text) SERVER s",
            "people",
            "v",
            "foreign table",
        ),
        (
            "CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); CREATE TABLE people PARTITION OF p DEFAULT",
            "people",
            "v",
            "is a partition of p",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text); CREATE TABLE heir () INHERITS (people)",
            "people",
            "v",
            "inherit from",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text); CREATE RULE r AS ON UPDATE TO people DO INSTEAD NOTHING",
            "people",
            "v",
            "rule rewrites",
        ),
        ("CREATE TABLE people (id int PRIMARY KEY, v text, EXCLUDE (v WITH =))", "people", "v", "compares the values"),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text NOT NULL UNIQUE); CREATE TABLE o (w text REFERENCES people (v))",
            "people",
            "v",
            "o refers to column `v`",
        ),
        ("CREATE TABLE people (id int, v text, w text, PRIMARY KEY (id, v))", "people", "v", "tells the rows apart"),
        (
            "CREATE TABLE people (id int, v text, w text) PARTITION BY LIST (v); CREATE UNIQUE INDEX ON people (id, v)",
            "people",
            "v",
            "decides in which partition",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v int)",
            "people",
            "v",
            "is integer, and a protected value is a text",
        ),
        ("CREATE TABLE people (id int PRIMARY KEY, v char(20))", "people", "v", "pads or cuts"),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v varchar(150)); INSERT INTO people VALUES (1, 'some text')",
            "people",
            "v",
            "takes 150 characters",
        ),
        ("CREATE TABLE people (id int PRIMARY KEY, v jsonb)", "people", "v", "no JSON document"),
        ("CREATE TABLE people (id int PRIMARY KEY, v bytea)", "people", "v:$.a", "holds no JSON"),
        ("CREATE TABLE people (id point, v text)", "people", "v", "neither a primary key nor a unique index"),
        (
            "CREATE TABLE people (id int, v text); CREATE UNIQUE INDEX ON people (id) WHERE id > 0",
            "people",
            "v",
            "neither a primary key nor a unique index",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text); CREATE INDEX big ON people (v); INSERT INTO people SELECT 1, string_agg(md5(i::text), '') FROM generate_series(1, 80) i",
            "people",
            "v",
            "are refused in column `v`",
        ),
        (
            "CREATE DOMAIN short AS text CHECK (length(VALUE) < 9); CREATE TABLE people (id int PRIMARY KEY, v short); INSERT INTO people VALUES (1, 'a')",
            "people",
            "v",
            "are refused in column `v`",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text); INSERT INTO people VALUES (1, 'A'); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.v := lower(NEW.v); RETURN NEW; END$$; CREATE TRIGGER g BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()",
            "people",
            "v",
            "changes what is written",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text); INSERT INTO people VALUES (1, 'A'); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$; CREATE TRIGGER g BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f()",
            "people",
            "v",
            "takes back what is written",
        ),
        (
            "CREATE TABLE people (id int PRIMARY KEY, v text CHECK (length(v) < 200)); INSERT INTO people VALUES (1, '{\"a\":\"a text of some length, which is longer once it is protected\"}')",
            "people",
            "v:$.a",
            "are refused in column `v`",
        ),
    ];
    for version in Version::ALL {
        let world = World::on(Home::Postgres(version)).await;
        for (sql, table, column, want) in cases {
            world.sql("DROP SCHEMA public CASCADE");
            world.sql("CREATE SCHEMA public");
            world.sql(sql);
            let refused = world.add(table, IdentityChoice::PrimaryKey, &[column]).await.expect_err(sql);
            assert_eq!(refused.code(), "asset_unfit", "{sql}: {refused}");
            assert!(refused.to_string().contains(want), "{sql}: {refused}");
            assert!(!refused.hint().unwrap_or_default().is_empty(), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_will_be_different_is_told() {
    let sql = "
        CREATE TABLE people (id int PRIMARY KEY, v text CHECK (v <> ''), w text) WITH (autovacuum_enabled = false);
        INSERT INTO people VALUES (1, 'a', 'b');
        CREATE INDEX on_v ON people (v); CREATE INDEX on_lower ON people (lower(v)); CREATE INDEX with_v ON people (w) INCLUDE (v);
        CREATE VIEW seen AS SELECT v FROM people; CREATE MATERIALIZED VIEW kept AS SELECT v FROM people; CREATE VIEW unseen AS SELECT w FROM people;
        CREATE STATISTICS together ON v, w FROM people; CREATE STATISTICS apart ON id, w FROM people;
        ALTER TABLE people REPLICA IDENTITY FULL; CREATE PUBLICATION everything FOR TABLE people;
        CREATE POLICY p ON people USING (v <> 'x');
        CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
        CREATE TRIGGER every BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION f();
        CREATE TRIGGER of_v AFTER UPDATE OF v ON people FOR EACH ROW EXECUTE FUNCTION f();
        CREATE TRIGGER of_w AFTER UPDATE OF w ON people FOR EACH ROW EXECUTE FUNCTION f();";
    for version in Version::ALL {
        let world = on(version, sql).await;
        let asset = world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        let told: Vec<_> = asset.warnings.iter().map(|misfit| misfit.problem.as_str()).collect();
        for want in [
            "CHECK constraint `people_v_check` reads column `v`",
            "index `on_v` on column `v`",
            "index `on_lower` computes with column `v`",
            "index `with_v` keeps a copy",
            "view seen reads",
            "materialized view kept keeps a copy",
            "statistics together over column `v`",
            "policy `p` decides by column `v`",
            "trigger `every` runs",
            "trigger `of_v` runs",
            "publication `everything`",
            "replica identity of the table is FULL",
            "autovacuum is off",
        ] {
            assert_eq!(told.iter().filter(|problem| problem.contains(want)).count(), 1, "{want}: {told:#?}");
        }
        assert_eq!(told.len(), 13, "{told:#?}");
        assert!(world.protect().await.campaign.not_scrubbed.iter().any(|left| left.contains("view kept")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_is_worked_on_through_its_parent() {
    let sql = "
        CREATE TABLE people (region text, id bigint, v text, n int, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
        CREATE TABLE people_eu PARTITION OF people FOR VALUES IN ('de', 'fr') PARTITION BY RANGE (id);
        CREATE TABLE people_eu_1 PARTITION OF people_eu FOR VALUES FROM (0) TO (600);
        CREATE TABLE people_eu_2 PARTITION OF people_eu DEFAULT;
        CREATE TABLE people_others PARTITION OF people DEFAULT;
        INSERT INTO people SELECT (ARRAY['de', 'fr', 'us', 'jp'])[1 + i % 4], i, 'value ' || i, i FROM generate_series(1, 2000) i;";
    for version in Version::ALL {
        let world = std::sync::Arc::new(on(version, sql).await);
        let asset = world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        assert_eq!(asset.identity_columns, ["region", "id"]);
        let id = world.run(keyrail_data::ops::campaign::Protect(crate::support::start())).await.unwrap().id;
        // Rows that are not protected yet move to another partition, behind the campaign and before it.
        let other = world.clone();
        let moved = "UPDATE people SET region = 'aa' WHERE region = 'us' AND id < 100; UPDATE people SET region = 'zz' WHERE region = 'us' AND id > 1900";
        world.walk_with(id, keyrail_data::Stop::default(), move || drop(other.sql(moved))).await.unwrap();
        let census = world.census().await;
        assert_eq!((census.versions[0].values, census.plaintext, census.damaged), (2_000, 0, 0));
        assert_eq!(world.sql("SELECT count(*) FROM people_others WHERE v LIKE 'kr1.%'"), "1000");
        world.unprotect().await;
        assert_eq!(world.sql("SELECT count(*) FROM people WHERE v = 'value ' || id"), "2000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_found_in_its_schema_and_followed() {
    let sql = "
        CREATE SCHEMA crm; CREATE SCHEMA old;
        CREATE TABLE crm.people (id uuid PRIMARY KEY, v text); INSERT INTO crm.people VALUES (gen_random_uuid(), 'crm');
        CREATE TABLE old.people (id uuid PRIMARY KEY, v text); INSERT INTO old.people VALUES (gen_random_uuid(), 'old');";
    let world = on(Version::V15, sql).await;
    let url = world.url();
    let missing = world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap_err();
    assert_eq!(missing.code(), "asset_absent");
    let asset = world.add_at(&url, Some("crm"), "people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    assert_eq!(asset.schema.as_deref(), Some("crm"));
    world.protect().await;
    assert_eq!(
        world.sql("SELECT v LIKE 'kr1.%' FROM crm.people UNION ALL SELECT v LIKE 'kr1.%' FROM old.people"),
        "t\nf"
    );
    world.sql("ALTER TABLE crm.people SET SCHEMA public; ALTER TABLE people RENAME TO persons; ALTER TABLE persons RENAME v TO w");
    let census = world.run(keyrail_data::ops::asset::CensusAsset { name: "people".parse().unwrap() }).await;
    assert_eq!(census.unwrap_err().code(), "asset_absent");
    let update = UpdateAsset {
        name: Some("people".parse().unwrap()),
        url: None,
        schema: Some("public".to_owned()),
        table: Some("persons".to_owned()),
        columns: vec![("v".to_owned(), "w".to_owned())],
    };
    let updated = world.run(update).await.unwrap();
    assert_eq!((updated.schema.as_deref(), updated.table.as_str()), (Some("public"), "persons"));
    assert_eq!(world.census().await.versions[0].values, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_assets_do_not_share_a_column() {
    let world = on(Version::V18, "CREATE SCHEMA other; CREATE TABLE people (id int PRIMARY KEY, v text, w text); CREATE TABLE other.people (id int PRIMARY KEY, v text)").await;
    world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
    let add = |name: &str, schema: Option<&str>, column: &str| keyrail_data::ops::asset::AddAsset {
        name: name.parse().unwrap(),
        url: world.url(),
        schema: schema.map(str::to_owned),
        table: "people".to_owned(),
        identity: IdentityChoice::PrimaryKey,
        columns: vec![keyrail_data::ops::asset::ColumnChoice { column: column.to_owned(), json_path: None }],
        key: crate::support::key(),
    };
    for schema in [None, Some("public")] {
        let taken = world.run(add("twice", schema, "v")).await.unwrap_err();
        assert!(taken.to_string().contains("belongs to the asset `people`"), "{taken}");
    }
    world.run(add("others", Some("other"), "v")).await.unwrap();
    world.run(add("rest", None, "w")).await.unwrap();
}

/// What is looked for in the whole table is found in its last piece; and nothing looks at all of it in one statement.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_looked_at_in_pieces() {
    // One row to a block, all of them in one of many partitions.
    let sql = "CREATE TABLE people (id int, code text, v varchar(4000), PRIMARY KEY (id)) PARTITION BY RANGE (id);
        DO $$BEGIN FOR part IN 0..255 LOOP
          EXECUTE format('CREATE TABLE people_%s PARTITION OF people FOR VALUES FROM (%s) TO (%s) WITH (fillfactor = 10)', part, part * 1000, part * 1000 + 1000);
        END LOOP; END$$;
        INSERT INTO people SELECT i, 'code ' || i, repeat('x', 800) FROM generate_series(1, 150) i;
        INSERT INTO people VALUES (151, NULL, repeat('y', 3500))";
    let world = on(Version::V18, sql).await;
    assert!(world.sql("SELECT pg_relation_size('people_0') / 8192 >= 150") == "t");
    let by_code = || IdentityChoice::Columns(vec!["code".to_owned()]);
    let refused = world.add("people", by_code(), &["v"]).await.unwrap_err();
    assert!(refused.to_string().contains("takes 4000 characters, and a protected value of it 4"), "{refused}");
    world.sql("UPDATE people SET v = 'y' WHERE id = 151");
    let asset = world.add("people", by_code(), &["v"]).await.unwrap();
    assert!(asset.warnings.iter().any(|misfit| misfit.problem.contains("some rows have no value in code")));
    assert_eq!(world.protect().await.campaign.counts.rows, 151);
}

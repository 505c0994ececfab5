//! Types of keys and of protected columns.

use keyrail_data::ops::asset::{IdentityChoice, ShowAsset};
use keyrail_testkit::postgres::Version;

use crate::support::{Home, World};

async fn on(version: Version, sql: &str) -> World {
    let world = World::on(Home::Postgres(version)).await;
    world.sql(sql);
    world
}

/// The identities of rows, as the census lists those whose values were swapped.
async fn identities(world: &World, table: &str) -> Vec<String> {
    world.protect().await;
    world.sql(&format!("UPDATE {table} one SET v = other.v FROM {table} other WHERE one.place + other.place = 3"));
    let census = world.census().await;
    census.damaged_listed.into_iter().map(|cell| cell.row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_key_has_one_identity_whatever_a_session_is_set_to() {
    let rows = [
        ("smallint", "-32768", "i-32768"),
        ("integer", "7", "i7"),
        ("bigint", "9223372036854775807", "i9223372036854775807"),
        ("text", "'Zoë'", "x5a6fc3ab"),
        ("varchar(9)", "'a-b'", "ta-b"),
        ("char(9)", "'a'", "ta"),
        ("bytea", "'\\x00ff'", "b00ff"),
        ("uuid", "'123E4567-e89b-12d3-a456-426614174000'", "u123e4567-e89b-12d3-a456-426614174000"),
        ("numeric", "-7.2500", "d-7.25"),
        ("numeric", "1e20", "d100000000000000000000"),
        ("numeric", "'NaN'", "dNaN"),
        ("boolean", "true", "ltrue"),
        ("real", "0.1", "r3fb99999a0000000"),
        ("double precision", "0.1", "r3fb999999999999a"),
        ("date", "'2026-11-29'", "c20786"),
        ("date", "'infinity'", "cinfinity"),
        ("date", "'0044-03-15 BC'", "c-735160"),
        ("timestamp", "'2026-11-29 10:57:02.123456'", "w1795949822123456"),
        ("timestamptz", "'2026-11-29 10:57:02.123456+02'", "z1795942622123456"),
        ("timestamptz", "'-infinity'", "z-infinity"),
    ];
    let columns: Vec<_> = rows.iter().enumerate().map(|(at, (declared, ..))| format!("c{at} {declared}")).collect();
    let key: Vec<_> = (0..rows.len()).map(|at| format!("c{at}")).collect();
    let values: Vec<_> = rows.iter().map(|(_, value, _)| *value).collect();
    let want: Vec<_> = rows.iter().map(|(.., want)| *want).collect();
    let (values, want) = (values.join(", "), want.join(","));
    let sql = format!(
        "CREATE TABLE people ({}, place int, v text, PRIMARY KEY ({}, place));
         INSERT INTO people VALUES ({values}, 1, 'one'), ({values}, 2, 'two')",
        columns.join(", "),
        key.join(", ")
    );
    for version in Version::ALL {
        for hostile in [false, true] {
            let world = on(version, &sql).await;
            if hostile {
                let name = world.pg().name();
                world.sql(&format!(
                    "ALTER DATABASE {name} SET DateStyle = 'German, DMY'; ALTER DATABASE {name} SET TimeZone = 'Asia/Kathmandu';
                     ALTER DATABASE {name} SET bytea_output = 'escape'; ALTER DATABASE {name} SET extra_float_digits = -5;
                     ALTER DATABASE {name} SET IntervalStyle = 'sql_standard'"
                ));
            }
            world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
            let found = identities(&world, "people").await;
            assert_eq!(found, [format!("{want},i1"), format!("{want},i2")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_the_order_of_every_key() {
    let keys = [
        ("uuid", "md5(i::text)::uuid"),
        ("numeric", "i / 7.0"),
        ("timestamptz", "'2026-01-01'::timestamptz + i * interval '1 microsecond'"),
        ("timestamp", "'2000-01-01'::timestamp - i * interval '1 day'"),
        ("date", "'2000-01-01'::date - i"),
        ("bytea", "decode(md5(i::text), 'hex')"),
        ("varchar(40)", "CASE i % 3 WHEN 0 THEN 'é' WHEN 1 THEN 'E' ELSE 'e' END || i"),
        ("char(40)", "'x' || i"),
        ("real", "i::real / 3"),
        ("text COLLATE \"C\"", "'x' || i"),
    ];
    for (at, (declared, make)) in keys.into_iter().enumerate() {
        let sql = format!(
            "CREATE TABLE people (id {declared} PRIMARY KEY, n int, v text);
             INSERT INTO people SELECT {make}, i, 'value ' || i FROM generate_series(1, 1300) i"
        );
        let world = on(Version::ALL[at % 2], &sql).await;
        world.add("people", IdentityChoice::PrimaryKey, &["v"]).await.unwrap();
        let protected = world.protect().await.campaign.counts;
        assert_eq!((protected.cells_moved, protected.cas_lost, protected.rows), (1_300, 0, 1_300), "{declared}");
        world.unprotect().await;
        assert_eq!(world.sql("SELECT count(*) FROM people WHERE v = 'value ' || n"), "1300", "{declared}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_told_apart_by_columns_that_are_named() {
    let sql = "CREATE TABLE people (a int, b int NOT NULL, code text, v text); CREATE UNIQUE INDEX ON people (b);
               INSERT INTO people SELECT i, i, 'code ' || i, 'value ' || i FROM generate_series(1, 600) i";
    let world = on(Version::V15, sql).await;
    let by_code = IdentityChoice::Columns(vec!["code".to_owned()]);
    let asset = world.add("people", by_code, &["v"]).await.unwrap();
    assert_eq!(asset.identity_columns, ["code"]);
    let id = world.run(keyrail_data::ops::campaign::Protect(crate::support::start())).await.unwrap().id;
    world.complete(id).await;
    // The key of another row, with the values of this one.
    world.sql("UPDATE people SET code = 'other' WHERE b = 7");
    assert_eq!(world.census().await.damaged, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_keep_their_other_members() {
    let document = "{\"b\": [1, 2.50, {\"phone\": \"+31 6\"}], \"phone\": \"one\\u000atwo \\\"three\\\"\", \"n\": 7.50, \"z\": null}";
    for version in Version::ALL {
        for declared in ["json", "jsonb", "text"] {
            let sql = format!(
                "CREATE TABLE people (id int PRIMARY KEY, place int, d {declared});
                 INSERT INTO people VALUES (1, 1, '{document}'), (2, 2, NULL), (3, 3, '{{}}')"
            );
            let world = on(version, &sql).await;
            let columns = ["d:$.phone", "d:$.n", "d:$.b[2].phone"];
            world.add("people", IdentityChoice::PrimaryKey, &columns).await.unwrap();
            let all = || world.sql("SELECT id, d FROM people ORDER BY id");
            let before = all();
            assert_eq!(world.protect().await.campaign.counts.cells_moved, 3, "{declared}");
            let kept = world.sql("SELECT d::jsonb #> '{b,0}', d::jsonb #> '{b,1}', d::jsonb #> '{z}', d::jsonb ->> 'phone' LIKE 'kr1.%' FROM people WHERE id = 1");
            assert_eq!(kept, "1|2.50|null|t", "{declared}");
            world.rotate().await;
            world.reencrypt().await;
            world.unprotect().await;
            assert_eq!(all(), before, "{declared}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_of_every_type_that_fits_come_back() {
    let sql = "
        CREATE EXTENSION citext; CREATE DOMAIN address AS varchar(400);
        CREATE TABLE people (id int PRIMARY KEY, t text, s varchar(400), c citext, b bytea, d address, o text COLLATE \"C\");
        INSERT INTO people VALUES (1, 'one', 'two', 'Three', '\\x04', 'five', 'six'), (2, '', '', '', '', '', '');";
    for version in Version::ALL {
        let world = on(version, sql).await;
        let asset = world.add("people", IdentityChoice::PrimaryKey, &["t", "s", "c", "b", "d", "o"]).await.unwrap();
        let told = asset.warnings.iter().map(|misfit| misfit.problem.as_str()).collect::<Vec<_>>().join("\n");
        assert!(
            told.contains("is citext") && told.contains("domain address") && told.contains("no more than 400"),
            "{told}"
        );
        let all = || world.sql("SELECT * FROM people ORDER BY id");
        let before = all();
        world.protect().await;
        // A writer that changes the case of a letter is a writer.
        assert_eq!(world.sql("SELECT count(*) FROM people WHERE c::text LIKE 'kr1.%' AND b <> '\\x04'"), "2");
        world.unprotect().await;
        assert_eq!(all(), before);
        // A value that does not fit any more stops the campaign, which names the row.
        world.sql("UPDATE people SET s = repeat('x', 390) WHERE id = 2");
        let refused = world.run(keyrail_data::ops::campaign::Protect(crate::support::start())).await.unwrap_err();
        assert!(refused.to_string().contains("takes 400 characters"), "{refused}");
        world.run(ShowAsset { name: "people".parse().unwrap() }).await.unwrap();
    }
}

/// A document in a column of text is tried as the campaign writes it: what the table demands of documents still holds.
#[tokio::test(flavor = "multi_thread")]
async fn documents_in_columns_of_text_may_have_conditions() {
    let sql = r#"
        CREATE TABLE people (id int PRIMARY KEY, "d?" text CHECK ("d?"::jsonb ->> 'n' = '7'));
        CREATE INDEX ON people (("d?"::jsonb ->> 'n'));
        INSERT INTO people VALUES (1, '{"a?b": "one", "n": 7}'), (2, '{"n": 7}'), (3, '{"a?b": null, "n": 7}'), (4, NULL)"#;
    for version in Version::ALL {
        let world = on(version, sql).await;
        world.add("people", IdentityChoice::PrimaryKey, &["d?:$.\"a?b\""]).await.unwrap();
        assert_eq!(world.protect().await.campaign.counts.cells_moved, 1);
        assert_eq!(world.sql(r#"SELECT id FROM people WHERE "d?"::jsonb ->> 'a?b' LIKE 'kr1.%'"#), "1");
    }
}

/// Which of two equal names counts is up to who reads the document: PostgreSQL reads the last, others the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_document_with_a_member_twice_is_told() {
    let sql = r#"CREATE TABLE people (id int PRIMARY KEY, d json);
                 INSERT INTO people VALUES (1, '{"a": "x", "a": "secret"}'), (2, '{"a": "y", "b": 1, "b": 2}')"#;
    let world = on(Version::V18, sql).await;
    world.add("people", IdentityChoice::PrimaryKey, &["d:$.a"]).await.unwrap();
    let census = world.census().await;
    assert_eq!((census.plaintext, census.damaged), (1, 1));
    let id = world.run(keyrail_data::ops::campaign::Protect(crate::support::start())).await.unwrap().id;
    let outcome = world.walk(id).await.unwrap();
    assert_ne!(outcome.campaign.state, keyrail_core::campaign::CampaignState::Completed);
    assert_eq!(world.sql("SELECT d ->> 'a' FROM people WHERE id = 1"), "secret");
    world.sql(r#"UPDATE people SET d = '{"a": "secret"}' WHERE id = 1"#);
    world.run(keyrail_data::ops::campaign::Resume { id }).await.unwrap();
    world.complete(id).await;
    assert_eq!(world.sql("SELECT count(*) FROM people WHERE d ->> 'a' LIKE 'kr1.%'"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_values_make_short_pages() {
    large_values("v text", "repeat(md5(i::text), 40000)", "v").await;
}

/// Where they lie, such documents have a hundredth of the length that they have as text.
#[tokio::test(flavor = "multi_thread")]
async fn large_documents_make_short_pages() {
    large_values("d jsonb", "jsonb_build_object('a', repeat(md5(i::text), 40000))", "d:$.a").await;
}

async fn large_values(column: &str, value: &str, named: &str) {
    let sql = format!(
        "CREATE TABLE people (id int PRIMARY KEY, {column}); INSERT INTO people SELECT i, {value} FROM generate_series(1, 30) i"
    );
    let world = on(Version::V18, &sql).await;
    world.add("people", IdentityChoice::PrimaryKey, &[named]).await.unwrap();
    let id = world.run(keyrail_data::ops::campaign::Protect(crate::support::start())).await.unwrap().id;
    let stop = keyrail_data::Stop::default();
    let handle = stop.clone();
    let paused = world.walk_with(id, stop, move || handle.pause()).await.unwrap();
    let rows = paused.campaign.counts.rows;
    assert!((2..20).contains(&rows), "{rows}");
    world.run(keyrail_data::ops::campaign::Resume { id }).await.unwrap();
    assert_eq!(world.complete(id).await.campaign.counts.cells_moved, 30);
}

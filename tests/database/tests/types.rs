//! The comparison, where the types of the two databases differ.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use connect_migrator_postgres::compare::{Depth, Report, Target, compare};
use connect_migrator_postgres::connection::Door;
use connect_migrator_postgres::settings::{Settings, Which};
use connect_migrator_postgres::url::PostgresUrl;
use connect_migrator_sdk::Secret;
use database_tests::cluster::{Cluster, PASSWORD};
use serde_json::json;
use std::path::Path;

async fn compared(file: &Path, url: &str, sample: u32) -> Report {
    let settings: Settings = serde_json::from_value(json!({ "url": url, "sample-rows": sample })).unwrap();
    let url = PostgresUrl::parse(url).unwrap();
    let door = Door::new(url, Some(Secret::new(PASSWORD.into())), &settings);
    let session = door.open().await.unwrap();
    let targets = [Target { which: Which::Core, session: &session }];
    compare(&[file.to_owned()], &targets, &Depth::of(&settings), false, |_, _, _| {}).await.unwrap()
}

const LITE: &str = "CREATE TABLE things (id INTEGER PRIMARY KEY, guid TEXT, locked INTEGER, made TEXT, seen INTEGER, body BLOB, price REAL, extra TEXT);
  INSERT INTO things VALUES
   (1, '0b9f2a7e-0000-4000-8000-00000000000a', 1, '2024-02-29 12:30:05.123456789+00:00', 1700000000, x'00ff10', 1.5, '{\"b\": 1, \"a\": [null]}'),
   (2, '1b9f2a7e-0000-4000-8000-00000000000a', 0, '2024-02-29T12:30:05Z', NULL, NULL, 0.1, NULL),
   (3, NULL, NULL, NULL, 0, x'', -2, '{}');
  CREATE TABLE \"Keys\" (a TEXT, b INTEGER, PRIMARY KEY (a, b));
  WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO \"Keys\" SELECT 'key ' || (i % 7), i FROM n;
  CREATE TABLE heap (x TEXT); INSERT INTO heap VALUES ('a'), ('a'), ('b');";

const PG: &str = "CREATE TABLE things (id serial PRIMARY KEY, guid uuid, locked boolean, made timestamptz, seen timestamp, body bytea, price numeric(8,3), extra jsonb);
  INSERT INTO things VALUES
   (1, '0B9F2A7E-0000-4000-8000-00000000000A', true, '2024-02-29 13:30:05.123456789+01', '2023-11-14 22:13:20', '\\x00ff10', 1.5, '{\"a\": [null], \"b\": 1}'),
   (2, '1b9f2a7e-0000-4000-8000-00000000000a', false, '2024-02-29 12:30:05+00', NULL, NULL, 0.1, NULL),
   (3, NULL, NULL, NULL, '1970-01-01', '', -2, '{}');
  SELECT setval('things_id_seq', 3);
  CREATE TABLE keys (a text, b bigint, PRIMARY KEY (a, b)); INSERT INTO keys SELECT 'key ' || (i % 7), i FROM generate_series(1, 5000) i;
  CREATE TABLE heap (x text); INSERT INTO heap VALUES ('b'), ('a'), ('a');";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn booleans_times_blobs_and_numbers_compare_equal_and_every_spoiled_one_is_named() {
    let Some(cluster) = Cluster::shared() else { return };
    let url = cluster.database("types");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("connect.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch(LITE).unwrap();
    let run = |sql: &str| cluster.sql("types", &format!("SET ROLE connect; {sql}"));
    run(PG);
    let report = compared(&file, &url, 100).await;
    assert_eq!(report.differences, Vec::<String>::new());
    assert_eq!((report.equal.len(), report.rows()), (3, 5006));
    assert_eq!(report.compared(), 3 + 3 + 101, "of the large table a sample: every 50th row and the last");
    // A time that was cut instead of rounded is the same too.
    run("UPDATE things SET made = '2024-02-29 12:30:05.123456+00' WHERE id = 1");
    assert_eq!(compared(&file, &url, 100).await.differences, Vec::<String>::new());

    for (spoil, mend, what) in [
        (
            "UPDATE things SET locked = NOT locked WHERE id = 2",
            "UPDATE things SET locked = NOT locked WHERE id = 2",
            "id 2",
        ),
        (
            "UPDATE things SET made = made + interval '1 microsecond' WHERE id = 2",
            "UPDATE things SET made = made - interval '1 microsecond' WHERE id = 2",
            "id 2",
        ),
        (
            "UPDATE things SET body = '\\x00ff11' WHERE id = 1",
            "UPDATE things SET body = '\\x00ff10' WHERE id = 1",
            "id 1",
        ),
        ("UPDATE things SET body = NULL WHERE id = 3", "UPDATE things SET body = '' WHERE id = 3", "id 3"),
        (
            "UPDATE things SET price = 1.501 WHERE id = 1",
            "UPDATE things SET price = 1.5 WHERE id = 1",
            "id 1",
        ),
        (
            "UPDATE things SET guid = NULL WHERE id = 1",
            "UPDATE things SET guid = '0b9f2a7e-0000-4000-8000-00000000000a' WHERE id = 1",
            "id 1",
        ),
        (
            "DELETE FROM keys WHERE b = 17",
            "INSERT INTO keys VALUES ('key 3', 17)",
            "Keys has 5000 rows in SQLite and 4999",
        ),
        ("UPDATE keys SET a = 'other' WHERE b = 5000", "UPDATE keys SET a = 'key 2' WHERE b = 5000", "Keys"),
        (
            "UPDATE heap SET x = 'b'",
            "UPDATE heap SET x = 'a' WHERE ctid IN (SELECT ctid FROM heap LIMIT 2)",
            "heap",
        ),
        (
            "SELECT setval('things_id_seq', 2)",
            "SELECT setval('things_id_seq', 3)",
            "things_id_seq stands at 2",
        ),
        ("ALTER TABLE heap RENAME x TO y", "ALTER TABLE heap RENAME y TO x", "no column x"),
        ("ALTER TABLE heap RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO heap", "no table heap"),
    ] {
        run(spoil);
        let found = compared(&file, &url, 100).await.differences;
        assert_eq!(found.len(), 1, "{spoil}: {found:?}");
        assert!(found[0].contains(what), "{spoil}: {found:?}");
        run(mend);
        assert_eq!(compared(&file, &url, 100).await.differences, Vec::<String>::new(), "{mend}");
    }
}

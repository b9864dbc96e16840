//! What a database of a million rows costs in the window, the vendor's tool apart: saving the SQLite file, a copy of it for the tool to
//! work on, and the comparison with the same rows in PostgreSQL over TLS.
//!
//! `cargo run --release -p connect-migrator-database-tests --example verify_bench [ROWS]`
#![allow(clippy::unwrap_used, clippy::panic, reason = "a bench is for developers only")]

use connect_migrator_postgres::backup::Backup;
use connect_migrator_postgres::compare::{Depth, Target, compare};
use connect_migrator_postgres::connection::Door;
use connect_migrator_postgres::settings::{Settings, Which};
use connect_migrator_postgres::sqlite_files;
use connect_migrator_postgres::url::PostgresUrl;
use connect_migrator_sdk::Secret;
use database_tests::cluster::{Cluster, PASSWORD};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

const DEFAULT_ROWS: u64 = 1_000_000;
/// Tables, each with a fifth of the rows.
const TABLES: [&str; 5] = ["audit", "jobs", "visits", "sessions", "bundles"];
const ROUNDS: usize = 3;

fn columns(lite: bool) -> &'static str {
    if lite {
        "id INTEGER PRIMARY KEY, guid TEXT, made TEXT, done INTEGER, size INTEGER, share REAL, note TEXT"
    } else {
        "id bigint PRIMARY KEY, guid uuid, made timestamptz, done boolean, size bigint, share double precision, note text"
    }
}

/// The two copies that are made in the window, each made to last.
fn saved(file: &Path, dir: &Path) {
    let files = sqlite_files::find(file.parent().unwrap()).unwrap();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let backup = Backup::take(&files, &dir.join(format!("backup-{round}"))).unwrap();
        let saved = begun.elapsed();
        let begun = Instant::now();
        backup.work_copy(&dir.join(format!("work-{round}"))).unwrap();
        println!(
            "saved in {:.2} s, copied for the tool in {:.2} s",
            saved.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let rows = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_ROWS);
    let Some(cluster) = Cluster::start(true) else { return };
    let url = cluster.database("bench");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("connect.db");
    let lite = rusqlite::Connection::open(&file).unwrap();
    for table in TABLES {
        let n = rows / TABLES.len() as u64;
        lite.execute_batch(&format!(
            "CREATE TABLE {table} ({}); WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {n})
             INSERT INTO {table} SELECT i, printf('%08x-0000-4000-8000-%012x', i, i * 7), strftime('%Y-%m-%dT%H:%M:%SZ', 1700000000 + i, 'unixepoch'),
               i % 3 = 0, i * 1009, i / 8.0, 'a note of a usual length about the item number ' || i FROM n",
            columns(true)
        ))
        .unwrap();
        cluster.sql(
            "bench",
            &format!(
                "SET ROLE connect; CREATE TABLE {table} ({}); INSERT INTO {table} SELECT i, (lpad(to_hex(i), 8, '0') || '-0000-4000-8000-' || lpad(to_hex(i * 7), 12, '0'))::uuid,
                 to_timestamp(1700000000 + i), i % 3 = 0, i * 1009, i / 8.0, 'a note of a usual length about the item number ' || i FROM generate_series(1, {n}::bigint) i",
                columns(false)
            ),
        );
    }
    drop(lite);
    let bytes = std::fs::metadata(&file).unwrap().len();
    println!(
        "{rows} rows in {} tables, {} MiB of SQLite; {} build",
        TABLES.len(),
        bytes >> 20,
        if cfg!(debug_assertions) { "debug" } else { "release" }
    );
    saved(&file, dir.path());
    let parsed = PostgresUrl::parse(&url).unwrap();
    for (name, with) in [
        ("rows in number, 10000 rows a table by content", json!({ "url": url })),
        ("rows in number, every row by content", json!({ "url": url, "compare": "all" })),
    ] {
        let settings: Settings = serde_json::from_value(with).unwrap();
        let door = Door::new(parsed.clone(), Some(Secret::new(PASSWORD.into())), &settings);
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let session = door.open().await.unwrap();
            let targets = [Target { which: Which::Core, session: &session }];
            let report =
                compare(std::slice::from_ref(&file), &targets, &Depth::of(&settings), false, |_, _, _| {})
                    .await
                    .unwrap();
            assert!(report.differences.is_empty(), "{:?}", report.differences);
            times.push((begun.elapsed(), report.compared()));
        }
        times.sort();
        let (median, compared) = times.get(ROUNDS / 2).copied().unwrap_or_default();
        println!("{name}: {:.2} s (median of {ROUNDS}; {compared} rows by content)", median.as_secs_f64());
    }
    let begun = Instant::now();
    assert!(sqlite_files::integrity(&file).unwrap().is_empty());
    println!(
        "integrity_check of the copy (in check, not in the window): {:.2} s",
        begun.elapsed().as_secs_f64()
    );
}

//! The schemas of what the commands print with `--json` are published; a change that a program would notice fails here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use connect_migrator::cli::{FullReport, Status, StepPlan};
use connect_migrator::engine::StepFindings;
use schemars::schema_for;
use std::path::Path;

#[test]
fn the_published_schemas_are_those_of_what_is_printed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/schema");
    let schemas = [
        ("check", schema_for!(Vec<StepFindings>)),
        ("plan", schema_for!(Vec<StepPlan>)),
        ("status", schema_for!(Option<Status>)),
        ("report", schema_for!(FullReport)),
    ];
    for (name, schema) in schemas {
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let path = folder.join(format!("{name}.schema.json"));
        // To publish a change: UPDATE_SCHEMAS=1 cargo test -p connect-migrator --test schemas
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == text,
            "{} is not what the command prints; look at the difference, then UPDATE_SCHEMAS=1",
            path.display()
        );
    }
}

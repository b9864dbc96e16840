//! The schemas of what the commands print with `--json` are published; a change that a program would notice fails here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use connect_migrator::cli::{FullReport, Status, WholePlan};
use connect_migrator::engine::StepFindings;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use std::path::Path;

/// Of what is printed: what may be left out is not required, what is always there is.
fn printed<T: JsonSchema>() -> Schema {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>()
}

#[test]
fn the_published_schemas_are_those_of_what_is_printed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/schema");
    let schemas = [
        ("check", printed::<Vec<StepFindings>>()),
        ("plan", printed::<WholePlan>()),
        ("status", printed::<Option<Status>>()),
        ("report", printed::<FullReport>()),
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

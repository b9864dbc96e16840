//! A daemon for one call, which keeps undo records in a file: they outlive a call that is killed.

use connect_migrator_postgres::Postgres;
use connect_migrator_postgres::settings::Settings;
use connect_migrator_postgres::undo::Undo;
use connect_migrator_sdk::{
    Context, HostCalls, HostRefused, Invocation, LogLevel, Migration, Op, Progress, Secret, Source, Step,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The name of the password's credential.
pub const CREDENTIAL: &str = "postgres-password";

/// One call of the step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Which.
    pub op: Op,
    /// The settings under `with`.
    pub with: Value,
    /// The source.
    pub source: Source,
    /// The step's folder.
    pub state_dir: PathBuf,
    /// The value of the credential.
    pub password: String,
    /// Users were sent to the new server.
    pub routed: bool,
    /// Ask the call to end at once.
    pub cancelled: bool,
}

#[derive(Debug)]
struct FileHost {
    undo: PathBuf,
    password: String,
    cancelled: bool,
}

fn undo_file(state_dir: &Path, of: Op) -> PathBuf {
    state_dir.with_extension(format!("{of}.undo"))
}

impl HostCalls for FileHost {
    fn log(&self, _level: LogLevel, message: &str, _fields: &Map<String, Value>) {
        println!("{message}");
    }

    fn progress(&self, _progress: &Progress) {}

    fn record_undo(&self, record: &Value) -> Result<(), HostRefused> {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&self.undo).unwrap();
        // In one write, as a daemon's state has a record whole or not at all: a kill must not leave half a line.
        file.write_all(format!("{record}\n").as_bytes()).unwrap();
        Ok(())
    }

    fn checkpoint(&self, _checkpoint: &Value) -> Result<(), HostRefused> {
        Ok(())
    }

    fn secret(&self, credential: &str) -> Result<Secret, HostRefused> {
        if credential == CREDENTIAL {
            return Ok(Secret::new(format!("{}\n", self.password)));
        }
        Err(HostRefused { what: format!("the secret `{credential}`"), why: "it is not stored".into() })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

impl Call {
    fn context(&self, of: Op) -> Context {
        // Other fields have defaults; this is how an invocation of any age is read.
        let invocation: Invocation = serde_json::from_value(serde_json::json!({
            "step": "database", "uses": "postgres", "op": self.op, "attempt": 1, "config": self.with,
            "migration": Migration { id: "0".into(), instance: "test".into() },
            "source": self.source, "state_dir": self.state_dir, "routed": self.routed,
            // What a daemon knows that does not say whether users were sent there.
            "facts": if self.routed { serde_json::json!({ "target": {} }) } else { serde_json::json!({}) },
        }))
        .unwrap();
        let host = FileHost {
            undo: undo_file(&self.state_dir, of),
            password: self.password.clone(),
            cancelled: self.cancelled,
        };
        Context::new(invocation, Arc::new(host))
    }

    fn settings(&self) -> Settings {
        serde_json::from_value(self.with.clone()).unwrap()
    }

    /// Makes the call; its answer or its error as JSON.
    ///
    /// # Errors
    /// The step's.
    pub async fn make(&self) -> Result<Value, String> {
        let (settings, cx) = (self.settings(), self.context(self.op));
        let json = |value: Result<Value, serde_json::Error>| value.map_err(|e| e.to_string());
        let text = |error: connect_migrator_sdk::StepError| error.to_string();
        match self.op {
            Op::Check => json(serde_json::to_value(Postgres::check(&settings, &cx).await.map_err(text)?)),
            Op::Plan => json(serde_json::to_value(Postgres::plan(&settings, &cx).await.map_err(text)?)),
            Op::Prepare => json(serde_json::to_value(Postgres::prepare(&settings, &cx).await.map_err(text)?)),
            Op::Apply => json(serde_json::to_value(Postgres::apply(&settings, &cx).await.map_err(text)?)),
            Op::Verify => json(serde_json::to_value(Postgres::verify(&settings, &cx).await.map_err(text)?)),
            Op::Probe => {
                json(serde_json::to_value(Postgres::probe(&settings, &cx, Op::Apply).await.map_err(text)?))
            }
            Op::Finalize => {
                json(serde_json::to_value(Postgres::finalize(&settings, &cx).await.map_err(text)?))
            }
            Op::EnterWindow | Op::Rollback => Err("not made this way".into()),
        }
    }

    /// Rolls a call back from the records that it wrote.
    ///
    /// # Errors
    /// The step's.
    pub async fn roll_back(&self, of: Op) -> Result<Value, String> {
        let text = std::fs::read_to_string(undo_file(&self.state_dir, of)).unwrap_or_default();
        let undo: Vec<Undo> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let call = Call { op: Op::Rollback, ..self.clone() };
        let result = Postgres::rollback(&call.settings(), &call.context(Op::Rollback), of, undo).await;
        result.map(|undone| serde_json::to_value(undone).unwrap()).map_err(|error| error.to_string())
    }
}

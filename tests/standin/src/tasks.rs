//! Tasks: work that a client follows by long-polling its output.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::sync::watch;

use crate::failure::Failure;
use crate::live::now;
use crate::secret;
use crate::store::Store;

/// What a task has told so far.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Lines.
    pub output: Vec<String>,
    /// Whether there will be more.
    pub finished: bool,
    /// 0: success.
    pub code: i64,
    /// Why not.
    pub error: String,
    /// Details of the end: `{"type", "data"}`.
    pub result: Option<Json>,
}

impl Progress {
    /// The answer to a poll from line `first` on.
    #[must_use]
    pub fn answer(&self, id: &str, first: usize) -> Json {
        json!({
            "id": id,
            "output": self.output.get(first..).unwrap_or_default(),
            "finished": self.finished,
            "code": self.code,
            "error": self.error,
            "last": self.output.len(),
            "result": self.result,
        })
    }
}

/// A running task's own end of its record.
#[derive(Debug)]
pub struct Reporter {
    id: String,
    sender: watch::Sender<Progress>,
}

impl Reporter {
    /// Adds a line and wakes whoever polls.
    pub fn say(&self, line: impl Into<String>) {
        let line = line.into();
        self.sender.send_modify(|p| p.output.push(line));
    }

    /// Ends the task well, with a last line.
    pub async fn succeed(self, store: &Store, line: impl Into<String>) {
        let line = line.into();
        self.end(store, |p| p.output.push(line)).await;
    }

    /// Ends the task with an error. `kind` is the result's type.
    pub async fn fail(self, store: &Store, kind: &str, error: impl Into<String>) {
        let error = error.into();
        let result = json!({ "type": kind, "data": null });
        self.end(store, |p| {
            p.output.push(format!("Error: {error}"));
            (p.code, p.error, p.result) = (1, error, Some(result));
        })
        .await;
    }

    async fn end(self, store: &Store, change: impl FnOnce(&mut Progress)) {
        self.sender.send_modify(|p| {
            change(p);
            p.finished = true;
        });
        let progress = self.sender.borrow().clone();
        // A task that cannot be kept is still answered from memory while this copy lives.
        let _ = store
            .insert(
                "tasks",
                &[
                    self.id.as_str().into(),
                    now().into(),
                    serde_json::to_string(&progress.output).unwrap_or_default().into(),
                    progress.code.into(),
                    progress.error.into(),
                    progress.result.map(|r| r.to_string()).into(),
                ],
            )
            .await;
    }
}

/// All tasks of this copy.
#[derive(Debug, Default)]
pub struct Tasks(Mutex<HashMap<String, watch::Receiver<Progress>>>);

impl Tasks {
    /// A new task and the end to report with.
    ///
    /// # Errors
    /// No random numbers.
    pub fn begin(&self) -> Result<(String, Reporter), Failure> {
        let id = secret::hex(&secret::random(8)?);
        let (sender, receiver) = watch::channel(Progress::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), receiver);
        Ok((id.clone(), Reporter { id, sender }))
    }

    /// How far a task is: at once, or when it has more than `first` lines or has ended, but after `wait` at the
    /// latest. Tasks of an earlier start come from the database. `None`: there is no such task.
    ///
    /// # Errors
    /// The database's.
    pub async fn poll(
        &self,
        store: &Store,
        id: &str,
        first: usize,
        wait: Duration,
    ) -> Result<Option<Progress>, Failure> {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let Some(mut receiver) = receiver else { return recall(store, id).await };
        let news = receiver.wait_for(|p| p.finished || p.output.len() > first);
        // Out of time, or the task was dropped: what is known is the answer.
        let _ = tokio::time::timeout(wait, news).await.is_ok();
        Ok(Some(receiver.borrow().clone()))
    }
}

async fn recall(store: &Store, id: &str) -> Result<Option<Progress>, Failure> {
    let rows =
        store.query("SELECT output, code, error, result FROM tasks WHERE id = $1", &[id.into()]).await?;
    Ok(rows.first().map(|row| Progress {
        output: serde_json::from_str(&row.text(0)).unwrap_or_default(),
        finished: true,
        code: row.int(1),
        error: row.text(2),
        result: row.opt_text(3).and_then(|r| serde_json::from_str(&r).ok()),
    }))
}

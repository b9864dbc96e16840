//! The step `systemd/stop` on a machine whose Connect answers.

use super::{Machine, web};
use connect_migrator::systemd::steps::Span;
use connect_migrator::systemd::steps::stop::{self, StopConfig, StopUndo};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Context, Finding, Op, Outcome, Severity, Source, StepError, Undone, Verdict};
use std::sync::Arc;
use std::time::Duration;

/// The program, wherever it runs.
pub const CONNECT: &str = "/opt/rstudio-connect/bin/connect";

pub struct Scene {
    pub machine: Machine,
    pub host: Arc<MemoryHost>,
    pub config: StopConfig,
}

impl Scene {
    /// A Connect whose `/__ping__` answers like this.
    pub async fn with_answer(answer: &'static str) -> Scene {
        let machine = Machine::boot().await;
        let port = web::serve(&machine, answer).await;
        let gcfg = format!("[HTTP]\nListen = 127.0.0.1:{port}\n");
        std::fs::write(machine.folder().join("rstudio-connect.gcfg"), gcfg).unwrap();
        let config = StopConfig {
            leftover_timeout: Span(Duration::from_millis(300)),
            ping_timeout: Span(Duration::from_millis(1500)),
            ..StopConfig::default()
        };
        Scene { machine, host: MemoryHost::new(), config }
    }

    pub async fn new() -> Scene {
        Scene::with_answer("200 OK").await
    }

    pub fn cx(&self, op: Op) -> Context {
        let config = self.machine.folder().join("rstudio-connect.gcfg");
        self.host.context(op, self.machine.folder(), Source { config, ..Source::default() })
    }

    pub async fn check(&self) -> Vec<Finding> {
        stop::check(&self.machine.ground(), &self.config, &self.cx(Op::Check)).await.unwrap()
    }

    pub async fn apply(&self) -> Result<Outcome, StepError> {
        stop::apply(&self.machine.ground(), &self.config, &self.cx(Op::Apply)).await
    }

    /// A try after one that was cut off.
    pub async fn apply_again(&self) -> Result<Outcome, StepError> {
        let first = self.cx(Op::Apply);
        let invocation = connect_migrator_sdk::Invocation { attempt: 2, ..first.invocation().clone() };
        let cx = self.host.context_with(invocation);
        stop::apply(&self.machine.ground(), &self.config, &cx).await
    }

    pub async fn prepare(&self) -> Outcome {
        stop::prepare(&self.machine.ground(), &self.config, &self.cx(Op::Prepare)).await.unwrap()
    }

    /// Undoes `prepare`.
    pub async fn unprepare(&self) {
        let undo = self.undo().into_iter().filter(|undo| matches!(undo, StopUndo::Guarded { .. })).collect();
        let cx = self.cx(Op::Rollback);
        let undone =
            stop::rollback(&self.machine.ground(), &self.config, &cx, Op::Prepare, undo).await.unwrap();
        assert!(undone.left.is_empty());
    }

    pub fn drop_ins(&self) -> Vec<std::path::PathBuf> {
        self.machine.unit(|unit| unit.drop_ins.clone())
    }

    pub async fn verify(&self) -> Verdict {
        stop::verify(&self.machine.ground(), &self.config, &self.cx(Op::Verify)).await.unwrap()
    }

    pub fn undo(&self) -> Vec<StopUndo> {
        self.host.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect()
    }

    pub async fn rollback(&self) -> Result<Undone, StepError> {
        stop::rollback(&self.machine.ground(), &self.config, &self.cx(Op::Rollback), Op::Apply, self.undo())
            .await
    }

    pub fn serves_as_before(&self) -> bool {
        self.machine.unit(|unit| unit.is_running() && unit.enabled && !unit.mask_on_disk && !unit.mask_loaded)
    }
}

/// The keys of the findings of one severity.
pub fn keys(findings: &[Finding], severity: Severity) -> Vec<&str> {
    findings.iter().filter(|f| f.severity == severity).map(|f| f.key.as_str()).collect()
}

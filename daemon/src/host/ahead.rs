//! The step host of the next call, started while the call before it still runs: users need not wait for it in the window.
//!
//! It has nothing to do until it is told its call. Whatever keeps it from being of use (another call comes, it has ended meanwhile, it has
//! waited for too long) costs a start, and nothing else.

use super::{HostLimits, Launcher, NotLaunched, Running, Start, Trust};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// A step host that has waited for longer is not used. Its own lifetime is longer by this.
const WAITS_AT_MOST: Duration = Duration::from_secs(300);

/// Starts step hosts through another launcher, and one ahead of its call.
#[derive(Clone)]
pub struct AheadLauncher {
    launcher: Arc<dyn Launcher>,
    waiting: Arc<Mutex<Option<Waiting>>>,
    /// What is started ahead once this one has started another.
    next: Option<Start>,
    waits_at_most: Duration,
}

struct Waiting {
    start: Start,
    since: Instant,
    running: Running,
}

impl std::fmt::Debug for AheadLauncher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AheadLauncher").field("next", &self.next).finish_non_exhaustive()
    }
}

impl AheadLauncher {
    /// Starts them through `launcher`.
    #[must_use]
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        AheadLauncher { launcher, waiting: Arc::default(), next: None, waits_at_most: WAITS_AT_MOST }
    }

    /// The same, and after the step host of the very next call it starts that of the call expected thereafter.
    #[must_use]
    pub fn expecting(&self, next: Option<Start>) -> Self {
        AheadLauncher { next, ..self.clone() }
    }

    /// Returns at once; the call that it is for waits until it is there.
    fn start_ahead(&self, mut start: Start) {
        // Taken here, so that the call cannot come before. While somebody else holds it there is nothing to expect.
        let Ok(mut waiting) = Arc::clone(&self.waiting).try_lock_owned() else { return };
        let ahead = self.clone();
        tokio::spawn(async move {
            start.lifetime += ahead.waits_at_most;
            // Why it fails is told when the call itself is made.
            let Ok(running) = ahead.launcher.launch(&start).await else { return };
            let since = Instant::now();
            *waiting = Some(Waiting { start, since, running });
            drop(waiting);
            tokio::time::sleep(ahead.waits_at_most).await;
            let mut waiting = ahead.waiting.lock().await;
            if waiting.as_ref().is_some_and(|waiting| waiting.since == since)
                && let Some(unused) = waiting.take()
            {
                ahead.end(unused).await;
            }
        });
    }

    async fn start(&self, start: &Start) -> Result<Running, NotLaunched> {
        let running = self.take_or_launch(start).await?;
        if let Some(next) = &self.next {
            self.start_ahead(next.clone());
        }
        Ok(running)
    }

    async fn take_or_launch(&self, start: &Start) -> Result<Running, NotLaunched> {
        let waiting = self.waiting.lock().await.take();
        if let Some(mut waiting) = waiting {
            let fits = Start { lifetime: start.lifetime, ..waiting.start.clone() } == *start;
            if fits && waiting.running.process.ended(Duration::ZERO).await.is_none() {
                return Ok(waiting.running);
            }
            // A unit of the same name must be gone before it is started anew.
            self.end(waiting).await;
        }
        self.launcher.launch(start).await
    }

    async fn end(&self, mut waiting: Waiting) {
        waiting.running.process.finish(self.launcher.limits().exit_grace).await;
    }
}

impl Launcher for AheadLauncher {
    fn launch<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>> {
        Box::pin(self.start(start))
    }

    fn limits(&self) -> &HostLimits {
        self.launcher.limits()
    }

    fn trust(&self) -> &Trust {
        self.launcher.trust()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PluginRef, StepProcess};
    use super::*;
    use std::sync::Mutex as StdMutex;
    use tokio::net::UnixStream;

    type Told = Arc<StdMutex<Vec<String>>>;

    /// Starts nothing, and tells what it would.
    struct Telling(Told, HostLimits, Trust);

    struct Process {
        told: Told,
        what: String,
        ended: bool,
    }

    impl Launcher for Telling {
        fn launch<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>> {
            self.0.lock().unwrap().push(format!("start {}", start.what));
            let ended = start.what == "ends";
            let process = Process { told: Arc::clone(&self.0), what: start.what.clone(), ended };
            let (socket, _) = UnixStream::pair().unwrap();
            Box::pin(async move { Ok(Running { socket, outputs: Vec::new(), process: Box::new(process) }) })
        }

        fn limits(&self) -> &HostLimits {
            &self.1
        }

        fn trust(&self) -> &Trust {
            &self.2
        }
    }

    impl StepProcess for Process {
        fn terminate(&mut self) {}

        fn kill(&mut self) {}

        fn ended(&mut self, _: Duration) -> BoxFuture<'_, Option<String>> {
            Box::pin(async { self.ended.then(|| "ended".into()) })
        }

        fn finish(&mut self, _: Duration) -> BoxFuture<'_, bool> {
            self.told.lock().unwrap().push(format!("end {}", self.what));
            Box::pin(async { true })
        }
    }

    fn of(what: &str) -> Start {
        Start {
            plugin: PluginRef::BuiltIn("x".into()),
            what: what.into(),
            needs: None,
            settings: serde_json::Value::Null,
            state_dir: None,
            lifetime: Duration::from_secs(1),
            seat: None,
        }
    }

    fn ahead(told: &Told) -> AheadLauncher {
        AheadLauncher::new(Arc::new(Telling(Arc::clone(told), HostLimits::default(), Trust::default())))
    }

    /// Makes calls, each with the one that is expected thereafter.
    async fn calls(calls: &[(&str, Option<&str>)]) -> Vec<String> {
        let told = Told::default();
        let ahead =
            AheadLauncher::new(Arc::new(Telling(Arc::clone(&told), HostLimits::default(), Trust::default())));
        for (call, next) in calls {
            let running = ahead.expecting(next.map(of)).launch(&of(call)).await.unwrap();
            told.lock().unwrap().push(format!("call {call}"));
            // The call lasts until the next one's process is there.
            drop(ahead.waiting.lock().await);
            drop(running);
        }
        told.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn the_process_of_the_expected_call_is_there_before_the_call() {
        let told = calls(&[("stop", Some("container")), ("container", None), ("route", None)]).await;
        assert_eq!(
            told,
            ["start stop", "call stop", "start container", "call container", "start route", "call route"]
        );
    }

    #[tokio::test]
    async fn another_call_than_the_expected_one_gets_a_process_of_its_own_when_that_of_the_other_is_gone() {
        let told = calls(&[("stop", Some("container")), ("rollback", None)]).await;
        assert_eq!(
            told,
            [
                "start stop",
                "call stop",
                "start container",
                "end container",
                "start rollback",
                "call rollback"
            ]
        );
    }

    #[tokio::test]
    async fn a_process_that_has_ended_while_it_waited_is_replaced() {
        let told = calls(&[("stop", Some("ends")), ("ends", None)]).await;
        assert_eq!(told, ["start stop", "call stop", "start ends", "end ends", "start ends", "call ends"]);
    }

    #[tokio::test]
    async fn a_process_that_nobody_uses_ends_after_a_while() {
        let told = Told::default();
        let ahead = AheadLauncher { waits_at_most: Duration::from_millis(1), ..ahead(&told) };
        ahead.expecting(Some(of("container"))).launch(&of("stop")).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while told.lock().unwrap().last().is_none_or(|last| last != "end container") {
            assert!(Instant::now() < deadline, "{told:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(ahead.waiting.lock().await.is_none());
    }
}

//! The step hosts of the calls to come, started while the calls before them still run: users need not wait for them in the window.
//!
//! They have nothing to do until they are told their call. Whatever keeps one from being of use (another call comes, it has ended
//! meanwhile, it has waited for too long) costs a start, and nothing else.

use super::{HostLimits, Launcher, NotLaunched, Running, Start, Trust};
use futures_util::future::{BoxFuture, join_all};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::timeout;

/// A step host that has waited for longer is not used. Its own lifetime is longer by this.
const WAITS_AT_MOST: Duration = Duration::from_secs(300);

/// How long the next start waits for the first word of the one before. Shorter than the call's own limit, which begins after it.
const BEGINS_WITHIN: Duration = Duration::from_secs(10);

/// Starts step hosts through another launcher, and some ahead of their calls.
#[derive(Clone)]
pub struct AheadLauncher {
    launcher: Arc<dyn Launcher>,
    /// In the order of their calls.
    waiting: Arc<Mutex<VecDeque<Waiting>>>,
    /// What is started ahead once this one has started another.
    next: Vec<Start>,
    waits_at_most: Duration,
    begins_within: Duration,
}

/// A step host that waits for its call, or will: it is locked until it was started.
#[derive(Clone)]
struct Waiting {
    start: Start,
    process: Arc<AsyncMutex<Process>>,
}

#[derive(Default)]
enum Process {
    #[default]
    NotYet,
    Waits(Running),
    /// It is used, or of no use.
    Gone,
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
        AheadLauncher {
            launcher,
            waiting: Arc::default(),
            next: Vec::new(),
            waits_at_most: WAITS_AT_MOST,
            begins_within: BEGINS_WITHIN,
        }
    }

    /// The same, and after the step host of the very next call it starts those of the calls expected thereafter.
    #[must_use]
    pub fn expecting(&self, next: Vec<Start>) -> Self {
        AheadLauncher { next, ..self.clone() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts one after the other those that are expected and do not wait yet. Returns at once; the call that one is for waits until
    /// it is there.
    fn start_ahead(&self) {
        let mut wanted = Vec::new();
        {
            let mut waiting = self.waiting();
            for next in &self.next {
                if waiting.iter().any(|waiting| waiting.start == *next) {
                    continue;
                }
                let process = Arc::new(AsyncMutex::new(Process::NotYet));
                // Nobody else has seen it yet.
                let Ok(place) = Arc::clone(&process).try_lock_owned() else { continue };
                waiting.push_back(Waiting { start: next.clone(), process: Arc::clone(&process) });
                wanted.push((next.clone(), place));
            }
        }
        let ahead = self.clone();
        tokio::spawn(async move {
            for (start, place) in wanted {
                ahead.start_one(start, place).await;
            }
        });
    }

    async fn start_one(&self, start: Start, mut place: OwnedMutexGuard<Process>) {
        let process = Arc::clone(OwnedMutexGuard::mutex(&place));
        let this = move |waiting: &Waiting| Arc::ptr_eq(&waiting.process, &process);
        if !self.waiting().iter().any(&this) {
            return; // the calls have gone another way
        }
        let longer = Start { lifetime: start.lifetime + self.waits_at_most, ..start };
        // Why it fails is told when the call itself is made.
        let Ok(running) = self.launcher.launch(&longer).await else { return };
        self.has_begun(&running.socket).await;
        *place = Process::Waits(running);
        drop(place);
        let ahead = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ahead.waits_at_most).await;
            let unused = {
                let mut waiting = ahead.waiting();
                let place = waiting.iter().position(this);
                place.and_then(|place| waiting.remove(place))
            };
            if let Some(unused) = unused {
                ahead.end(unused).await;
            }
        });
    }

    async fn start(&self, start: &Start) -> Result<Running, NotLaunched> {
        let running = self.take_or_launch(start).await?;
        if !self.next.is_empty() {
            self.has_begun(&running.socket).await;
            self.start_ahead();
        }
        Ok(running)
    }

    /// Waits for its first word: a slow machine is not asked to start the next one at the same time.
    async fn has_begun(&self, socket: &UnixStream) {
        // Whether it says it in time is for the call to judge.
        let _ = timeout(self.begins_within, socket.readable()).await;
    }

    async fn take_or_launch(&self, start: &Start) -> Result<Running, NotLaunched> {
        let (passed, mine) = {
            let mut waiting = self.waiting();
            match waiting.iter().position(|waiting| waiting.start == *start) {
                Some(place) => (waiting.drain(..place).collect::<Vec<_>>(), waiting.pop_front()),
                None => (waiting.drain(..).collect(), None),
            }
        };
        // A unit of the same name must be gone before it is started anew.
        join_all(passed.into_iter().map(|other| self.end(other))).await;
        if let Some(mine) = mine
            && let Process::Waits(mut running) = mine.take().await
        {
            if running.process.ended(Duration::ZERO).await.is_none() {
                return Ok(running);
            }
            self.finish(running).await;
        }
        self.launcher.launch(start).await
    }

    async fn end(&self, waiting: Waiting) {
        if let Process::Waits(running) = waiting.take().await {
            self.finish(running).await;
        }
    }

    async fn finish(&self, running: Running) {
        let Running { socket, mut process, .. } = running;
        // It ends by itself when nobody can call it any more.
        drop(socket);
        process.finish(self.launcher.limits().exit_grace).await;
    }
}

impl Waiting {
    /// Once it was started, if it is being started.
    async fn take(&self) -> Process {
        std::mem::replace(&mut *self.process.lock().await, Process::Gone)
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
    use std::time::Instant;

    type Told = Arc<Mutex<Vec<String>>>;

    /// Starts nothing, and tells what it would.
    struct Telling {
        told: Told,
        limits: HostLimits,
        trust: Trust,
        /// The ends of those that have not said their first word.
        mute: Mutex<Vec<UnixStream>>,
    }

    struct Idle {
        told: Told,
        what: String,
        ended: bool,
    }

    impl Launcher for Telling {
        fn launch<'a>(&'a self, start: &'a Start) -> BoxFuture<'a, Result<Running, NotLaunched>> {
            self.told.lock().unwrap().push(format!("start {}", start.what));
            let ended = start.what == "ends";
            let process = Idle { told: Arc::clone(&self.told), what: start.what.clone(), ended };
            let (socket, theirs) = UnixStream::pair().unwrap();
            if start.what == "mute" {
                self.mute.lock().unwrap().push(theirs);
            }
            Box::pin(async move { Ok(Running { socket, outputs: Vec::new(), process: Box::new(process) }) })
        }

        fn limits(&self) -> &HostLimits {
            &self.limits
        }

        fn trust(&self) -> &Trust {
            &self.trust
        }
    }

    impl StepProcess for Idle {
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

    fn telling(told: &Told) -> Arc<Telling> {
        let (told, mute) = (Arc::clone(told), Mutex::default());
        Arc::new(Telling { told, limits: HostLimits::default(), trust: Trust::default(), mute })
    }

    fn ahead(told: &Told) -> AheadLauncher {
        AheadLauncher::new(telling(told))
    }

    /// Makes calls, each with those that are expected thereafter.
    async fn calls(calls: &[(&str, &[&str])]) -> Vec<String> {
        let told = Told::default();
        let ahead = ahead(&told);
        for (call, next) in calls {
            let next = next.iter().map(|what| of(what)).collect();
            let running = ahead.expecting(next).launch(&of(call)).await.unwrap();
            told.lock().unwrap().push(format!("call {call}"));
            // The call lasts until the others' processes are there.
            let others: Vec<Waiting> = ahead.waiting().iter().cloned().collect();
            for other in others {
                drop(other.process.lock().await);
            }
            drop(running);
        }
        told.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn the_processes_of_the_expected_calls_are_there_before_the_calls() {
        let told = calls(&[
            ("stop", &["container", "route"]),
            ("container", &["route", "clear"]),
            ("route", &["clear"]),
        ])
        .await;
        assert_eq!(
            told,
            [
                "start stop",
                "call stop",
                "start container",
                "start route",
                "call container",
                "start clear",
                "call route"
            ]
        );
    }

    #[tokio::test]
    async fn another_call_than_the_expected_ones_gets_a_process_of_its_own_when_those_of_the_others_are_gone()
    {
        let told = calls(&[("stop", &["container", "route"]), ("rollback", &[])]).await;
        assert_eq!(told[..4], ["start stop", "call stop", "start container", "start route"]);
        assert_eq!(told[4..], ["end container", "end route", "start rollback", "call rollback"]);
    }

    #[tokio::test]
    async fn a_process_whose_call_is_left_out_ends_and_those_behind_it_are_used() {
        let told = calls(&[("stop", &["container", "route"]), ("route", &[])]).await;
        assert_eq!(told[2..], ["start container", "start route", "end container", "call route"]);
    }

    #[tokio::test]
    async fn the_next_is_started_when_the_one_before_has_said_its_first_word() {
        let told = Told::default();
        let launcher = telling(&told);
        let ahead = AheadLauncher::new(Arc::clone(&launcher) as Arc<dyn Launcher>);
        ahead.expecting(vec![of("mute"), of("route")]).launch(&of("stop")).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let goes_on_to = async |last: &str| {
            while told.lock().unwrap().last().is_none_or(|told| told != last) {
                assert!(Instant::now() < deadline, "{told:?}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        goes_on_to("start mute").await;
        // Everything that can go on does, as often as it likes.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*told.lock().unwrap(), ["start stop", "start mute"]);
        launcher.mute.lock().unwrap().clear();
        goes_on_to("start route").await;
    }

    #[tokio::test]
    async fn a_process_that_has_ended_while_it_waited_is_replaced() {
        let told = calls(&[("stop", &["ends"]), ("ends", &[])]).await;
        assert_eq!(told, ["start stop", "call stop", "start ends", "end ends", "start ends", "call ends"]);
    }

    #[tokio::test]
    async fn a_process_that_nobody_uses_ends_after_a_while() {
        let told = Told::default();
        let ahead = AheadLauncher { waits_at_most: Duration::from_millis(1), ..ahead(&told) };
        ahead.expecting(vec![of("container")]).launch(&of("stop")).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while told.lock().unwrap().last().is_none_or(|last| last != "end container") {
            assert!(Instant::now() < deadline, "{told:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(ahead.waiting().is_empty());
    }
}

//! Builds items, a bounded number at a time, and writes down what becomes of each.

use super::items::{Item, Items, ItemsError};
use super::journal::{Earlier, Event, Journal, JournalError};
use super::log::{BuildLog, cut};
use super::pace::Pace;
use crate::follow::{Backoff, FollowError, Patience, follow};
use connect_migrator_connect::api::{Api, ApiError};
use connect_migrator_sdk::{Context, Progress};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time between two progress reports, and between two checkpoints.
const PROGRESS_EVERY_MILLIS: u64 = 250;
const CHECKPOINT_EVERY_MILLIS: u64 = 1_000;
/// How long a call that is to end waits for the answers to its last submissions, and how often it looks.
const LANDING_MAX_MILLIS: u64 = 3_000;
const LANDING_LOOK_MILLIS: u64 = 20;

/// How a rebuild is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many builds are to run at once.
    pub parallelism: usize,
    /// How many more are submitted, to wait in the server's own queue.
    pub submit_ahead: usize,
    /// How often an item that failed is tried again.
    pub retry: u32,
    /// How many items may fail for good before nothing more is submitted.
    pub max_failed: Option<usize>,
    /// When nothing more is waited for; `None`: never.
    pub until: Option<Instant>,
    /// Time-outs.
    pub patience: Patience,
}

/// An item that failed for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The content's id.
    pub guid: String,
    /// What people call it.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Why.
    pub error: String,
}

/// What became of all items.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Built, in this call or an earlier one.
    pub complete: usize,
    /// Of these, built in an earlier call.
    pub before: usize,
    /// Failed for good.
    pub failed: Vec<Failed>,
    /// Not tried, because too many had failed.
    pub not_tried: usize,
    /// Not built when the time for all was over. What the server was building then it may still finish.
    pub out_of_time: usize,
}

/// What ends a rebuild before its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The call was asked to end.
    #[error("it was asked to stop")]
    Cancelled,
    /// The server cannot be used any more.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The list.
    #[error(transparent)]
    Items(#[from] ItemsError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A log of a build.
    #[error("the log of a build: {0}")]
    Log(#[from] std::io::Error),
}

/// Where a rebuild stands, as kept by the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Built.
    pub complete: usize,
    /// Failed for good.
    pub failed: usize,
    /// All that are to be built.
    pub total: usize,
}

/// One rebuild.
#[derive(Debug)]
pub struct Run<'a> {
    api: &'a Api,
    cx: &'a Context,
    items: &'a Items,
    limits: Limits,
    logs: PathBuf,
    earlier: HashMap<String, Earlier>,
    journal: Mutex<Journal>,
    pace: Mutex<Pace>,
    heard: Mutex<Instant>,
    /// How many items were given up since.
    given_up: AtomicUsize,
    submitting: AtomicUsize,
}

#[derive(Debug)]
struct Job {
    at: usize,
    /// How often it failed before.
    failed: u32,
    task: Option<String>,
}

#[derive(Debug)]
enum Ended {
    Built,
    Failed { error: String, again: bool },
}

/// What is still to be done: first what the server may be building already, then the rest in order, then what failed once.
#[derive(Debug, Default)]
struct Queue {
    first: VecDeque<Job>,
    next: usize,
    again: VecDeque<Job>,
}

impl<'a> Run<'a> {
    /// A rebuild of `items` that goes on from what `journal` said `earlier`. Logs go below the folder `logs`.
    #[must_use]
    pub fn new(
        api: &'a Api,
        cx: &'a Context,
        items: &'a Items,
        limits: Limits,
        logs: PathBuf,
        (journal, earlier): (Journal, HashMap<String, Earlier>),
    ) -> Run<'a> {
        Run {
            api,
            cx,
            items,
            limits,
            logs,
            earlier,
            journal: Mutex::new(journal),
            pace: Mutex::default(),
            heard: Mutex::new(Instant::now()),
            given_up: AtomicUsize::new(0),
            submitting: AtomicUsize::new(0),
        }
    }

    /// Builds all. Dropping the future stops it at any point; what the server builds goes on there, and a later run follows it.
    ///
    /// # Errors
    /// When the rebuild as a whole cannot go on. Failures of items are in the [`Tally`].
    pub async fn all(mut self) -> Result<Tally, RunError> {
        let mut tally = Tally::default();
        let mut queue = Queue::default();
        if !self.earlier.is_empty() {
            self.take_up(&mut queue)?;
        }
        let done = self.work(&mut queue, &mut tally).await;
        let synced = held(&self.journal).sync();
        let _ = self.cx.checkpoint(&self.cursor(&tally));
        done?;
        synced?;
        Ok(tally)
    }

    /// Puts the builds that an earlier call submitted and did not see end first.
    fn take_up(&mut self, queue: &mut Queue) -> Result<(), RunError> {
        for at in 0..self.items.len() {
            let Some(item) = self.items.get(at)? else { break };
            let Some(earlier) = self.earlier.get_mut(&item.guid) else { continue };
            if earlier.bundle != item.bundle {
                self.earlier.remove(&item.guid);
            } else if let Some(task) = earlier.task.take() {
                queue.first.push_back(Job { at, failed: earlier.failed, task: Some(task) });
            } else {
                continue;
            }
        }
        Ok(())
    }

    async fn work(&self, queue: &mut Queue, tally: &mut Tally) -> Result<(), RunError> {
        let taken_up: Vec<usize> = queue.first.iter().map(|job| job.at).collect();
        let mut running = FuturesUnordered::new();
        let (mut told, mut kept) = (None, None);
        let over = async {
            match self.limits.until {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut over = std::pin::pin!(over);
        loop {
            while running.len() < self.limits.parallelism + self.limits.submit_ahead {
                let Some(job) = self.next(queue, tally, &taken_up)? else { break };
                running.push(self.one(job));
            }
            if every(&mut told, PROGRESS_EVERY_MILLIS) {
                self.tell(tally, running.len());
            }
            if every(&mut kept, CHECKPOINT_EVERY_MILLIS) {
                let _ = self.cx.checkpoint(&self.cursor(tally));
            }
            let ended = tokio::select! {
                ended = running.next() => ended,
                () = &mut over => {
                    self.let_submissions_land(&mut running).await;
                    let ended = tally.complete + tally.failed.len();
                    tally.out_of_time = self.items.len().saturating_sub(ended);
                    break;
                }
                () = self.cx.cancelled() => {
                    self.let_submissions_land(&mut running).await;
                    return Err(RunError::Cancelled);
                }
            };
            let Some(ended) = ended else { break };
            match ended? {
                (_, _, Ended::Built) => tally.complete += 1,
                (mut job, item, Ended::Failed { error, again }) => {
                    job.failed += 1;
                    job.task = None;
                    if again && job.failed <= self.limits.retry {
                        self.cx.info(format!("{} failed and will be tried again: {error}", item.name));
                        queue.again.push_back(job);
                    } else {
                        self.cx.warn(format!("{} ({}) cannot be built: {error}", item.name, item.guid));
                        tally.failed.push(failed(item, error));
                    }
                }
            }
        }
        self.tell(tally, 0);
        Ok(())
    }

    /// Waits until no submission is on its way: its task could not be followed later, and would be built twice.
    async fn let_submissions_land(&self, running: &mut FuturesUnordered<impl Future>) {
        let began = Instant::now();
        let bound = Duration::from_millis(LANDING_MAX_MILLIS);
        while self.submitting.load(Ordering::Relaxed) > 0 && began.elapsed() < bound {
            let _ = tokio::time::timeout(Duration::from_millis(LANDING_LOOK_MILLIS), running.next()).await;
        }
    }

    /// The next item to build. Counts those that need no work any more.
    fn next(
        &self,
        queue: &mut Queue,
        tally: &mut Tally,
        taken_up: &[usize],
    ) -> Result<Option<Job>, RunError> {
        if self.limits.max_failed.is_some_and(|max| tally.failed.len() > max) {
            tally.not_tried = (queue.first.len() + queue.again.len())
                + (queue.next..self.items.len()).filter(|at| taken_up.binary_search(at).is_err()).count();
            return Ok(None);
        }
        if let Some(job) = queue.first.pop_front() {
            return Ok(Some(job));
        }
        while queue.next < self.items.len() {
            let at = queue.next;
            queue.next += 1;
            if self.earlier.is_empty() {
                return Ok(Some(Job { at, failed: 0, task: None }));
            }
            if taken_up.binary_search(&at).is_ok() {
                continue;
            }
            let Some(item) = self.items.get(at)? else { break };
            match self.earlier.get(&item.guid) {
                Some(earlier) if earlier.built => {
                    tally.complete += 1;
                    tally.before += 1;
                }
                Some(earlier) if earlier.failed > 0 => {
                    let job = Job { at, failed: earlier.failed, task: None };
                    if earlier.again && earlier.failed <= self.limits.retry {
                        queue.again.push_back(job);
                    } else {
                        tally.failed.push(failed(item, earlier.error.clone()));
                    }
                }
                _ => return Ok(Some(Job { at, failed: 0, task: None })),
            }
        }
        Ok(queue.again.pop_front())
    }

    fn cursor(&self, tally: &Tally) -> Cursor {
        Cursor { complete: tally.complete, failed: tally.failed.len(), total: self.items.len() }
    }

    fn tell(&self, tally: &Tally, running: usize) {
        let doing = match tally.failed.len() {
            0 => format!("building content, {running} at once"),
            failed => format!("building content, {running} at once; {failed} failed"),
        };
        self.cx.progress(&Progress {
            doing,
            done: Some((tally.complete + tally.failed.len()) as u64),
            total: Some(self.items.len() as u64),
            unit: Some("items".into()),
        });
    }

    /// Builds one item. Its end is in the journal before this answers.
    async fn one(&self, mut job: Job) -> Result<(Job, Item, Ended), RunError> {
        let Some(item) = self.items.get(job.at)? else {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        };
        let ended = self.build(&item, job.task.take()).await?;
        let (guid, bundle) = (item.guid.clone(), item.bundle.clone());
        self.write(&match &ended {
            Ended::Built => Event::Built { guid, bundle },
            Ended::Failed { error, again } => {
                Event::Failed { guid, bundle, error: error.clone(), again: *again }
            }
        })?;
        Ok((job, item, ended))
    }

    fn write(&self, event: &Event) -> Result<(), RunError> {
        Ok(held(&self.journal).write(event)?)
    }

    async fn build(&self, item: &Item, task: Option<String>) -> Result<Ended, RunError> {
        if let Some(task) = task {
            // An earlier call submitted it. Lost with a restart of the server: submitted again.
            match self.follow(item, &task).await? {
                Some(ended) => return Ok(ended),
                None => self.cx.debug(format!("the server no longer knows the build of {}", item.name)),
            }
        }
        self.submitting.fetch_add(1, Ordering::Relaxed);
        let submitted = self.submit(item).await;
        self.submitting.fetch_sub(1, Ordering::Relaxed);
        let task = match submitted? {
            Ok(task) => task,
            Err(ended) => return Ok(ended),
        };
        let (guid, bundle) = (item.guid.clone(), item.bundle.clone());
        self.write(&Event::Submitted { guid, bundle, task: task.clone() })?;
        let lost = || Ended::Failed { error: "the server lost the task".into(), again: true };
        Ok(self.follow(item, &task).await?.unwrap_or_else(lost))
    }

    async fn submit(&self, item: &Item) -> Result<Result<String, Ended>, RunError> {
        let mut away = Backoff::default();
        loop {
            let asked = Instant::now();
            let error = match self.api.build(&item.guid, Some(&item.bundle)).await {
                Ok(task) => {
                    held(&self.pace).round_trip(asked.elapsed());
                    self.hear();
                    return Ok(Ok(task));
                }
                Err(error) => error,
            };
            if error.is_away() {
                if !away.pause(self.limits.patience.away).await {
                    return self.given_up(error).await.map(Err);
                }
            } else if error.status() == Some(401) || matches!(error, ApiError::NoEndpoint { .. }) {
                return Err(error.into());
            } else {
                // Only the server's own trouble may go away by itself.
                let again = error.status().is_none_or(|status| status >= 500);
                return Ok(Err(Ended::Failed { error: cut(&error.to_string()), again }));
            }
        }
    }

    /// The server gave a good answer.
    fn hear(&self) {
        *held(&self.heard) = Instant::now();
        self.given_up.store(0, Ordering::Relaxed);
    }

    /// The server gave no good answer about one item for long. If it gave none to anybody, and none about several items or none at
    /// all, it is gone.
    async fn given_up(&self, error: ApiError) -> Result<Ended, RunError> {
        let silent = held(&self.heard).elapsed() >= self.limits.patience.away;
        let many = self.given_up.fetch_add(1, Ordering::Relaxed) >= self.limits.parallelism;
        if silent && (many || self.api.ping().await.is_err()) {
            return Err(error.into());
        }
        Ok(Ended::Failed { error: cut(&error.to_string()), again: true })
    }

    /// `None`: the server does not know the task.
    async fn follow(&self, item: &Item, task: &str) -> Result<Option<Ended>, RunError> {
        let mut log = BuildLog::new(&self.logs, &item.guid);
        let mut logged = Ok(());
        let mut began: Option<Instant> = None;
        let followed = follow(self.api, task, &self.limits.patience, |answer| {
            self.hear();
            if let Err(error) = log.add(&answer.output) {
                logged = Err(error);
            }
            let spent = match began {
                Some(began) => began.elapsed(),
                None if answer.output.is_empty() => return Duration::ZERO,
                None => {
                    began = Some(Instant::now());
                    Duration::ZERO
                }
            };
            let mut pace = held(&self.pace);
            if answer.succeeded() {
                pace.took(spent);
            }
            pace.pause(spent)
        })
        .await;
        logged?;
        match followed {
            Ok(task) if task.succeeded() => Ok(Some(Ended::Built)),
            Ok(task) => Ok(Some(Ended::Failed { error: log.cause(&task.error), again: true })),
            Err(FollowError::Lost { .. }) => Ok(None),
            Err(error @ FollowError::TooLong { .. }) => {
                Ok(Some(Ended::Failed { error: error.to_string(), again: false }))
            }
            Err(FollowError::Api(error)) if error.status() == Some(401) => Err(error.into()),
            Err(FollowError::Api(error)) => self.given_up(error).await.map(Some),
        }
    }
}

fn failed(item: Item, error: String) -> Failed {
    Failed { guid: item.guid, name: item.name, owner: item.owner, error }
}

/// Whether `millis` have passed since it last said so.
fn every(last: &mut Option<Instant>, millis: u64) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= Duration::from_millis(millis));
    if due {
        *last = Some(Instant::now());
    }
    due
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

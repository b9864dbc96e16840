//! A double of the server: the calls that the steps make, with every way to misbehave that a test asks for.
#![allow(dead_code, reason = "each test file uses its part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test double"
)]

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{Request, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Context, Invocation, Migration, Op, SecretRef, Source, Target};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};

pub const KEY: &str = "k3y-of-the-administrator";

/// How builds of one item go.
#[derive(Clone)]
pub struct Builds {
    pub lines: Vec<String>,
    pub millis: u64,
    /// The first so many attempts fail.
    pub fail_first: u32,
    pub error: String,
    /// The task of the first attempt is forgotten when it is asked for.
    pub forget_first: bool,
    /// Submitting answers this instead.
    pub refuse: Option<(u16, Value)>,
}

impl Default for Builds {
    fn default() -> Self {
        let lines = ["one", "two", "three"].map(str::to_owned).to_vec();
        Builds {
            lines,
            millis: 6,
            fail_first: 0,
            error: "it failed".into(),
            forget_first: false,
            refuse: None,
        }
    }
}

struct Task {
    guid: String,
    output: Vec<String>,
    finished: bool,
    code: i64,
    error: String,
    news: Arc<Notify>,
}

pub struct Knobs {
    /// Status and body of `/v1/user`.
    pub user: (u16, Value),
    pub version: Value,
    pub content: Vec<Value>,
    pub builds: HashMap<String, Builds>,
    pub default_builds: Builds,
    pub caches: Vec<Value>,
    pub caches_known: bool,
    /// Deleting the named version fails so often.
    pub stubborn: HashMap<String, u32>,
    /// Deleting the named version is never answered.
    pub hanging: Option<String>,
    /// The trial deletion of the named version fails.
    pub dry_run_fails: Option<String>,
    /// Deleting removes `packrat/<version>` and `python-environments/<version>` here.
    pub data_dir: Option<PathBuf>,
    /// Every n-th question about a task is answered by a failing gateway.
    pub gateway_fails_every: u64,
    /// All calls but ping answer 401 from this number of submissions on.
    pub key_dies_after: Option<usize>,
    /// All calls answer 503.
    pub away: bool,
}

#[derive(Default)]
pub struct Seen {
    pub requests: u64,
    pub task_questions: u64,
    pub submitted: Vec<String>,
    pub finished: Vec<String>,
    pub running: usize,
    pub max_running: usize,
    pub max_open: usize,
    pub dry_runs: usize,
    pub deleted: Vec<String>,
    pub keys: Vec<String>,
    pub hosts: Vec<String>,
}

pub struct Double {
    knobs: Mutex<Knobs>,
    seen: Mutex<Seen>,
    tasks: Mutex<HashMap<String, Task>>,
    slots: Semaphore,
    pub url: String,
    pub address: String,
}

impl Double {
    pub async fn start(slots: usize) -> Arc<Double> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let admin = json!({"guid": "u", "username": "ada", "user_role": "administrator", "locked": false});
        let double = Arc::new(Double {
            knobs: Mutex::new(Knobs {
                user: (200, admin),
                version: json!("2026.03.1"),
                content: Vec::new(),
                builds: HashMap::new(),
                default_builds: Builds::default(),
                caches: Vec::new(),
                caches_known: true,
                stubborn: HashMap::new(),
                hanging: None,
                dry_run_fails: None,
                data_dir: None,
                gateway_fails_every: 0,
                key_dies_after: None,
                away: false,
            }),
            seen: Mutex::default(),
            tasks: Mutex::default(),
            slots: Semaphore::new(slots),
            url: format!("http://{address}"),
            address,
        });
        let app = Router::new()
            .route("/__ping__", get(|| async { Json(json!({})) }))
            .route("/__api__/server_settings", get(settings))
            .route("/__api__/v1/user", get(user))
            .route("/__api__/v1/content", get(content))
            .route("/__api__/v1/content/{guid}", get(item))
            .route("/__api__/v1/content/{guid}/build", post(build))
            .route("/__api__/v1/tasks/{id}", get(task))
            .route("/__api__/v1/system/caches/runtime", get(caches).delete(delete_cache))
            .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found") })
            .layer(middleware::from_fn_with_state(Arc::clone(&double), gate))
            .with_state(Arc::clone(&double));
        tokio::spawn(async move { axum::serve(listener, app).await });
        double
    }

    pub fn knobs(&self) -> MutexGuard<'_, Knobs> {
        self.knobs.lock().unwrap()
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Adds items `a0`, `a1`, …, each deployed a minute before the one before it.
    pub fn add_items(&self, count: usize) {
        let mut knobs = self.knobs();
        for n in 0..count {
            let time = format!("2024-01-{:02}T{:02}:{:02}:00Z", 28 - n / 1440, 23 - n / 60 % 24, 59 - n % 60);
            knobs.content.push(json!({
                "guid": format!("a{n}"), "title": format!("Item {n}"), "bundle_id": format!("{n}"),
                "app_mode": "shiny", "r_version": "4.3.0", "py_version": null, "last_deployed_time": time,
                "owner": {"guid": "u", "username": "ada"}, "new_field": {"x": [1]},
            }));
        }
    }

    fn refusal(&self, request: &Request<Body>) -> Option<Response> {
        let header = |name: &str| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let key = header("authorization");
        let mut seen = self.seen();
        seen.requests += 1;
        seen.keys.push(key.clone());
        seen.hosts.push(header("host"));
        let submitted = seen.submitted.len();
        drop(seen);
        let knobs = self.knobs();
        if knobs.away {
            return Some(StatusCode::SERVICE_UNAVAILABLE.into_response());
        }
        let dead = knobs.key_dies_after.is_some_and(|after| submitted >= after);
        let wrong = request.uri().path() != "/__ping__" && (dead || key != format!("Key {KEY}"));
        wrong.then(|| said(401, json!({"code": 3, "error": "Key is not valid"})))
    }

    /// The server starts again: it knows none of its tasks any more, and builds nothing.
    pub fn restart(&self) {
        self.tasks.lock().unwrap().clear();
    }

    pub fn forget_seen(&self) {
        *self.seen() = Seen::default();
    }
}

async fn gate(State(double): State<Arc<Double>>, request: Request<Body>, next: Next) -> Response {
    match double.refusal(&request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    }
}

fn said(status: u16, body: Value) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

async fn settings(State(double): State<Arc<Double>>) -> Response {
    Json(json!({"hostname": "new", "version": double.knobs().version})).into_response()
}

async fn user(State(double): State<Arc<Double>>) -> Response {
    let (status, body) = double.knobs().user.clone();
    said(status, body)
}

async fn content(State(double): State<Arc<Double>>) -> Response {
    Json(double.knobs().content.clone()).into_response()
}

async fn item(State(double): State<Arc<Double>>, Path(guid): Path<String>) -> Response {
    match double.knobs().content.iter().find(|item| item["guid"] == json!(guid)) {
        Some(item) => Json(item.clone()).into_response(),
        None => said(404, json!({"code": 4, "error": "The requested object does not exist."})),
    }
}

async fn build(State(double): State<Arc<Double>>, Path(guid): Path<String>) -> Response {
    let builds = {
        let knobs = double.knobs();
        knobs.builds.get(&guid).unwrap_or(&knobs.default_builds).clone()
    };
    if let Some((status, body)) = builds.refuse {
        return said(status, body);
    }
    let attempt = {
        let mut seen = double.seen();
        seen.submitted.push(guid.clone());
        let open = seen.submitted.len() - seen.finished.len();
        seen.max_open = seen.max_open.max(open);
        seen.submitted.iter().filter(|other| **other == guid).count()
    };
    let id = format!("{guid}-{attempt}");
    let news = Arc::new(Notify::new());
    let task = Task {
        guid: guid.clone(),
        output: Vec::new(),
        finished: false,
        code: 0,
        error: String::new(),
        news: Arc::clone(&news),
    };
    if !(builds.forget_first && attempt == 1) {
        double.tasks.lock().unwrap().insert(id.clone(), task);
    }
    let fails = u32::try_from(attempt).unwrap() <= builds.fail_first;
    let worker = Arc::clone(&double);
    let task_id = id.clone();
    tokio::spawn(async move {
        let slot = worker.slots.acquire().await.unwrap();
        {
            let mut seen = worker.seen();
            seen.running += 1;
            seen.max_running = seen.max_running.max(seen.running);
        }
        let count = u64::try_from(builds.lines.len().max(1)).unwrap();
        for line in &builds.lines {
            tokio::time::sleep(Duration::from_millis(builds.millis / count)).await;
            if let Some(task) = worker.tasks.lock().unwrap().get_mut(&task_id) {
                task.output.push(line.clone());
                task.news.notify_waiters();
            }
        }
        {
            let mut seen = worker.seen();
            seen.running -= 1;
            seen.finished.push(guid);
        }
        if let Some(task) = worker.tasks.lock().unwrap().get_mut(&task_id) {
            task.finished = true;
            if fails {
                (task.code, task.error) = (1, builds.error);
            }
            task.news.notify_waiters();
        }
        drop(slot);
    });
    Json(json!({"task_id": id})).into_response()
}

async fn task(
    State(double): State<Arc<Double>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let asked = {
        let mut seen = double.seen();
        seen.task_questions += 1;
        seen.task_questions
    };
    let every = double.knobs().gateway_fails_every;
    if every > 0 && asked % every == 0 {
        return (StatusCode::BAD_GATEWAY, "<html>Bad Gateway</html>").into_response();
    }
    let first: usize = query["first"].parse().unwrap();
    let wait: u64 = query["wait"].parse().unwrap();
    assert!(wait <= 20, "the server refuses longer waits");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(wait);
    loop {
        let news = {
            let tasks = double.tasks.lock().unwrap();
            let Some(task) = tasks.get(&id) else {
                return said(404, json!({"code": 4, "error": "no such task"}));
            };
            assert!(first <= task.output.len(), "first is past the last line");
            if task.finished || task.output.len() > first || tokio::time::Instant::now() >= deadline {
                return Json(json!({
                    "id": id, "output": task.output[first..], "finished": task.finished, "code": task.code,
                    "error": task.error, "last": task.output.len(), "result": null,
                }))
                .into_response();
            }
            Arc::clone(&task.news)
        };
        // Notifications are not kept, so look again now and then.
        let _ = tokio::time::timeout(Duration::from_millis(2), news.notified()).await;
    }
}

async fn caches(State(double): State<Arc<Double>>) -> Response {
    let knobs = double.knobs();
    if !knobs.caches_known {
        return (StatusCode::NOT_FOUND, "404 page not found").into_response();
    }
    Json(json!({"caches": knobs.caches})).into_response()
}

async fn delete_cache(State(double): State<Arc<Double>>, Json(body): Json<Value>) -> Response {
    let version = body["version"].as_str().unwrap().to_owned();
    if body["dry_run"] == json!(true) {
        double.seen().dry_runs += 1;
        if double.knobs().dry_run_fails.as_deref() == Some(&version) {
            return said(
                403,
                json!({"code": 22, "error": "You don't have permission to perform this operation."}),
            );
        }
        return Json(json!({"task_id": null})).into_response();
    }
    let hangs = double.knobs().hanging.as_deref() == Some(&version);
    if hangs {
        std::future::pending::<()>().await;
    }
    double.seen().deleted.push(version.clone());
    let mut knobs = double.knobs();
    let known = knobs.caches.iter().any(|cache| cache["version"] == json!(version));
    if !known {
        return said(404, json!({"code": 4, "error": "Cache does not exist"}));
    }
    let id = format!("delete-{version}");
    let stubborn = knobs.stubborn.get_mut(&version).filter(|left| **left > 0).map(|left| *left -= 1);
    let mut task = Task {
        guid: String::new(),
        output: vec!["deleting".into()],
        finished: true,
        code: 0,
        error: String::new(),
        news: Arc::default(),
    };
    if stubborn.is_some() {
        (task.code, task.error) = (1, "the cache is in use".into());
    } else {
        knobs.caches.retain(|cache| cache["version"] != json!(version));
        for language in ["packrat", "python-environments"] {
            if let Some(dir) = &knobs.data_dir {
                let _ = std::fs::remove_dir_all(dir.join(language).join(&version));
            }
        }
    }
    double.tasks.lock().unwrap().insert(id.clone(), task);
    Json(json!({"task_id": id})).into_response()
}

/// A context for a call, with the double as the new server if `target` is given.
pub fn context(
    host: &Arc<MemoryHost>,
    op: Op,
    state_dir: &FilePath,
    source: Source,
    target: Option<&Double>,
) -> Context {
    host.store_secret("key", KEY);
    let mut facts = Map::new();
    if let Some(double) = target {
        let target = Target {
            engine: "docker".into(),
            name: "connect".into(),
            hostname: "new".into(),
            address: double.address.clone(),
            version: "2026.03.1".into(),
            image: "connect@sha256:0".into(),
        };
        facts.insert(Target::KEY.into(), serde_json::to_value(target).unwrap());
    }
    host.context_with(Invocation {
        step: "step".into(),
        uses: "step".into(),
        op,
        of: None,
        attempt: 1,
        config: Value::Null,
        migration: Migration { id: "0190-migration".into(), instance: "test".into() },
        source,
        state_dir: state_dir.into(),
        facts,
        routed: None,
        checkpoint: None,
        undo: Vec::new(),
    })
}

/// A source whose configuration lies in `dir`, and which listens where the double does.
pub fn source(dir: &FilePath, double: &Double) -> Source {
    let config = dir.join("rstudio-connect.gcfg");
    let text = format!(
        "[Server]\nDataDir = {}\nAddress = https://connect.example.com\n[HTTP]\nListen = {}\n",
        dir.join("data").display(),
        double.address
    );
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir_all(dir.join("data")).unwrap();
    Source {
        config,
        api_key: Some(SecretRef { credential: "key".into() }),
        install_dir: dir.join("opt"),
        ..Source::default()
    }
}

//! A double of the engine and of the server in its container, for faults that a real one shows only by luck.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "for tests only")]
#![allow(missing_debug_implementations, reason = "for tests only")]

pub mod host;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State as Extract;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

pub const ID: &str = "abababababababababababababababababababababababababababababababab";

/// What the container does once it is started.
#[derive(Clone)]
pub enum Start {
    /// It serves.
    Serve { version: Option<&'static str>, hostname: Option<&'static str> },
    /// It ends with this status.
    Exit(i64),
    /// It runs and never answers.
    Silent,
    /// The engine refuses to start it.
    Refused(&'static str),
}

/// Version and host name that the server tells, once it serves.
type Serving = Arc<Mutex<Option<(Option<&'static str>, Option<&'static str>)>>>;

pub struct State {
    pub local: bool,
    /// Of its images only that whose name has this in it is here.
    pub only: Option<&'static str>,
    pub labels: Value,
    pub security: Vec<&'static str>,
    pub api: &'static str,
    /// What the registry answers.
    pub registry: (u16, &'static str),
    /// What a build fails with; else its image is there afterwards.
    pub build_error: Option<&'static str>,
    /// The query and the size of what was sent to be built.
    pub built: Option<(String, usize)>,
    /// The last line of a pull.
    pub pull_error: Option<&'static str>,
    pub container: Option<Value>,
    pub start: Start,
    /// The status with which it ends when it is stopped.
    pub stopped_with: i64,
    pub log: String,
    pub calls: Vec<String>,
    /// A file that somebody writes to while an image is loaded.
    pub written_meanwhile: Option<PathBuf>,
    /// Calls whose path ends so are never answered.
    pub silent_at: Option<&'static str>,
    /// Tells the server in the container to serve.
    serve: Serving,
    /// The gate at which the container waits.
    held: Option<PathBuf>,
}

impl State {
    /// What the container runs begins.
    fn begin(&mut self) {
        self.held = None;
        let Some(container) = &mut self.container else { return };
        let again = container["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped";
        let (running, code) = match self.start {
            Start::Exit(code) => (again, code),
            _ => (true, 0),
        };
        // What ends by itself is started again.
        if again && code != 0 {
            container["RestartCount"] = json!(1);
        }
        // In one container all of it is one run.
        container["State"]["Running"] = json!(running);
        container["State"]["ExitCode"] = json!(code);
        if let Start::Serve { version, hostname } = self.start {
            *self.serve.lock().unwrap() = Some((version, hostname));
        }
    }

    /// Whoever waits at a gate that is open now goes on.
    fn look_at_the_gate(&mut self) {
        if self.held.as_ref().is_some_and(|gate| gate.join("open").exists()) {
            self.begin();
        }
    }
}

/// The folder of this host at which the container waits for a file.
fn gate_of(container: &Value) -> Option<PathBuf> {
    let mounts = container["HostConfig"]["Mounts"].as_array()?;
    let gate =
        mounts.iter().find(|mount| mount["Target"].as_str().is_some_and(|at| at.ends_with("/gate")))?;
    gate["Source"].as_str().map(PathBuf::from)
}

#[derive(Clone)]
pub struct Double {
    pub socket: PathBuf,
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Double {
    /// Starts both; they end with the test's runtime.
    pub async fn start(dir: &Path) -> Self {
        let serve = Arc::new(Mutex::new(None));
        let state = Arc::new(Mutex::new(State {
            local: true,
            only: None,
            labels: json!({ "co.posit.image.version": "2026.03.1", "co.posit.image.os": "Ubuntu 24.04" }),
            security: vec!["name=seccomp,profile=default"],
            api: "1.45",
            registry: (200, ""),
            build_error: None,
            built: None,
            pull_error: None,
            container: None,
            start: Start::Serve { version: Some("2026.03.1"), hostname: None },
            stopped_with: 0,
            log: String::new(),
            calls: Vec::new(),
            written_meanwhile: None,
            silent_at: None,
            serve,
            held: None,
        }));
        let socket = dir.join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let app = Router::new().fallback(engine).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let app = Router::new().fallback(connect).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(server, app).await });
        Double { socket, port, state }
    }

    /// The server in the container serves from now on, with this version and host name; or no longer.
    pub fn serve(&self, serving: Option<(Option<&'static str>, Option<&'static str>)>) {
        *self.state().serve.lock().unwrap() = serving;
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

async fn connect(Extract(state): Extract<Arc<Mutex<State>>>, uri: Uri) -> Response {
    let mut state = state.lock().unwrap();
    state.look_at_the_gate();
    let Some((version, hostname)) = *state.serve.lock().unwrap() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    match uri.path() {
        "/__ping__" => "{}".into_response(),
        "/__api__/server_settings" => {
            axum::Json(json!({ "version": version, "hostname": hostname.unwrap_or("vm-c") })).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn said(status: u16, message: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), axum::Json(json!({ "message": message }))).into_response()
}

async fn engine(
    Extract(state): Extract<Arc<Mutex<State>>>,
    method: Method,
    uri: Uri,
    body: Bytes,
) -> Response {
    let silent_at = state.lock().unwrap().silent_at;
    if silent_at.is_some_and(|end| uri.path().ends_with(end)) {
        return std::future::pending().await;
    }
    let mut state = state.lock().unwrap();
    state.look_at_the_gate();
    let path = uri.path().split_once("/v1.").map_or(uri.path(), |(_, rest)| &rest[rest.find('/').unwrap()..]);
    let sent = body.len();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    state.calls.push(format!("{method} {path}"));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => {
            axum::Json(json!({ "Version": "26.1.5", "ApiVersion": state.api })).into_response()
        }
        ("GET", ["info"]) => axum::Json(json!({ "SecurityOptions": state.security })).into_response(),
        ("GET", ["images", .., "json"]) if state.local && state.only.is_none_or(|o| path.contains(o)) => {
            axum::Json(json!({
                "Id": "sha256:11", "RepoDigests": ["h:5000/posit/connect@sha256:22"],
                "Config": { "Labels": state.labels, "Volumes": { "/data": {} } },
            }))
            .into_response()
        }
        ("GET", ["images", .., "json"]) => said(404, "No such image"),
        ("GET", ["distribution", ..]) => match state.registry {
            (200, _) => axum::Json(json!({ "Descriptor": { "digest": "sha256:22" }, "Platforms": [] }))
                .into_response(),
            (status, message) => said(status, message),
        },
        ("POST", ["build"]) => {
            state.built = Some((uri.query().unwrap_or_default().to_owned(), sent));
            let mut lines =
                vec![json!({ "stream": "STEP 1/2: RUN it\n" }), json!({ "stream": "it says so\n" })];
            match state.build_error {
                Some(error) => lines.push(json!({ "error": error, "errorDetail": { "message": error } })),
                None => state.local = true,
            }
            lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_response()
        }
        ("POST", ["images", "load"]) => {
            if let Some(path) = &state.written_meanwhile {
                std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"more").unwrap();
            }
            state.local = true;
            axum::Json(json!({ "stream": "Loaded image" })).into_response()
        }
        ("POST", ["images", "create"]) => {
            let mut lines = vec![
                json!({ "status": "Downloading", "id": "a", "progressDetail": { "current": 1, "total": 2 } }),
            ];
            match state.pull_error {
                Some(error) => lines.push(json!({ "error": error, "errorDetail": { "message": error } })),
                None => (state.local, state.only) = (true, None),
            }
            lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_response()
        }
        ("POST", ["containers", "create"]) => {
            let name = uri
                .query()
                .unwrap_or_default()
                .split('&')
                .find_map(|pair| pair.strip_prefix("name="))
                .unwrap_or_default();
            let mut container = json!({
                "Id": ID, "Name": format!("/{name}"), "Config": body, "HostConfig": body["HostConfig"],
                "State": { "Running": false, "ExitCode": 0 },
            });
            container["Config"]["HostConfig"].take();
            state.container = Some(container);
            (StatusCode::CREATED, axum::Json(json!({ "Id": ID, "Warnings": [] }))).into_response()
        }
        ("GET", ["containers", _, "archive"]) => {
            let passwd = uri.query().unwrap_or_default().contains("passwd");
            let text = if passwd { "nobody:x:999:999::/:/bin/sh\n" } else { "nobody:x:999:\n" };
            archive(text).into_response()
        }
        (_, ["containers", name, rest @ ..]) => container(&mut state, &method, name, rest, &body),
        _ => said(404, "page not found"),
    }
}

fn container(state: &mut State, method: &Method, name: &str, rest: &[&str], body: &Value) -> Response {
    let known =
        state.container.as_ref().is_some_and(|c| c["Id"] == *name || c["Name"] == *format!("/{name}"));
    if !known {
        return said(404, "No such container");
    }
    let container = state.container.as_mut().unwrap();
    match (method.as_str(), rest) {
        ("GET", ["json"]) => axum::Json(container.clone()).into_response(),
        ("GET", ["logs"]) => {
            let mut frame = vec![1, 0, 0, 0];
            frame.extend(u32::try_from(state.log.len()).unwrap().to_be_bytes());
            frame.extend(state.log.as_bytes());
            Body::from(frame).into_response()
        }
        ("POST", ["start"]) => {
            if let Start::Refused(message) = state.start {
                return said(500, message);
            }
            match gate_of(container) {
                Some(gate) if !gate.join("open").exists() => {
                    container["State"] = json!({ "Running": true, "ExitCode": 0 });
                    state.held = Some(gate);
                }
                _ => state.begin(),
            }
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", ["stop"]) => {
            container["State"] = json!({ "Running": false, "ExitCode": state.stopped_with });
            *state.serve.lock().unwrap() = None;
            state.held = None;
            StatusCode::NO_CONTENT.into_response()
        }
        ("POST", ["update"]) => {
            container["HostConfig"]["RestartPolicy"] = body["RestartPolicy"].clone();
            axum::Json(json!({ "Warnings": [] })).into_response()
        }
        ("DELETE", []) if container["State"]["Running"] == true => said(409, "it is running"),
        ("DELETE", []) => {
            state.container = None;
            StatusCode::NO_CONTENT.into_response()
        }
        _ => said(404, "page not found"),
    }
}

fn archive(text: &str) -> Vec<u8> {
    let mut bytes = vec![0u8; 512];
    bytes[124..135].copy_from_slice(format!("{:011o}", text.len()).as_bytes());
    bytes[156] = b'0';
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(1024, 0);
    bytes
}

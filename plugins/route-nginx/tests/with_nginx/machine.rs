//! A folder with an nginx of its own, a source, a container, and users.

use axum::Router;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use connect_migrator_route_nginx::nginx::ServiceError;
use connect_migrator_route_nginx::{Route, Service, Settings, Undo};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Context, Invocation, Migration, Op, SecretRef, Source, Target};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NGINX: &str = "/usr/sbin/nginx";
const START_TIMEOUT_SECONDS: u64 = 20;

pub const SOURCE_NAME: &str = "vm";
pub const TARGET_NAME: &str = "container";
/// What the daemon has as the credential `connect-api-key`.
const API_KEY: &str = "a-key-of-an-administrator";
pub const URL: &str = "http://connect.example.com";

/// A site as an administrator writes it. `LISTEN`, `SOURCE` and `TARGET` become addresses.
pub const SITE: &str = "# Connect; ask Ada before you change this: proxy_pass http://SOURCE;\n\
map $http_upgrade $connection_upgrade {\n\tdefault upgrade;\n\t'' close;\n}\n\
server {\n    listen LISTEN;\n    server_name connect.example.com;   \r\n    client_max_body_size 0;\n\
\tlocation / {\n\t\tproxy_pass   \"http://SOURCE\" ;  # the VM\n\
\t\tproxy_http_version 1.1;\n\t\tproxy_set_header Upgrade $http_upgrade;\n\t\tproxy_set_header Connection $connection_upgrade;\n\
\t\tproxy_set_header Host $http_host;\n\t\tproxy_set_header X-RSC-Request $scheme://$host:$server_port$request_uri;\n\t}\n}";

/// Ports that nobody listens on, no two of them equal within this process.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

pub struct Machine {
    pub dir: tempfile::TempDir,
    pub settings: Settings,
    pub source_url: Option<String>,
    pub api_key: Option<SecretRef>,
    pub facts: serde_json::Map<String, serde_json::Value>,
    pub listen: u16,
    pub source: u16,
    pub target: u16,
    nginx: Mutex<Option<Child>>,
    deaf: AtomicBool,
}

impl Machine {
    /// nginx with this site, started; nothing behind it yet.
    pub async fn with_site(site: &str) -> Machine {
        Machine::with(site, &[]).await
    }

    /// With more files below the configuration folder.
    pub async fn with(site: &str, more: &[(&str, &str)]) -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let (listen, source, target, maintenance) = (free_port(), free_port(), free_port(), free_port());
        let base = dir.path().canonicalize().unwrap();
        let settings = serde_json::json!({
            "site": base.join("etc/sites-enabled/connect"),
            "upstream": format!("127.0.0.1:{target}"),
            "source-address": format!("127.0.0.1:{source}"),
            "maintenance": format!("127.0.0.1:{maintenance}"),
            "nginx": NGINX,
            "configuration": base.join("etc/nginx.conf"),
            "prefix": base,
            "verify-timeout": 5,
        });
        let target_fact = Target {
            engine: "docker".into(),
            name: "connect".into(),
            hostname: TARGET_NAME.into(),
            address: format!("127.0.0.1:{target}"),
            version: "2026.03.1".into(),
            image: "example@sha256:0".into(),
        };
        let mut facts = serde_json::Map::new();
        facts.insert(Target::KEY.into(), serde_json::to_value(target_fact).unwrap());
        let machine = Machine {
            settings: serde_json::from_value(settings).unwrap(),
            source_url: Some(URL.into()),
            api_key: None,
            facts,
            listen,
            source,
            target,
            nginx: Mutex::new(None),
            deaf: AtomicBool::new(false),
            dir,
        };
        for folder in ["etc/sites-available", "etc/sites-enabled", "etc/conf.d", "tmp", "state"] {
            std::fs::create_dir_all(base.join(folder)).unwrap();
        }
        let main = format!(
            "worker_processes 2;\npid {base}/nginx.pid;\nerror_log {base}/error.log;\nevents {{ worker_connections 128; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path tmp/a; proxy_temp_path tmp/b; fastcgi_temp_path tmp/c;\n  \
             uwsgi_temp_path tmp/d; scgi_temp_path tmp/e;\n  include {base}/etc/conf.d/*.conf;\n  include sites-enabled/*;\n}}\n",
            base = base.display()
        );
        std::fs::write(base.join("etc/nginx.conf"), main).unwrap();
        machine.write("sites-available/connect", site);
        std::os::unix::fs::symlink("../sites-available/connect", base.join("etc/sites-enabled/connect"))
            .unwrap();
        for (name, text) in more {
            machine.write(name, text);
        }
        machine.start_nginx().await;
        machine
    }

    pub fn etc(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("etc")
    }

    /// The file of the site, behind the symbolic link.
    pub fn site(&self) -> PathBuf {
        self.etc().join("sites-available/connect")
    }

    pub fn site_bytes(&self) -> Vec<u8> {
        std::fs::read(self.site()).unwrap()
    }

    pub fn filled(&self, text: &str) -> String {
        text.replace("LISTEN", &format!("127.0.0.1:{}", self.listen))
            .replace("SOURCE", &format!("127.0.0.1:{}", self.source))
            .replace("TARGET", &format!("127.0.0.1:{}", self.target))
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.etc().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, self.filled(text)).unwrap();
    }

    pub async fn start_nginx(&self) {
        assert!(Path::new(NGINX).exists(), "there is no {NGINX}; run: apt-get install -y nginx-light");
        let base = self.dir.path().canonicalize().unwrap();
        let child = Command::new(NGINX)
            .arg("-p")
            .arg(&base)
            .arg("-c")
            .arg(base.join("etc/nginx.conf"))
            .args(["-g", "daemon off;"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        *self.nginx.lock().unwrap() = Some(child);
        let deadline = Instant::now() + Duration::from_secs(START_TIMEOUT_SECONDS);
        while tokio::net::TcpStream::connect(("127.0.0.1", self.listen)).await.is_err() {
            assert!(Instant::now() < deadline, "nginx did not start: {}", self.error_log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn stop_nginx(&self) {
        if let Some(mut child) = self.nginx.lock().unwrap().take() {
            signal(&child, nix::sys::signal::Signal::SIGTERM);
            child.wait().unwrap();
        }
    }

    /// From now on a reload is lost on its way.
    pub fn lose_reloads(&self, lose: bool) {
        self.deaf.store(lose, Ordering::SeqCst);
    }

    pub fn error_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    /// A new call of `op`, and the daemon that hears it.
    pub fn call(&self, op: Op) -> Call<'_> {
        let host = MemoryHost::new();
        host.store_secret("connect-api-key", API_KEY);
        let cx = host.context_with(Invocation {
            step: "route".into(),
            uses: "route-nginx".into(),
            op,
            of: None,
            attempt: 1,
            config: serde_json::Value::Null,
            migration: Migration {
                id: "00000000-0000-7000-8000-000000000000".into(),
                instance: "prod".into(),
            },
            source: Source {
                url: self.source_url.clone(),
                api_key: self.api_key.clone(),
                config: self.etc().join("connect.gcfg"),
                ..Source::default()
            },
            state_dir: self.dir.path().join("state"),
            facts: self.facts.clone(),
            routed: None,
            checkpoint: None,
            undo: Vec::new(),
        });
        Call { machine: self, cx, host }
    }

    pub async fn serve_source(&self) -> Backend {
        Backend::serve(SOURCE_NAME, self.source).await
    }

    pub async fn serve_target(&self) -> Backend {
        Backend::serve(TARGET_NAME, self.target).await
    }

    pub fn maintenance_file(&self) -> PathBuf {
        self.etc().join("conf.d/connect-migrator-prod-maintenance.conf")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop_nginx();
    }
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).unwrap();
}

/// A call of the step.
pub struct Call<'a> {
    machine: &'a Machine,
    cx: Context,
    host: Arc<MemoryHost>,
}

impl<'a> Call<'a> {
    pub fn route(&self) -> Route<'_, &'a Machine> {
        Route { settings: &self.machine.settings, cx: &self.cx, service: self.machine }
    }

    pub fn undo(&self) -> Vec<Undo> {
        self.host.told().undo.into_iter().map(|record| serde_json::from_value(record).unwrap()).collect()
    }
}

impl Service for &Machine {
    async fn is_active(&self) -> Result<bool, ServiceError> {
        Ok(self.nginx.lock().unwrap().is_some())
    }

    async fn main_pid(&self) -> Option<u32> {
        self.nginx.lock().unwrap().as_ref().map(Child::id)
    }

    async fn reload(&self) -> Result<(), ServiceError> {
        let nginx = self.nginx.lock().unwrap();
        let failed =
            |why: &str| ServiceError { tried: "reload", unit: "nginx.service".into(), why: why.into() };
        let child = nginx.as_ref().ok_or_else(|| failed("it is not active"))?;
        if !self.deaf.load(Ordering::SeqCst) {
            signal(child, nix::sys::signal::Signal::SIGHUP);
        }
        Ok(())
    }
}

/// A Connect that tells its name and takes websockets.
pub struct Backend {
    task: tokio::task::JoinHandle<()>,
    pub takes_websockets: Arc<AtomicBool>,
    /// Tells its name only to the administrator.
    pub shy: Arc<AtomicBool>,
}

impl Backend {
    async fn serve(name: &'static str, port: u16) -> Backend {
        let takes_websockets = Arc::new(AtomicBool::new(true));
        let shy = Arc::new(AtomicBool::new(false));
        let is_shy = Arc::clone(&shy);
        let settings = move |headers: HeaderMap| async move {
            let known = headers.get("Authorization").is_some_and(|value| *value == format!("Key {API_KEY}"));
            match is_shy.load(Ordering::SeqCst) && !known {
                true => axum::Json(serde_json::json!({"version": "2026.03.1"})),
                false => axum::Json(serde_json::json!({"hostname": name, "version": "2026.03.1"})),
            }
        };
        let app = Router::new()
            .route("/__api__/server_settings", get(settings))
            .route("/content/ws/", get(websocket))
            .with_state(Arc::clone(&takes_websockets));
        let deadline = Instant::now() + Duration::from_secs(START_TIMEOUT_SECONDS);
        let listener = loop {
            match tokio::net::TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Backend { task, takes_websockets, shy }
    }

    pub async fn stop(self) {
        self.task.abort();
        self.task.await.ok();
    }
}

async fn websocket(
    State(takes): State<Arc<AtomicBool>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    match upgrade {
        Ok(upgrade) if takes.load(Ordering::SeqCst) => upgrade.on_upgrade(|_| async {}),
        Ok(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

/// What one request of a user was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: String,
}

pub async fn user(machine: &Machine) -> Option<Seen> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    ask(&client, machine.listen).await
}

async fn ask(client: &reqwest::Client, port: u16) -> Option<Seen> {
    let request = client
        .get(format!("http://127.0.0.1:{port}/__api__/server_settings"))
        .header("Host", "connect.example.com");
    let answer = request.send().await.ok()?;
    let header = answer.headers().get("Retry-After").map(|value| value.to_str().unwrap().to_owned());
    Some(Seen { status: answer.status().as_u16(), retry_after: header, body: answer.text().await.ok()? })
}

/// When a user asked, and what the answer was.
pub type Asked = (Instant, Option<Seen>);

/// Users who never stop asking.
pub struct Users {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Asked>>>,
}

/// So that both of nginx' workers have work.
const USERS: usize = 4;

impl Users {
    pub fn start(machine: &Machine) -> Users {
        rustls::crypto::ring::default_provider().install_default().ok();
        let stop = Arc::new(AtomicBool::new(false));
        let user = || {
            let (port, stopped) = (machine.listen, Arc::clone(&stop));
            tokio::spawn(async move {
                let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
                let mut seen = Vec::new();
                while !stopped.load(Ordering::SeqCst) {
                    let sent = Instant::now();
                    seen.push((sent, ask(&client, port).await));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                seen
            })
        };
        let tasks = (0..USERS).map(|_| user()).collect();
        Users { stop, tasks }
    }

    /// What they saw, and when they asked.
    pub async fn seen(self) -> Vec<Asked> {
        self.stop.store(true, Ordering::SeqCst);
        let mut seen = Vec::new();
        for task in self.tasks {
            seen.extend(task.await.unwrap());
        }
        seen.sort_by_key(|(sent, _)| *sent);
        seen
    }
}

/// The statuses of what was asked from `start` to `end`, each once; 0 for no answer.
pub fn statuses(seen: &[Asked], start: Instant, end: Instant) -> BTreeSet<u16> {
    let within = seen.iter().filter(|(sent, _)| (start..end).contains(sent));
    within.map(|(_, seen)| seen.as_ref().map_or(0, |seen| seen.status)).collect()
}

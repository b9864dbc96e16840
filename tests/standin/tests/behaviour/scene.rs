//! A data directory, a configuration and servers on it.

use std::path::Path;
use std::time::{Duration, Instant};

use connect_standin::runtimes::{Language, Version, install_stub};
use connect_standin::seed::{Seed, plant};
use connect_standin::settings::Settings;
use connect_standin::store::Store;
use connect_standin::tuning::Tuning;
use connect_standin::{Checks, Failure, Launch, Server};
use reqwest::{Client, Method, Response};
use serde_json::Value;

pub const ADMIN: &str = "administrator-key-0001";
pub const PUBLISHER: &str = "publisher-key-000000001";
pub const EXPIRED: &str = "expired-key-000000000001";
/// What a wait for a condition may take.
const DEADLINE: Duration = Duration::from_secs(20);

pub struct Scene {
    pub dir: tempfile::TempDir,
    pub settings: Settings,
}

pub fn seed() -> Seed {
    Seed {
        items: 12,
        broken_python: 1,
        admin_key: Some(ADMIN.into()),
        publisher_key: Some(PUBLISHER.into()),
        expired_key: Some(EXPIRED.into()),
        files: true,
        ..Seed::default()
    }
}

impl Scene {
    /// An empty data directory; `more` is added to the configuration.
    pub fn empty(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[Server]\nDataDir = {0}/data\nAddress = http://connect.test\n[HTTP]\nListen = 127.0.0.1:0\n[Python]\n\
             Enabled = true\n[Logging]\nServiceLog = {0}/service.log\nAccessLog = {0}/access.log\n{more}",
            dir.path().display()
        );
        let root = dir.path().join("opt");
        install_stub(&root, Language::R, Version(4, 5, 2)).unwrap();
        install_stub(&root, Language::Python, Version(3, 12, 4)).unwrap();
        Scene { settings: Settings::from_text(&text, std::iter::empty()).unwrap(), dir }
    }

    /// Seeded as on the host, whose distribution is `debian-12`.
    pub async fn seeded(more: &str) -> Self {
        let scene = Scene::empty(more);
        let store = Store::open(&scene.settings).await.unwrap();
        store.claim_secret_key(&scene.settings).await.unwrap();
        plant(&seed(), &store, &scene.settings, "debian-12").await.unwrap();
        scene
    }

    pub async fn launch(&self, distribution: &str, tuning: Tuning) -> Result<Site, Failure> {
        let server = Server::start(Launch {
            settings: self.settings.clone(),
            tuning,
            checks: Checks::lenient(),
            version: "2026.03.1".into(),
            distribution: distribution.into(),
            interpreters: self.dir.path().join("opt"),
            store: None,
        })
        .await?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = format!("http://{}", server.address());
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(30))
            .build()
            .unwrap();
        Ok(Site { server, base, client })
    }

    /// A running server with quick builds.
    pub async fn start(&self, distribution: &str) -> Site {
        self.launch(distribution, quick()).await.unwrap()
    }

    pub fn data(&self) -> &Path {
        &self.settings.data_dir
    }

    pub fn service_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("service.log")).unwrap_or_default()
    }
}

pub fn quick() -> Tuning {
    Tuning { build_ms: 30, cache_delete_ms: 10, ..Tuning::default() }
}

pub struct Site {
    pub server: Server,
    pub base: String,
    client: Client,
}

impl Site {
    pub async fn send(&self, method: Method, path: &str, key: Option<&str>, body: Option<Value>) -> Response {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some(key) = key {
            request = request.header("Authorization", format!("Key {key}"));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        request.send().await.unwrap()
    }

    /// Status and JSON of a GET as administrator.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.get_as(path, Some(ADMIN)).await
    }

    pub async fn get_as(&self, path: &str, key: Option<&str>) -> (u16, Value) {
        parts(self.send(Method::GET, path, key, None).await).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        parts(self.send(Method::POST, path, Some(ADMIN), Some(body)).await).await
    }

    pub async fn delete(&self, path: &str, body: Value) -> (u16, Value) {
        parts(self.send(Method::DELETE, path, Some(ADMIN), Some(body)).await).await
    }

    /// Follows a task to its end.
    pub async fn follow(&self, task: &Value) -> Value {
        let begun = Instant::now();
        let id = task.as_str().unwrap_or_else(|| panic!("no task id: {task}"));
        loop {
            let (status, answer) = self.get(&format!("/__api__/v1/tasks/{id}?wait=5")).await;
            assert_eq!(status, 200, "{answer}");
            if answer["finished"] == true {
                return answer;
            }
            assert!(begun.elapsed() < DEADLINE, "task {id} does not end: {answer}");
        }
    }

    /// Status and text of a content page.
    pub async fn page(&self, guid: &str) -> (u16, String) {
        let response = self.send(Method::GET, &format!("/content/{guid}/"), None, None).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    pub async fn build(&self, guid: &str) -> Value {
        let (status, answer) = self
            .post(&format!("/__api__/v1/content/{guid}/build"), serde_json::json!({ "bundle_id": null }))
            .await;
        assert_eq!(status, 200, "{answer}");
        self.follow(&answer["task_id"]).await
    }

    pub async fn content(&self) -> Vec<Value> {
        self.get("/__api__/v1/content").await.1.as_array().unwrap().clone()
    }
}

async fn parts(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

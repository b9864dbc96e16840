//! Choosing images against a real registry, and against one that is at fault.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use connect_migrator_connect::version::Version;
use connect_migrator_images::choice::Wanted;
use connect_migrator_images::credentials::Login;
use connect_migrator_images::registry::{Registries, RegistryError, RemoteImage, platform, sha256};
use connect_migrator_images::search::{self, Found, Host, NoHost, NotFound, Place, by_reference};
use connect_migrator_sdk::{Secret, Severity};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Debian's docker-registry on a free port.
struct Registry {
    process: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    async fn start() -> Self {
        let program = Path::new("/usr/bin/docker-registry");
        assert!(program.exists(), "docker-registry is not installed: `apt-get install docker-registry`");
        let dir = tempfile::tempdir().unwrap();
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let config = dir.path().join("config.yml");
        let root = dir.path().join("data");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
                root.display()
            ),
        )
        .unwrap();
        let process = Command::new(program)
            .args(["serve".as_ref(), config.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry { process, address, _dir: dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while reqwest_get(&registry.url("")).await.is_none() {
            assert!(Instant::now() < deadline, "the registry does not come up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        registry
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}/v2/{rest}", self.address)
    }

    async fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let client = reqwest::Client::new();
        let begun = client.post(self.url(&format!("{repository}/blobs/uploads/"))).send().await.unwrap();
        let to = begun.headers()[header::LOCATION].to_str().unwrap().to_owned();
        let to = if to.starts_with('/') { format!("http://{}{to}", self.address) } else { to };
        let mut to = reqwest::Url::parse(&to).unwrap();
        to.query_pairs_mut().append_pair("digest", &digest);
        let done = client.put(to).body(bytes.to_vec()).send().await.unwrap();
        assert!(done.status().is_success(), "{done:?}");
        digest
    }

    async fn manifest(&self, repository: &str, tag: &str, kind: &str, body: String) -> String {
        let digest = sha256(body.as_bytes());
        let url = self.url(&format!("{repository}/manifests/{tag}"));
        let put = reqwest::Client::new()
            .put(url)
            .header(header::CONTENT_TYPE, kind)
            .body(body)
            .send()
            .await
            .unwrap();
        assert!(put.status().is_success(), "{}", put.text().await.unwrap());
        digest
    }

    /// Puts an image there, with the labels that Posit's have.
    async fn image(&self, repository: &str, tag: &str, machine: &str) -> String {
        let version = Version::find(tag).map(|v| v.to_string()).unwrap_or_default();
        let labels = json!({ "co.posit.image.version": version, "co.posit.image.tools.R": "4.5.3" });
        let config = json!({
            "os": "linux", "architecture": machine, "rootfs": { "type": "layers", "diff_ids": [] },
            "config": { "Labels": labels, "Volumes": { "/data": {} } },
        });
        let config = config.to_string();
        let digest = self.blob(repository, config.as_bytes()).await;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": config.len() },
        });
        self.manifest(repository, tag, MANIFEST, manifest.to_string()).await
    }

    /// An index of one image for several machines.
    async fn index(&self, repository: &str, tag: &str, machines: &[&str]) -> String {
        let mut manifests = Vec::new();
        for machine in machines {
            let digest = self.image(repository, &format!("{tag}-{machine}"), machine).await;
            let body = reqwest_get(&self.url(&format!("{repository}/manifests/{digest}"))).await.unwrap();
            manifests.push(json!({
                "mediaType": MANIFEST, "digest": digest, "size": body.len(),
                "platform": { "os": "linux", "architecture": machine },
            }));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.manifest(repository, tag, INDEX, index.to_string()).await
    }
}

async fn reqwest_get(url: &str) -> Option<Vec<u8>> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let get = reqwest::Client::new().get(url).header(header::ACCEPT, format!("{MANIFEST}, {INDEX}"));
    let answer = get.send().await.ok()?.error_for_status().ok()?;
    Some(answer.bytes().await.ok()?.to_vec())
}

fn wanted(version: &str, os: Option<&str>, registries: &[&str]) -> Wanted {
    Wanted {
        version: Version::parse(version).unwrap(),
        os: os.map(Into::into),
        variant: "std".into(),
        registries: Some(registries.iter().map(|&r| r.into()).collect()),
    }
}

fn nobody(_: &str) -> Option<Login> {
    None
}

async fn by_version(registries: &Registries, wanted: &Wanted) -> Result<Found<()>, NotFound> {
    search::by_version(registries, wanted, &nobody, &NoHost).await
}

fn remote<I>(found: Found<I>) -> RemoteImage {
    match found.place {
        Place::Registry(image) => image,
        place => panic!("not in a registry: {}", place.reference()),
    }
}

#[tokio::test]
async fn of_a_real_registry_the_right_image_is_chosen_for_every_release() {
    let registry = Registry::start().await;
    let mirror = registry.address.as_str();
    let machine = platform().replace("linux/", "");
    for tag in [
        "1.9.0.1",
        "2021.08.0",
        "2022.08.0",
        "latest",
        "bionic-2022.09.0",
        "bionic-2023.06.0",
        "jammy-2023.07.0",
    ] {
        registry.image("rstudio/rstudio-connect", tag, &machine).await;
    }
    for tag in ["jammy-2024.12.0", "ubuntu2204-2024.12.0", "ubuntu2204-2025.06.0", "ubuntu2204-2026.06.1"] {
        registry.image("rstudio/rstudio-connect", tag, &machine).await;
    }
    for tag in ["2025.05.0-ubuntu-22.04-std", "2025.09.1-ubuntu-22.04-std", "2025.11.0-ubuntu-22.04-std"] {
        registry.image("posit/connect", tag, &machine).await;
    }
    for version in ["2025.12.1", "2026.03.1"] {
        for os in ["22.04", "24.04"] {
            for variant in ["std", "min"] {
                registry.image("posit/connect", &format!("{version}-ubuntu-{os}-{variant}"), &machine).await;
            }
        }
    }
    let pinned = registry.index("posit/connect", "2026.08.0-ubuntu-24.04-std", &["arm64", "amd64"]).await;

    let registries = Registries::new(&platform()).unwrap();
    for (version, os, reference) in [
        ("1.9.0.1", None, "rstudio/rstudio-connect:1.9.0.1"),
        ("2021.08.0", None, "rstudio/rstudio-connect:2021.08.0"),
        ("2022.08.0", None, "rstudio/rstudio-connect:2022.08.0"),
        ("2022.09.0", None, "rstudio/rstudio-connect:bionic-2022.09.0"),
        ("2023.06.0", None, "rstudio/rstudio-connect:bionic-2023.06.0"),
        ("2023.07.0", None, "rstudio/rstudio-connect:jammy-2023.07.0"),
        ("2024.12.0", None, "rstudio/rstudio-connect:ubuntu2204-2024.12.0"),
        ("2025.05.0", None, "posit/connect:2025.05.0-ubuntu-22.04-std"),
        ("2025.06.0", None, "rstudio/rstudio-connect:ubuntu2204-2025.06.0"),
        ("2025.09.1", Some("ubuntu-22.04"), "posit/connect:2025.09.1-ubuntu-22.04-std"),
        ("2025.11.0", None, "posit/connect:2025.11.0-ubuntu-22.04-std"),
        ("2025.12.1", None, "posit/connect:2025.12.1-ubuntu-24.04-std"),
        ("2026.03.1", Some("ubuntu-22.04"), "posit/connect:2026.03.1-ubuntu-22.04-std"),
        ("2026.06.1", None, "rstudio/rstudio-connect:ubuntu2204-2026.06.1"),
        ("2026.08.0", Some("ubuntu-24.04"), "posit/connect:2026.08.0-ubuntu-24.04-std"),
    ] {
        let found = by_version(&registries, &wanted(version, os, &[mirror])).await.unwrap();
        assert_eq!(found.faults, []);
        let image = remote(found);
        assert_eq!(image.reference, format!("{mirror}/{reference}"));
        assert!(image.pinned.contains("@sha256:"), "{image:?}");
        assert!(image.labels["co.posit.image.version"].starts_with(version), "{image:?}");
        assert_eq!(image.volumes, ["/data"]);
        if version == "2026.08.0" {
            assert_eq!(image.pinned, format!("{mirror}/posit/connect@{pinned}"));
        }
        // What is pinned is found again.
        let again = by_reference(&registries, &image.pinned, &nobody, &NoHost).await.unwrap();
        assert_eq!(remote(again).id, image.id);
    }

    for (version, os, near) in [
        ("2025.09.0", None, "posit/connect:2025.09.1-ubuntu-22.04-std"),
        ("2025.09.1", Some("ubuntu-24.04"), "posit/connect:2025.09.1-ubuntu-22.04-std"),
        ("2020.01.0", None, "rstudio/rstudio-connect:2021.08.0"),
        ("2027.01.0", None, "posit/connect:2026.08.0-ubuntu-24.04-std"),
    ] {
        let finding = by_version(&registries, &wanted(version, os, &[mirror])).await.unwrap_err().finding();
        assert_eq!(
            (finding.severity, finding.key.as_str()),
            (Severity::Blocker, "image-missing"),
            "{finding:?}"
        );
        let expected = format!("Nearest that exist: {mirror}/{near}");
        assert!(finding.text.contains(&expected), "{}", finding.text);
        assert!(finding.text.contains("does not exist") || version == "2025.09.1", "{}", finding.text);
    }
}

#[tokio::test]
async fn an_image_for_another_machine_is_told_from_one_that_is_not_there() {
    let registry = Registry::start().await;
    let mirror = registry.address.as_str();
    registry.image("posit/connect", "2026.03.1-ubuntu-24.04-std", "s390x").await;
    registry.index("posit/connect", "2026.02.1-ubuntu-24.04-std", &["arm64", "s390x"]).await;
    let registries = Registries::new("linux/amd64").unwrap();
    for (version, has) in [("2026.03.1", "linux/s390x"), ("2026.02.1", "linux/arm64, linux/s390x")] {
        let wanted = wanted(version, Some("ubuntu-24.04"), &[mirror]);
        let finding = by_version(&registries, &wanted).await.unwrap_err().finding();
        assert_eq!(finding.key, "image-platform");
        assert!(
            finding.text.contains(&format!("is for {has}, and this machine is linux/amd64")),
            "{finding:?}"
        );
    }
}

/// A registry that answers everything in one way.
async fn faulty(answer: fn(&Uri, &HeaderMap) -> Response) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = axum::Router::new()
        .fallback(move |uri: Uri, headers: HeaderMap| async move { answer(&uri, &headers) });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn said(status: u16, message: &str) -> Response {
    let body = json!({ "errors": [{ "code": "X", "message": message }] });
    (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
}

#[tokio::test]
async fn each_fault_of_a_registry_has_a_finding_of_its_own() {
    let registries = Registries::new(&platform()).unwrap();
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let cases = [
        (gone, "registry-unreachable", "cannot be reached"),
        (
            faulty(|_, _| said(401, "authentication required")).await,
            "registry-login",
            "authentication required",
        ),
        (faulty(|_, _| said(403, "denied")).await, "registry-login", "status 403"),
        (
            faulty(|_, _| ([(header::RETRY_AFTER, "60")], said(429, "toomanyrequests")).into_response())
                .await,
            "registry-limit",
            "wait 60 s",
        ),
        (faulty(|_, _| said(500, "disk full")).await, "registry-broken", "disk full"),
        (faulty(|_, _| "<html>hello</html>".into_response()).await, "registry-answer", "makes no sense"),
        (
            faulty(|_, _| ([("docker-content-digest", "sha256:00")], "{}").into_response()).await,
            "registry-digest",
            "should have sha256:00",
        ),
    ];
    for (address, key, text) in cases {
        let wanted = wanted("2026.03.1", Some("ubuntu-24.04"), &[&format!("{address}/posit/connect")]);
        let finding = by_version(&registries, &wanted).await.unwrap_err().finding();
        assert_eq!(finding.key, key, "{finding:?}");
        assert!(finding.text.contains(text) && !finding.remedy.is_empty(), "{finding:?}");
    }
}

#[tokio::test]
async fn the_next_registry_is_asked_when_one_is_at_fault_and_that_is_told() {
    let registry = Registry::start().await;
    let machine = platform().replace("linux/", "");
    registry.image("own/connect", "2026.03.1-ubuntu-24.04-std", &machine).await;
    let busy = faulty(|_, _| said(429, "later")).await;
    let (first, second) = (format!("{busy}/posit/connect"), format!("{}/own/connect", registry.address));
    let registries = Registries::new(&platform()).unwrap();
    let found = by_version(&registries, &wanted("2026.03.1", None, &[&first, &second])).await.unwrap();
    assert!(matches!(found.faults.as_slice(), [RegistryError::TooMany { .. }]), "{found:?}");
    assert_eq!(found.place.reference(), format!("{second}:2026.03.1-ubuntu-24.04-std"));
}

/// A host that has one image, and an engine that reaches every registry.
struct WithImage(&'static str, Option<&'static str>);

impl Host for WithImage {
    type Image = ();

    async fn image(&self, reference: &str) -> Result<Option<()>, String> {
        Ok(reference.contains(self.0).then_some(()))
    }

    async fn digest(&self, _: &str, _: Option<&Login>, down: RegistryError) -> Result<String, RegistryError> {
        self.1.map(str::to_owned).ok_or(down)
    }
}

#[tokio::test]
async fn an_image_on_this_host_counts_in_its_turn_and_without_a_registry_too() {
    let registry = Registry::start().await;
    let machine = platform().replace("linux/", "");
    registry.image("own/connect", "2026.03.1-ubuntu-24.04-std", &machine).await;
    let registries = Registries::new(&platform()).unwrap();
    let own = format!("{}/own/connect", registry.address);
    let find = async |version: &str, repository: &str, host: WithImage| {
        search::by_version(&registries, &wanted(version, None, &[repository]), &nobody, &host).await
    };
    let better = find("2026.03.1", &own, WithImage("22.04", None)).await.unwrap();
    assert_eq!(better.place.reference(), format!("{own}:2026.03.1-ubuntu-24.04-std"));
    let first = find("2026.03.1", &own, WithImage("24.04", None)).await.unwrap();
    assert!(matches!(first.place, Place::Here { .. }), "{first:?}");
    let missing = find("2026.08.0", &own, WithImage("22.04", None)).await.unwrap();
    assert!(matches!(missing.place, Place::Here { .. }) && missing.faults.is_empty(), "{missing:?}");

    let gone = "127.0.0.1:1/own/connect";
    let offline = find("2026.03.1", gone, WithImage("22.04", None)).await.unwrap();
    assert!(matches!(offline.place, Place::Here { .. }), "{offline:?}");
    assert!(matches!(offline.faults.as_slice(), [RegistryError::Down { .. }]), "{offline:?}");
    let by_engine = find("2026.03.1", gone, WithImage("none", Some("sha256:22"))).await.unwrap();
    assert!(matches!(by_engine.place, Place::ByEngine { .. }), "{by_engine:?}");
}

#[tokio::test]
async fn a_token_is_fetched_with_the_login_and_the_password_goes_nowhere_else() {
    const CONFIG: &str = r#"{"os":"linux","architecture":"amd64","config":{}}"#;
    fn answer(uri: &Uri, headers: &HeaderMap) -> Response {
        let auth = headers.get(header::AUTHORIZATION).map(|v| v.to_str().unwrap().to_owned());
        let host = headers[header::HOST].to_str().unwrap();
        if uri.path() == "/token" {
            let query = uri.query().unwrap_or_default();
            assert!(
                query.contains("scope=repository%3Ax%2Fy%3Apull") && query.contains("service=s"),
                "{query}"
            );
            return match auth.as_deref() {
                Some("Basic YW5uOmh1bnRlcjI=") => {
                    // As Docker Hub does, with both names.
                    axum::Json(json!({ "token": "t", "access_token": "t", "expires_in": 300 }))
                        .into_response()
                }
                _ => said(401, "who are you"),
            };
        }
        assert!(!auth.as_deref().is_some_and(|auth| auth.starts_with("Basic")), "{uri}");
        if auth.as_deref() != Some("Bearer t") {
            let wanted = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return ([(header::WWW_AUTHENTICATE, wanted)], said(401, "token please")).into_response();
        }
        if uri.path().contains("/blobs/") {
            return CONFIG.into_response();
        }
        axum::Json(json!({ "config": { "digest": sha256(CONFIG.as_bytes()) } })).into_response()
    }
    let address = faulty(answer).await;
    let registries = Registries::new("linux/amd64").unwrap();
    let reference = format!("{address}/x/y:1");
    let login =
        Login { user: "ann".into(), password: Secret::new("hunter2".to_owned()), from: "a file".into() };
    let found = registries.find(&reference, Some(&login)).await.unwrap();
    assert_eq!(found.id, sha256(CONFIG.as_bytes()));
    let refused = registries.find(&reference, None).await.unwrap_err();
    assert!(
        matches!(&refused, RegistryError::Denied { status: 401, .. })
            && !refused.to_string().contains("hunter2")
    );
}

#[tokio::test]
async fn a_registry_gets_the_password_once_it_has_asked_for_it_and_not_before() {
    static UNASKED: AtomicBool = AtomicBool::new(false);
    static ASKED: AtomicBool = AtomicBool::new(false);
    fn answer(_: &Uri, headers: &HeaderMap) -> Response {
        if headers.contains_key(header::AUTHORIZATION) {
            UNASKED.fetch_or(!ASKED.load(Ordering::SeqCst), Ordering::SeqCst);
            return said(404, "not here");
        }
        ASKED.store(true, Ordering::SeqCst);
        ([(header::WWW_AUTHENTICATE, "Basic realm=\"r\"")], said(401, "who are you")).into_response()
    }
    let reference = format!("{}/x/y:1", faulty(answer).await);
    let login =
        Login { user: "ann".into(), password: Secret::new("hunter2".to_owned()), from: "a file".into() };
    let registries = Registries::new("linux/amd64").unwrap();
    let missing = registries.find(&reference, Some(&login)).await.unwrap_err();
    assert!(matches!(missing, RegistryError::Missing { .. }), "{missing}");
    assert!(ASKED.load(Ordering::SeqCst) && !UNASKED.load(Ordering::SeqCst));
}

//! The runbook of the lab.

use crate::artifacts::CONNECT_VERSION;

/// The repository of the lab's images.
pub const REPOSITORY: &str = "127.0.0.1:5000/posit/connect";

/// A runbook with the five steps that move a server whose database and data need not move. A scenario replaces parts of it.
#[derive(Debug, Clone)]
pub struct Runbook {
    /// Lines before `[connect]`.
    pub head: String,
    /// Steps before the stop.
    pub before_stop: String,
    /// Steps between the stop and the container.
    pub after_stop: String,
    /// The step that runs the container: `docker` or `podman`.
    pub engine: &'static str,
    /// The image: a reference, or a table that begins with `{`.
    pub image: String,
    /// More settings of the container step, each beginning with a comma.
    pub container: String,
    /// Steps between the container and the caches.
    pub after_container: String,
    /// Clears the caches only when users are sent to the new server already, as the vendor's page does: a shorter window, and
    /// content that waits for its rebuild answers errors meanwhile.
    pub caches_after_route: bool,
    /// The site file.
    pub site: String,
    /// `soak`.
    pub soak: String,
    /// The credential of the key.
    pub key: String,
}

impl Default for Runbook {
    fn default() -> Self {
        Runbook {
            head: String::new(),
            before_stop: String::new(),
            after_stop: String::new(),
            engine: "docker",
            image: format!("{REPOSITORY}:{CONNECT_VERSION}-ubuntu-24.04-std"),
            container: String::new(),
            after_container: String::new(),
            caches_after_route: false,
            site: "/etc/nginx/sites-enabled/connect".into(),
            soak: r#"{ for = "2s", then = "commit", every = "1s" }"#.into(),
            key: "connect-api-key".into(),
        }
    }
}

impl Runbook {
    /// With the image of this tag.
    #[must_use]
    pub fn tag(tag: &str) -> Self {
        Runbook { image: format!("{REPOSITORY}:{tag}"), ..Runbook::default() }
    }

    /// With a soak that waits for the operator.
    #[must_use]
    pub fn that_waits() -> Self {
        Runbook { soak: r#"{ for = "1s", then = "wait", every = "1s" }"#.into(), ..Runbook::default() }
    }

    /// With podman instead of docker.
    #[must_use]
    pub fn podman(mut self) -> Self {
        self.engine = "podman";
        self
    }

    /// With more settings of the container step.
    #[must_use]
    pub fn container(mut self, settings: &str) -> Self {
        self.container = settings.into();
        self
    }

    /// As it stands in the file.
    #[must_use]
    pub fn text(&self) -> String {
        let Runbook {
            head,
            before_stop,
            after_stop,
            engine,
            image,
            container,
            after_container,
            caches_after_route,
            site,
            soak,
            key,
        } = self;
        let caches = "\n[[step]]\nid = \"caches\"\nuses = \"connect-api/clear-caches\"\n";
        let (before_route, after_route) = if *caches_after_route { ("", caches) } else { (caches, "") };
        let image = if image.starts_with('{') { image.clone() } else { format!("\"{image}\"") };
        // Debian gives the group 999 of the images to others: the container keeps the host's numbers. And where every instruction is
        // emulated, an engine has taken more than a minute to start one, and a server has been silent for seconds.
        format!(
            r#"version = 1
soak = {soak}
{head}
[connect]
url = "http://connect.example.com"
api-key = {{ credential = "{key}" }}
{before_stop}
[[step]]
id = "stop"
uses = "systemd/stop"
{after_stop}
[[step]]
id = "container"
uses = "{engine}"
with = {{ image = {image}, publish = "127.0.0.1:3940", run-as-ids = "keep", engine-timeout = "5m", answer-timeout = "1m"{container} }}
{after_container}{before_route}
[[step]]
id = "route"
uses = "route-nginx"
with = {{ site = "{site}", upstream = "127.0.0.1:3940" }}
{after_route}
[[step]]
id = "content"
uses = "connect-api/rebuild"
with = {{ parallelism = 4 }}
"#
        )
    }
}

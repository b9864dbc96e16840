//! What is inside an image without labels: its own programs are asked, in a container without network, mounts or privileges.

use crate::engine::{Engine, EngineError};
use crate::image;
use crate::spec;
use crate::world::{LABEL_PREFIX, Subject};
use bollard::models::{ContainerCreateBody, HostConfig, ImageInspect};
use connect_migrator_connect::container::{ImageFacts, codename};
use connect_migrator_connect::version::Version;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the programs may take together; a cold disk makes the first start of an interpreter slow.
const LOOK_TIMEOUT_SECONDS: u64 = 120;
/// How often it is seen whether they have ended.
const POLL_MILLIS: u64 = 200;
const MEMORY_MAX_BYTES: i64 = 1024 * 1024 * 1024;
const PROCESSES_MAX: i64 = 256;
/// More lines than there can be interpreters.
const LINES: usize = 100;

/// Asks each program where Posit's images have it. Needs nothing but a shell.
const ASK: &str = r#"say() { [ -x "$2" ] || return 0; "$2" --version 2>&1 | { IFS= read -r line; echo "$1=$line"; }; }
say connect /opt/rstudio-connect/bin/connect
for f in /opt/R/*/bin/R /usr/bin/R /usr/local/bin/R; do say R "$f"; done
for f in /opt/python/*/bin/python /opt/python/*/bin/python3; do say python "$f"; done
for f in /opt/quarto/bin/quarto /opt/quarto/*/bin/quarto; do say quarto "$f"; done
if [ -r /etc/os-release ]; then . /etc/os-release; echo "os=$NAME $VERSION_ID"; fi"#;

/// What an image's programs say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inside {
    /// Of Connect.
    pub version: Option<Version>,
    /// Interpreters and distribution.
    pub facts: ImageFacts,
}

/// Whether labels tell neither version nor interpreters.
#[must_use]
pub fn is_silent<'a>(label: impl Fn(&str) -> Option<&'a str> + Copy) -> bool {
    let facts = ImageFacts::from_labels(label);
    // A reference without a tag: labels only.
    image::version_by(label, "").is_none()
        && facts.r.is_empty()
        && facts.python.is_empty()
        && facts.quarto.is_empty()
        && !facts.minimal
}

/// Asks the programs of an image on this host. The container is gone afterwards.
///
/// # Errors
/// When the engine cannot, the image has no shell, or its programs do not end.
pub async fn look(
    subject: &Subject<'_>,
    engine: &Engine,
    image: &str,
    about: &ImageInspect,
) -> Result<Inside, EngineError> {
    let name = format!("{}-inside", subject.names.container);
    let label = format!("{LABEL_PREFIX}inside");
    if let Some(left) = engine.container(&name).await? {
        let labels = left.config.and_then(|config| config.labels).unwrap_or_default();
        if !labels.contains_key(&label) {
            return Err(EngineError::Refused {
                kind: engine.kind,
                call: format!("look into {image}"),
                status: 0,
                message: format!("there is a container {name} that connect-migrator did not make"),
            });
        }
        engine.remove_by_force(&name).await?;
    }
    let volumes = about.config.as_ref().and_then(|config| config.volumes.clone()).unwrap_or_default();
    let mut tmpfs: HashMap<String, String> = spec::stray_tmpfs(&volumes, &[]);
    tmpfs.insert("/tmp".into(), "size=64m".into());
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["/bin/sh".into()]),
        cmd: Some(vec!["-c".into(), ASK.into()]),
        network_disabled: Some(true),
        labels: Some(HashMap::from([(label, subject.instance.clone())])),
        host_config: Some(HostConfig {
            network_mode: Some("none".into()),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            memory: Some(MEMORY_MAX_BYTES),
            pids_limit: Some(PROCESSES_MAX),
            tmpfs: Some(tmpfs),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    engine.create(&name, body).await?;
    let said = ask(engine, &name, image).await;
    let removed = engine.remove_by_force(&name).await;
    let said = said?;
    removed?;
    Ok(understood(&said))
}

async fn ask(engine: &Engine, name: &str, image: &str) -> Result<Vec<String>, EngineError> {
    let limit = Duration::from_secs(LOOK_TIMEOUT_SECONDS);
    let deadline = Instant::now() + limit;
    engine.start(name, limit, None).await?;
    loop {
        let state = engine.container(name).await?.and_then(|container| container.state).unwrap_or_default();
        if state.running != Some(true) {
            return Ok(engine.lines(name, LINES).await);
        }
        if Instant::now() >= deadline {
            return Err(EngineError::Slow {
                kind: engine.kind,
                call: format!("let the programs of {image} say their versions"),
                seconds: LOOK_TIMEOUT_SECONDS,
                setting: None,
            });
        }
        sleep(Duration::from_millis(POLL_MILLIS)).await;
    }
}

fn understood(lines: &[String]) -> Inside {
    let mut inside = Inside::default();
    for (what, said) in lines.iter().filter_map(|line| line.split_once('=')) {
        let number = said
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
            .map(|word| word.trim_end_matches([',', ')']).to_owned());
        let list = match what {
            "connect" => {
                inside.version = Version::find(said);
                continue;
            }
            "os" => {
                inside.facts.codename = codename(said);
                continue;
            }
            "R" => &mut inside.facts.r,
            "python" => &mut inside.facts.python,
            "quarto" => &mut inside.facts.quarto,
            _ => continue,
        };
        if let Some(number) = number.filter(|number| !list.contains(number)) {
            list.push(number);
        }
    }
    inside
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_say_is_understood() {
        let lines = [
            "connect=Posit Connect v2026.03.1",
            "R=R version 4.5.2 (2025-10-31) -- \"Kick\"",
            "R=R version 4.4.3",
            "python=Python 3.12.13",
            "python=Python 3.12.13",
            "quarto=1.8.24",
            "os=Ubuntu 24.04",
            "nonsense",
        ]
        .map(String::from);
        let inside = understood(&lines);
        assert_eq!(inside.version, Version::parse("2026.03.1").ok());
        let facts = inside.facts;
        assert_eq!(
            (facts.r, facts.python, facts.quarto),
            (vec!["4.5.2".into(), "4.4.3".into()], vec!["3.12.13".into()], vec!["1.8.24".into()])
        );
        assert_eq!(facts.codename.as_deref(), Some("noble"));
        assert_eq!(understood(&["R=sh: no".into()]), Inside::default());
    }

    #[test]
    fn labels_that_tell_anything_are_not_silent() {
        for (key, value, silent) in [
            ("maintainer", "x", true),
            ("org.opencontainers.image.version", "2026.03.1", false),
            // The base image's own.
            ("org.opencontainers.image.version", "24.04", true),
            ("co.posit.image.tools.R", "4.5.3", false),
            ("co.posit.image.variant", "Minimal", false),
        ] {
            assert_eq!(is_silent(|name| (name == key).then_some(value)), silent, "{key}={value}");
        }
    }
}

//! How `podman run` is asked for the container: the same for both forms of the unit.

use crate::ground::Init;
use crate::selinux::Labels;
use connect_migrator_connect::container::CONTAINER_PORT;
use connect_migrator_container::settings::{Command, Network, Privileges};
use connect_migrator_container::spec::{
    self, Bind, CONFIG_IN_CONTAINER, CONNECT, Parts, STRAY_VOLUME_BYTES, environment, labels, stray_volumes,
};
use connect_migrator_container::world::Subject;
use std::collections::BTreeMap;
use std::path::Path;

/// One option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunOption {
    /// One for which `.container` files have had a key from the start.
    Keyed {
        /// The key.
        key: &'static str,
        /// Its value, as it stands in a unit file.
        value: String,
        /// The option of `podman run`, with the same value.
        flag: &'static str,
    },
    /// Any other, as it stands in a unit file.
    Plain(String),
}

/// The options, in the order in which they are written.
#[must_use]
pub fn all(subject: &Subject<'_>, parts: &Parts<'_>, init: &Init, selinux: &Labels) -> Vec<RunOption> {
    let settings = subject.settings;
    let keyed = |key, value: String, flag| RunOption::Keyed { key, value, flag };
    let plain = |text: String| RunOption::Plain(word(&text));
    let mut all = vec![plain(format!("--hostname={}", subject.names.hostname))];
    if *init != Init::None {
        // As the first process bash would not hand SIGTERM on, and Connect would be killed. Below an init it is asked to end.
        all.push(plain(format!("--entrypoint={CONNECT}")));
        all.push(plain("--init".into()));
    }
    if let Init::Other(path) = init {
        all.push(plain(format!("--init-path={}", path.display())));
    }
    match settings.network {
        Network::Host => all.push(keyed("Network", "host".into(), "--network")),
        Network::Bridge => {
            let publish = &subject.names.publish;
            let host = match publish.host.as_str() {
                "" => String::new(),
                host if host.contains(':') => format!("[{host}]:"),
                host => format!("{host}:"),
            };
            let value = format!("{host}{}:{CONTAINER_PORT}", publish.port);
            all.push(keyed("PublishPort", value, "--publish"));
        }
    }
    let has = |name: &str| {
        parts.security.iter().any(|option| option.split(',').any(|o| o == format!("name={name}")))
    };
    match settings.privileges {
        Privileges::Privileged => all.push(plain("--privileged".into())),
        Privileges::SysAdmin => {
            all.push(keyed("AddCapability", "SYS_ADMIN".into(), "--cap-add"));
            if has("apparmor") {
                // podman's own profile denies every mount, whatever the capabilities.
                all.push(plain("--security-opt=apparmor=unconfined".into()));
            }
        }
        Privileges::None => {}
    }
    if selinux.disabled(settings.privileges) {
        all.push(plain("--security-opt=label=disable".into()));
    }
    let binds = spec::binds(subject, parts);
    all.extend(binds.iter().map(|bind| keyed("Volume", volume(subject, bind, selinux), "--volume")));
    for stray in stray_volumes(parts.volumes, &binds) {
        all.push(plain(format!("--tmpfs={stray}:size={STRAY_VOLUME_BYTES}")));
    }
    for (name, address) in &parts.derived.extra_hosts {
        all.push(plain(format!("--add-host={name}:{address}")));
    }
    for (name, value) in environment(subject, parts.derived) {
        all.push(keyed("Environment", word(&format!("{name}={value}")), "--env"));
    }
    all.extend(
        [
            // An image is never fetched at a boot, and never another one.
            "--pull=never".to_owned(),
            "--log-driver=journald".into(),
            "--stop-signal=SIGTERM".into(),
            format!("--stop-timeout={}", settings.stop_timeout.0),
            // podman's own limit would count Connect's content.
            "--pids-limit=-1".into(),
        ]
        .map(plain),
    );
    let labels: BTreeMap<_, _> = labels(subject, parts).into_iter().collect();
    all.extend(
        labels.iter().map(|(name, value)| keyed("Label", word(&format!("{name}={value}")), "--label")),
    );
    all
}

/// What the container runs after its entry point.
#[must_use]
pub fn command(subject: &Subject<'_>) -> Option<String> {
    (subject.settings.command == Command::Connect).then(|| format!("--config {CONFIG_IN_CONTAINER}"))
}

fn volume(subject: &Subject<'_>, bind: &Bind, selinux: &Labels) -> String {
    let mut options = vec![if bind.read_only { "ro" } else { "rw" }];
    if *selinux == Labels::Confined && bind.source.starts_with(subject.folder()) {
        options.push("Z");
    }
    format!("{}:{}:{}", bind.source.display(), bind.target.display(), options.join(","))
}

/// Whether a path can stand in a unit file and in `--volume` as it is.
#[must_use]
pub fn is_writable(path: &Path) -> bool {
    path.to_str()
        .is_some_and(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@=~#".contains(c)))
}

/// One word of a command line in a unit file: systemd replaces `%` and `$`, and splits at spaces.
#[must_use]
pub fn word(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    let plain = text.chars().all(|c| c.is_ascii_graphic() && !"\\\"'%$;#".contains(c));
    if plain && !text.is_empty() { escaped } else { format!("\"{escaped}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_written_so_that_systemd_reads_them_as_they_were() {
        for (text, written) in [
            ("A=b", "A=b"),
            ("A=b c", "\"A=b c\""),
            ("A=50%", "\"A=50%%\""),
            ("A=$HOME", "\"A=$$HOME\""),
            ("A=\"x\\y\"", "\"A=\\\"x\\\\y\\\"\""),
            ("A='x'", "\"A='x'\""),
            ("", "\"\""),
        ] {
            assert_eq!(word(text), written);
        }
    }

    #[test]
    fn paths_that_a_unit_file_would_change_are_known() {
        for path in ["/mnt/connect/data", "/srv/a-b_c.d+e"] {
            assert!(is_writable(Path::new(path)));
        }
        for path in ["/mnt/my data", "/a:b", "/a,b", "/a%b", "/a$b", "/a'b", "/ä"] {
            assert!(!is_writable(Path::new(path)), "{path}");
        }
    }
}

//! What must hold for a container that is a service.

use crate::ground::{Form, Ground, Init, unit, unit_file};
use crate::options::is_writable;
use crate::selinux::{Labelled, Labels, SeLinux};
use crate::socket::Socket;
use crate::systemd::Units;
use crate::unit::standing;
use connect_migrator_connect::installation::Installation;
use connect_migrator_container::check_all::check_all;
use connect_migrator_container::settings::Settings;
use connect_migrator_container::spec::{self, Parts};
use connect_migrator_container::world::Subject;
use connect_migrator_container::{check as shared, plan};
use connect_migrator_sdk::{Context, Finding, StepError};

/// Every finding.
///
/// # Errors
/// When the settings themselves cannot be used.
pub async fn check<S: Units>(
    config: &Settings,
    cx: &Context,
    ground: &Ground<S>,
) -> Result<Vec<Finding>, StepError> {
    let subject = Subject::new(config, &ground.world, cx)?;
    let socket = Socket::open(&ground.systemd, &subject).await;
    let found = check_all(config, cx, &ground.world).await;
    socket.close().await;
    let mut found = found?;
    found.push(name(ground, &subject).await);
    found.extend(init(ground, &subject));
    if let Ok(installation) = subject.installation_files()
        && let Ok(derived) = shared::derive(&subject, &installation, None)
    {
        let planned = plan::Planned::of(&subject, installation, derived);
        let parts = planned.parts(&subject);
        found.extend(unwritable(&subject, &planned.installation, &parts));
        found.extend(labels(ground, &subject, &parts).finding());
    }
    Ok(found)
}

/// What is to be done about SELinux's labels.
#[must_use]
pub fn labels<S>(ground: &Ground<S>, subject: &Subject<'_>, parts: &Parts<'_>) -> Labels {
    let mountinfo = std::fs::read_to_string(&subject.world.mountinfo).unwrap_or_default();
    let folder = subject.folder();
    let mounts: Vec<Labelled> =
        spec::binds(subject, parts).iter().map(|bind| Labelled::of(bind, &folder, &mountinfo)).collect();
    Labels::decide(SeLinux::read(&ground.selinux), subject.settings.privileges, &mounts)
}

async fn name<S: Units>(ground: &Ground<S>, subject: &Subject<'_>) -> Finding {
    let unit = unit(subject);
    let remedy = "choose another `name`, or remove that unit if it is not needed";
    if let Some(standing) = standing(subject).filter(|standing| !standing.instance) {
        let text = format!("{} is there, and connect-migrator did not write it", standing.path.display());
        return Finding::blocker("unit-taken", text, remedy);
    }
    let form = ground.form();
    let file = unit_file(subject, form);
    match ground.systemd.status(&unit).await {
        Ok(status) if !status.is_missing() && standing(subject).is_none() => Finding::blocker(
            "unit-taken",
            format!("there is a unit {unit} already ({})", status.file),
            remedy,
        ),
        Ok(_) => Finding::ok(
            "unit",
            match form {
                Form::Quadlet => format!("{unit} will be made of {} by podman's Quadlet", file.display()),
                Form::Unit => format!("this podman has no Quadlet; {} will run podman", file.display()),
            },
        ),
        Err(error) => {
            Finding::blocker("systemd", error.to_string(), "see `systemctl status`, and run this as root")
        }
    }
}

/// Without an init Connect would be the first process, and what its content leaves behind would never be cleared away.
fn init<S>(ground: &Ground<S>, subject: &Subject<'_>) -> Option<Finding> {
    match ground.init(subject) {
        Init::None => None,
        Init::Podmans => Some(Finding::ok("init", "podman has its init (catatonit)")),
        Init::Other(path) => Some(Finding::ok("init", format!("{} is podman's init here", path.display()))),
        Init::Missing => Some(Finding::blocker(
            "init-missing",
            "podman finds no small init (catatonit), below which Connect is to run",
            "install one: `apt install catatonit` or `dnf install catatonit`",
        )),
    }
}

/// What cannot be written into a unit file.
fn unwritable(subject: &Subject<'_>, installation: &Installation, parts: &Parts<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    let binds = spec::binds(subject, parts);
    let mut paths: Vec<String> = binds
        .iter()
        .flat_map(|bind| [&bind.source, &bind.target])
        .chain([&installation.data_dir])
        .filter(|path| !is_writable(path))
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths.dedup();
    if !paths.is_empty() {
        found.push(Finding::blocker(
            "path-characters",
            format!("{} cannot be named in podman's unit", paths.join(", ")),
            "use paths of letters, digits and `/._-+@=~#` only, for example by a bind mount of this host",
        ));
    }
    let broken: Vec<String> = spec::environment(subject, parts.derived)
        .into_iter()
        .filter(|(name, value)| {
            value.chars().any(char::is_control)
                || name.is_empty()
                || name.contains(|c: char| c == '=' || c.is_whitespace())
        })
        .map(|(name, _)| name)
        .collect();
    if !broken.is_empty() {
        found.push(Finding::blocker(
            "environment-value",
            format!("the environment variables {} cannot be written into podman's unit", broken.join(", ")),
            "leave line breaks and control characters out of them",
        ));
    }
    found
}

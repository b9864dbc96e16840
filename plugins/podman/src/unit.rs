//! The text of the unit, in both forms.

use crate::ground::{Form, Init, guard, handed_over, unit_file};
use crate::options::{self, RunOption};
use crate::selinux::Labels;
use connect_migrator_container::spec::{self, Parts};
use connect_migrator_container::start::Made;
use connect_migrator_container::world::Subject;
use std::path::{Path, PathBuf};

/// The first line of every file of ours.
const HEAD: &str = "# Written by connect-migrator. Rollback removes it; after commit it is yours.";
/// systemd and podman leave sections alone whose names begin so.
const SECTION: &str = "[X-ConnectMigrator]";
/// podman.
const PODMAN: &str = "/usr/bin/podman";
/// How long systemd waits after a container that ended before it starts it again.
const RESTART_SECONDS: u64 = 10;
/// What systemd gives stopping beyond the container's own time to end.
const STOP_MARGIN_SECONDS: u64 = 60;

/// What the unit is made of.
#[derive(Debug)]
pub struct Making<'a> {
    /// Its form.
    pub form: Form,
    /// What the container is made of.
    pub parts: &'a Parts<'a>,
    /// The data directory.
    pub data_dir: &'a Path,
    /// The init below which Connect runs.
    pub init: Init,
    /// What is done about SELinux.
    pub selinux: &'a Labels,
}

/// The text.
#[must_use]
pub fn text(subject: &Subject<'_>, making: &Making<'_>) -> String {
    let Making { form, parts, data_dir, init, selinux } = making;
    let (form, name) = (*form, &subject.names.container);
    let options = options::all(subject, parts, init, selinux);
    let mut text = format!(
        "{HEAD}\n\
         [Unit]\n\
         Description=Posit Connect in the container {name}\n\
         Documentation=https://docs.posit.co/connect/admin/\n\
         Wants=network-online.target\n\
         After=network-online.target\n\
         RequiresMountsFor={}\n\
         # Written when the migration hands over to the container.\n\
         AssertPathExists={}\n",
        needed_mounts(subject, parts, data_dir),
        handed_over(subject).display()
    );
    if form == Form::Quadlet {
        text.push_str(&container(subject, parts, &options));
    }
    text.push_str("\n[Service]\n");
    if form == Form::Unit {
        text.push_str("Type=notify\nNotifyAccess=all\nKillMode=mixed\nDelegate=yes\nSyslogIdentifier=%N\n");
        text.push_str("Environment=PODMAN_SYSTEMD_UNIT=%n\n");
    }
    text.push_str(&format!("ExecStartPre=/bin/sh {}\n", guard(subject).display()));
    if form == Form::Unit {
        text.push_str(&run(subject, parts, &options));
    }
    let stop = subject.settings.stop_timeout.0;
    text.push_str(&format!(
        "Restart=always\n\
         RestartSec={RESTART_SECONDS}\n\
         TimeoutStartSec={}\n\
         TimeoutStopSec={}\n\
         TasksMax=infinity\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n\
         \n\
         {SECTION}\n",
        subject.settings.start_timeout.0,
        stop + STOP_MARGIN_SECONDS,
    ));
    for (key, value) in [
        ("Instance", subject.instance.as_str()),
        ("Migration", &subject.migration),
        ("Step", &subject.step),
        ("Image", parts.image),
        ("Version", parts.version.as_deref().unwrap_or_default()),
        ("SourceVersion", parts.source_version.as_deref().unwrap_or_default()),
    ] {
        text.push_str(&format!("{key}={value}\n"));
    }
    text
}

/// The places whose file systems must be mounted.
fn needed_mounts(subject: &Subject<'_>, parts: &Parts<'_>, data_dir: &Path) -> String {
    let mut all = vec![data_dir.canonicalize().unwrap_or_else(|_| data_dir.into())];
    for bind in
        spec::binds(subject, parts).into_iter().filter(|bind| !bind.source.starts_with(subject.folder()))
    {
        if !all.iter().any(|path| bind.source.starts_with(path)) {
            all.push(bind.source);
        }
    }
    all.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn container(subject: &Subject<'_>, parts: &Parts<'_>, options: &[RunOption]) -> String {
    let mut text =
        format!("\n[Container]\nContainerName={}\nImage={}\n", subject.names.container, parts.image);
    if let Some(command) = options::command(subject) {
        text.push_str(&format!("Exec={command}\n"));
    }
    for option in options {
        text.push_str(&match option {
            RunOption::Keyed { key, value, .. } => format!("{key}={value}\n"),
            RunOption::Plain(value) => format!("PodmanArgs={value}\n"),
        });
    }
    text
}

/// What the generator of newer podmans makes of a `.container` file.
fn run(subject: &Subject<'_>, parts: &Parts<'_>, options: &[RunOption]) -> String {
    let mut text = format!(
        "ExecStart={PODMAN} run --name={} --cidfile=%t/%N.cid --replace --rm --cgroups=split --sdnotify=conmon -d",
        subject.names.container
    );
    for option in options {
        text.push_str(" \\\n\t");
        text.push_str(&match option {
            RunOption::Keyed { value, flag, .. } => format!("{flag} {value}"),
            RunOption::Plain(value) => value.clone(),
        });
    }
    text.push_str(&format!(" \\\n\t{}", parts.image));
    if let Some(command) = options::command(subject) {
        text.push_str(&format!(" \\\n\t{command}"));
    }
    text.push_str(&format!(
        "\nExecStop={PODMAN} stop --ignore --time={} --cidfile=%t/%N.cid\n\
         ExecStopPost=-{PODMAN} rm --force --ignore --cidfile=%t/%N.cid\n",
        subject.settings.stop_timeout.0
    ));
    text
}

/// A unit's file that stands where ours does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Where.
    pub path: PathBuf,
    /// Its form.
    pub form: Form,
    /// It is of this instance of connect-migrator.
    pub instance: bool,
    /// This very migration wrote it.
    pub ours: bool,
    /// What it was made of.
    pub made: Made,
}

/// The file of the container's unit, in either form: the host's podman may be another than it was.
#[must_use]
pub fn standing(subject: &Subject<'_>) -> Option<Standing> {
    [Form::Quadlet, Form::Unit].into_iter().find_map(|form| {
        let path = unit_file(subject, form);
        // Something that cannot be read is not ours, and stands there.
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(_) => String::new(),
        };
        let written = text.starts_with(HEAD);
        let about = text.split_once(SECTION).map(|(_, rest)| rest).unwrap_or_default();
        let value = |key: &str| {
            let find = about.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            find.unwrap_or_default().to_owned()
        };
        let instance = written && value("Instance") == subject.instance;
        let made = Made::from_labels(|name| {
            value(match name {
                "image" => "Image",
                "version" => "Version",
                _ => "SourceVersion",
            })
        });
        let ours = instance && value("Migration") == subject.migration;
        Some(Standing { path, form, instance, ours, made })
    })
}

//! Whether SELinux lets the container at its files.
//!
//! Labels are changed only where nobody else has the files: in the container's own folder. The data directory, a licence and what
//! `mounts` names are the source's too, and a relabelled directory tree cannot be put back exactly; an NFS export has no labels of its
//! own at all. Where their labels do not fit, the container runs without SELinux's limits instead.

use connect_migrator_container::settings::Privileges;
use connect_migrator_container::spec::Bind;
use connect_migrator_container::storage;
use connect_migrator_sdk::Finding;
use std::path::{Path, PathBuf};

/// Types that confined containers may use.
const USABLE: [&str; 4] =
    ["container_file_t", "container_ro_file_t", "container_share_t", "svirt_sandbox_file_t"];
/// Longer labels are not read.
const LABEL_MAX_BYTES: usize = 256;

/// What the host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeLinux {
    /// It is there: `Some(true)` when it enforces.
    pub enforcing: Option<bool>,
    /// The boolean `virt_use_nfs`.
    pub use_nfs: bool,
}

impl SeLinux {
    /// Reads it from SELinux's file system.
    #[must_use]
    pub fn read(at: &Path) -> Self {
        let first = |path: PathBuf| std::fs::read_to_string(path).ok().and_then(|text| text.chars().next());
        SeLinux {
            enforcing: first(at.join("enforce")).map(|value| value == '1'),
            // The current value, then the pending one.
            use_nfs: first(at.join("booleans/virt_use_nfs")) == Some('1'),
        }
    }
}

/// A mount with what SELinux looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// On this host.
    pub path: PathBuf,
    /// It lies in the container's own folder.
    pub own: bool,
    /// The file system: `nfs4`, `xfs`, …
    pub fs: String,
    /// The type of its label.
    pub kind: Option<String>,
}

impl Labelled {
    /// Looks at a mount.
    #[must_use]
    pub fn of(bind: &Bind, folder: &Path, mountinfo: &str) -> Self {
        let real = bind.source.canonicalize().unwrap_or_else(|_| bind.source.clone());
        Labelled {
            path: bind.source.clone(),
            own: bind.source.starts_with(folder),
            fs: storage::holding(&real, mountinfo).map(|mounted| mounted.fs).unwrap_or_default(),
            kind: label_type(&real),
        }
    }
}

fn label_type(path: &Path) -> Option<String> {
    let mut buffer = vec![0u8; LABEL_MAX_BYTES];
    let length = rustix::fs::getxattr(path, "security.selinux", buffer.as_mut_slice()).ok()?;
    let text = std::str::from_utf8(buffer.get(..length)?).ok()?.trim_end_matches('\0').to_owned();
    text.split(':').nth(2).map(str::to_owned)
}

/// What is to be done about labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// There is no SELinux here.
    Absent,
    /// The privileges lift its limits anyway.
    Privileged(String),
    /// Its limits are lifted, because they would keep the container from something.
    Lifted {
        /// What that is.
        why: String,
        /// What makes that unnecessary.
        remedy: String,
    },
    /// Its limits hold; the container's own files get its label.
    Confined,
}

impl Labels {
    /// Decides.
    #[must_use]
    pub fn decide(host: SeLinux, privileges: Privileges, mounts: &[Labelled]) -> Self {
        let Some(enforcing) = host.enforcing else { return Labels::Absent };
        let mode = if enforcing { "enforcing" } else { "permissive" };
        match privileges {
            Privileges::Privileged => {
                return Labels::Privileged(format!(
                    "SELinux is {mode}; it does not confine a privileged container, and no file is relabelled"
                ));
            }
            Privileges::SysAdmin => {
                return Labels::Privileged(format!(
                    "SELinux is {mode}; its limits are lifted for this container (label=disable), as they deny every mount, and no file is relabelled"
                ));
            }
            Privileges::None => {}
        }
        for mount in mounts.iter().filter(|mount| !mount.own) {
            let path = mount.path.display();
            if matches!(mount.fs.as_str(), "nfs" | "nfs4") {
                if !host.use_nfs {
                    return Labels::Lifted {
                        why: format!("{path} lies on NFS, and the boolean virt_use_nfs is off"),
                        remedy: "`setsebool -P virt_use_nfs 1` lets containers use NFS, and SELinux's limits can stay".into(),
                    };
                }
                continue;
            }
            let kind = mount.kind.as_deref().unwrap_or("unlabeled_t");
            if !USABLE.contains(&kind) {
                return Labels::Lifted {
                    why: format!(
                        "{path} has the type {kind}, which confined containers may not use, and it is not relabelled because it is not the container's alone"
                    ),
                    remedy: format!(
                        "`semanage fcontext -a -t container_file_t '{path}(/.*)?'` and `restorecon -R {path}` make it usable, if nothing confined on this host needs the old type"
                    ),
                };
            }
        }
        Labels::Confined
    }

    /// Whether the container runs with label=disable.
    #[must_use]
    pub fn disabled(&self, privileges: Privileges) -> bool {
        match self {
            Labels::Lifted { .. } => true,
            // `--privileged` does it by itself.
            Labels::Privileged(_) => privileges == Privileges::SysAdmin,
            Labels::Absent | Labels::Confined => false,
        }
    }

    /// In words, for plan and check; `None` without SELinux.
    #[must_use]
    pub fn shown(&self) -> Option<String> {
        match self {
            Labels::Absent => None,
            Labels::Privileged(text) => Some(text.clone()),
            Labels::Lifted { why, .. } => {
                Some(format!("SELinux's limits are lifted for this container (label=disable): {why}"))
            }
            Labels::Confined => Some(
                "SELinux confines the container; only the files in its own folder get its label (`:Z`)"
                    .into(),
            ),
        }
    }

    /// As the check tells it.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let text = self.shown()?;
        Some(match self {
            Labels::Lifted { remedy, .. } => Finding::warning("selinux-lifted", text, remedy),
            _ => Finding::ok("selinux", text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(own: bool, fs: &str, kind: &str) -> Labelled {
        Labelled { path: "/d".into(), own, fs: fs.into(), kind: Some(kind.into()) }
    }

    #[test]
    fn labels_are_decided_by_what_the_host_says() {
        let on = |use_nfs| SeLinux { enforcing: Some(true), use_nfs };
        let own = mount(true, "xfs", "etc_t");
        let cases = [
            (SeLinux::default(), Privileges::None, own.clone(), None, false),
            (
                on(false),
                Privileges::Privileged,
                mount(false, "xfs", "var_lib_t"),
                Some("not confine a privileged"),
                false,
            ),
            (
                on(false),
                Privileges::SysAdmin,
                mount(false, "xfs", "var_lib_t"),
                Some("deny every mount"),
                true,
            ),
            (on(false), Privileges::None, mount(false, "nfs4", "nfs_t"), Some("virt_use_nfs is off"), true),
            (
                on(true),
                Privileges::None,
                mount(false, "nfs4", "nfs_t"),
                Some("confines the container"),
                false,
            ),
            (
                on(true),
                Privileges::None,
                mount(false, "xfs", "var_lib_t"),
                Some("has the type var_lib_t"),
                true,
            ),
            (on(true), Privileges::None, mount(false, "xfs", "container_file_t"), Some("confines"), false),
            (on(false), Privileges::None, own, Some("its own folder"), false),
        ];
        for (host, privileges, mount, shown, disabled) in cases {
            let labels = Labels::decide(host, privileges, std::slice::from_ref(&mount));
            assert_eq!(labels.disabled(privileges), disabled, "{mount:?} {labels:?}");
            match shown {
                None => assert_eq!(labels.shown(), None),
                Some(words) => assert!(labels.shown().unwrap().contains(words), "{labels:?}"),
            }
        }
    }

    #[test]
    fn the_boolean_is_read_from_selinux_itself() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(SeLinux::read(dir.path()), SeLinux::default());
        std::fs::create_dir(dir.path().join("booleans")).unwrap();
        std::fs::write(dir.path().join("enforce"), "1").unwrap();
        std::fs::write(dir.path().join("booleans/virt_use_nfs"), "1 1").unwrap();
        assert_eq!(SeLinux::read(dir.path()), SeLinux { enforcing: Some(true), use_nfs: true });
        std::fs::write(dir.path().join("enforce"), "0").unwrap();
        std::fs::write(dir.path().join("booleans/virt_use_nfs"), "0 1").unwrap();
        assert_eq!(SeLinux::read(dir.path()), SeLinux { enforcing: Some(false), use_nfs: false });
    }
}

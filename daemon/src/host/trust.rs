//! Whether a plugin's file may be loaded: nobody but root can have put it there or changed it.

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

/// Writable by the group or by everybody.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// As on /tmp.
const STICKY: u32 = 0o1000;

/// Who may own a plugin's file and the folders that lead to it. The default is root, from `/` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    owner: u32,
    /// Folders from here on are looked at. `/` but in tests.
    below: PathBuf,
}

impl Default for Trust {
    fn default() -> Self {
        Trust { owner: 0, below: "/".into() }
    }
}

/// Why a file is not trusted. The text says what is wrong; [`Untrusted::remedy`] what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// Relative, or with `..`.
    #[error("`{0}` is not an absolute path without `..`")]
    NotAbsolute(PathBuf),
    /// Nothing is there.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// A symbolic link, which somebody else could change.
    #[error("{0} is a symbolic link")]
    Symlink(PathBuf),
    /// A folder was expected.
    #[error("{0} is not a folder")]
    NotAFolder(PathBuf),
    /// A regular file was expected.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// Somebody else owns it.
    #[error("{path} belongs to {}, not to {}", user(*.owner), user(*.wanted))]
    Owner {
        /// The file, or a folder that leads to it.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who should.
        wanted: u32,
    },
    /// Others can change it.
    #[error("{path} is writable by {} (mode {mode:04o})", if mode & 0o002 == 0 { "its group" } else { "everybody" })]
    Writable {
        /// The file, or a folder that leads to it.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be opened.
    #[error("{path} cannot be opened: {why}")]
    Unreadable {
        /// The file, or a folder that leads to it.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
}

fn user(uid: u32) -> String {
    if uid == 0 { "root".into() } else { format!("user {uid}") }
}

impl Untrusted {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Untrusted::NotAbsolute(_) => "name the plugin's file by its full path".into(),
            Untrusted::Missing(_) => {
                "install the package that contains the plugin, or correct its path".into()
            }
            Untrusted::Symlink(path) => {
                format!("name the file by its real path (`realpath {}` shows where this leads)", path.display())
            }
            Untrusted::NotAFolder(_) | Untrusted::NotAFile(_) => "correct the plugin's path".into(),
            Untrusted::Owner { path, wanted: 0, .. } => {
                format!("if you trust what is in it, run `chown root:root {}`", path.display())
            }
            Untrusted::Owner { path, wanted, .. } => {
                format!("if you trust what is in it, run `chown {wanted} {}`", path.display())
            }
            Untrusted::Writable { mode, .. } if mode & STICKY != 0 => {
                "everybody may put files there by design; put the plugin into a folder of root's, as /usr/local/lib/connect-migrator/plugins".into()
            }
            Untrusted::Writable { path, .. } => {
                format!("look at who may have changed it, then run `chmod go-w {}`", path.display())
            }
            Untrusted::Unreadable { path, .. } => format!("look at `namei -l {}`", path.display()),
        }
    }
}

impl Trust {
    /// For tests, which cannot rely on being root or on the folders above their own.
    #[doc(hidden)]
    #[must_use]
    pub fn in_a_test(owner: u32, below: &Path) -> Self {
        Trust { owner, below: below.into() }
    }

    /// What a step host needs on its command line to trust the same; nothing for the default.
    pub(super) fn arguments(&self) -> Vec<std::ffi::OsString> {
        if *self == Trust::default() {
            return Vec::new();
        }
        vec![
            "--trusted-owner".into(),
            self.owner.to_string().into(),
            "--trusted-below".into(),
            self.below.clone().into(),
        ]
    }

    /// Opens a plugin's file for reading, if it and every folder that leads to it belong to the owner and can be written by
    /// nobody else. What is opened is what was looked at; no symbolic link is followed.
    ///
    /// # Errors
    /// The first thing that is wrong, from the root down.
    pub fn open(&self, path: &Path) -> Result<File, Untrusted> {
        let names = self.names(path)?;
        let Some((file, folders)) = names.split_last() else { return Err(Untrusted::NotAFile(path.into())) };

        let mut at = self.below.clone();
        let mut folder = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(&at)
            .map_err(|error| Untrusted::Unreadable { path: at.clone(), why: error.to_string() })?;
        if at == Path::new("/") {
            self.look(&at, &metadata(&at, &folder)?)?;
        }
        for name in folders {
            at.push(name);
            folder = open_in(&folder, name, &at, OFlag::O_DIRECTORY)?;
            self.look(&at, &metadata(&at, &folder)?)?;
        }
        at.push(file);
        // Non-blocking, or a named pipe would be waited for.
        let file = open_in(&folder, file, &at, OFlag::O_NONBLOCK)?;
        let seen = metadata(&at, &file)?;
        if !seen.is_file() {
            return Err(Untrusted::NotAFile(at));
        }
        self.look(&at, &seen)?;
        Ok(file)
    }

    /// The names on the way from `below` to the file.
    fn names<'a>(&self, path: &'a Path) -> Result<Vec<&'a OsStr>, Untrusted> {
        let wrong = || Untrusted::NotAbsolute(path.into());
        if !path.is_absolute() {
            return Err(wrong());
        }
        path.strip_prefix(&self.below)
            .map_err(|_| wrong())?
            .components()
            .map(|component| match component {
                Component::Normal(name) => Ok(name),
                _ => Err(wrong()),
            })
            .collect()
    }

    fn look(&self, path: &Path, seen: &Metadata) -> Result<(), Untrusted> {
        if seen.uid() != self.owner {
            return Err(Untrusted::Owner { path: path.into(), owner: seen.uid(), wanted: self.owner });
        }
        let mode = seen.mode() & 0o7777;
        // Also with the sticky bit: who may create files beside the plugin could have created the plugin.
        if mode & WRITABLE_BY_OTHERS != 0 {
            return Err(Untrusted::Writable { path: path.into(), mode });
        }
        Ok(())
    }
}

fn metadata(path: &Path, file: &File) -> Result<Metadata, Untrusted> {
    file.metadata().map_err(|error| Untrusted::Unreadable { path: path.into(), why: error.to_string() })
}

fn open_in(folder: &File, name: &OsStr, path: &Path, flags: OFlag) -> Result<File, Untrusted> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(folder, name, flags, Mode::empty()).map(File::from).map_err(|errno| {
        let path = path.to_path_buf();
        // Only for the message: the decision has been made.
        let is_symlink = path.symlink_metadata().is_ok_and(|seen| seen.is_symlink());
        match errno {
            Errno::ENOENT => Untrusted::Missing(path),
            Errno::ELOOP | Errno::ENOTDIR if is_symlink => Untrusted::Symlink(path),
            Errno::ENOTDIR => Untrusted::NotAFolder(path),
            Errno::ENXIO => Untrusted::NotAFile(path),
            errno => Untrusted::Unreadable { path, why: errno.desc().into() },
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// `<root>/plugins/docker.so`, as it should be.
    fn tree() -> (tempfile::TempDir, Trust, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("plugins");
        std::fs::create_dir(&folder).unwrap();
        mode(&folder, 0o755);
        let file = folder.join("docker.so");
        std::fs::write(&file, "elf").unwrap();
        mode(&file, 0o644);
        let trust = Trust::in_a_test(nix::unistd::getuid().as_raw(), root.path());
        (root, trust, file)
    }

    fn refusal(trust: &Trust, root: &Path, path: &Path) -> String {
        let refused = trust.open(path).unwrap_err();
        format!("{refused}; {}", refused.remedy())
            .replace(&*root.to_string_lossy(), "<root>")
            .replace(&format!("user {}", nix::unistd::getuid()), "root")
    }

    #[test]
    fn a_file_that_only_its_owner_can_have_changed_is_opened() {
        let (_root, trust, file) = tree();
        assert!(trust.open(&file).is_ok());
    }

    #[test]
    fn each_way_of_being_untrusted_has_its_own_message() {
        let mut told = Vec::new();
        let mut case = |spoil: &dyn Fn(&Path, &Path) -> PathBuf| {
            let (root, trust, file) = tree();
            let path = spoil(root.path(), &file);
            told.push(refusal(&trust, root.path(), &path));
        };
        case(&|_, file| {
            mode(file, 0o666);
            file.into()
        });
        case(&|_, file| {
            mode(file, 0o664);
            file.into()
        });
        case(&|_, file| {
            mode(file.parent().unwrap(), 0o1777);
            file.into()
        });
        case(&|root, file| {
            let link = root.join("plugins/link.so");
            symlink(file, &link).unwrap();
            link
        });
        case(&|root, file| {
            symlink(file.parent().unwrap(), root.join("elsewhere")).unwrap();
            root.join("elsewhere/docker.so")
        });
        case(&|root, _| root.join("plugins/podman.so"));
        case(&|_, file| file.join("deeper.so"));
        case(&|root, _| root.join("plugins"));
        case(&|root, _| root.join("plugins/../plugins/docker.so"));
        case(&|root, _| {
            let pipe = root.join("plugins/pipe.so");
            nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
            pipe
        });
        insta::assert_snapshot!(told.join("\n"), @r#"
        <root>/plugins/docker.so is writable by everybody (mode 0666); look at who may have changed it, then run `chmod go-w <root>/plugins/docker.so`
        <root>/plugins/docker.so is writable by its group (mode 0664); look at who may have changed it, then run `chmod go-w <root>/plugins/docker.so`
        <root>/plugins is writable by everybody (mode 1777); everybody may put files there by design; put the plugin into a folder of root's, as /usr/local/lib/connect-migrator/plugins
        <root>/plugins/link.so is a symbolic link; name the file by its real path (`realpath <root>/plugins/link.so` shows where this leads)
        <root>/elsewhere is a symbolic link; name the file by its real path (`realpath <root>/elsewhere` shows where this leads)
        <root>/plugins/podman.so does not exist; install the package that contains the plugin, or correct its path
        <root>/plugins/docker.so is not a folder; correct the plugin's path
        <root>/plugins is not a regular file; correct the plugin's path
        `<root>/plugins/../plugins/docker.so` is not an absolute path without `..`; name the plugin's file by its full path
        <root>/plugins/pipe.so is not a regular file; correct the plugin's path
        "#);
    }

    #[test]
    fn a_file_or_a_folder_of_somebody_else_is_refused() {
        let (root, _, file) = tree();
        let somebody = Trust::in_a_test(nix::unistd::getuid().as_raw() + 1, root.path());
        let Err(Untrusted::Owner { path, .. }) = somebody.open(&file) else { panic!("it was opened") };
        assert_eq!(path, file.parent().unwrap());

        let wrong = Untrusted::Owner { path: "/opt/x.so".into(), owner: 1000, wanted: 0 };
        assert_eq!(wrong.to_string(), "/opt/x.so belongs to user 1000, not to root");
        assert_eq!(wrong.remedy(), "if you trust what is in it, run `chown root:root /opt/x.so`");
    }

    #[test]
    fn by_default_every_folder_from_the_root_on_is_looked_at() {
        let (root, _, file) = tree();
        // Either somebody else owns the file's folders, or one of them is writable by all, as /tmp is.
        if root.path().starts_with("/tmp") {
            assert_eq!(
                Trust::default().open(&file).unwrap_err().to_string(),
                "/tmp is writable by everybody (mode 1777)"
            );
        }
        assert!(matches!(Trust::default().open(Path::new("docker.so")), Err(Untrusted::NotAbsolute(_))));
    }
}

//! The Debian image: built by mmdebstrap from the host's own package sources.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cache::{Cache, Entry, Key};
use crate::{Error, Suite, program, sources};

const PACKAGES: &str = include_str!("../recipe/packages");
const CUSTOMIZE: &str = include_str!("../recipe/customize.sh");
/// The disk that a guest sees; the file holds what is used of it, about 1 GB.
const DISK_SIZE: &str = "8G";
/// Counts up when this file builds differently from the same recipe.
const FORMAT: &str = "1";

/// A bootable Debian, as files in the cache.
#[derive(Debug, Clone)]
pub struct Image {
    suite: Suite,
    key: Key,
    entry: Entry,
}

impl Image {
    /// The image of a suite: from the cache, or built, which takes one to two minutes and tells its progress.
    /// Needs what [`crate::host::require`] installs and the host's package mirror. Root is not needed.
    pub fn build(suite: Suite, cache: &Cache) -> Result<Self, Error> {
        let key = Key::of([FORMAT, suite.name(), PACKAGES, CUSTOMIZE, DISK_SIZE]);
        let entry = cache.entry(suite.name(), &key, |folder| make(suite, cache, folder))?;
        Ok(Self { suite, key, entry })
    }

    /// Which Debian it is.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// What it was made from.
    pub fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn disk(&self) -> PathBuf {
        self.entry.path("base.qcow2")
    }

    pub(crate) fn kernel(&self) -> PathBuf {
        self.entry.path("vmlinuz")
    }

    pub(crate) fn initrd(&self) -> PathBuf {
        self.entry.path("initrd")
    }

    pub(crate) fn ssh_key(&self) -> PathBuf {
        self.entry.path("id")
    }

    pub(crate) fn in_use(&self) -> PathBuf {
        self.entry.in_use()
    }
}

fn make(suite: Suite, cache: &Cache, folder: &Path) -> Result<(), Error> {
    let started = Instant::now();
    let say = |text: &str| cache.say(format!("{suite} image, {} s: {text}", started.elapsed().as_secs()));
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let what = format!("building the {suite} image");

    // As a plain user mmdebstrap maps users into a namespace, from which the cache folder may be out of reach (a
    // home folder with mode 700). It therefore works in a folder of its own and into files made here.
    let outside = tempfile::Builder::new()
        .prefix("rig-image-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(if nix::unistd::geteuid().is_root() { folder } else { Path::new("/var/tmp") })
        .map_err(|e| Error::io("make a folder in", folder, e))?;
    let beside = |name: &str| outside.path().join(name).to_string_lossy().into_owned();
    for (name, mode) in [("disk.raw", 0o666), ("vmlinuz", 0o666), ("initrd", 0o666)] {
        fresh(Path::new(&beside(name)), "", mode)?;
    }
    program::output(&what, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "rig", "-f", &path("id")])?;
    let public = std::fs::read_to_string(path("id.pub")).map_err(|e| Error::io("read", path("id.pub"), e))?;
    fresh(Path::new(&beside("id.pub")), &public, 0o644)?;
    fresh(Path::new(&beside("customize.sh")), CUSTOMIZE, 0o755)?;

    let [script, out, key] = ["customize.sh", ".", "id.pub"].map(|name| program::quote(&beside(name)));
    let hook = format!("{script} \"$1\" {out} {key} {DISK_SIZE}");
    let mut arguments = vec![
        "--quiet".to_owned(),
        "--variant=minbase".into(),
        "--format=null".into(),
        "--aptopt=APT::Install-Recommends \"false\"".into(),
        // The result is a file that is flushed once, not a live system.
        "--dpkgopt=force-unsafe-io".into(),
        format!("--include={}", packages(suite).join(",")),
        format!("--customize-hook={hook}"),
        suite.name().into(),
        "/dev/null".into(),
    ];
    if let Some(text) = sources::for_guest(suite)? {
        fresh(Path::new(&beside("guest.sources")), &text, 0o644)?;
        arguments.push(beside("guest.sources"));
    }
    say("installing its packages (mmdebstrap)");
    let mut mmdebstrap = program::command("mmdebstrap");
    // Its initrd would be made and not used.
    let ended = mmdebstrap.args(&arguments).env("INITRD", "No").output();
    program::finish(&what, "mmdebstrap", ended)?;
    say("packing the disk");
    program::output(
        &what,
        "qemu-img",
        &["convert", "-O", "qcow2", &beside("disk.raw"), &path("base.qcow2")],
    )?;
    for name in ["vmlinuz", "initrd"] {
        std::fs::copy(beside(name), path(name))
            .and_then(|_| std::fs::set_permissions(path(name), Permissions::from_mode(0o644)))
            .map_err(|e| Error::io("copy", beside(name), e))?;
    }
    say("done");
    Ok(())
}

fn packages(suite: Suite) -> Vec<&'static str> {
    let lines = PACKAGES.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.chain(suite.packages().iter().copied()).collect()
}

/// A new file with exactly this mode, whatever the umask.
fn fresh(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let write = || -> std::io::Result<()> {
        File::create(path)?.set_permissions(Permissions::from_mode(mode))?;
        std::fs::write(path, text)
    };
    write().map_err(|e| Error::io("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_list_has_no_comments_and_the_suites_own_packages() {
        let packages = packages(Suite::Trixie);
        assert!(packages.contains(&"docker-cli") && packages.contains(&"nginx-light"));
        assert!(packages.iter().all(|name| !name.contains(' ') && !name.contains('#')));
        assert!(!super::packages(Suite::Bookworm).contains(&"docker-cli"));
    }
}

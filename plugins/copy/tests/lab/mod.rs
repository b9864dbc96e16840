//! A place to copy from and to.

#![allow(dead_code, reason = "each test file uses its own part")]

use connect_migrator_copy::{Control, CopyError, Options, Report, run};
use connect_migrator_copy_bench::{differences, need};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Longer than the clock of file times is coarse: what changed before it is no longer suspect.
pub const SETTLE: Duration = Duration::from_millis(40);

pub struct Lab {
    dir: tempfile::TempDir,
    pub source: PathBuf,
    pub target: PathBuf,
    pub manifest: PathBuf,
}

impl Lab {
    pub fn new() -> Self {
        Lab::within(&std::env::temp_dir())
    }

    pub fn within(folder: &Path) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: owners, devices, mounts");
        need(&[]);
        let dir = tempfile::tempdir_in(folder).unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        let manifest = dir.path().join("manifest");
        Lab { dir, source, target, manifest }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn options(&self) -> Options {
        Options::new(&self.source, &self.target, &self.manifest)
    }

    pub fn try_pass(&self, options: &Options) -> Result<Report, CopyError> {
        let cancel = AtomicBool::new(false);
        run(options, &Control { cancel: &cancel, on_progress: &|_| {}, total: None })
    }

    /// A pass that must be whole.
    pub fn pass(&self) -> Report {
        self.pass_with(&self.options())
    }

    pub fn pass_with(&self, options: &Options) -> Report {
        let report = self.try_pass(options).unwrap();
        assert!(report.whole, "{report:?}");
        report
    }

    /// A pass by the command that dies right before its operation number `operation` at the target, counted from 1. False when it ended
    /// before it came to that.
    pub fn pass_dies_at(&self, operation: u64, arguments: &[&str]) -> bool {
        let out = Command::new(env!("CARGO_BIN_EXE_connect-migrator-copy"))
            .arg("copy")
            .args([&self.source, &self.target])
            .arg("--manifest")
            .arg(&self.manifest)
            .args(["--dies-at-operation", &operation.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        let died = std::os::unix::process::ExitStatusExt::signal(&out.status) == Some(9);
        assert!(died || out.status.success() || out.status.code() == Some(3), "{out:?}");
        died
    }

    /// rsync and find must agree that both trees are the same.
    #[track_caller]
    pub fn assert_same(&self) {
        let told = differences(&self.source, &self.target);
        assert!(told.is_empty(), "the trees differ:\n{}", told.join("\n"));
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

/// Waits until what was done before is no longer suspect.
pub fn settle() {
    std::thread::sleep(SETTLE);
}

/// A mount that goes away with the value.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        std::fs::create_dir_all(at).unwrap();
        shell(&["mount", "-t", "tmpfs", "-o", options, "tmpfs", at.to_str().unwrap()]);
        Mounted(at.into())
    }

    /// A file system that holds no extended attributes.
    pub fn ramfs(at: &Path) -> Self {
        shell(&["mount", "-t", "ramfs", "-o", "mode=755", "ramfs", at.to_str().unwrap()]);
        Mounted(at.into())
    }

    /// A small ext4 in a new file `image`.
    pub fn ext4(at: &Path, image: &Path) -> Self {
        Mounted::ext4_with(at, image, "loop")
    }

    pub fn ext4_with(at: &Path, image: &Path, options: &str) -> Self {
        std::fs::File::create(image).unwrap().set_len(16 << 20).unwrap();
        shell(&["mkfs.ext4", "-q", "-F", image.to_str().unwrap()]);
        shell(&["mount", "-o", options, image.to_str().unwrap(), at.to_str().unwrap()]);
        Mounted(at.into())
    }

    /// One file seen in the place of another.
    pub fn bind(file: &Path, over: &Path) -> Self {
        shell(&["mount", "--bind", file.to_str().unwrap(), over.to_str().unwrap()]);
        Mounted(over.into())
    }

    pub fn remount(&self, options: &str) {
        shell(&["mount", "-o", &format!("remount,{options}"), self.0.to_str().unwrap()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

pub fn shell(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}: {status}");
}

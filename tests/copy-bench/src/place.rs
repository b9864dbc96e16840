//! Where a race is run: a freshly made file system for each run, near or behind a delay, and what each run cost.

use std::fs;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How big the target's image is; it takes what is written to it.
const IMAGE_BYTES: u64 = 8 << 30;
/// How long a mount may take to appear.
const MOUNT_SECONDS: u64 = 20;
const POLL_MILLIS: u64 = 20;

/// Runs a command line by the shell; answers seconds and the largest memory of a process in KiB.
///
/// # Errors
/// When it does not start or fails.
pub fn timed(line: &str, may_fail: bool) -> Result<(f64, u64)> {
    let report = std::env::temp_dir().join(format!("copy-bench-{}", std::process::id()));
    let started = Instant::now();
    let status = Command::new("/usr/bin/time")
        .args(["-f", "%M", "-o"])
        .arg(&report)
        .args(["bash", "-c", line])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    let seconds = started.elapsed().as_secs_f64();
    if !status.success() && !may_fail {
        return Err(Error::other(format!("`{line}` ended with {status}")));
    }
    let told = fs::read_to_string(&report).unwrap_or_default();
    let memory = told.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
    Ok((seconds, memory))
}

fn shell(line: &str) -> Result<()> {
    timed(line, false).map(drop)
}

/// A target of its own for one run.
#[derive(Debug)]
pub struct Place {
    work: PathBuf,
    delay: Option<Child>,
    /// Trips that finding the mount itself has cost.
    before: u64,
    /// What the delaying client and server hold: `4` as NFS 4.2, `any` everything.
    pub holds: &'static str,
}

impl Place {
    /// Makes the folder for everything.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(work: &Path) -> Result<Self> {
        for name in ["back", "mount"] {
            fs::create_dir_all(work.join(name))?;
        }
        let image = fs::File::create(work.join("image"))?;
        image.set_len(IMAGE_BYTES)?;
        Ok(Place { work: work.into(), delay: None, before: 0, holds: "any" })
    }

    /// Builds the program that delays.
    ///
    /// # Errors
    /// When the compiler or libfuse are missing.
    pub fn build_delay(&self) -> Result<()> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("latency/latfs.c");
        shell(&format!(
            "cc -O2 -o '{}' '{}' $(pkg-config --cflags --libs fuse3) -lpthread",
            self.work.join("latfs").display(),
            source.display()
        ))
    }

    /// A fresh, empty, journalled file system; behind a delay if one is given. Answers the folder to write to.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn fresh(&mut self, round_trip_micros: Option<u64>) -> Result<PathBuf> {
        self.clear();
        let (image, back) = (self.work.join("image"), self.work.join("back"));
        let (image, back) = (image.display(), back.display());
        shell(&format!("mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 -N 400000 '{image}'"))?;
        shell(&format!("mount -o loop,noatime '{image}' '{back}' && mkdir '{back}/t'"))?;
        self.behind(round_trip_micros)
    }

    /// The same file system once more, behind a delay or not: nothing of it is remembered by a client.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn behind(&mut self, round_trip_micros: Option<u64>) -> Result<PathBuf> {
        self.end_delay();
        let Some(micros) = round_trip_micros else { return Ok(self.work.join("back/t")) };
        let mount = self.work.join("mount");
        let child = Command::new(self.work.join("latfs"))
            .args(["--rtt-us", &micros.to_string(), "--proto", self.holds, "--stats"])
            .arg(self.work.join("trips.json"))
            .arg(self.work.join("back"))
            .arg(&mount)
            .stderr(Stdio::null())
            .spawn()?;
        self.delay = Some(child);
        let end = Instant::now() + Duration::from_secs(MOUNT_SECONDS);
        while !mount.join("t").exists() {
            if Instant::now() > end {
                return Err(Error::other("the delaying file system does not appear; is there /dev/fuse?"));
            }
            std::thread::sleep(Duration::from_millis(POLL_MILLIS));
        }
        self.before = 0;
        self.before = self.trips()?;
        Ok(mount.join("t"))
    }

    /// Trips to the target since it was mounted.
    ///
    /// # Errors
    /// When they cannot be asked for.
    pub fn trips(&self) -> Result<u64> {
        let Some(child) = &self.delay else { return Ok(0) };
        let told = self.work.join("trips.json");
        let _ = fs::remove_file(&told);
        shell(&format!("kill -USR1 {}", child.id()))?;
        let end = Instant::now() + Duration::from_secs(MOUNT_SECONDS);
        loop {
            let text = fs::read_to_string(&told).unwrap_or_default();
            let total = text.split("\"total\":").nth(1).and_then(|rest| rest.split(',').next());
            if let Some(total) = total.and_then(|total| total.parse().ok()) {
                return Ok(u64::saturating_sub(total, self.before));
            }
            if Instant::now() > end {
                return Err(Error::other("the delaying file system does not tell its trips"));
            }
            std::thread::sleep(Duration::from_millis(POLL_MILLIS));
        }
    }

    fn end_delay(&mut self) {
        if let Some(mut child) = self.delay.take() {
            let _ = shell(&format!("umount '{}'", self.work.join("mount").display()));
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn clear(&mut self) {
        self.end_delay();
        let _ = shell(&format!("umount '{}'", self.work.join("back").display()));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
        let _ = fs::remove_file(self.work.join("image"));
    }
}

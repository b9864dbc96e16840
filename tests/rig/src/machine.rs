//! One running guest.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::Flock;

use crate::journal::{JournalEntry, JournalQuery};
use crate::qemu::{self, Accelerator};
use crate::qmp::Qmp;
use crate::snapshot::Snapshot;
use crate::ssh::{Ssh, short};
use crate::warden::Warden;
use crate::{Cache, Error, Image, program};

/// How long a command may run when its caller sets no limit.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(300);
/// How long a boot may take until systemd has settled: a minute where the processor is emulated and the host is
/// otherwise idle, several where it is not.
pub const BOOT_DEADLINE: Duration = Duration::from_secs(600);
/// How long reading back a saved state may take.
const RESTORE_DEADLINE: Duration = Duration::from_secs(120);
/// How long a guest may take to shut down.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(180);
/// How often something is looked at while it is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How a command in the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the signal's number when a signal ended it, as a shell says it.
    pub status: i32,
    /// What it wrote to stdout. Bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// What it wrote to stderr. Bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl Output {
    /// Whether the status is 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

/// When a machine is left running instead of removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keep {
    /// Never: it goes when its [`Machine`] is dropped.
    #[default]
    Never,
    /// When the thread panics, that is when a test fails by an assertion.
    OnPanic,
    /// Always.
    Always,
}

/// A running Debian server. All of it can be used from several threads. Dropping it kills the guest and removes its
/// disk, unless it is kept; the same happens when this process ends in whatever way.
#[derive(Debug)]
pub struct Machine {
    cache: Cache,
    image: Image,
    folder: PathBuf,
    accelerator: Accelerator,
    keep: Mutex<Keep>,
    live: Mutex<Live>,
    _place: Flock<File>,
}

#[derive(Debug)]
struct Live {
    /// `None` once the machine has been given up or kept.
    warden: Option<Warden>,
    ssh: Option<Ssh>,
}

impl Machine {
    /// Boots a machine from an image. Takes a minute or more where the processor is emulated;
    /// [`Machine::from_snapshot`] takes seconds.
    pub fn boot_image(cache: &Cache, image: &Image) -> Result<Self, Error> {
        let machine = Self::create(cache, image, &image.disk(), vec![image.in_use()])?;
        machine.boot()?;
        Ok(machine)
    }

    /// A fresh machine that goes on from a snapshot: everything that ran there runs here, the clock is set to now.
    pub fn from_snapshot(cache: &Cache, snapshot: &Snapshot) -> Result<Self, Error> {
        let machine = Self::create(cache, snapshot.image(), &snapshot.disk(), snapshot.in_use())?;
        let script = qemu::script(&machine.image, machine.accelerator, Some(&snapshot.state()));
        machine.start("restore", &script)?.resume(RESTORE_DEADLINE)?;
        machine.connect(RESTORE_DEADLINE)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        machine.check(&format!("date --set=@{}.{:03}", now.as_secs(), now.subsec_millis()))?;
        Ok(machine)
    }

    fn create(cache: &Cache, image: &Image, base: &Path, bases: Vec<PathBuf>) -> Result<Self, Error> {
        let place = cache.place()?;
        let accelerator = Accelerator::of_host(cache, image)?;
        let folder = cache.machine_folder()?;
        let warden = Warden::start(&folder, &bases)?;
        // Relative, so that the cache folder can be moved.
        let base = base.strip_prefix(folder.parent().unwrap_or(&folder)).unwrap_or(base);
        let base = Path::new("..").join(base);
        let disk = folder.join("disk.qcow2");
        let arguments = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map(Into::into);
        let arguments = arguments.into_iter().chain([base.into_os_string(), disk.into_os_string()]);
        program::output("making the machine's disk", "qemu-img", &arguments.collect::<Vec<_>>())?;
        Ok(Self {
            cache: cache.clone(),
            image: image.clone(),
            folder,
            accelerator,
            keep: Mutex::new(Keep::Never),
            live: Mutex::new(Live { warden: Some(warden), ssh: None }),
            _place: place,
        })
    }

    /// Runs a command with `bash -c` as root, for [`COMMAND_DEADLINE`] at most. What it leaves running in the background
    /// must not hold its stdout or stderr (`systemd-run` is the way).
    pub fn run(&self, command: &str) -> Result<Output, Error> {
        self.run_within(command, COMMAND_DEADLINE)
    }

    /// [`Machine::run`] with another limit, after which the command is killed.
    pub fn run_within(&self, command: &str, within: Duration) -> Result<Output, Error> {
        self.ssh()?.run(command, within, None)
    }

    /// Runs a command and answers its stdout; an error with its output unless it ends with 0.
    pub fn check(&self, command: &str) -> Result<String, Error> {
        self.check_within(command, COMMAND_DEADLINE)
    }

    /// [`Machine::check`] with another limit.
    pub fn check_within(&self, command: &str, within: Duration) -> Result<String, Error> {
        succeeded(command, self.run_within(command, within)?)
    }

    /// Runs a script of several lines with `bash -euo pipefail` and answers its stdout; an error unless it ends with 0.
    pub fn script(&self, text: &str) -> Result<String, Error> {
        let output = self.feed("exec bash -euo pipefail -c \"$(cat)\" </dev/null", text.as_bytes())?;
        succeeded(text, output)
    }

    /// Copies a file or a whole folder from the host to this path in the guest; folders above it are made. A file's
    /// mode comes along, its owner is root. An existing folder keeps what it has besides.
    pub fn copy_to(&self, local: &Path, remote: &str) -> Result<(), Error> {
        let meta = std::fs::metadata(local).map_err(|e| Error::io("read", local, e))?;
        let to = program::quote(remote);
        if meta.is_dir() {
            let mut packed =
                tempfile::tempfile().map_err(|e| Error::io("make a file in", std::env::temp_dir(), e))?;
            let out = packed.try_clone().map_err(|e| Error::io("use", std::env::temp_dir(), e))?;
            let ended = program::command("tar")
                .args(["--create", "--owner=0", "--group=0", "--numeric-owner", "-C"])
                .arg(local)
                .arg(".")
                .stdout(out)
                .output();
            program::finish("packing a folder for the machine", "tar", ended)?;
            std::io::Seek::rewind(&mut packed).map_err(|e| Error::io("read", local, e))?;
            let command = format!("mkdir -p {to} && tar --extract -C {to}");
            return succeeded(&command, self.ssh()?.run(&command, COMMAND_DEADLINE, Some(packed))?).map(drop);
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777;
        let file = File::open(local).map_err(|e| Error::io("open", local, e))?;
        let command = receive(&to, mode);
        succeeded(&command, self.ssh()?.run(&command, COMMAND_DEADLINE, Some(file))?).map(drop)
    }

    /// Copies a file from the guest to the host, byte for byte.
    pub fn copy_from(&self, remote: &str, local: &Path) -> Result<(), Error> {
        // Commands answer text; base64 carries every byte.
        let encoded = self.check(&format!("base64 --wrap=0 < {}", program::quote(remote)))?;
        let file = File::create(local).map_err(|e| Error::io("create", local, e))?;
        let mut decoder = program::command("base64")
            .arg("--decode")
            .stdin(std::process::Stdio::piped())
            .stdout(file)
            .spawn()
            .map_err(|e| Error::io("decode into", local, e))?;
        let written = decoder.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(encoded.as_bytes()));
        written.map_err(|e| Error::io("decode into", local, e))?;
        program::finish("decoding a file from the machine", "base64", decoder.wait_with_output()).map(drop)
    }

    /// Writes a file in the guest with mode 644, owned by root; folders above it are made.
    pub fn write_file(&self, remote: &str, content: impl AsRef<[u8]>) -> Result<(), Error> {
        self.write_file_mode(remote, content, 0o644)
    }

    /// [`Machine::write_file`] with another mode.
    pub fn write_file_mode(&self, remote: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<(), Error> {
        let command = receive(&program::quote(remote), mode);
        succeeded(&command, self.feed(&command, content.as_ref())?).map(drop)
    }

    /// Reads a text file in the guest.
    pub fn read_file(&self, remote: &str) -> Result<String, Error> {
        self.check(&format!("cat {}", program::quote(remote)))
    }

    /// Journal entries, oldest first, with everything that was logged before the call.
    pub fn journal(&self, query: &JournalQuery) -> Result<Vec<JournalEntry>, Error> {
        let arguments: Vec<String> = query.arguments().iter().map(|word| program::quote(word)).collect();
        let command = format!(
            "journalctl --sync; journalctl --quiet --no-pager --all --output=json {}",
            arguments.join(" ")
        );
        query.entries(&self.check(&command)?)
    }

    /// Where the journal ends now, to read from there later with [`JournalQuery::after`].
    pub fn journal_cursor(&self) -> Result<String, Error> {
        let last = self.journal(&JournalQuery::all().last(1))?;
        Ok(last.last().map(|entry| entry.cursor().to_owned()).unwrap_or_default())
    }

    /// Calls `look` until it answers something; an error after `within`. An error of `look` ends the wait.
    pub fn wait_until<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if started.elapsed() >= within {
                return Err(Error::Timeout { what: what.into(), waited: within, last: "not yet".into() });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Runs a command until it ends with 0 and answers its stdout; an error with its last output after `within`.
    pub fn wait_for(&self, what: &str, within: Duration, command: &str) -> Result<String, Error> {
        let started = Instant::now();
        loop {
            let left = within.saturating_sub(started.elapsed()).max(Duration::from_secs(1));
            let last = match self.run_within(command, left) {
                Ok(output) if output.success() => return Ok(output.stdout),
                Ok(output) => {
                    format!("status {}: {}{}", output.status, output.stdout.trim(), output.stderr.trim())
                }
                Err(Error::Timeout { last, .. }) => format!("the command did not end: {last}"),
                Err(error) => return Err(error),
            };
            if started.elapsed() >= within {
                return Err(Error::Timeout { what: what.into(), waited: within, last });
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Cuts the power: the guest is gone at once. What its disk was told to keep (fsync) is kept, the rest may be lost.
    /// [`Machine::boot`] switches it on again.
    pub fn power_cut(&self) -> Result<(), Error> {
        let mut live = self.live();
        live.ssh = None;
        let cut = live.warden.as_mut().map_or(Ok(()), Warden::kill_qemu);
        drop(live);
        let _ = std::fs::remove_file(self.folder.join("ssh.ctl"));
        cut
    }

    /// Switches the machine on and waits until systemd has settled. Answers the state of the system: `running`,
    /// or `degraded` when a unit failed. A machine that is on has its power cut first.
    pub fn boot(&self) -> Result<String, Error> {
        let script = qemu::script(&self.image, self.accelerator, None);
        drop(self.start("boot", &script)?);
        self.settle(Instant::now() + BOOT_DEADLINE)
    }

    /// Restarts the guest in order and waits until systemd has settled again; answers as [`Machine::boot`] does.
    pub fn reboot(&self) -> Result<String, Error> {
        let until = Instant::now() + BOOT_DEADLINE;
        let id = "cat /proc/sys/kernel/random/boot_id";
        let before = self.check(id)?;
        self.check("systemctl reboot")?;
        self.ssh()?.disconnect();
        loop {
            self.connect(until.saturating_duration_since(Instant::now()))?;
            match self.run_within(id, Duration::from_secs(30)) {
                Ok(now) if now.success() && now.stdout != before => return self.settle(until),
                // Still on its way down, or it went down just now.
                Ok(_) | Err(Error::Unreachable { .. } | Error::Timeout { .. }) => {
                    std::thread::sleep(POLL_INTERVAL)
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= until {
                return Err(self.not_up("the reboot", BOOT_DEADLINE));
            }
        }
    }

    /// Shuts the guest down in order and waits until it is off.
    pub fn shut_down(&self) -> Result<(), Error> {
        self.check("systemctl poweroff")?;
        self.ssh()?.disconnect();
        let until = Instant::now() + SHUTDOWN_DEADLINE;
        while self.is_on() {
            if Instant::now() >= until {
                return Err(self.not_up("the shutdown", SHUTDOWN_DEADLINE));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.power_cut()
    }

    /// Whether the guest is switched on (running or booting).
    pub fn is_on(&self) -> bool {
        Qmp::try_connect(&self.folder).is_ok()
    }

    /// Makes a port of the guest reachable on the host's loopback and answers the port there. Lasts until the power is
    /// cut. The guest's service must listen on its network address (10.0.2.15), not on loopback only.
    pub fn forward(&self, guest_port: u16) -> Result<u16, Error> {
        let mut qmp = Qmp::connect(&self.folder)?;
        if let Some(port) = qmp.forwarded_port(guest_port)? {
            return Ok(port);
        }
        let command = format!("hostfwd_add net tcp:127.0.0.1:0-:{guest_port}");
        let said = qmp.human(&command)?;
        qmp.forwarded_port(guest_port)?.ok_or(Error::Qemu { command, why: said })
    }

    /// The line to type on the host to log in as root.
    pub fn login_hint(&self) -> String {
        self.live().ssh.as_ref().map_or_else(|| "the machine is off".to_owned(), Ssh::hint)
    }

    /// What the guest wrote to its serial console since it was switched on.
    pub fn console(&self) -> String {
        std::fs::read(self.folder.join("console.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The image it runs.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// When to leave the machine running instead of removing it.
    pub fn set_keep(&self, keep: Keep) {
        *self.keep.lock().unwrap_or_else(PoisonError::into_inner) = keep;
    }

    /// Leaves the machine running after this process, and tells how to log in and how to end it.
    pub fn keep(self) {
        self.set_keep(Keep::Always);
    }

    /// Ends qemu after writing memory and disk into `folder` as `state` and `disk.qcow2`.
    pub(crate) fn save_into(self, folder: &Path) -> Result<(), Error> {
        self.check("sync")?;
        self.ssh()?.disconnect();
        Qmp::connect(&self.folder)?.save(&folder.join("state"), RESTORE_DEADLINE)?;
        // qemu has written the disk before it closes its socket.
        let until = Instant::now() + RESTORE_DEADLINE;
        while self.is_on() && Instant::now() < until {
            std::thread::sleep(POLL_INTERVAL);
        }
        self.power_cut()?;
        let disk = self.folder.join("disk.qcow2");
        std::fs::rename(&disk, folder.join("disk.qcow2")).map_err(|e| Error::io("move", &disk, e))
    }

    /// What a saved state depends on besides the image.
    pub(crate) fn kind(cache: &Cache, image: &Image) -> Result<String, Error> {
        let accelerator = Accelerator::of_host(cache, image)?;
        Ok(format!("{} {}", crate::suite::qemu_version()?, qemu::script(image, accelerator, None)))
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ssh(&self) -> Result<Ssh, Error> {
        self.live().ssh.clone().ok_or_else(|| Error::Unreachable { why: "it is switched off".into() })
    }

    fn start(&self, name: &str, script: &str) -> Result<Qmp, Error> {
        self.power_cut()?;
        let path = self.folder.join(name);
        std::fs::write(&path, script).map_err(|e| Error::io("write", &path, e))?;
        let _ = std::fs::remove_file(self.folder.join("qmp"));
        let mut live = self.live();
        if let Some(warden) = live.warden.as_mut() {
            warden.start_qemu(name)?;
        }
        let mut qmp = Qmp::connect(&self.folder)?;
        let port = qmp.forwarded_port(22)?.ok_or_else(|| Error::Qemu {
            command: "info usernet".into(),
            why: "the ssh port is not forwarded".into(),
        })?;
        live.ssh = Some(Ssh::configure(&self.folder, &self.image.ssh_key(), port)?);
        Ok(qmp)
    }

    /// Waits until ssh answers.
    fn connect(&self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let ssh = self.ssh()?;
        loop {
            match ssh.connect() {
                Ok(()) => return Ok(()),
                Err(Error::Unreachable { .. })
                    if Instant::now() < until && self.is_on() && !self.console().contains("Kernel panic") =>
                {
                    std::thread::sleep(POLL_INTERVAL);
                }
                Err(_) => return Err(self.not_up("the machine's ssh", within)),
            }
        }
    }

    fn settle(&self, until: Instant) -> Result<String, Error> {
        self.connect(until.saturating_duration_since(Instant::now()))?;
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
        let output = self.run_within("systemctl is-system-running --wait", left)?;
        match output.stdout.trim() {
            state @ ("running" | "degraded") => Ok(state.to_owned()),
            other => {
                Err(Error::Unreachable { why: format!("systemd says `{other}` {}", output.stderr.trim()) })
            }
        }
    }

    fn not_up(&self, what: &str, waited: Duration) -> Error {
        let log = std::fs::read_to_string(self.folder.join("qemu.log")).unwrap_or_default();
        let last = format!(
            "{}; console: {}; qemu: {}",
            if self.is_on() { "it is on" } else { "it is off" },
            program::tail(&self.console()),
            program::tail(&log)
        );
        Error::Timeout { what: what.into(), waited, last }
    }

    fn feed(&self, command: &str, input: &[u8]) -> Result<Output, Error> {
        let temporary = |e| Error::io("write a file in", std::env::temp_dir(), e);
        let mut file = tempfile::tempfile().map_err(temporary)?;
        file.write_all(input).and_then(|()| std::io::Seek::rewind(&mut file)).map_err(temporary)?;
        self.ssh()?.run(command, COMMAND_DEADLINE, Some(file))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let keep = match *self.keep.lock().unwrap_or_else(PoisonError::into_inner) {
            Keep::Never => false,
            Keep::OnPanic => std::thread::panicking(),
            Keep::Always => true,
        };
        let hint = self.login_hint();
        let mut live = self.live();
        let ssh = live.ssh.take();
        let warden = live.warden.take();
        drop(live);
        if let Some(ssh) = ssh {
            ssh.disconnect();
        }
        let Some(warden) = warden else { return };
        if keep && warden.keep().is_ok() {
            self.cache.say(format!("the machine stays. Log in:  {hint}\nrig: End it:  {hint} poweroff"));
        }
    }
}

/// The command that writes its input to a file.
fn receive(quoted: &str, mode: u32) -> String {
    format!("mkdir -p \"$(dirname {quoted})\" && cat > {quoted} && chmod {mode:o} {quoted}")
}

fn succeeded(command: &str, output: Output) -> Result<String, Error> {
    if output.success() {
        return Ok(output.stdout);
    }
    let said = format!("{}{}", program::tail(&output.stdout), program::tail(&output.stderr));
    Err(Error::Command { command: short(command), status: output.status, output: said })
}

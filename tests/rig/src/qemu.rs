//! The qemu command line, and which accelerator truly works here.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::qmp::Qmp;
use crate::{Cache, Error, Image, program, suite};

/// The guest's memory, in MiB.
pub(crate) const RAM_MIB: u32 = 2048;
/// The guest's processors.
pub(crate) const PROCESSORS: u32 = 2;
/// How long a kernel may take under kvm until it starts its first process; a second is usual.
const KVM_DEADLINE: Duration = Duration::from_secs(20);
/// How often the probe looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Kernel arguments. The processor's flaws need no remedy in a guest that runs its own tests only, and remedies are slow
/// where the processor is emulated; so is a clock that the kernel distrusts. A busy host may hold the guest up while its
/// kernel counts ticks: unless told not to check its timer, it then panics.
const KERNEL: &str = "root=/dev/vda rw console=ttyS0 quiet loglevel=4 mitigations=off nokaslr tsc=reliable \
                      no_timer_check fsck.mode=skip systemd.show_status=no";
/// A machine without the devices that nothing uses and whose drivers take their time.
const MACHINE: &str = "q35,sata=off,smbus=off,i8042=off,vmport=off";
/// The emulated processor: what programs of today look for, but not the wide registers, whose saving and emulation make
/// everything a tenth slower.
const EMULATED: &str = "qemu64,-svm,+cx16,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq";

/// How the guest's processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By the host's processor.
    Kvm,
    /// Emulated; works everywhere.
    Tcg,
}

impl Accelerator {
    /// The accelerator that works here. kvm is tried with a real kernel, because a `/dev/kvm` that opens may still not
    /// run one; the answer is kept until the host's next boot.
    pub(crate) fn of_host(cache: &Cache, image: &Image) -> Result<Self, Error> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let kept = cache.folder().join("accelerator");
        let name = |this: Self| match this {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        };
        let line = |this: Self| -> Result<String, Error> {
            Ok(format!("{} with qemu {} in boot {}", name(this), suite::qemu_version()?, boot.trim()))
        };
        let before = std::fs::read_to_string(&kept).unwrap_or_default();
        for this in [Self::Kvm, Self::Tcg] {
            if before == line(this)? {
                return Ok(this);
            }
        }
        let this = match try_kvm(cache, image)? {
            Ok(()) => Self::Kvm,
            Err(why) => {
                cache.say(format!("kvm does not work here ({why}); the processor is emulated"));
                Self::Tcg
            }
        };
        std::fs::write(&kept, line(this)?).map_err(|e| Error::io("write", &kept, e))?;
        Ok(this)
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", EMULATED],
        }
    }
}

/// Runs the image's kernel without a disk until it starts its first process.
fn try_kvm(cache: &Cache, image: &Image) -> Result<Result<(), String>, Error> {
    if std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Err("/dev/kvm cannot be opened".into()));
    }
    let folder = tempfile::Builder::new()
        .prefix("kvm-probe-")
        .tempdir_in(cache.folder())
        .map_err(|e| Error::io("make a folder in", cache.folder(), e))?;
    let console = folder.path().join("console.log");
    let started = program::command("qemu-system-x86_64")
        .current_dir(folder.path())
        .args(Accelerator::Kvm.arguments())
        .args(["-M", MACHINE, "-m", "512", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", "file:console.log", "-qmp", "unix:qmp,server=on,wait=off"])
        .arg("-kernel")
        .arg(image.kernel())
        .arg("-initrd")
        .arg(image.initrd())
        // Its first process ends at once, the kernel panics and the machine ends: the sign that it ran.
        .args(["-append", "console=ttyS0 rdinit=/bin/false panic=-1"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut qemu = match started {
        Ok(qemu) => qemu,
        Err(e) => return Ok(Err(format!("qemu could not be started: {e}"))),
    };
    let until = Instant::now() + KVM_DEADLINE;
    let answer = loop {
        let text = std::fs::read_to_string(&console).unwrap_or_default();
        if text.contains("Run /bin/false as init") || text.contains("Attempted to kill init") {
            break Ok(());
        }
        if let Ok(Some(status)) = qemu.try_wait() {
            break Err(format!("qemu ended with {status}"));
        }
        let state = Qmp::try_connect(folder.path()).and_then(|mut qmp| qmp.status());
        if let Ok(state) = state
            && !matches!(state.as_str(), "running" | "prelaunch")
        {
            break Err(format!("a kernel stopped early with `{state}`"));
        }
        if Instant::now() >= until {
            break Err(format!("no kernel came up within {} s", KVM_DEADLINE.as_secs()));
        }
        std::thread::sleep(POLL_INTERVAL);
    };
    let _ = qemu.kill();
    let _ = qemu.wait();
    Ok(answer)
}

/// The shell script that becomes qemu, to be run in the machine's folder. With `state` the machine goes on from a saved
/// state instead of booting.
pub(crate) fn script(image: &Image, accelerator: Accelerator, state: Option<&Path>) -> String {
    let kernel = image.kernel().to_string_lossy().into_owned();
    let initrd = image.initrd().to_string_lossy().into_owned();
    let (ram, processors) = (RAM_MIB.to_string(), PROCESSORS.to_string());
    let mut words =
        vec!["qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none", "-M", MACHINE];
    words.extend(accelerator.arguments());
    words.extend([
        "-smp",
        &processors,
        "-m",
        &ram,
        "-kernel",
        &kernel,
        "-initrd",
        &initrd,
        "-append",
        KERNEL,
    ]);
    words.extend([
        // qemu holds back its own notes on where blocks lie until the guest flushes: what was not flushed may be lost
        // when it is killed, as on a real disk with a cache. What was flushed is with the host's kernel then, which outlives qemu:
        // `unsafe` only does not wait for the host's disk, which has kept machines from answering for a minute.
        "-drive",
        "file=disk.qcow2,if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,detect-zeroes=unmap",
        "-device",
        "virtio-blk-pci,drive=disk",
        // restrict: the guest reaches nothing. Port 0: the system picks one that is free.
        "-netdev",
        "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22",
        "-device",
        "virtio-net-pci,netdev=net,romfile=",
        "-device",
        "virtio-rng-pci",
        "-rtc",
        "base=utc",
        "-serial",
        "file:console.log",
        "-qmp",
        "unix:qmp,server=on,wait=off",
    ]);
    let incoming = state.map(|file| format!("exec:cat {}", program::quote(&file.to_string_lossy())));
    if let Some(incoming) = &incoming {
        words.extend(["-incoming", incoming]);
    }
    let words: Vec<String> = words.into_iter().map(program::quote).collect();
    format!("exec {}\n", words.join(" "))
}

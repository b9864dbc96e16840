//! Whether the machine itself works, before anything is tested in it.

use std::time::{Duration, Instant};

use crate::{Cache, Error, Image, JournalQuery, Machine, Snapshot, Suite};

/// How long one check in the guest may take.
const CHECK_DEADLINE: Duration = Duration::from_secs(120);

/// What a Connect server needs of the machine, each as a command that must end with 0.
const WORKS: [(&str, &str); 8] = [
    ("systemd", "test \"$(systemctl is-system-running)\" = running"),
    ("AppArmor", "test \"$(cat /sys/module/apparmor/parameters/enabled)\" = Y"),
    ("nginx", "nginx -t && systemctl is-active nginx"),
    ("PostgreSQL", "test \"$(runuser -u postgres -- psql -Atc 'select 40+2')\" = 42"),
    (
        "docker pulls from the registry and runs it",
        "set -e; cd \"$(mktemp -d)\"; mkdir -p root/bin; cp /bin/busybox root/bin/; \
         tar -C root -c . | docker import --change 'ENTRYPOINT [\"/bin/busybox\"]' - 127.0.0.1:5000/rig/busybox:1; \
         docker push -q 127.0.0.1:5000/rig/busybox:1; docker rmi 127.0.0.1:5000/rig/busybox:1; \
         docker pull -q 127.0.0.1:5000/rig/busybox:1; \
         test \"$(docker run --rm 127.0.0.1:5000/rig/busybox:1 echo here)\" = here",
    ),
    (
        "docker runs it privileged",
        "docker run --rm --privileged 127.0.0.1:5000/rig/busybox:1 unshare -m /bin/busybox true",
    ),
    (
        "podman pulls from the registry and runs it",
        "test \"$(podman run --rm --pull=always 127.0.0.1:5000/rig/busybox:1 echo here)\" = here",
    ),
    (
        "NFS 4.2",
        "set -e; mkdir -p /srv/nfs /mnt/nfs; exportfs -o rw,no_root_squash,fsid=0 127.0.0.1:/srv/nfs; \
         mount -t nfs -o vers=4.2 127.0.0.1:/ /mnt/nfs; echo here > /mnt/nfs/file; grep -q here /srv/nfs/file; \
         umount /mnt/nfs; exportfs -u 127.0.0.1:/srv/nfs",
    ),
];

/// Takes a machine through everything the scenarios rely on: a snapshot, commands, files, the journal, containers, the
/// database, NFS, a cut of the power and the boot after it. Tells each step and its seconds to the cache's
/// progress. The first failure ends it.
pub fn selftest(cache: &Cache, suite: Suite) -> Result<(), Error> {
    let started = Instant::now();
    let step =
        |what: &str, since: Instant| cache.say(format!("{what}: {:.1} s", since.elapsed().as_secs_f64()));

    let image = Image::build(suite, cache)?;
    let booted = Snapshot::booted(cache, &image)?;
    let at = Instant::now();
    let machine = Machine::from_snapshot(cache, &booted)?;
    step("a machine from the snapshot", at);

    let at = Instant::now();
    expect("the exit status", &machine.run("exit 7")?.status, &7)?;
    step("a command", at);
    let at = Instant::now();
    machine.write_file("/root/probe", "not synced ")?;
    expect("a file's content", &machine.read_file("/root/probe")?.as_str(), &"not synced ")?;
    step("a file there and back", at);

    let at = Instant::now();
    let cursor = machine.journal_cursor()?;
    machine.check("printf 'MESSAGE=hello\\nSTEP=stop\\nSTEP=start\\n' | logger --journald")?;
    let entries = machine.journal(&JournalQuery::all().field("STEP", "stop").after(&cursor))?;
    expect("the number of journal entries", &entries.len(), &1)?;
    expect("a field with two values", &entries.first().map(|entry| entry.all("STEP").len()), &Some(2))?;
    step("the journal", at);

    for (what, command) in WORKS {
        let at = Instant::now();
        machine.check_within(command, CHECK_DEADLINE)?;
        step(what, at);
    }

    let at = Instant::now();
    machine.script("echo kept > /root/synced\nsync /root/synced /root\nlogger -t rig before-the-cut")?;
    machine.journal_cursor()?;
    let before = machine.check("cat /proc/sys/kernel/random/boot_id")?;
    machine.power_cut()?;
    expect("the machine being off", &machine.is_on(), &false)?;
    step("a cut of the power", at);
    let at = Instant::now();
    expect("the system after the cut", &machine.boot()?.as_str(), &"running")?;
    step("the boot after it", at);
    expect("a synced file after the cut", &machine.read_file("/root/synced")?.as_str(), &"kept\n")?;
    let after = machine.check("cat /proc/sys/kernel/random/boot_id")?;
    expect("this being another boot", &(before != after), &true)?;
    let survived = machine.journal(&JournalQuery::all().field("SYSLOG_IDENTIFIER", "rig"))?;
    expect("the journal after the cut", &survived.len(), &1)?;
    drop(machine);
    cache.say(format!("the {suite} machine works ({:.0} s)", started.elapsed().as_secs_f64()));
    Ok(())
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), Error> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::SelfTest(format!("{what} is {found:?} and should be {wanted:?}")))
}

//! Every command with input that it cannot use: a clear message, a documented exit code, and nothing changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use connect_migrator::state::{Event, SqliteStore, Store};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const UNUSABLE: i32 = 6;
const BUSY: i32 = 7;

const GOOD: &str = "version = 1\n[[step]]\nid = \"stop\"\nuses = \"systemd/stop\"\n";
/// Somebody without rights.
const NOBODY: u32 = 65534;

/// Makes a state file that cannot be used.
type Spoils<'a> = &'a dyn Fn(&Path);

/// A tree of files in which the command lives.
struct Tree {
    root: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(root.path().join("etc/connect-migrator")).unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/connect-migrator")).unwrap();
        Tree { root }
    }

    fn runbook(&self) -> PathBuf {
        self.root.path().join("etc/connect-migrator/prod.toml")
    }

    fn state(&self) -> PathBuf {
        let folder = self.root.path().join("var/lib/connect-migrator/prod");
        std::fs::create_dir_all(&folder).unwrap();
        folder.join("state.db")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_connect-migrator"));
        command.args(arguments).env("CONNECT_MIGRATOR_TEST_ROOT", self.root.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Every file but the locks and SQLite's own side files, with its bytes.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.root.path().to_owned()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for path in entries.flatten().map(|entry| entry.path()) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() {
                    folders.push(path);
                } else if path.is_file()
                    && name != "lock"
                    && !name.ends_with("-wal")
                    && !name.ends_with("-shm")
                {
                    found.insert(path.clone(), std::fs::read(&path).unwrap_or_default());
                }
            }
        }
        found
    }

    /// The daemon must refuse the runbook, say so, leave it as it was, and begin no migration.
    fn begins_nothing(&self, says: &str) {
        let runbook = std::fs::read(self.runbook()).ok();
        let output = self.run(&["daemon", "prod", "--steps-run-as=children"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(UNUSABLE), "daemon: {told}");
        assert!(told.contains(says) && !told.contains("panicked"), "daemon does not say `{says}`: {told}");
        assert_eq!(std::fs::read(self.runbook()).ok(), runbook);
        let status = self.run(&["status", "prod"]);
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains("No migration of `prod` has been started"), "{status}");
    }

    /// Runs it; it must end so, say so, and change nothing.
    fn refuses(&self, arguments: &[&str], code: i32, says: &str) {
        let before = self.files();
        let output = self.run(arguments);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(says), "{arguments:?} does not say `{says}`: {told}");
        assert!(!told.contains("panicked"), "{told}");
        assert_eq!(before, self.files(), "{arguments:?} changed something");
    }
}

#[test]
fn a_runbook_that_cannot_be_used_is_refused_by_name_and_place() {
    let binary = [0x7f, b'E', b'L', b'F', 0xff, 0xfe, 0, 1];
    let huge = vec![b'#'; 2 * 1024 * 1024];
    let half = GOOD.get(..GOOD.len() - 8).unwrap();
    let cases: [(&str, &[u8], &str); 6] = [
        ("binary", &binary, "UTF-8"),
        ("huge", &huge, "larger than"),
        ("half-written", half.as_bytes(), "prod.toml:4"),
        ("empty", b"", "`version`"),
        ("zeros", &[0; 64], "TOML"),
        (
            "unknown plugin",
            b"version = 1\n[[step]]\nid = \"a\"\nuses = \"dockr\"\n",
            "there is no plugin `dockr`",
        ),
    ];
    for (name, bytes, says) in cases {
        let tree = Tree::new();
        std::fs::write(tree.runbook(), bytes).unwrap();
        for command in ["check", "plan"] {
            println!("{name}, {command}");
            tree.refuses(&[command, "prod"], UNUSABLE, says);
        }
        tree.begins_nothing(says);
    }
}

#[test]
fn a_runbook_that_is_not_there_or_no_file_is_refused() {
    let tree = Tree::new();
    std::fs::write(tree.root.path().join("etc/connect-migrator/prod2.toml"), GOOD).unwrap();
    for command in ["check", "plan"] {
        tree.refuses(&[command, "prod"], UNUSABLE, "did you mean `prod2.toml`?");
    }
    std::fs::create_dir(tree.runbook()).unwrap();
    tree.refuses(&["check", "prod"], UNUSABLE, "it is a folder, not a file");
    tree.begins_nothing("it is a folder, not a file");
}

#[test]
fn a_wrong_name_and_a_wrong_command_line_are_usage() {
    let tree = Tree::new();
    for name in ["../etc/passwd", "a b", "", "prod\n"] {
        for command in
            ["init", "check", "plan", "status", "report", "pause", "resume", "abort", "rollback", "commit"]
        {
            tree.refuses(&[command, name], USAGE, "cannot name an instance");
        }
    }
    tree.refuses(&["chekc", "prod"], USAGE, "check");
    tree.refuses(&["status"], USAGE, "INSTANCE");
}

#[test]
fn without_a_migration_nothing_can_be_decided() {
    let tree = Tree::new();
    for command in ["pause", "resume", "abort", "rollback", "commit"] {
        tree.refuses(&[command, "prod"], FAILED, "no migration of `prod` is open");
    }
    tree.refuses(&["report", "prod"], FAILED, "nothing to report");
    tree.refuses(&["plugins", "show", "dockr"], FAILED, "there is no plugin `dockr`");
    tree.refuses(&["plugins", "show", "systemd/stpo"], FAILED, "it has systemd/stop");
    let status = tree.run(&["status", "prod"]);
    assert!(status.status.success());
}

/// Makes the state of a migration that has begun.
fn started(path: &Path) {
    let event = Event::Started {
        migration: "m".into(),
        instance: "prod".into(),
        runbook: String::new(),
        runbook_digest: String::new(),
        plugins: BTreeMap::new(),
        version: "0".into(),
        outline: connect_migrator::state::Outline::default(),
    };
    SqliteStore::open(path).unwrap().append(&event).unwrap();
}

#[test]
fn who_cannot_be_asked_decides_nothing_without_saying_yes() {
    let tree = Tree::new();
    started(&tree.state());
    for command in ["abort", "rollback"] {
        tree.refuses(&[command, "prod"], FAILED, "Connect serves on the host as before");
        tree.refuses(&[command, "prod"], FAILED, "say `--yes`");
    }
    tree.refuses(&["commit", "prod"], FAILED, "only a migration in its soak can be committed");
    SqliteStore::open(&tree.state()).unwrap().append(&Event::SoakStarted).unwrap();
    tree.refuses(&["abort", "prod", "--yes"], FAILED, "users already work on the new server");
    tree.refuses(&["commit", "prod"], FAILED, "there will be no way back");
    tree.refuses(&["commit", "prod"], FAILED, "say `--yes`");
}

/// Another program holds the file; each command waits ten seconds for it, so they wait at the same time.
#[test]
fn a_state_that_another_program_has_locked_is_told_after_a_while() {
    let tree = Tree::new();
    std::fs::write(tree.runbook(), GOOD).unwrap();
    let path = tree.state();
    started(&path);
    let holder = rusqlite::Connection::open(&path).unwrap();
    holder
        .execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; PRAGMA user_version = 1;")
        .unwrap();
    let commands: [&[&str]; 4] =
        [&["status", "prod"], &["report", "prod"], &["rollback", "prod", "--yes"], &["daemon", "prod"]];
    let running: Vec<_> = commands
        .iter()
        .map(|command| tree.command(command).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for (command, running) in commands.iter().zip(running) {
        let output = running.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(UNUSABLE), "{command:?}: {told}");
        assert!(told.contains("another program has it open for writing"), "{command:?}: {told}");
    }
}

#[test]
fn a_state_that_cannot_be_used_is_refused_and_kept() {
    let truncate = |path: &Path| {
        started(path);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_len(5000).unwrap();
    };
    let newer = |path: &Path| {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
    };
    let noise =
        |path: &Path| std::fs::write(path, "no database, whatever its name says. ".repeat(40)).unwrap();
    let foreign = |path: &Path| {
        started(path);
        let connection = rusqlite::Connection::open(path).unwrap();
        let event = "INSERT INTO event (migration, at, body) VALUES ('m', '2026-01-01T00:00:00Z', '{\"event\":\"from-the-future\"}')";
        connection.execute(event, []).unwrap();
    };
    let cases: [(&str, Spoils<'_>, &str); 4] = [
        ("truncated", &truncate, "state.db"),
        ("newer", &newer, "layout 99"),
        ("noise", &noise, "damaged"),
        ("an event of a newer version", &foreign, "written by another version"),
    ];
    for (name, make, says) in cases {
        let tree = Tree::new();
        std::fs::write(tree.runbook(), GOOD).unwrap();
        make(&tree.state());
        for command in ["status", "report", "pause", "resume", "abort", "rollback", "commit"] {
            println!("{name}, {command}");
            tree.refuses(&[command, "prod"], UNUSABLE, says);
        }
    }
}

#[test]
fn a_state_that_another_one_holds_is_busy() {
    let tree = Tree::new();
    std::fs::write(tree.runbook(), GOOD).unwrap();
    let state = tree.state();
    let _lock = connect_migrator::state::InstanceLock::take(state.parent().unwrap()).unwrap();
    tree.refuses(&["daemon", "prod"], BUSY, "another connect-migrator is at work");
}

#[test]
fn an_unprivileged_user_is_told_to_be_root() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let tree = Tree::new();
    std::fs::write(tree.runbook(), GOOD).unwrap();
    std::fs::set_permissions(tree.runbook(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let state = tree.state();
    std::fs::write(&state, "x").unwrap();
    std::fs::set_permissions(state.parent().unwrap(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // The binary itself lies where nobody may look: it is copied to where everybody may.
    let binary = tree.root.path().join("connect-migrator");
    // By a process of its own: one that another test starts meanwhile would inherit the open file, which then is "busy".
    let copied =
        Command::new("cp").arg(env!("CARGO_BIN_EXE_connect-migrator")).arg(&binary).status().unwrap();
    assert!(copied.success());
    for (command, code, says) in [
        ("check", UNUSABLE, "Permission denied"),
        ("plan", UNUSABLE, "Permission denied"),
        ("status", FAILED, "run as root"),
        ("report", FAILED, "run as root"),
        ("rollback", FAILED, "run as root"),
        ("abort", FAILED, "run as root"),
        ("commit", FAILED, "run as root"),
        ("pause", FAILED, "run as root"),
        ("resume", FAILED, "run as root"),
    ] {
        let mut run = Command::new(&binary);
        run.args([command, "prod"]).env("CONNECT_MIGRATOR_TEST_ROOT", tree.root.path()).stdin(Stdio::null());
        let output = run.uid(NOBODY).gid(NOBODY).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command}: {told}");
        assert!(told.contains(says), "{command}: {told}");
    }
    let mut init = Command::new(&binary);
    init.args(["init", "other"]).env("CONNECT_MIGRATOR_TEST_ROOT", tree.root.path()).stdin(Stdio::null());
    let output = init.uid(NOBODY).gid(NOBODY).output().unwrap();
    assert_eq!(output.status.code(), Some(FAILED));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs root"));
}

/// A tiny file system of its own, in a mount namespace that only this command sees.
#[test]
fn a_full_disk_is_told_and_nothing_is_half_written() {
    let tree = Tree::new();
    std::fs::write(tree.runbook(), GOOD).unwrap();
    let root = tree.root.path().display();
    let script = format!(
        "mount -t tmpfs -o size=64k none {root}/var/lib/connect-migrator || exit 99\n\
         mkdir {root}/var/lib/connect-migrator/prod\n\
         head -c 1M /dev/zero >{root}/var/lib/connect-migrator/fill 2>/dev/null\n\
         CONNECT_MIGRATOR_TEST_ROOT={root} {} daemon prod; code=$?\n\
         ls -A {root}/var/lib/connect-migrator/prod; exit $code",
        env!("CARGO_BIN_EXE_connect-migrator")
    );
    let Ok(output) = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output() else { return };
    let told = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(99) || told.contains("unshare failed") {
        println!("left out: no mount namespace here: {told}");
        return;
    }
    assert_eq!(output.status.code(), Some(UNUSABLE), "{told}");
    assert!(told.contains("full") || told.contains("No space left"), "{told}");
    let left = String::from_utf8_lossy(&output.stdout);
    assert!(!left.contains("steps"), "something was begun: {left}");
}

#[test]
fn init_leaves_a_runbook_alone_that_is_there() {
    let tree = Tree::new();
    std::fs::write(tree.runbook(), GOOD).unwrap();
    tree.refuses(&["init", "prod"], FAILED, "exists already");
}

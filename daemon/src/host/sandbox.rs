//! What a step needs, as properties of its unit: everything else is taken away.

use super::launcher::{LANG, PATH};
use connect_migrator_sdk::Needs;
use serde_json::Value;
use std::path::{Path, PathBuf};
use zbus::Variant;

/// Processes and threads that a step may have.
const TASKS_MAX: u64 = 4096;

/// The part of the machine's memory that a step may have: half, in systemd's measure.
const MEMORY_MAX_SCALE: u32 = u32::MAX / 2;

/// As the daemon itself: a step that is killed for lack of memory is a failed migration.
const OOM_SCORE_ADJUST: i32 = -500;

/// The only namespaces that a step may make which says nothing: `CLONE_NEWNS`.
pub(super) const MOUNT_NAMESPACES: u64 = 0x2_0000;

/// Capabilities by their number: capabilities(7).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A property of a unit, as D-Bus takes it.
pub(super) type Property = (&'static str, Variant<'static>);

/// Properties that only take something away, and came to systemd after 239: where it does not know one, a step runs without.
pub(super) const MAY_BE_UNKNOWN: [&str; 6] = [
    "ProtectClock",
    "ProtectHostname",
    "ProtectKernelLogs",
    "ProtectProc",
    "RestrictSUIDSGID",
    "MemoryMaxScale",
];

/// The properties that every step's unit has: what the work of any step leaves over.
pub(super) fn always() -> Vec<Property> {
    vec![
        ("Environment", texts([format!("PATH={PATH}"), format!("LANG={LANG}")])),
        ("WorkingDirectory", text("/")),
        ("UMask", Variant::from(0o077_u32)),
        ("OOMScoreAdjust", Variant::from(OOM_SCORE_ADJUST)),
        ("TasksMax", Variant::from(TASKS_MAX)),
        ("MemoryMaxScale", Variant::from(MEMORY_MAX_SCALE)),
        ("LimitCORE", Variant::from(0_u64)),
        ("LockPersonality", Variant::from(true)),
        ("NoNewPrivileges", Variant::from(true)),
        ("ProtectClock", Variant::from(true)),
        ("ProtectControlGroups", Variant::from(true)),
        ("ProtectHostname", Variant::from(true)),
        ("ProtectKernelLogs", Variant::from(true)),
        ("ProtectKernelModules", Variant::from(true)),
        ("ProtectKernelTunables", Variant::from(true)),
        ("RestrictRealtime", Variant::from(true)),
        ("SystemCallArchitectures", texts(["native".to_owned()])),
    ]
}

/// What is wrong with the needs that a step's author wrote down, if anything.
#[must_use]
pub fn fault_of(needs: &Needs) -> Option<String> {
    of(needs, &Value::Null, &[]).err()
}

/// What is taken away beside [`always`] from a step that says what it needs. `own` are the folders that it writes in any case.
///
/// # Errors
/// When it asks for something that is not known.
pub(super) fn of(needs: &Needs, settings: &Value, own: &[PathBuf]) -> Result<Vec<Property>, String> {
    let mut writes: Vec<String> = own.iter().map(|path| path.display().to_string()).collect();
    for path in &needs.writes {
        if !path.starts_with('/') {
            return Err(format!(
                "the step says that it writes `{path}`, which is no absolute path: a fault of the plugin"
            ));
        }
        writes.push(path.clone());
    }
    for pointer in &needs.writes_beside {
        // What is no absolute path is for the step to refuse: systemd would only say that it cannot start it.
        if let Some(Value::String(path)) = settings.pointer(pointer)
            && path.starts_with('/')
        {
            writes.extend(beside(Path::new(path)));
        }
    }
    let anywhere = writes.iter().any(|path| path == "/");
    // What does not exist is left out.
    let writes = writes.iter().map(|path| format!("-{path}"));

    let mut families = vec!["AF_UNIX".to_owned()];
    if needs.network {
        families.extend(["AF_INET", "AF_INET6", "AF_NETLINK"].map(str::to_owned));
    }
    let mut calls = vec!["@system-service".to_owned()];
    if needs.mounts {
        calls.push("@mount".into());
    }
    let mut properties = vec![
        ("CapabilityBoundingSet", Variant::from(bits(needs)?)),
        ("MemoryDenyWriteExecute", Variant::from(true)),
        ("PrivateDevices", Variant::from(!needs.devices)),
        ("PrivateNetwork", Variant::from(!needs.network)),
        ("RestrictAddressFamilies", Variant::new((true, families))),
        ("RestrictSUIDSGID", Variant::from(true)),
        ("SystemCallFilter", Variant::new((true, calls))),
        ("SystemCallErrorNumber", Variant::from(nix::libc::EPERM)),
    ];
    if !anywhere {
        properties.push(("ProtectSystem", text("strict")));
        properties.push(("ProtectHome", text("read-only")));
        properties.push(("ReadWritePaths", texts(writes)));
    }
    if !needs.namespaces {
        properties.push(("RestrictNamespaces", Variant::from(0_u64)));
    }
    if !needs.processes {
        properties.push(("ProtectProc", text("invisible")));
    }
    Ok(properties)
}

/// The folder in which `path` lies, and the one in which what it leads to lies.
fn beside(path: &Path) -> Vec<String> {
    let parent = |path: &Path| path.parent().map(|parent| parent.display().to_string());
    let real = std::fs::canonicalize(path).ok();
    [Some(path.to_path_buf()), real].into_iter().flatten().filter_map(|path| parent(&path)).collect()
}

fn bits(needs: &Needs) -> Result<u64, String> {
    let mut bits = 0;
    for name in &needs.capabilities {
        let bit = CAPABILITIES.iter().position(|known| known == name);
        bits |= 1_u64
            << bit.ok_or_else(|| {
                format!("the step asks for `{name}`, which is no capability: a fault of the plugin")
            })?;
    }
    Ok(bits)
}

pub(super) fn text(text: &str) -> Variant<'static> {
    Variant::from(text.to_owned())
}

pub(super) fn texts(texts: impl IntoIterator<Item = String>) -> Variant<'static> {
    Variant::new(texts.into_iter().collect::<Vec<String>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(needs: &Needs, settings: &Value) -> String {
        let own = [PathBuf::from("/var/lib/x")];
        let properties = of(needs, settings, &own).unwrap();
        properties.iter().map(|(name, value)| format!("{name} = {value}\n")).collect()
    }

    #[test]
    fn a_setting_that_is_no_absolute_path_is_for_the_step_to_refuse_and_needs_that_cannot_be_are_a_fault() {
        let needs = Needs::nothing().writes_beside("/site");
        let writes = |site: &str| shown(&needs, &json!({ "site": site }));
        assert!(writes("/etc/nginx/site").contains("-/etc/nginx"));
        for relative in ["connect", "etc/connect", ""] {
            assert!(!writes(relative).contains("-etc") && !writes(relative).contains("\"-\""), "{relative}");
        }
        assert_eq!(fault_of(&needs), None);
        assert!(fault_of(&Needs::nothing().writes(&["etc"])).unwrap().contains("no absolute path"));
        assert!(fault_of(&Needs::nothing().capabilities(&["CHOWN"])).unwrap().contains("no capability"));
    }

    #[test]
    fn who_needs_nothing_keeps_nothing_but_its_own_folder() {
        insta::assert_snapshot!(shown(&Needs::nothing(), &Value::Null));
    }

    #[test]
    fn what_is_needed_is_kept() {
        let needs = Needs::nothing()
            .network()
            .devices()
            .mounts()
            .namespaces()
            .processes()
            .capabilities(&["CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"])
            .writes(&["/etc/fstab"])
            .writes_beside("/site")
            .writes_beside("/not-set");
        insta::assert_snapshot!(shown(&needs, &json!({"site": "/nowhere/sites-enabled/connect"})));
    }

    #[test]
    fn a_link_is_followed_to_the_folder_where_the_file_is() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        for folder in ["enabled", "available"] {
            std::fs::create_dir(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("available/connect"), "").unwrap();
        std::os::unix::fs::symlink("../available/connect", root.join("enabled/connect")).unwrap();
        let found = beside(&root.join("enabled/connect"));
        let expected = ["enabled", "available"].map(|folder| root.join(folder).display().to_string());
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let refused = |needs: Needs| of(&needs, &Value::Null, &[]).unwrap_err();
        assert_eq!(
            refused(Needs::nothing().capabilities(&["CAP_EVERYTHING"])),
            "the step asks for `CAP_EVERYTHING`, which is no capability: a fault of the plugin"
        );
        assert_eq!(
            refused(Needs::nothing().writes(&["etc"])),
            "the step says that it writes `etc`, which is no absolute path: a fault of the plugin"
        );
    }
}

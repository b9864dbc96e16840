use super::*;
use crate::trial::Trial;
use connect_migrator_copy::{Found, Probed, Refused};
use connect_migrator_sdk::testing::MemoryHost;
use connect_migrator_sdk::{Severity, Source};

const ABILITIES: [Ability; 15] = [
    Ability::Write,
    Ability::Owners,
    Ability::Modes,
    Ability::Symlinks,
    Ability::HardLinks,
    Ability::SpecialFiles,
    Ability::Nanoseconds,
    Ability::FarTimes,
    Ability::Rename,
    Ability::Fsync,
    Ability::Locks,
    Ability::Names,
    Ability::UserXattrs,
    Ability::Acls,
    Ability::Capabilities,
];

/// An export that can do everything but this.
fn export_without(lacks: &[Ability]) -> Trial {
    let found = ABILITIES.iter().map(|ability| {
        let has = !lacks.contains(ability);
        Found { ability: *ability, has, why: if has { String::new() } else { "it said no".into() } }
    });
    let probed = Probed {
        remote: true,
        found: found.collect(),
        free_bytes: 1 << 40,
        free_entries: Some(1 << 30),
        clock_ahead_millis: 0,
    };
    Trial { probed, names: Vec::new(), options: "rw,vers=4.2,hard".into() }
}

/// Data with an ACL, a capability and a user attribute in it.
fn survey() -> Survey {
    let kinds = [XattrKind::Acl, XattrKind::Capability, XattrKind::User];
    let refused = |kind| Refused { kind, entries: 3, examples: vec!["apps/1".into()] };
    Survey { entries: 1_000, bytes: 1 << 30, xattrs: kinds.map(refused).into(), ..Survey::default() }
}

/// What is not ok, by severity and key.
fn told(trial: &Trial, copied: (u64, u64)) -> Vec<(Severity, String)> {
    let dir = tempfile::tempdir().unwrap();
    let config: Settings =
        serde_json::from_value(serde_json::json!({ "export": "nas:/x", "mount": "/mnt/connect" })).unwrap();
    let cx = MemoryHost::new().context(Op::Check, dir.path(), Source::default());
    let findings = about_export(&config, &cx, trial, &survey(), copied);
    for finding in &findings {
        assert!(finding.severity == Severity::Ok || !finding.remedy.is_empty(), "{finding:?}");
    }
    let bad = findings.into_iter().filter(|finding| finding.severity != Severity::Ok);
    bad.map(|finding| (finding.severity, finding.key)).collect()
}

#[test]
fn each_thing_that_an_export_cannot_do_is_a_finding_of_its_own() {
    use Severity::{Blocker, Warning};
    assert_eq!(told(&export_without(&[]), (0, 0)), []);
    for (lacks, severity, key) in [
        (Ability::Write, Blocker, "nfs-write"),
        (Ability::Owners, Blocker, "nfs-owners"),
        (Ability::Modes, Blocker, "nfs-modes"),
        (Ability::Symlinks, Blocker, "nfs-symlinks"),
        (Ability::HardLinks, Blocker, "nfs-hard-links"),
        (Ability::Rename, Blocker, "nfs-rename"),
        (Ability::Fsync, Blocker, "nfs-fsync"),
        (Ability::Locks, Blocker, "nfs-locks"),
        (Ability::Nanoseconds, Warning, "nfs-times"),
        (Ability::FarTimes, Warning, "nfs-far-times"),
        (Ability::SpecialFiles, Warning, "nfs-special-files"),
        (Ability::Names, Warning, "nfs-names"),
        (Ability::Acls, Warning, "nfs-acls"),
        (Ability::Capabilities, Warning, "nfs-capabilities"),
        (Ability::UserXattrs, Warning, "nfs-user-xattrs"),
    ] {
        assert_eq!(told(&export_without(&[lacks]), (0, 0)), [(severity, key.to_owned())], "{lacks:?}");
    }
}

#[test]
fn an_export_that_cannot_be_written_is_not_blamed_for_the_rest() {
    let told = told(&export_without(&ABILITIES[..12]), (0, 0));
    assert_eq!(told, [(Severity::Blocker, "nfs-write".to_owned())]);
}

#[test]
fn room_inodes_emptiness_clock_and_version_are_looked_at() {
    use Severity::{Blocker, Warning};
    let changed = |change: &dyn Fn(&mut Trial)| {
        let mut trial = export_without(&[]);
        change(&mut trial);
        trial
    };
    for (trial, severity, key) in [
        (changed(&|trial| trial.probed.free_bytes = 1 << 30), Blocker, "nfs-room"),
        (changed(&|trial| trial.probed.free_entries = Some(1_000)), Blocker, "nfs-inodes"),
        (changed(&|trial| trial.names = vec!["theirs".into()]), Blocker, "nfs-empty"),
        (changed(&|trial| trial.probed.clock_ahead_millis = -2_001), Warning, "nfs-clock"),
        (changed(&|trial| trial.options = "rw,vers=3".into()), Warning, "nfs-version"),
        (changed(&|trial| trial.options = "rw,vers=4.0".into()), Warning, "nfs-version"),
    ] {
        assert_eq!(told(&trial, (0, 0)), [(severity, key.to_owned())]);
    }
    // A file system that does not count entries, and names that are nobody's, are fine.
    let fine = changed(&|trial| {
        trial.probed.free_entries = None;
        trial.names = vec!["lost+found".into()];
    });
    assert_eq!(told(&fine, (0, 0)), []);
    // So is little room for what is there already.
    let little = changed(&|trial| trial.probed.free_bytes = 1 << 28);
    assert_eq!(told(&little, (500, 1 << 29)), [(Blocker, "nfs-room".to_owned())]);
    assert_eq!(told(&little, (1_000, 1 << 30)), []);
}

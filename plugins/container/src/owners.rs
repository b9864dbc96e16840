//! Numbers of users and groups: this host's, the image's, and those of the files in the data directory.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The user that runs content has these numbers in Posit's images.
pub const IMAGE_RUN_AS: (&str, u32, u32) = ("rstudio-connect", 999, 999);
/// How many files of the data directory are looked at.
const SAMPLE_MAX_FILES: usize = 20_000;
/// How long they are looked at.
const SAMPLE_MAX_MILLIS: u64 = 2_000;

/// A user with its own group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The user's name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// The number of its group.
    pub gid: u32,
    /// The name of its group.
    pub group: String,
    /// Its line of `/etc/passwd` after the numbers: comment, home and shell.
    pub rest: String,
}

/// A user of this host, from wherever the host gets its users.
#[must_use]
pub fn on_host(name: &str) -> Option<Account> {
    account(nix::unistd::User::from_name(name).ok()??)
}

/// The user of this host with a number.
#[must_use]
pub fn on_host_by_uid(uid: u32) -> Option<Account> {
    account(nix::unistd::User::from_uid(uid.into()).ok()??)
}

fn account(user: nix::unistd::User) -> Option<Account> {
    let group = nix::unistd::Group::from_gid(user.gid).ok().flatten().map(|group| group.name);
    let rest = format!("{}:{}:{}", user.gecos.to_string_lossy(), user.dir.display(), user.shell.display());
    Some(Account {
        uid: user.uid.as_raw(),
        gid: user.gid.as_raw(),
        group: group.unwrap_or_else(|| user.name.clone()),
        name: user.name,
        rest,
    })
}

/// The numbers of a user in the text of a `passwd` file.
#[must_use]
pub fn in_passwd(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// The image's `passwd` and `group` with these accounts under their numbers of this host. They stand first, so that the numbers lead
/// to their names also where the image uses a number for another name.
#[must_use]
pub fn keep(passwd: &str, group: &str, accounts: &[Account]) -> (String, String) {
    let (mut users, mut groups) = (String::new(), String::new());
    for account in accounts {
        let Account { name, uid, gid, group: group_name, rest } = account;
        // Comment, home and shell are the image's where it knows the user: the host's may not exist there.
        let rest = line_of(passwd, name)
            .and_then(|line| Some(line.splitn(5, ':').nth(4)?.to_owned()))
            .unwrap_or_else(|| rest.clone());
        users.push_str(&format!("{name}:x:{uid}:{gid}:{rest}\n"));
        let start = format!("{group_name}:");
        if !groups.lines().any(|line: &str| line.starts_with(&start)) {
            let members = line_of(group, group_name)
                .and_then(|line| Some(line.splitn(4, ':').nth(3)?.to_owned()))
                .unwrap_or_default();
            groups.push_str(&format!("{group_name}:x:{gid}:{members}\n"));
        }
    }
    let others = |text: &str, mine: &str| -> String {
        let taken: Vec<&str> = mine.lines().filter_map(|line| line.split(':').next()).collect();
        text.lines()
            .filter(|line| !line.is_empty() && !taken.contains(&line.split(':').next().unwrap_or_default()))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    let (more_users, more_groups) = (others(passwd, &users), others(group, &groups));
    (users + &more_users, groups + &more_groups)
}

fn line_of<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find(|line| line.split(':').next() == Some(name))
}

/// Owners of the files that were looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Files by the number of their owner.
    pub owners: BTreeMap<u32, usize>,
    /// How many files were looked at.
    pub files: usize,
    /// Whether these were all.
    pub complete: bool,
}

/// Looks at files of a folder, level by level, up to a number and a time. Follows no links and leaves the file system not.
#[must_use]
pub fn sample(root: &Path) -> Sample {
    let deadline = Instant::now() + Duration::from_millis(SAMPLE_MAX_MILLIS);
    let mut seen = Sample { complete: true, ..Sample::default() };
    let Ok(device) = root.metadata().map(|m| m.dev()) else { return seen };
    let mut folders = VecDeque::from([root.to_path_buf()]);
    while let Some(folder) = folders.pop_front() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            if seen.files >= SAMPLE_MAX_FILES || Instant::now() >= deadline {
                seen.complete = false;
                return seen;
            }
            let Ok(metadata) = entry.path().symlink_metadata() else { continue };
            seen.files += 1;
            *seen.owners.entry(metadata.uid()).or_default() += 1;
            if metadata.is_dir() && metadata.dev() == device {
                folders.push_back(entry.path());
            }
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n_net:x:996:996::/:/bin/false\nrstudio-connect:x:999:999:Connect:/home/rc:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nrstudio-connect:x:999:web\n";

    fn host(name: &str, uid: u32, gid: u32) -> Account {
        Account { name: name.into(), uid, gid, group: name.into(), rest: ":/h:/s".into() }
    }

    #[test]
    fn numbers_are_read_from_a_passwd_file() {
        assert_eq!(in_passwd(PASSWD, "rstudio-connect"), Some((999, 999)));
        assert_eq!(in_passwd(PASSWD, "nobody"), None);
        assert_eq!(in_passwd("x:x:one:1::/:/\n", "x"), None);
    }

    #[test]
    fn kept_accounts_stand_first_with_the_hosts_numbers_and_the_images_home() {
        let (users, groups) =
            keep(PASSWD, GROUP, &[host("rstudio-connect", 996, 987), host("ann", 1001, 987)]);
        assert_eq!(
            users,
            "rstudio-connect:x:996:987:Connect:/home/rc:/bin/sh\nann:x:1001:987::/h:/s\nroot:x:0:0:root:/root:/bin/sh\n_net:x:996:996::/:/bin/false\n"
        );
        assert_eq!(groups, "rstudio-connect:x:987:web\nann:x:987:\nroot:x:0:\n");
        assert_eq!(in_passwd(&users, "rstudio-connect"), Some((996, 987)));
        // Once more changes nothing.
        assert_eq!(
            keep(&users, &groups, &[host("rstudio-connect", 996, 987), host("ann", 1001, 987)]),
            (users, groups)
        );
    }

    #[test]
    fn owners_are_counted_and_links_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        std::fs::write(dir.path().join("a/b"), "").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a/root")).unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let seen = sample(dir.path());
        assert_eq!((seen.files, seen.complete, seen.owners.get(&me)), (3, true, Some(&3)));
        assert_eq!(sample(Path::new("/nowhere")).files, 0);
    }

    #[test]
    fn root_is_found_on_this_host() {
        assert_eq!(on_host("root").unwrap().uid, 0);
        assert_eq!(on_host_by_uid(0).unwrap().name, "root");
        assert_eq!(on_host("no-such-user-here"), None);
    }
}

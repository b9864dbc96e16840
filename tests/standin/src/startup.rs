//! What the product checks before it serves, with its messages.
//!
//! <https://docs.posit.co/connect/admin/process-management/>, <https://docs.posit.co/licensing/licensing-faq.html>

use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, User, setgid, setgroups, setuid};

use crate::caches::Owner;
use crate::failure::Failure;

/// Where the product looks for licence files, whatever DataDir is.
pub const LICENCE_DIR: &str = "/var/lib/rstudio-connect";

/// The applet that tries a sandbox in a process of its own.
pub const SANDBOX_APPLET: &str = "rsandbox";

/// Connect manages files and processes of other users: it must be root.
///
/// # Errors
/// It is not.
pub fn must_be_root() -> Result<(), Failure> {
    if Uid::effective().is_root() {
        Ok(())
    } else {
        Err(Failure::Refused("Posit Connect must be started by root".to_owned()))
    }
}

/// A licence file `*.lic` must be there and readable.
///
/// # Errors
/// `Unable to obtain a valid license: ...`
pub fn licence(dir: &Path) -> Result<(), Failure> {
    let refused = |why: String| Err(Failure::Refused(format!("Unable to obtain a valid license: {why}")));
    let files = std::fs::read_dir(dir)
        .map(|entries| {
            let paths = entries.flatten().map(|e| e.path());
            paths.filter(|p| p.extension().is_some_and(|x| x == "lic")).collect::<Vec<_>>()
        })
        .unwrap_or_default();
    let Some(file) = files.iter().max() else {
        return refused(format!("no license file in {}", dir.display()));
    };
    match std::fs::read_to_string(file) {
        Err(e) => refused(format!("cannot read {}: {e}", file.display())),
        Ok(text) if text.trim().is_empty() => refused(format!("{} is empty", file.display())),
        Ok(text) if text.contains("expired") => refused("Your Posit Connect license has expired".to_owned()),
        Ok(_) => Ok(()),
    }
}

/// The RunAs user must exist.
///
/// # Errors
/// `Cannot verify the Applications.RunAs user '...': user: unknown user ...`
pub fn run_as_user(name: &str) -> Result<Owner, Failure> {
    match User::from_name(name) {
        Ok(Some(user)) => Ok(Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        _ => Err(Failure::Refused(format!(
            "Cannot verify the Applications.RunAs user '{name}': user: unknown user {name}"
        ))),
    }
}

/// Tries a sandbox as the product would: a mount name space and a bind mount in it, then becoming the RunAs user.
/// Needs CAP_SYS_ADMIN, and no AppArmor or seccomp profile in the way. Runs in a child, so this process stays as it is.
///
/// # Errors
/// `Unable to launch a sandbox with Applications.RunAs as '...'`
pub fn sandbox(run_as: &str, owner: Owner) -> Result<(), Failure> {
    let refused = |status: String, output: &str| {
        Failure::Refused(format!(
            "Unable to launch a sandbox with Applications.RunAs as '{run_as}'; may not be a real user or may not have \
             sufficient permission: {status}; output: {output}"
        ))
    };
    let output = Command::new("/proc/self/exe")
        .args([SANDBOX_APPLET, &owner.uid.to_string(), &owner.gid.to_string()])
        .output()
        .map_err(|e| refused(e.to_string(), ""))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused(
            output.status.to_string().replace("status: ", "status "),
            String::from_utf8_lossy(&output.stderr).trim(),
        ))
    }
}

/// The child of [`sandbox`]. Arguments: uid and gid.
///
/// # Errors
/// `[rsandbox] ERROR system error <errno> (<text>)`
pub fn sandbox_child(args: &[String]) -> Result<(), Failure> {
    let number = |i: usize| args.get(i).and_then(|a| a.parse::<u32>().ok());
    let (Some(uid), Some(gid)) = (number(0), number(1)) else {
        return Err(Failure::Usage(format!("{SANDBOX_APPLET} UID GID")));
    };
    let none: Option<&str> = None;
    let attempt = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("/tmp"), "/tmp", none, MsFlags::MS_BIND, none)?;
        setgroups(&[])?;
        setgid(Gid::from_raw(gid))?;
        setuid(Uid::from_raw(uid))
    };
    attempt().map_err(|e| {
        let text = std::io::Error::from(e).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        Failure::Refused(format!("[rsandbox] ERROR system error {} ({text})", e as i32))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_file_must_be_there_and_hold_something() {
        let dir = tempfile::tempdir().unwrap();
        let error = licence(dir.path()).unwrap_err().to_string();
        assert!(error.starts_with("Unable to obtain a valid license: no license file"), "{error}");
        std::fs::write(dir.path().join("x.lic"), "").unwrap();
        assert!(licence(dir.path()).unwrap_err().to_string().ends_with("is empty"));
        std::fs::write(dir.path().join("x.lic"), "stand-in licence\n").unwrap();
        licence(dir.path()).unwrap();
        std::fs::write(dir.path().join("x.lic"), "expired\n").unwrap();
        assert!(licence(dir.path()).unwrap_err().to_string().contains("license has expired"));
    }

    #[test]
    fn an_unknown_run_as_user_is_refused_with_the_documented_words() {
        let error = run_as_user("no-such-user").unwrap_err().to_string();
        assert_eq!(
            error,
            "Cannot verify the Applications.RunAs user 'no-such-user': user: unknown user no-such-user"
        );
    }
}

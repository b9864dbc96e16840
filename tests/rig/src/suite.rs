use std::fmt;
use std::str::FromStr;

use crate::{Error, program};

/// The oldest qemu that is known to run a trixie guest well without hardware acceleration. 7.2 is known not to:
/// its guest's kernel oopses within a minute. What lies between was not tried and is treated like 7.2.
const QEMU_FOR_TRIXIE: (u32, u32) = (10, 0);

/// The Debian release that runs in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// Debian 12: systemd 252, docker 20.10, podman 4.3, PostgreSQL 15.
    Bookworm,
    /// Debian 13: systemd 257, docker 26.1, podman 5.4, PostgreSQL 17. The default.
    Trixie,
}

/// A suite and why it was chosen, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The suite.
    pub suite: Suite,
    /// One sentence.
    pub why: String,
}

impl Suite {
    /// Both, the default first.
    pub const ALL: [Self; 2] = [Self::Trixie, Self::Bookworm];

    /// Trixie, or bookworm where this host's qemu does not run trixie well. Needs qemu
    /// ([`crate::host::require`] first).
    pub fn best_for_host() -> Result<Choice, Error> {
        Ok(choose(&qemu_version()?))
    }

    /// Whether this host's qemu runs this suite well; the error text says why not and what to do.
    pub fn runs_here(self) -> Result<Result<(), String>, Error> {
        let version = qemu_version()?;
        Ok(match (self, choose(&version).suite) {
            (Self::Trixie, Self::Bookworm) => Err(format!(
                "qemu {version} does not run trixie guests reliably; install qemu 10 (bookworm-backports has it) \
                 or use bookworm"
            )),
            _ => Ok(()),
        })
    }

    /// The name that Debian's archive uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }

    /// The packages that only this suite has.
    pub(crate) fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Bookworm => &[],
            // From trixie on the client is no longer in docker.io.
            Self::Trixie => &["docker-cli"],
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Suite {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|suite| suite.name() == name)
            .ok_or_else(|| format!("unknown suite `{name}`: use trixie or bookworm"))
    }
}

/// qemu's version as it prints it, for example `10.0.2`.
pub(crate) fn qemu_version() -> Result<String, Error> {
    let text = program::output("asking qemu for its version", "qemu-system-x86_64", &["--version"])?;
    text.split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .map(str::to_owned)
        .ok_or_else(|| Error::Qemu { command: "--version".into(), why: format!("unexpected answer: {text}") })
}

fn choose(version: &str) -> Choice {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let suite = if found >= QEMU_FOR_TRIXIE { Suite::Trixie } else { Suite::Bookworm };
    let why = match suite {
        Suite::Trixie => format!("trixie, the default; qemu {version} runs it well"),
        Suite::Bookworm => format!(
            "bookworm, because this host has qemu {version} and trixie guests need {}.{} or newer",
            QEMU_FOR_TRIXIE.0, QEMU_FOR_TRIXIE.1
        ),
    };
    Choice { suite, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trixie_needs_qemu_10() {
        for (version, suite) in [
            ("7.2.22", Suite::Bookworm),
            ("9.2.0", Suite::Bookworm),
            ("10.0.2", Suite::Trixie),
            ("11.1.0", Suite::Trixie),
            ("nonsense", Suite::Bookworm),
        ] {
            assert_eq!(choose(version).suite, suite, "{version}");
        }
    }

    #[test]
    fn the_choice_says_why() {
        assert!(choose("7.2.22").why.contains("qemu 7.2.22"));
    }

    #[test]
    fn a_suite_is_read_by_its_archive_name() {
        assert_eq!("trixie".parse(), Ok(Suite::Trixie));
        assert_eq!("sid".parse::<Suite>(), Err("unknown suite `sid`: use trixie or bookworm".into()));
    }
}

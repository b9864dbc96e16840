//! The message catalog, made from the table of events: what `journalctl -x` shows below an entry.
//!
//! See <https://systemd.io/CATALOG/> for the format.

use super::ids::{ALL, Kind};

/// The file's name below `/usr/lib/systemd/catalog`.
pub const FILE: &str = "connect-migrator.catalog";
/// The longest line of an explanation.
const WIDTH: usize = 78;

/// The whole file.
#[must_use]
pub fn text() -> String {
    let mut out = String::from(
        "# The events of connect-migrator. Generated from the table in its code; do not edit.\n",
    );
    for kind in ALL {
        out.push('\n');
        out.push_str(&entry(kind));
    }
    out
}

fn entry(kind: &Kind) -> String {
    let Kind { id, subject, meaning, remedy, .. } = kind;
    let (meaning, remedy) = (wrapped(meaning), wrapped(&format!("What to do: {remedy}")));
    format!(
        "-- {id}\nSubject: {subject}\nDefined-By: connect-migrator\n\
         Support: file:///usr/share/doc/connect-migrator/README.md\nDocumentation: man:connect-migrator(1)\n\n\
         {meaning}\n{remedy}"
    )
}

/// Broken at spaces.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn an_entry_reads_like_this() {
        let failed = ALL.iter().find(|kind| kind.name == "step-failed").unwrap();
        insta::assert_snapshot!(entry(failed));
    }

    #[test]
    fn systemd_accepts_the_catalog_and_finds_every_event_in_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("usr/lib/systemd/catalog");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
        std::fs::write(dir.join(FILE), text()).unwrap();
        let journalctl = |argument: &str| {
            let out = Command::new("journalctl")
                .arg(format!("--root={}", root.path().display()))
                .arg(argument)
                .output()
                .expect("journalctl is needed: install Debian's package `systemd`");
            let errors = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(out.status.success() && errors.is_empty(), "{argument}: {}: {errors}", out.status);
            String::from_utf8(out.stdout).unwrap()
        };
        journalctl("--update-catalog");
        let listed = journalctl("--list-catalog");
        for kind in ALL {
            let line = format!("{} connect-migrator: {}", kind.id, kind.subject);
            assert!(listed.contains(&line), "no `{line}` in\n{listed}");
        }
    }
}

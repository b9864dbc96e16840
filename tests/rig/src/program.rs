//! Running programs on the host.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::Error;

/// Folders with system programs that a plain user's PATH may lack (`mke2fs` is in one).
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How much of a failed program's output goes into the error, in characters.
const TAIL_CHARS: usize = 2000;

/// The search path for programs of the host.
pub(crate) fn path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&own).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    std::env::join_paths(folders).unwrap_or(own)
}

/// Whether the host has this program.
pub(crate) fn exists(name: &str) -> bool {
    std::env::split_paths(&path()).any(|folder| folder.join(name).is_file())
}

/// A command with the host's full search path and no input.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", path()).stdin(Stdio::null());
    command
}

/// Runs a program to its end; what it wrote to stdout when it ended with 0.
pub(crate) fn output<A: AsRef<OsStr>>(what: &str, name: &str, arguments: &[A]) -> Result<String, Error> {
    let mut command = command(name);
    finish(what, name, command.args(arguments).output())
}

/// Turns the end of a program into its stdout or an error with the end of what it wrote.
pub(crate) fn finish(what: &str, name: &str, ended: std::io::Result<Output>) -> Result<String, Error> {
    let failed = |why: String| Error::Program { what: what.into(), program: name.into(), why };
    let output = ended.map_err(|e| failed(format!("could not be started: {e}")))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("ended with {}\n{}{}", output.status, tail(&stdout), tail(&stderr))))
}

/// The last part of a text, whole lines where possible.
pub(crate) fn tail(text: &str) -> &str {
    let skip = text.chars().count().saturating_sub(TAIL_CHARS);
    let start = text.char_indices().nth(skip).map_or(text.len(), |(at, _)| at);
    let end = text.get(start..).unwrap_or_default();
    if skip == 0 { end } else { end.split_once('\n').map_or(end, |(_, rest)| rest) }
}

/// Quotes a word for a POSIX shell.
pub(crate) fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_comes_back_whole_from_a_shell() {
        let word = "it's \"$HOME\" `x` \\ \n;";
        let text = output("test", "sh", &["-c", &format!("printf %s {}", quote(word))]).unwrap();
        assert_eq!(text, word);
    }

    #[test]
    fn a_failed_program_says_what_it_wrote() {
        let text =
            output("testing", "sh", &["-c", "echo out; echo err >&2; exit 3"]).unwrap_err().to_string();
        assert!(text.contains("testing") && text.contains("out\nerr") && text.contains('3'), "{text}");
    }

    #[test]
    fn a_tail_keeps_the_last_whole_lines() {
        assert_eq!(tail("a\nb\n"), "a\nb\n");
        let long = format!("{}\nlast\n", "x".repeat(TAIL_CHARS));
        assert_eq!(tail(&long), "last\n");
    }
}

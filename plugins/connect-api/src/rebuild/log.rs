//! What the builds print, one file an item, bounded.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How much of one attempt's output is kept.
pub const LOG_MAX_BYTES: usize = 256 * 1024;
/// How many of the last lines are looked through for the cause of a failure.
const TAIL_LINES: usize = 40;
/// How much of a line or an error is shown.
const SHOWN_MAX_CHARS: usize = 400;

/// The log of one attempt to build one item.
#[derive(Debug)]
pub struct BuildLog {
    path: PathBuf,
    file: Option<File>,
    room: usize,
    tail: VecDeque<String>,
}

impl BuildLog {
    /// A log below `folder`; the file is made with the first line.
    #[must_use]
    pub fn new(folder: &Path, guid: &str) -> BuildLog {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let name: String = guid.chars().take(64).map(plain).collect();
        let path = folder.join(format!("{name}.log"));
        BuildLog { path, file: None, room: LOG_MAX_BYTES, tail: VecDeque::new() }
    }

    /// Adds lines.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn add(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut text = String::new();
        for line in lines {
            if self.tail.len() == TAIL_LINES {
                self.tail.pop_front();
            }
            self.tail.push_back(cut(line));
            if self.room == 0 {
                continue;
            }
            if line.len() >= self.room {
                text.push_str("(the rest is left out)\n");
                self.room = 0;
                continue;
            }
            self.room -= line.len() + 1;
            text.push_str(line);
            text.push('\n');
        }
        if text.is_empty() {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                if let Some(folder) = self.path.parent() {
                    std::fs::create_dir_all(folder)?;
                }
                self.file.insert(File::options().append(true).create(true).open(&self.path)?)
            }
        };
        file.write_all(text.as_bytes())
    }

    /// Why the build failed, in one line: what the server said, and the line about a missing interpreter if there is one.
    #[must_use]
    pub fn cause(&self, said: &str) -> String {
        let said = cut(said);
        let missing = |line: &&String| {
            let line = line.to_lowercase();
            line.contains("compatible") && (line.contains("environment") || line.contains("version"))
        };
        let line = self.tail.iter().rev().find(missing);
        match line {
            Some(line) if !said.contains(line.as_str()) && !said.to_lowercase().contains("compatible") => {
                if said.is_empty() {
                    line.clone()
                } else {
                    format!("{said}: {line}")
                }
            }
            _ if said.is_empty() => match self.tail.iter().rev().find(|line| !line.is_empty()) {
                Some(line) => format!("no reason given; the last line was: {line}"),
                None => "no reason given".into(),
            },
            _ => said,
        }
    }
}

/// Foreign text as one line of bounded length.
#[must_use]
pub fn cut(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN_MAX_CHARS) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_log_is_written_and_bounded_and_stays_in_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BuildLog::new(dir.path(), "../../etc/passwd");
        log.add(&lines(&["first"])).unwrap();
        log.add(&["x".repeat(LOG_MAX_BYTES), "after".into()]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("______etc_passwd.log")).unwrap();
        assert_eq!(text, "first\n(the rest is left out)\n");
    }

    #[test]
    fn a_missing_interpreter_is_named_even_if_the_server_only_says_that_it_failed() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BuildLog::new(dir.path(), "g");
        let why =
            "Cannot find compatible environment: no compatible Local environment with Python version 3.9.5";
        log.add(&lines(&["Bundle requested Python", why, "Stopped."])).unwrap();
        assert_eq!(log.cause("exit status 1"), format!("exit status 1: {why}"));
        assert_eq!(log.cause(""), why);
        assert_eq!(log.cause(why), why);
    }

    #[test]
    fn a_failure_without_a_reason_shows_the_last_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = BuildLog::new(dir.path(), "g");
        assert_eq!(log.cause(""), "no reason given");
        log.add(&lines(&["compiling", "killed", ""])).unwrap();
        assert_eq!(log.cause(" "), "no reason given; the last line was: killed");
    }
}

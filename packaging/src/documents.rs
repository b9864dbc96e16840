//! Man pages and completions from the command's own definitions, the pages that are prose beside them; the catalog from the table of
//! events.

use super::failure::{Failure, Tried, output, read, write};
use super::workspace;
use clap_complete::Shell;
use connect_migrator::cli;
use connect_migrator::systemd::journal::catalog;
use std::path::Path;
use std::process::Command;

/// The pages that are written by hand, in `packaging/man`.
const PROSE: [&str; 2] = ["connect-migrator.toml.5", "connect-migrator-plugins.7"];

/// Writes all of them below `share`. The same code makes the same bytes.
pub fn write_all(share: &Path) -> Tried {
    write(&share.join(catalog::FILE), catalog::text().as_bytes())?;
    let prose = PROSE.iter().map(|name| {
        let text = read(&workspace().join("packaging/man").join(name))?;
        Ok(((*name).to_owned(), text.into_bytes()))
    });
    let prose: Vec<_> = prose.collect::<Tried<_>>()?;
    for (name, page) in pages()?.into_iter().chain(prose) {
        let path = share.join("man").join(name);
        write(&path, &page)?;
        // Without name and time: the same page makes the same bytes.
        output("compress a man page", Command::new("gzip").args(["-n9f"]).arg(&path))?;
    }
    for (shell, name) in [
        (Shell::Bash, "connect-migrator.bash"),
        (Shell::Zsh, "_connect-migrator"),
        (Shell::Fish, "connect-migrator.fish"),
    ] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut cli::command(), "connect-migrator", &mut text);
        write(&share.join("completions").join(name), &text)?;
    }
    Ok(())
}

/// One page for the command and one for each of its commands that are not hidden, and for each of theirs.
fn pages() -> Tried<Vec<(String, Vec<u8>)>> {
    let mut root = without_help(cli::command());
    root.build();
    let mut pages = vec![("connect-migrator.1".to_owned(), page(root.clone())?)];
    pages_below(&root, "connect-migrator", &mut pages)?;
    Ok(pages)
}

/// The command `help` says what the pages say, and has none.
fn without_help(command: clap::Command) -> clap::Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn pages_below(command: &clap::Command, above: &str, pages: &mut Vec<(String, Vec<u8>)>) -> Tried {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("{above}-{}", command.get_name());
        let title: &'static str = Box::leak(name.clone().into_boxed_str());
        let of = command.clone().name(title);
        pages.push((format!("{name}.1"), page(of)?));
        pages_below(command, &name, pages)?;
    }
    Ok(())
}

fn page(command: clap::Command) -> Tried<Vec<u8>> {
    let mut out = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut out)
        .map_err(|error| Failure(format!("make a man page: {error}")))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_shown_has_a_page_that_names_its_options() {
        let pages = pages().unwrap();
        let text = |name: &str| {
            let (_, page) = pages.iter().find(|(known, _)| known == name).unwrap();
            String::from_utf8(page.clone()).unwrap()
        };
        assert!(text("connect-migrator.1").contains("Exit codes"), "{}", text("connect-migrator.1"));
        for command in ["check", "plan", "status", "rollback", "commit", "images"] {
            assert!(text(&format!("connect-migrator-{command}.1")).contains(".SH OPTIONS"));
            assert!(text("connect-migrator.1").contains(command));
        }
        assert!(!pages.iter().any(|(name, _)| name.contains("daemon") || name.contains("help")));
    }

    #[test]
    fn every_page_that_a_page_names_is_there() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"connect-migrator-plugins-show.1"), "{names:?}");
        for (page, text) in &pages {
            let text = String::from_utf8_lossy(text).replace("\\-", "-");
            let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-()".contains(c)));
            for word in words.filter(|word| word.starts_with("connect-migrator-") && word.ends_with("(1)")) {
                let named = word.replace("(1)", ".1");
                assert!(names.contains(&named.as_str()), "{page} names {named}, which is not there");
            }
        }
    }

    #[test]
    fn every_page_of_prose_is_shipped() {
        let listed = std::fs::read_dir(workspace().join("packaging/man")).unwrap();
        let mut listed: Vec<_> =
            listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        listed.sort();
        let mut shipped = PROSE.to_vec();
        shipped.sort_unstable();
        assert_eq!(listed, shipped);
    }

    #[test]
    fn two_runs_make_the_same_files() {
        let read = |folder: &Path| -> Vec<(String, Vec<u8>)> {
            let mut files = Vec::new();
            for dir in [folder.to_owned(), folder.join("man"), folder.join("completions")] {
                for entry in std::fs::read_dir(dir).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        files.push((
                            path.file_name().unwrap().to_string_lossy().into(),
                            std::fs::read(path).unwrap(),
                        ));
                    }
                }
            }
            files.sort();
            files
        };
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_all(one.path()).unwrap();
        write_all(two.path()).unwrap();
        assert_eq!(read(one.path()), read(two.path()));
        assert!(read(one.path()).len() >= 11);
    }
}

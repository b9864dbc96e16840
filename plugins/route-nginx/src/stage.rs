//! A copy of the configuration beside the live one, in which a change can be tested by `nginx -t` before it is made.
//!
//! Only what nginx reads as configuration is copied, with the includes leading into the copy; everything else in its folder
//! (certificates, keys, password files) is a symbolic link to the original, so that relative paths keep their meaning and no
//! secret is written a second time.

use crate::conf::Configuration;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// New bytes for a part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The file, symbolic links resolved.
    pub file: PathBuf,
    /// The bytes that go.
    pub span: Range<usize>,
    /// The bytes that come.
    pub text: String,
}

/// A staged configuration. Dropping it leaves it; [`Stage::discard`] removes it.
#[derive(Debug)]
pub struct Stage {
    root: PathBuf,
    main: PathBuf,
}

/// Why a configuration could not be staged.
#[derive(Debug, thiserror::Error)]
#[error("could not write the staged copy {}: {why}", path.display())]
pub struct StageError {
    /// What could not be written.
    pub path: PathBuf,
    /// Why.
    pub why: io::Error,
}

impl Stage {
    /// Writes a copy of `configuration` below `root`, with `edit` made and `added` (path and bytes) put into it. An older copy is
    /// replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(
        configuration: &Configuration,
        root: &Path,
        edit: &Edit,
        added: (&Path, &[u8]),
    ) -> Result<Self, StageError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |why| StageError { path, why }
        };
        let stage = Stage { root: root.to_owned(), main: below(root, configuration.main()) };
        stage.discard().map_err(failed(root))?;

        let mut contents: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        for (id, file) in configuration.files() {
            let mut edits: Vec<(Range<usize>, String)> = Vec::new();
            for (_, node) in
                configuration.nodes().filter(|(_, node)| node.file == id && node.name == "include")
            {
                if let Some(word) = node.args.first().filter(|word| word.value.starts_with('/')) {
                    let staged = below(root, Path::new(&word.value)).display().to_string();
                    edits.push((word.span.clone(), quoted(&staged)));
                }
            }
            if file.real == edit.file {
                edits.push((edit.span.clone(), edit.text.clone()));
            }
            contents.insert(file.path.clone(), spliced(&file.bytes, edits));
        }
        contents.insert(added.0.to_owned(), added.1.to_owned());

        let folders: BTreeSet<&Path> = contents
            .keys()
            .flat_map(|path| path.ancestors().skip(1))
            .chain([configuration.folder()])
            .collect();
        for folder in &folders {
            let staged = below(root, folder);
            fs::create_dir_all(&staged).map_err(failed(&staged))?;
            if folder.starts_with(configuration.folder()) {
                link_the_rest(folder, &staged, &|path| contents.contains_key(path) || folders.contains(path))
                    .map_err(failed(&staged))?;
            }
        }
        for (path, bytes) in &contents {
            let staged = below(root, path);
            fs::write(&staged, bytes).map_err(failed(&staged))?;
        }
        Ok(stage)
    }

    /// The main file of the copy, for `nginx -t -c`.
    #[must_use]
    pub fn main(&self) -> &Path {
        &self.main
    }

    /// What nginx said about the copy, said about the originals.
    #[must_use]
    pub fn as_originals(&self, text: &str) -> String {
        text.replace(&self.root.display().to_string(), "")
    }

    /// Removes the copy.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn discard(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// `bytes` with every edit made.
#[must_use]
pub fn spliced(bytes: &[u8], mut edits: Vec<(Range<usize>, String)>) -> Vec<u8> {
    edits.sort_by_key(|(span, _)| span.start);
    // A file that is included twice has every one of its includes twice.
    edits.dedup();
    let mut new = Vec::with_capacity(bytes.len());
    let mut at = 0;
    for (span, text) in edits {
        new.extend_from_slice(bytes.get(at..span.start).unwrap_or_default());
        new.extend_from_slice(text.as_bytes());
        at = span.end;
    }
    new.extend_from_slice(bytes.get(at..).unwrap_or_default());
    new
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn link_the_rest(folder: &Path, staged: &Path, is_staged: &dyn Fn(&Path) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_staged(&entry.path()) {
            std::os::unix::fs::symlink(entry.path(), staged.join(entry.file_name()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_staged_configuration_reads_itself_and_leaves_secrets_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let conf = base.join("etc");
        for folder in ["sites-available", "sites-enabled", "conf.d", "certs"] {
            fs::create_dir_all(conf.join(folder)).unwrap();
        }
        let main = format!(
            "events {{}}\nhttp {{ include conf.d/*.conf; include {}/sites-enabled/*; }}\n",
            conf.display()
        );
        fs::write(conf.join("nginx.conf"), &main).unwrap();
        fs::write(
            conf.join("sites-available/connect"),
            "server { ssl_certificate_key certs/key; proxy_pass http://old; }",
        )
        .unwrap();
        fs::write(conf.join("certs/key"), "secret").unwrap();
        std::os::unix::fs::symlink("../sites-available/connect", conf.join("sites-enabled/connect")).unwrap();

        let configuration = Configuration::read(&conf.join("nginx.conf")).unwrap();
        let (_, node) = configuration.nodes().find(|(_, node)| node.name == "proxy_pass").unwrap();
        let edit = Edit {
            file: conf.join("sites-available/connect"),
            span: node.args[0].span.clone(),
            text: "http://new".into(),
        };
        let added = conf.join("conf.d/own.conf");
        let root = base.join("state dir/stage");
        for _ in 0..2 {
            let stage = Stage::write(&configuration, &root, &edit, (&added, b"gzip on;")).unwrap();
            let staged = Configuration::read(stage.main()).unwrap();
            let value = |name| {
                staged
                    .nodes()
                    .find(|(_, node)| node.name == name)
                    .and_then(|(_, node)| node.arg(0).map(str::to_owned))
            };
            assert_eq!(value("proxy_pass").as_deref(), Some("http://new"));
            assert_eq!(value("gzip").as_deref(), Some("on"));
            assert!(staged.files().all(|(_, file)| file.real.starts_with(&root)), "{staged:?}");
            assert!(root.join(conf.strip_prefix("/").unwrap()).join("certs").is_symlink());
            assert_eq!(
                stage.as_originals(&format!("in {}:1", stage.main().display())),
                format!("in {}/nginx.conf:1", conf.display())
            );
        }
        assert_eq!(fs::read_to_string(conf.join("nginx.conf")).unwrap(), main);
        assert!(!added.exists());
        let stage = Stage { root: root.clone(), main: PathBuf::new() };
        stage.discard().unwrap();
        assert!(!root.exists());
        assert_eq!(fs::read_to_string(conf.join("certs/key")).unwrap(), "secret");
    }

    proptest! {
        #[test]
        fn an_edit_changes_its_span_and_nothing_else(bytes in prop::collection::vec(any::<u8>(), 1..200), a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), text in "[a-z:./]{0,30}") {
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let span = a.min(b)..a.max(b);
            let new = spliced(&bytes, vec![(span.clone(), text.clone())]);
            prop_assert_eq!(&new[..span.start], &bytes[..span.start]);
            prop_assert_eq!(&new[span.start..span.start + text.len()], text.as_bytes());
            prop_assert_eq!(&new[span.start + text.len()..], &bytes[span.end..]);
            // And back again: the way of rollback.
            let old = String::from_utf8(bytes[span.clone()].to_vec());
            if let Ok(old) = old {
                prop_assert_eq!(spliced(&new, vec![(span.start..span.start + text.len(), old)]), bytes);
            }
        }
    }
}

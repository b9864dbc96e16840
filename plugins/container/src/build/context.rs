//! The folder that a build copies from: what of it the engine gets, and handing it over.

use crate::build::ignore::Ignore;
use crate::build::recipe::Recipe;
use bytes::Bytes;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// No context has more entries.
const ENTRIES_MAX: usize = 200_000;
/// Ignore files are smaller.
const IGNORE_MAX_BYTES: u64 = 256 * 1024;
/// How much is handed over at a time.
const CHUNK_BYTES: usize = 256 * 1024;
/// Under which name a Containerfile goes that lies outside of its context.
const OUTSIDE: &str = ".connect-migrator.Containerfile";

/// What of a folder the engine gets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Paths below the folder, each folder before what is in it.
    pub entries: Vec<PathBuf>,
    /// What its files hold together.
    pub bytes: u64,
    /// The ignore file that counts.
    pub ignored_by: Option<PathBuf>,
}

/// The name of the Containerfile in what the engine gets.
#[must_use]
pub fn inside(recipe: &Recipe) -> String {
    match recipe.containerfile.strip_prefix(&recipe.context) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => OUTSIDE.into(),
    }
}

/// Looks through the folder, up to `most` bytes. Blocks.
///
/// # Errors
/// When something cannot be read, cannot be handed over, or is too much.
pub fn survey(recipe: &Recipe, most: u64) -> Result<Survey, String> {
    let mut all = Survey::default();
    let mut ignore = Ignore::default();
    if let Some(path) = ignore_file(recipe) {
        let size = std::fs::metadata(&path).map_err(|e| format!("{}: {e}", path.display()))?.len();
        if size > IGNORE_MAX_BYTES {
            return Err(format!("{} has more than {IGNORE_MAX_BYTES} bytes", path.display()));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        ignore = Ignore::parse(&text).map_err(|why| format!("{}: {why}", path.display()))?;
        all.ignored_by = Some(path);
    }
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = recipe.context.join(&folder);
        let unreadable = |error: io::Error| format!("{} cannot be read: {error}", at.display());
        let mut names: Vec<_> = std::fs::read_dir(&at)
            .map_err(unreadable)?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        names.sort();
        for name in names {
            let path = folder.join(name);
            let full = recipe.context.join(&path);
            let about =
                full.symlink_metadata().map_err(|e| format!("{} cannot be read: {e}", full.display()))?;
            // The Containerfile goes along whatever the rules say.
            let out = full != recipe.containerfile && ignore.leaves_out(&path.to_string_lossy());
            let kind = about.file_type();
            if kind.is_dir() {
                // A rule with `!`, or the Containerfile, may bring back something below.
                let below = recipe.containerfile.starts_with(&full);
                if !out || ignore.has_exceptions() || below {
                    folders.push(path.clone());
                }
                if !out {
                    all.entries.push(path);
                }
                continue;
            }
            if out {
                continue;
            }
            if !kind.is_file() && !kind.is_symlink() {
                return Err(format!(
                    "{} is neither a file, a folder nor a link; leave it out by an ignore file",
                    full.display()
                ));
            }
            if kind.is_file() {
                all.bytes += about.len();
            }
            all.entries.push(path);
            if all.bytes > most || all.entries.len() > ENTRIES_MAX {
                return Err(format!(
                    "{} holds more than {} MiB or {ENTRIES_MAX} entries; leave out by an ignore file what the build does not need, or raise `build-context-max-mib`",
                    recipe.context.display(),
                    most / (1024 * 1024)
                ));
            }
        }
    }
    all.entries.sort();
    Ok(all)
}

/// The ignore file that docker and podman would take, the more special one first.
fn ignore_file(recipe: &Recipe) -> Option<PathBuf> {
    let own = recipe.containerfile.as_os_str().to_string_lossy().into_owned() + ".dockerignore";
    let own = PathBuf::from(own);
    let common = [".containerignore", ".dockerignore"].map(|name| recipe.context.join(name));
    std::iter::once(own).chain(common).find(|path| path.is_file())
}

/// Hands the context over piece by piece, as an archive. Blocks; ends when nobody takes the pieces any more.
///
/// # Errors
/// When something cannot be read any more.
pub fn pack(recipe: &Recipe, survey: &Survey, to: mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let mut archive = tar::Builder::new(Pieces { to, buffer: Vec::with_capacity(CHUNK_BYTES) });
    for path in &survey.entries {
        append(&mut archive, &recipe.context.join(path), path)?;
    }
    if !recipe.containerfile.starts_with(&recipe.context) {
        append(&mut archive, &recipe.containerfile, Path::new(OUTSIDE))?;
    }
    archive.finish()?;
    archive.into_inner()?.flush()
}

fn append(archive: &mut tar::Builder<Pieces>, from: &Path, name: &Path) -> io::Result<()> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", from.display()));
    let about = from.symlink_metadata().map_err(told)?;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&about);
    // As docker has it, everything belongs to root.
    header.set_uid(0);
    header.set_gid(0);
    if about.is_symlink() {
        header.set_size(0);
        return archive.append_link(&mut header, name, std::fs::read_link(from).map_err(told)?);
    }
    if about.is_dir() {
        header.set_size(0);
        return archive.append_data(&mut header, name, io::empty());
    }
    let file = std::fs::File::open(from).map_err(told)?;
    // A file that grows meanwhile must not spoil the archive; one that shrinks fails it.
    let mut exactly = Exactly { inner: file, left: about.len() };
    archive.append_data(&mut header, name, &mut exactly).map_err(told)
}

/// Reads so many bytes, no more and no fewer.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: io::Read> io::Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the engine takes no more of it");
        self.to.blocking_send(Ok(piece)).map_err(gone)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    fn recipe(dir: &Path, containerfile: &str) -> Recipe {
        Recipe {
            context: dir.to_owned(),
            containerfile: dir.join(containerfile),
            target: None,
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
            version: None,
            bases: Vec::new(),
            what: "x".into(),
            secrets: Vec::new(),
        }
    }

    fn names(survey: &Survey) -> Vec<String> {
        survey.entries.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn the_engine_gets_what_the_ignore_file_leaves_and_always_the_containerfile() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/deep")).unwrap();
        std::fs::create_dir_all(at("skip")).unwrap();
        for name in ["Containerfile", "a/deep/kept", "a/x.log", "skip/file"] {
            std::fs::write(at(name), "12345").unwrap();
        }
        std::os::unix::fs::symlink("deep/kept", at("a/link")).unwrap();
        std::fs::write(at(".dockerignore"), "skip\n**/*.log\nContainerfile\n.dockerignore\n").unwrap();
        let recipe = recipe(dir.path(), "Containerfile");
        let survey = survey(&recipe, 1024).unwrap();
        assert_eq!(names(&survey), ["Containerfile", "a", "a/deep", "a/deep/kept", "a/link"]);
        assert_eq!(survey.bytes, 10);

        let (to, mut from) = mpsc::channel(100);
        pack(&recipe, &survey, to).unwrap();
        let mut bytes = Vec::new();
        while let Ok(piece) = from.try_recv() {
            bytes.extend_from_slice(&piece.unwrap());
        }
        let mut seen = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(entry.header().uid().unwrap(), 0);
            let link = entry.link_name().unwrap().map(|to| to.display().to_string()).unwrap_or_default();
            seen.push(format!("{} {text}{link}", entry.path().unwrap().display()));
        }
        assert_eq!(seen, ["Containerfile 12345", "a ", "a/deep ", "a/deep/kept 12345", "a/link deep/kept"]);
    }

    #[test]
    fn too_much_a_socket_and_a_rule_that_is_not_understood_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Containerfile"), "FROM scratch\n").unwrap();
        let recipe = recipe(dir.path(), "Containerfile");
        assert!(survey(&recipe, 5).unwrap_err().contains("build-context-max-mib"));
        std::fs::write(dir.path().join(".containerignore"), "[x]\n").unwrap();
        assert!(survey(&recipe, 1024).unwrap_err().contains("line 1"));
        std::fs::remove_file(dir.path().join(".containerignore")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(survey(&recipe, 1024).unwrap_err().contains("neither a file"));
    }

    #[test]
    fn a_containerfile_outside_of_its_context_goes_along() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        std::fs::write(dir.path().join("Containerfile"), "FROM scratch\n").unwrap();
        let recipe = Recipe { context: dir.path().join("context"), ..recipe(dir.path(), "Containerfile") };
        assert_eq!(inside(&recipe), OUTSIDE);
        let (to, mut from) = mpsc::channel(10);
        pack(&recipe, &survey(&recipe, 1024).unwrap(), to).unwrap();
        let bytes = from.try_recv().unwrap().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let first = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(first.path().unwrap().display().to_string(), OUTSIDE);
    }
}

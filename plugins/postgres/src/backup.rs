//! The SQLite files as they were when the source had stopped, byte for byte, with what SQLite keeps beside them.

use crate::sqlite_files::{SIDECARS, SqliteError, SqliteFile, look};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are copied at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// The list of what was saved, in the folder of the copies.
const MANIFEST: &str = "manifest.json";
/// A list is not longer.
const MANIFEST_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// One file that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Saved {
    /// Where it lies.
    pub source: PathBuf,
    /// Its copy.
    pub copy: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// Everything that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backup {
    /// The databases, as they were.
    pub files: Vec<SqliteFile>,
    /// The databases and their sidecars.
    pub saved: Vec<Saved>,
}

fn failed<E: std::fmt::Display>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> SqliteError {
    let path = path.to_owned();
    move |why| SqliteError { doing, path, why: why.to_string() }
}

/// Makes a folder for root alone.
///
/// # Errors
/// The file system's.
pub fn folder(path: &Path) -> Result<(), SqliteError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the folder", path))
}

impl Backup {
    /// Copies the files, which nobody may have open. What an earlier try has copied is kept if the files are still the same.
    ///
    /// # Errors
    /// When a file cannot be read or changes meanwhile, or the copy cannot be written.
    pub fn take(files: &[SqliteFile], dir: &Path) -> Result<Self, SqliteError> {
        if let Some(old) = Self::read(dir)
            && old.files == files
            && old.changed()?.is_empty()
            && old.saved.iter().all(|saved| fs::metadata(&saved.copy).is_ok_and(|m| m.len() == saved.bytes))
        {
            return Ok(old);
        }
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", dir)(error));
            }
            _ => {}
        }
        folder(dir)?;
        let mut backup = Backup { files: files.to_vec(), saved: Vec::new() };
        for file in files {
            for source in with_sidecars(&file.path) {
                let copy = dir.join(source.file_name().unwrap_or_default());
                let (bytes, sha256) = copy_file(&source, &copy)?;
                backup.saved.push(Saved { source, copy, bytes, sha256 });
            }
            let again = look(&file.path).map_err(failed("read", &file.path))?;
            if again.as_ref() != Some(file) {
                return Err(failed("copy", &file.path)("it was changed meanwhile: something still uses it"));
            }
        }
        let text = serde_json::to_vec_pretty(&backup).map_err(failed("list", dir))?;
        write_whole(&dir.join(MANIFEST), &text)?;
        Ok(backup)
    }

    /// The list of an earlier backup.
    #[must_use]
    pub fn read(dir: &Path) -> Option<Self> {
        let mut text = Vec::new();
        File::open(dir.join(MANIFEST)).ok()?.take(MANIFEST_MAX_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The files whose bytes are no longer those that were saved. The index of a log is left out of account: it is made anew at every
    /// opening.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn changed(&self) -> Result<Vec<PathBuf>, SqliteError> {
        let mut changed = Vec::new();
        for file in &self.files {
            for source in with_sidecars(&file.path) {
                let is_index = source.to_string_lossy().ends_with("-shm");
                let saved = self.saved.iter().find(|saved| saved.source == source);
                let empty = fs::metadata(&source).is_ok_and(|m| m.len() == 0);
                let same = match saved {
                    Some(saved) => digest(&source)? == saved.sha256,
                    None => empty,
                };
                if !same && !is_index {
                    changed.push(source);
                }
            }
        }
        for saved in &self.saved {
            if !saved.source.exists() && saved.bytes > 0 && !saved.source.to_string_lossy().ends_with("-shm")
            {
                changed.push(saved.source.clone());
            }
        }
        Ok(changed)
    }

    /// Puts fresh copies of the databases (with their logs) into a folder, for a program that may write into them.
    ///
    /// # Errors
    /// The file system's.
    pub fn work_copy(&self, dir: &Path) -> Result<Vec<PathBuf>, SqliteError> {
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", dir)(error));
            }
            _ => {}
        }
        folder(dir)?;
        for saved in self.saved.iter().filter(|saved| !saved.source.to_string_lossy().ends_with("-shm")) {
            copy_file(&saved.copy, &dir.join(saved.copy.file_name().unwrap_or_default()))?;
        }
        let name = |file: &SqliteFile| dir.join(file.path.file_name().unwrap_or_default());
        Ok(self.files.iter().map(name).collect())
    }
}

fn with_sidecars(path: &Path) -> Vec<PathBuf> {
    let beside = |end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        PathBuf::from(name)
    };
    let mut all = vec![path.to_owned()];
    all.extend(SIDECARS.iter().map(|end| beside(end)).filter(|path| path.exists()));
    all
}

fn chunks(path: &Path, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<u64, SqliteError> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let mut chunk = vec![0_u8; CHUNK_BYTES];
    let mut total = 0;
    loop {
        let read = file.read(&mut chunk).map_err(failed("read", path))?;
        if read == 0 {
            return Ok(total);
        }
        total += read as u64;
        take(chunk.get(..read).unwrap_or_default()).map_err(failed("copy", path))?;
    }
}

fn copy_file(from: &Path, to: &Path) -> Result<(u64, String), SqliteError> {
    let mut out = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)
        .map_err(failed("write", to))?;
    let mut hasher = Sha256::new();
    let bytes = chunks(from, |chunk| {
        hasher.update(chunk);
        out.write_all(chunk)
    })?;
    out.sync_all().map_err(failed("write", to))?;
    Ok((bytes, crate::compare::canonical::hex(&hasher.finalize())))
}

fn digest(path: &Path) -> Result<String, SqliteError> {
    let mut hasher = Sha256::new();
    chunks(path, |chunk| {
        hasher.update(chunk);
        Ok(())
    })?;
    Ok(crate::compare::canonical::hex(&hasher.finalize()))
}

/// Writes a file of ours as a whole, for root alone.
///
/// # Errors
/// The file system's; the old file stands then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), SqliteError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(failed("write", &new))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("write", path))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("write", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite_files::find;
    use rusqlite::Connection;

    fn made(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (id)").unwrap();
        connection
    }

    #[test]
    fn a_backup_has_the_sidecars_and_notices_every_change() {
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kept = made(&dir.path().join("connect.db"));
        let files = find(dir.path()).unwrap();
        let to = out.path().join("backup");
        let backup = Backup::take(&files, &to).unwrap();
        assert!(backup.saved.iter().any(|saved| saved.copy.ends_with("connect.db-wal") && saved.bytes > 0));
        assert_eq!(backup.changed().unwrap(), Vec::<PathBuf>::new());
        assert_eq!(Backup::take(&files, &to).unwrap(), backup);
        let work = backup.work_copy(&out.path().join("work")).unwrap();
        let count: i64 = Connection::open(&work[0])
            .unwrap()
            .query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 1, "the table is in the log only");
        kept.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert_eq!(backup.changed().unwrap(), [dir.path().join("connect.db-wal")]);
        let again = Backup::take(&find(dir.path()).unwrap(), &to).unwrap();
        assert_eq!(again.changed().unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_file_that_is_written_to_meanwhile_is_not_a_backup() {
        let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(made(&dir.path().join("connect.db")));
        let mut files = find(dir.path()).unwrap();
        files[0].changed_ns -= 1;
        let error = Backup::take(&files, &out.path().join("backup")).unwrap_err();
        assert!(error.to_string().contains("changed meanwhile"), "{error}");
        assert!(Backup::read(&out.path().join("backup")).is_none());
    }
}

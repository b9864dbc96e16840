//! An image in a file, as `docker save` and `podman save` write it: for hosts without a way to a registry.

use crate::registry::sha256;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// No JSON inside is larger.
const JSON_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// No archive has more entries of interest.
const ENTRIES_MAX: usize = 100_000;

/// Why an archive cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("could not read the archive {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It is no archive of an image.
    #[error("{} is not an archive of an image as `docker save` writes it: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It has another digest than the runbook says.
    #[error("the image in {} has the digest {is}, and the runbook says {should}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest of the image inside, or of the file.
        is: String,
        /// The one that was expected.
        should: String,
    },
    /// Something inside is damaged.
    #[error("{} is damaged: {name} has the digest {is}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The part.
        name: String,
        /// Its digest, which its name does not say.
        is: String,
    },
}

/// An image in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// The digest of its configuration: its id in an engine once it is loaded.
    pub id: String,
    /// The tags under which it is loaded.
    pub tags: Vec<String>,
    /// `linux/amd64`.
    pub platform: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Folders for which it wants volumes.
    pub volumes: Vec<String>,
    /// The digest of the file.
    pub file_digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    config: Option<Inner>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inner {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    volumes: Option<BTreeMap<String, serde_json::Value>>,
}

/// Reads an archive to its end, comparing every part whose name is its digest, and the image's own with `expected`: the id of the
/// image (`docker image inspect --format '{{.Id}}'`) or the digest of the file (`sha256sum`). Blocks; several gigabytes take a while.
///
/// # Errors
/// When it is no such archive, damaged, or another image.
pub fn inspect(path: &Path, expected: Option<&str>) -> Result<ArchivedImage, ArchiveError> {
    let unreadable =
        |error: std::io::Error| ArchiveError::Unreadable { path: path.into(), why: error.to_string() };
    let malformed = |why: String| ArchiveError::Malformed { path: path.into(), why };
    let file = File::open(path).map_err(unreadable)?;
    let mut hashed = Hashing { inner: BufReader::with_capacity(1 << 20, file), hash: Sha256::new() };
    let mut manifest: Option<Vec<Entry>> = None;
    // The configuration may stand before the manifest that names it.
    let mut configs: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut archive = tar::Archive::new(&mut hashed);
    let entries = archive.entries().map_err(|error| malformed(error.to_string()))?;
    for (number, entry) in entries.enumerate() {
        if number >= ENTRIES_MAX {
            return Err(malformed(format!("it has more than {ENTRIES_MAX} entries")));
        }
        let mut entry = entry.map_err(|error| malformed(error.to_string()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(|error| malformed(error.to_string()))?.display().to_string();
        let should = digest_in(&name);
        let small = entry.size() <= JSON_MAX_BYTES;
        if small && (name == "manifest.json" || should.is_some()) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(unreadable)?;
            if name == "manifest.json" {
                manifest =
                    Some(serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?);
            } else {
                compare(path, &name, should, &sha256(&bytes))?;
                if bytes.first() == Some(&b'{') {
                    configs.insert(name, bytes);
                }
            }
        } else if should.is_some() {
            let mut hash = Hashing { inner: &mut entry, hash: Sha256::new() };
            std::io::copy(&mut hash, &mut std::io::sink()).map_err(unreadable)?;
            let is = hash.digest();
            compare(path, &name, should, &is)?;
        }
    }
    // The end of the file belongs to its digest.
    std::io::copy(&mut hashed, &mut std::io::sink()).map_err(unreadable)?;
    let file_digest = hashed.digest();
    let manifest = manifest.ok_or_else(|| malformed("it has no manifest.json".into()))?;
    let [only] = manifest.as_slice() else {
        return Err(malformed(format!("it holds {} images, and must hold one", manifest.len())));
    };
    let config =
        configs.get(&only.config).ok_or_else(|| malformed(format!("{} is not in it", only.config)))?;
    let id = sha256(config);
    if let Some(should) = expected.filter(|should| **should != id && **should != file_digest) {
        let is = format!("{id} (the file: {file_digest})");
        return Err(ArchiveError::Digest { path: path.into(), is, should: should.into() });
    }
    let config: Config = serde_json::from_slice(config).map_err(|error| malformed(error.to_string()))?;
    let platform = format!("{}/{}", config.os, config.architecture);
    let inner = config.config;
    let (labels, volumes) = inner.map(|inner| (inner.labels, inner.volumes)).unwrap_or_default();
    Ok(ArchivedImage {
        id,
        tags: only.repo_tags.clone().unwrap_or_default(),
        platform,
        labels: labels.unwrap_or_default(),
        volumes: volumes.unwrap_or_default().into_keys().collect(),
        file_digest,
    })
}

/// The digest in a name such as `blobs/sha256/<digest>` or `<digest>.json`. Layers of old archives are named by something else.
fn digest_in(name: &str) -> Option<&str> {
    let last = name.strip_prefix("blobs/sha256/").or_else(|| name.strip_suffix(".json"))?;
    (last.len() == 64 && last.bytes().all(|b| b.is_ascii_hexdigit())).then_some(last)
}

fn compare(path: &Path, name: &str, should: Option<&str>, is: &str) -> Result<(), ArchiveError> {
    match should {
        Some(should) if is.strip_prefix("sha256:") != Some(should) => {
            Err(ArchiveError::Damaged { path: path.into(), name: name.into(), is: is.into() })
        }
        _ => Ok(()),
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    fn digest(self) -> String {
        self.hash.finalize().iter().fold(String::from("sha256:"), |text, byte| text + &format!("{byte:02x}"))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str =
        r#"{"os":"linux","architecture":"amd64","config":{"Labels":{"co.posit.image.version":"2026.03.1"}}}"#;

    fn archive(dir: &Path, config_name: Option<&str>, blob: &[u8], manifest: &str) -> PathBuf {
        let digest = sha256(CONFIG.as_bytes()).replace("sha256:", "");
        let layer = sha256(b"layer").replace("sha256:", "");
        let config = config_name.map_or(format!("blobs/sha256/{digest}"), Into::into);
        let path = dir.join("image.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        let mut add = |name: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, bytes).unwrap();
        };
        add(&config, CONFIG.as_bytes());
        add(&format!("blobs/sha256/{layer}"), blob);
        add("manifest.json", manifest.replace("CONFIG", &config).as_bytes());
        builder.finish().unwrap();
        path
    }

    const ONE: &str = r#"[{"Config":"CONFIG","RepoTags":["own/connect:1"],"Layers":[]}]"#;

    #[test]
    fn an_archive_tells_its_image_and_its_digests() {
        let dir = tempfile::tempdir().unwrap();
        let path = archive(dir.path(), None, b"layer", ONE);
        let image = inspect(&path, None).unwrap();
        assert_eq!(image.id, sha256(CONFIG.as_bytes()));
        assert_eq!((image.platform.as_str(), image.tags[0].as_str()), ("linux/amd64", "own/connect:1"));
        assert_eq!(image.labels["co.posit.image.version"], "2026.03.1");
        assert_eq!(image.file_digest, sha256(&std::fs::read(&path).unwrap()));
        for digest in [&image.id, &image.file_digest] {
            assert_eq!(inspect(&path, Some(digest)).unwrap(), image);
        }
    }

    #[test]
    fn another_image_a_damaged_one_and_none_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let other = format!("sha256:{}", "0".repeat(64));
        let path = archive(dir.path(), None, b"layer", ONE);
        assert!(matches!(inspect(&path, Some(&other)), Err(ArchiveError::Digest { .. })));
        let path = archive(dir.path(), None, b"LAYER", ONE);
        assert!(matches!(inspect(&path, None), Err(ArchiveError::Damaged { .. })));
        for (manifest, why) in [
            ("[]", "holds 0 images"),
            ("{", "expected a sequence"),
            (r#"[{"Config":"x.json"}]"#, "not in it"),
        ] {
            let path = archive(dir.path(), None, b"layer", manifest);
            let error = inspect(&path, None).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        std::fs::write(&path, "no archive at all").unwrap();
        assert!(matches!(inspect(&path, None), Err(ArchiveError::Malformed { .. })));
        assert!(matches!(inspect(Path::new("/nowhere"), None), Err(ArchiveError::Unreadable { .. })));
    }
}

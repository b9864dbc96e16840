//! Where secrets are found: what systemd hands over, and the folder of credentials.
//!
//! The unit names none itself: a folder in `LoadCredential=` keeps it from starting where systemd takes only files. An
//! administrator's drop-in may, with `LoadCredential=` or `LoadCredentialEncrypted=`; see `systemd.exec(5)`.

use connect_migrator_sdk::Secret;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where credentials are stored.
pub const CREDENTIALS_FOLDER: &str = "/etc/connect-migrator/credentials";
/// The largest secret: what `systemd-creds` allows for all of them together.
pub const MAX_CREDENTIAL_BYTES: usize = 1024 * 1024;
/// Where systemd puts what it hands over.
const DIRECTORY_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// Who must own a stored credential.
const ROOT_UID: u32 = 0;
/// The rights that nobody but the owner may have.
const RIGHTS_OF_OTHERS: u32 = 0o077;

/// Why there is no secret. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// The name cannot be that of a file.
    #[error(
        "`{0}` cannot be the name of a credential: expected letters, digits, `-`, `_` and `.`, not starting with `.`"
    )]
    Name(String),
    /// It is nowhere.
    #[error("there is no credential `{name}`; looked for {}; store it with `install -D -m 0600 /dev/stdin {}`",
            listed(.looked), .store.display())]
    Missing {
        /// The credential.
        name: String,
        /// The files that would have been it.
        looked: Vec<PathBuf>,
        /// The file to store it in.
        store: PathBuf,
    },
    /// It is there, but others could have read or written it, or it is not a file.
    #[error("the credential {path} is not used: {why}; put it right with `{remedy}`")]
    Unsafe {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// A command.
        remedy: String,
    },
    /// It cannot be read.
    #[error("could not read the credential {path}: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: io::Error,
    },
    /// What it holds cannot be a secret.
    #[error("the credential {path} {why}; store it again with `install -m 0600 /dev/stdin {path}`")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The places where credentials are looked for.
#[derive(Debug, Clone)]
pub struct Credentials {
    handed_over: Option<PathBuf>,
    folder: PathBuf,
    owner: u32,
}

impl Credentials {
    /// Those that systemd hands over to this process, then [`CREDENTIALS_FOLDER`].
    #[must_use]
    pub fn from_environment() -> Self {
        let handed_over = std::env::var_os(DIRECTORY_VARIABLE).map(PathBuf::from);
        Credentials::new(handed_over.filter(|path| path.is_absolute()), CREDENTIALS_FOLDER.into(), ROOT_UID)
    }

    /// Those in `handed_over`, then those in `folder`, where they must belong to `owner`.
    #[must_use]
    pub fn new(handed_over: Option<PathBuf>, folder: PathBuf, owner: u32) -> Self {
        Credentials { handed_over, folder, owner }
    }

    /// The secret of this name; one line end at its end is not part of it. Looked for in `$CREDENTIALS_DIRECTORY`,
    /// then in the folder.
    ///
    /// # Errors
    /// When it is nowhere, or when the first place that has it holds it in a way that is not safe or not usable.
    pub fn find(&self, name: &str) -> Result<Secret, CredentialError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.chars().all(plain) {
            return Err(CredentialError::Name(name.chars().filter(|c| !c.is_control()).take(128).collect()));
        }
        let mut looked = Vec::new();
        if let Some(path) = self.handed_over.as_ref().map(|at| at.join(name)) {
            // What systemd hands over is safe by construction: a folder of its own that only this service can see.
            match open(&path)? {
                Some(file) => return read(&path, file),
                None => looked.push(path),
            }
        }
        let store = self.folder.join(name);
        if let Some(file) = open(&store)? {
            self.must_be_private(&self.folder)?;
            self.must_be_private_file(&store, &file)?;
            return read(&store, file);
        }
        looked.push(store.clone());
        Err(CredentialError::Missing { name: name.into(), looked, store })
    }

    /// The folder: writable by its owner only, else somebody could put another file there.
    fn must_be_private(&self, folder: &Path) -> Result<(), CredentialError> {
        let unreadable = |why| CredentialError::Unreadable { path: folder.into(), why };
        let metadata = folder.metadata().map_err(unreadable)?;
        if metadata.uid() == self.owner && metadata.mode() & 0o022 == 0 {
            return Ok(());
        }
        Err(CredentialError::Unsafe {
            path: folder.into(),
            why: format!("others than uid {} may write into the folder", self.owner),
            remedy: format!("chown root: {0} && chmod 0700 {0}", folder.display()),
        })
    }

    fn must_be_private_file(&self, path: &Path, file: &File) -> Result<(), CredentialError> {
        let unreadable = |why| CredentialError::Unreadable { path: path.into(), why };
        let metadata = file.metadata().map_err(unreadable)?;
        let why = if metadata.uid() != self.owner {
            format!("it belongs to uid {}, not to uid {}", metadata.uid(), self.owner)
        } else if metadata.mode() & RIGHTS_OF_OTHERS != 0 {
            format!("others may use it, its mode is {:04o}", metadata.mode() & 0o7777)
        } else {
            return Ok(());
        };
        let remedy = format!("chown root: {0} && chmod 0600 {0}", path.display());
        Err(CredentialError::Unsafe { path: path.into(), why, remedy })
    }
}

/// Opens a file, `None` if it is not there. A link is not followed, a pipe not waited for.
fn open(path: &Path) -> Result<Option<File>, CredentialError> {
    let unsafe_kind = |what: &str| CredentialError::Unsafe {
        path: path.into(),
        why: format!("it is {what}, not a file"),
        remedy: format!("rm {0} && install -m 0600 /dev/stdin {0}", path.display()),
    };
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => return Err(unsafe_kind("a link")),
        Err(why) => return Err(CredentialError::Unreadable { path: path.into(), why }),
    };
    let metadata = file.metadata().map_err(|why| CredentialError::Unreadable { path: path.into(), why })?;
    match metadata.is_file() {
        true => Ok(Some(file)),
        false if metadata.is_dir() => Err(unsafe_kind("a folder")),
        false => Err(unsafe_kind("a pipe or device")),
    }
}

fn read(path: &Path, file: File) -> Result<Secret, CredentialError> {
    let unusable = |why| CredentialError::Content { path: path.into(), why };
    // Of full size from the start: growing would leave copies behind in memory.
    let mut bytes = Vec::with_capacity(MAX_CREDENTIAL_BYTES + 1);
    let limit = u64::try_from(MAX_CREDENTIAL_BYTES + 1).unwrap_or(u64::MAX);
    let read = file.take(limit).read_to_end(&mut bytes);
    read.map_err(|why| CredentialError::Unreadable { path: path.into(), why })?;
    if bytes.len() > MAX_CREDENTIAL_BYTES {
        return Err(unusable("is larger than a secret can be"));
    }
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(unusable("is empty"));
    }
    if bytes.contains(&0) {
        return Err(unusable("holds a NUL byte"));
    }
    String::from_utf8(bytes).map(Secret::new).map_err(|_| unusable("is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    struct Place {
        _root: tempfile::TempDir,
        handed_over: PathBuf,
        folder: PathBuf,
        credentials: Credentials,
    }

    fn place() -> Place {
        let root = tempfile::tempdir().unwrap();
        let (handed_over, folder) = (root.path().join("handed-over"), root.path().join("credentials"));
        for path in [&handed_over, &folder] {
            std::fs::create_dir(path).unwrap();
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
        }
        let owner = folder.metadata().unwrap().uid();
        let credentials = Credentials::new(Some(handed_over.clone()), folder.clone(), owner);
        Place { _root: root, handed_over, folder, credentials }
    }

    fn store(path: &Path, content: impl AsRef<[u8]>, mode: u32) {
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_systemd_hands_over_comes_first() {
        let place = place();
        store(&place.folder.join("key"), "stored", 0o600);
        assert_eq!(place.credentials.find("key").unwrap().expose(), "stored");
        store(&place.handed_over.join("key"), "by name", 0o440);
        assert_eq!(place.credentials.find("key").unwrap().expose(), "by name");
    }

    #[test]
    fn one_line_end_is_not_part_of_the_secret() {
        let place = place();
        for (content, secret) in [("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")] {
            store(&place.folder.join("key"), content, 0o600);
            assert_eq!(place.credentials.find("key").unwrap().expose(), secret);
        }
    }

    #[test]
    fn a_missing_credential_tells_where_it_was_looked_for_and_how_to_store_it() {
        let place = place();
        let text = place.credentials.find("key").unwrap_err().to_string();
        for part in [
            place.handed_over.join("key").display().to_string(),
            format!("install -D -m 0600 /dev/stdin {}", place.folder.join("key").display()),
        ] {
            assert!(text.contains(&part), "{text}");
        }
    }

    #[test]
    fn a_credential_that_others_could_have_used_is_refused() {
        let place = place();
        let path = place.folder.join("key");
        let refused = || place.credentials.find("key").unwrap_err().to_string();
        for mode in [0o640, 0o604, 0o620, 0o601] {
            store(&path, "hidden", mode);
            let text = refused();
            assert!(text.contains("chmod 0600") && text.contains(&format!("{mode:04o}")), "{text}");
        }
        store(&path, "hidden", 0o600);
        std::fs::set_permissions(&place.folder, PermissionsExt::from_mode(0o770)).unwrap();
        assert!(refused().contains("may write into the folder"));
        std::fs::set_permissions(&place.folder, PermissionsExt::from_mode(0o755)).unwrap();
        assert!(place.credentials.find("key").is_ok());
        let stranger = Credentials::new(None, place.folder.clone(), place.credentials.owner + 1);
        assert!(stranger.find("key").is_err());
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let place = place();
        let secret = place.folder.join("secret");
        store(&secret, "hidden", 0o600);
        symlink(&secret, place.folder.join("link")).unwrap();
        std::fs::create_dir(place.folder.join("folder")).unwrap();
        nix::unistd::mkfifo(&place.folder.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, what) in [("link", "a link"), ("folder", "a folder"), ("pipe", "a pipe")] {
            let text = place.credentials.find(name).unwrap_err().to_string();
            assert!(text.contains(what), "{text}");
        }
    }

    #[test]
    fn content_that_cannot_be_a_secret_is_refused_and_not_shown() {
        let place = place();
        let path = place.folder.join("key");
        let large = vec![b'x'; MAX_CREDENTIAL_BYTES + 1];
        for content in [&b""[..], b"\n", b"hidden\0", b"hidden\xff", &large] {
            store(&path, content, 0o600);
            let error = place.credentials.find("key").unwrap_err();
            assert!(matches!(error, CredentialError::Content { .. }));
            assert!(!format!("{error} {error:?}").contains("hidden"));
        }
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let place = place();
        for name in ["", ".", "..", "../key", "a/b", ".hidden", "a b", "a\nb", &"x".repeat(200)] {
            assert!(matches!(place.credentials.find(name), Err(CredentialError::Name(_))), "{name}");
        }
    }
}

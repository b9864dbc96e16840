//! `secret.key`, and values encrypted with it.
//!
//! The scheme is the stand-in's own (the product uses NaCl): SHA-256 in HMAC as stream and as seal. It keeps test
//! passwords out of files and notices a wrong key; it is not meant to guard anything else.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest, Sha256};

use crate::failure::Failure;

const MAGIC: &[u8] = b"standin1";
const NONCE_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
const KEY_BYTES: usize = 64;

/// The content of a `secret.key`.
#[derive(Clone)]
pub struct SecretKey(Vec<u8>);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl SecretKey {
    /// Reads the key. `None`: there is no such file.
    ///
    /// # Errors
    /// The file is there and cannot be read, or is not a key.
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(Failure::Refused(format!(
                    "Unable to read secret key file {}: {e}",
                    path.display()
                )));
            }
        };
        match unhex(text.trim()) {
            Some(bytes) if bytes.len() == KEY_BYTES => Ok(Some(SecretKey(bytes))),
            _ => Err(Failure::Refused(format!(
                "Unable to read secret key file {}: it does not hold a key of {KEY_BYTES} bytes",
                path.display()
            ))),
        }
    }

    /// Makes a new key file with mode 0600. Never overwrites one.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let key = SecretKey(random(KEY_BYTES)?);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(Failure::file("create", parent))?;
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(Failure::file("create", path))?;
        writeln!(file, "{}", hex(&key.0)).map_err(Failure::file("write", path))?;
        Ok(key)
    }

    /// What the database remembers of the key.
    #[must_use]
    pub fn signature(&self) -> String {
        hex(&hmac(&self.0, b"signature"))
    }

    /// Encrypts a configuration value; the answer is one line of Base64.
    ///
    /// # Errors
    /// No random numbers.
    pub fn encrypt(&self, plain: &str) -> Result<String, Failure> {
        let nonce = random(NONCE_BYTES)?;
        let mut sealed = [MAGIC, &nonce].concat();
        sealed.extend(self.stream(&nonce, plain.as_bytes()));
        sealed.extend(hmac(&self.mac_key(), &sealed));
        Ok(BASE64.encode(sealed))
    }

    /// Decrypts what [`SecretKey::encrypt`] made. `None`: sealed with another key, or damaged.
    #[must_use]
    pub fn decrypt(&self, value: &str) -> Option<String> {
        let sealed = BASE64.decode(value.trim()).ok()?;
        let (body, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG_BYTES)?)?;
        if hmac(&self.mac_key(), body) != tag {
            return None;
        }
        let (nonce, cipher) = body.strip_prefix(MAGIC)?.split_at_checked(NONCE_BYTES)?;
        String::from_utf8(self.stream(nonce, cipher)).ok()
    }

    fn mac_key(&self) -> Vec<u8> {
        hmac(&self.0, b"mac")
    }

    fn stream(&self, nonce: &[u8], data: &[u8]) -> Vec<u8> {
        let key = hmac(&self.0, b"stream");
        let mut out = Vec::with_capacity(data.len());
        for (block, chunk) in (0u64..).zip(data.chunks(TAG_BYTES)) {
            let pad = hmac(&key, &[nonce, &block.to_be_bytes()].concat());
            out.extend(chunk.iter().zip(pad).map(|(a, b)| a ^ b));
        }
        out
    }
}

/// Whether a configuration value is in the form that [`SecretKey::encrypt`] makes.
#[must_use]
pub fn looks_encrypted(value: &str) -> bool {
    BASE64.decode(value.trim()).is_ok_and(|bytes| bytes.starts_with(MAGIC))
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|c| c.to_digit(16)).collect();
    let digits = digits?;
    if digits.len() % 2 != 0 {
        return None;
    }
    digits.chunks(2).map(|pair| u8::try_from(pair.iter().fold(0, |a, d| a * 16 + d)).ok()).collect()
}

/// Bytes of the kernel's random number generator.
///
/// # Errors
/// `/dev/urandom` cannot be read.
pub fn random(count: usize) -> Result<Vec<u8>, Failure> {
    let path = Path::new("/dev/urandom");
    let mut bytes = vec![0; count];
    std::fs::File::open(path)
        .and_then(|mut f| f.read_exact(&mut bytes))
        .map_err(Failure::file("read", path))?;
    Ok(bytes)
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut padded = if key.len() > BLOCK { Sha256::digest(key).to_vec() } else { key.to_vec() };
    padded.resize(BLOCK, 0);
    let masked = |with: u8| padded.iter().map(|b| b ^ with).collect::<Vec<u8>>();
    let inner = Sha256::new().chain_update(masked(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(masked(0x5c)).chain_update(inner).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_comes_back_with_its_own_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db/secret.key");
        let key = SecretKey::create(&path).unwrap();
        assert!(SecretKey::create(&path).is_err(), "a key is never overwritten");
        let sealed = key.encrypt("pass#word with; things that are long enough for two blocks").unwrap();
        assert!(looks_encrypted(&sealed) && !looks_encrypted("password"));
        let again = SecretKey::read(&path).unwrap().unwrap();
        assert_eq!(again.signature(), key.signature());
        assert_eq!(
            again.decrypt(&sealed).as_deref(),
            Some("pass#word with; things that are long enough for two blocks")
        );
        let other = SecretKey::create(&dir.path().join("other")).unwrap();
        assert_eq!(other.decrypt(&sealed), None);
    }

    #[test]
    fn hmac_agrees_with_rfc_4231() {
        let tag = hmac(b"Jefe", b"what do ya want for nothing?");
        assert!(hex(&tag).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }
}

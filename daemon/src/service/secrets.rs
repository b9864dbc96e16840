//! Credentials for the engine.

use crate::engine::Secrets;
use crate::systemd::credentials::Credentials;
use connect_migrator_sdk::Secret;

/// Those that systemd hands over, or that lie in the credentials folder.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoredSecrets;

impl Secrets for StoredSecrets {
    fn secret(&self, credential: &str) -> Result<Secret, String> {
        Credentials::from_environment().find(credential).map_err(|error| error.to_string())
    }
}

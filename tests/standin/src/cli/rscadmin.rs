//! `rscadmin [--config FILE] encrypt-config-value | reset-secret-key`
//!
//! <https://docs.posit.co/connect/admin/appendix/cli/>

use std::io::{IsTerminal, Read};

use super::{Flags, load, runtime};
use crate::failure::Failure;
use crate::secret::SecretKey;
use crate::store::Store;

const USAGE: &str = "usage: rscadmin [--config FILE] encrypt-config-value | reset-secret-key";
/// The longest value that is read.
const MAX_VALUE_BYTES: u64 = 64 * 1024;

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut flags = Flags::new(args);
    let config = flags.config()?;
    let command = flags.word();
    flags.end(USAGE)?;
    match command.as_deref() {
        Some("encrypt-config-value") => {
            let settings = load(&config)?;
            let path = settings.secret_key();
            let key = match SecretKey::read(&path)? {
                Some(key) => key,
                None => SecretKey::create(&path)?,
            };
            if std::io::stdin().is_terminal() {
                eprint!("Value to encrypt: ");
            }
            let mut value = String::new();
            std::io::stdin()
                .take(MAX_VALUE_BYTES)
                .read_to_string(&mut value)
                .map_err(|e| Failure::Refused(format!("cannot read the value from standard input: {e}")))?;
            println!("{}", key.encrypt(value.trim_end_matches(['\r', '\n']))?);
            Ok(())
        }
        Some("reset-secret-key") => {
            let settings = load(&config)?;
            runtime()?.block_on(async {
                let store = Store::open(&settings).await?;
                store.execute("DELETE FROM settings WHERE name = 'key-signature'", &[]).await.map(drop)
            })
        }
        _ => Err(Failure::Usage(USAGE.to_owned())),
    }
}

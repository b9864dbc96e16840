//! `license-manager status | activate-file FILE | deactivate`
//!
//! <https://docs.posit.co/licensing/licensing-faq.html>

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Flags;
use crate::failure::Failure;
use crate::startup::{self, LICENCE_DIR};

const USAGE: &str = "usage: license-manager status | activate-file FILE | deactivate";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let mut flags = Flags::new(args);
    let (command, file) = (flags.word(), flags.word());
    flags.end(USAGE)?;
    let installed = Path::new(LICENCE_DIR).join("license.lic");
    match (command.as_deref(), file) {
        (Some("status"), None) => status(),
        (Some("activate-file"), Some(file)) => {
            startup::must_be_root()?;
            let text = std::fs::read(&file).map_err(Failure::file("read", Path::new(&file)))?;
            std::fs::create_dir_all(LICENCE_DIR).map_err(Failure::file("create", Path::new(LICENCE_DIR)))?;
            std::fs::write(&installed, text).map_err(Failure::file("write", &installed))?;
            std::fs::set_permissions(&installed, std::fs::Permissions::from_mode(0o600))
                .map_err(Failure::file("set the mode of", &installed))?;
            status()
        }
        (Some("deactivate"), None) => {
            startup::must_be_root()?;
            match std::fs::remove_file(&installed) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Failure::file("remove", &installed)(e))
                }
                _ => Ok(()),
            }
        }
        _ => Err(Failure::Usage(USAGE.to_owned())),
    }
}

fn status() -> Result<(), Failure> {
    println!("-- License file status --\n");
    match startup::licence(Path::new(LICENCE_DIR)) {
        Ok(()) => {
            println!("Status: Activated\nTier: Enhanced\nExpiration: 2099-12-31 00:00:00\nDays-Left: 9999");
            println!("License-File: {LICENCE_DIR}/*.lic");
        }
        Err(e) => println!("Status: Not-Activated\nMessage: {e}"),
    }
    println!(
        "\n-- Local license status --\n\nStatus: Not-Activated\n\n-- Floating license status --\n\nStatus: Not-Activated"
    );
    Ok(())
}

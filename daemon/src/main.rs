//! The command `connect-migrator`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}

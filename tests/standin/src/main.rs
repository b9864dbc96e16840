//! See the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    connect_standin::cli::run(std::env::args().collect())
}

//! The command `connect-migrator`.

fn main() -> std::process::ExitCode {
    connect_migrator::cli::main()
}

//! Makes a tree like Connect's with every odd entry: `grow-tree FOLDER FILES`. Prints how many files it has.

use connect_migrator_copy_bench::{add_odd, grow};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(root), Some(files)) = (words.next(), words.next().and_then(|files| files.parse().ok())) else {
        eprintln!("usage: grow-tree FOLDER FILES");
        return ExitCode::from(2);
    };
    let root = PathBuf::from(root);
    match grow(&root, files, 1, 1, 1).and_then(|made| add_odd(&root).map(|()| made)) {
        Ok(made) => {
            println!("{}", made.files);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("grow-tree: {error}");
            ExitCode::FAILURE
        }
    }
}

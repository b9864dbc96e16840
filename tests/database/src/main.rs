//! Two programs in one: the stand-in's tools (called as `database-tests migrate …`), and one call of the step in a process of its own,
//! which can be killed (`database-tests call FILE`).

use database_tests::host::Call;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_none_or(|word| word != "call") {
        return connect_standin::cli::run(args);
    }
    let call: Option<Call> = args
        .get(2)
        .and_then(|path| std::fs::read(path).ok())
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (Some(call), Ok(runtime)) = (call, runtime) else {
        eprintln!("usage: database-tests call FILE");
        return ExitCode::from(2);
    };
    match runtime.block_on(call.make()) {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

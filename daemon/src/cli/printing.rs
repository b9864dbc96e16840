//! What a command prints.
//!
//! A reader may go before the end, as in `status | grep -q`. The command does its work all the same, and its exit code stays true.
//! Words that a full disk took are another matter: a command that only shows has then not done its work.

use std::io::{Error, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

/// The first error by which words were lost.
static LOST: Mutex<Option<Error>> = Mutex::new(None);

/// Remembers an error of standard output; not that its reader has gone.
pub(super) fn heed(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
    {
        LOST.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Why not all that was printed is where it should be, if so. Writes out what waits.
pub(super) fn lost() -> Option<Error> {
    heed(std::io::stdout().flush());
    LOST.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// `print!` that does not mind a reader who has gone.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::printing::heed(write!(std::io::stdout(), $($text)*));
    }};
}

/// `println!` that does not mind a reader who has gone.
macro_rules! say_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        $crate::cli::printing::heed(writeln!(std::io::stdout(), $($text)*));
    }};
}

/// `eprintln!` that does not mind a reader who has gone.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

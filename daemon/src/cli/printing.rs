//! What a command prints.
//!
//! A reader may go before the end, as in `status | grep -q`. The command does its work all the same, and its exit code stays true.

/// `print!` that does not mind a reader who has gone.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = write!(std::io::stdout(), $($text)*);
    }};
}

/// `println!` that does not mind a reader who has gone.
macro_rules! say_line {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

/// `eprintln!` that does not mind a reader who has gone.
macro_rules! complain {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

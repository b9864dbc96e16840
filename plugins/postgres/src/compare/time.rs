//! Times as programs write them into SQLite's text columns.

use super::canonical::Fine;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Microseconds since 1970 of `2024-01-02 03:04:05.678+01:00`, of the same with `T`, `Z`, `+0000 UTC` or without a zone (UTC), and of a
/// bare date. `None` when it is no time.
#[must_use]
pub fn micros(text: &str, fine: Fine) -> Option<i64> {
    let mut rest = text.trim();
    let negative = rest.starts_with('-');
    if negative {
        return None;
    }
    let year = digits(&mut rest, 4)?;
    let month = after(&mut rest, '-', 2)?;
    let day = after(&mut rest, '-', 2)?;
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let midnight = days_from_civil(year, month, day) * 86_400;
    if rest.is_empty() {
        return Some(midnight * MICROS_PER_SECOND);
    }
    rest = rest.strip_prefix(['T', ' '])?;
    let hour = digits(&mut rest, 2)?;
    let minute = after(&mut rest, ':', 2)?;
    let second = if rest.starts_with(':') { after(&mut rest, ':', 2)? } else { 0 };
    if hour > 24 || minute > 59 || second > 60 {
        return None;
    }
    let fraction = fraction(&mut rest, fine)?;
    let offset = zone(rest.trim_start())?;
    Some((midnight + hour * 3600 + minute * 60 + second - offset) * MICROS_PER_SECOND + fraction)
}

fn digits(rest: &mut &str, count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    if !head.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    *rest = tail;
    head.parse().ok()
}

fn after(rest: &mut &str, mark: char, count: usize) -> Option<i64> {
    *rest = rest.strip_prefix(mark)?;
    digits(rest, count)
}

fn fraction(rest: &mut &str, fine: Fine) -> Option<i64> {
    let Some(tail) = rest.strip_prefix(['.', ',']) else { return Some(0) };
    let end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
    let (all, tail) = tail.split_at(end);
    *rest = tail;
    // Nanoseconds at most are told apart.
    let nanos: i64 = format!("{all:0<9}").get(..9)?.parse().ok()?;
    Some(match fine {
        Fine::Cut => nanos / 1000,
        // Half goes to the even neighbour, as the server's rint() has it.
        Fine::Rounded => {
            let (whole, part) = (nanos / 1000, nanos % 1000);
            if part > 500 || part == 500 && whole % 2 == 1 { whole + 1 } else { whole }
        }
    })
}

/// Seconds east of UTC. A name after the numbers, and the monotonic clock that Go prints, are left out of account.
fn zone(text: &str) -> Option<i64> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if matches!(first, "" | "Z" | "z" | "UTC" | "GMT") {
        return Some(0);
    }
    let (sign, mut rest) = match first.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let hours = digits(&mut rest, 2)?;
    rest = rest.strip_prefix(':').unwrap_or(rest);
    let minutes = if rest.is_empty() { 0 } else { digits(&mut rest, 2)? };
    rest = rest.strip_prefix(':').unwrap_or(rest);
    let seconds = if rest.is_empty() { 0 } else { digits(&mut rest, 2)? };
    rest.is_empty().then_some(sign * (hours * 3600 + minutes * 60 + seconds))
}

/// Days since 1970-01-01 of a date of the Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_of_one_moment_are_one_number() {
        for text in [
            "2024-02-29T12:30:05.25Z",
            "2024-02-29 12:30:05.25",
            "2024-02-29 12:30:05.250+00:00",
            "2024-02-29 13:30:05.25+01",
            "2024-02-29 08:00:05.25-0430",
            "2024-02-29 12:30:05.25 +0000 UTC",
            "2024-02-29 13:30:05.25 +0100 CET m=+0.012",
        ] {
            assert_eq!(micros(text, Fine::Rounded), Some(1_709_209_805_250_000), "{text}");
        }
        assert_eq!(micros("1969-12-31T23:59:59.5Z", Fine::Cut), Some(-500_000));
        assert_eq!(micros("2024-02-29T12:30Z", Fine::Cut), Some(1_709_209_800_000_000));
    }

    #[test]
    fn digits_beyond_microseconds_are_rounded_or_cut() {
        let text = "1970-01-01T00:00:00.000001700Z";
        assert_eq!((micros(text, Fine::Rounded), micros(text, Fine::Cut)), (Some(2), Some(1)));
        assert_eq!(micros("1970-01-01T00:00:00.0000025Z", Fine::Rounded), Some(2));
        assert_eq!(micros("1970-01-01T00:00:00.0000035Z", Fine::Rounded), Some(4));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in ["", "yesterday", "2024-13-01", "2024-01-02X", "2024-01-02 25:00:00", "é024-01-02", "-1"]
        {
            assert_eq!(micros(text, Fine::Cut), None, "{text}");
        }
    }
}

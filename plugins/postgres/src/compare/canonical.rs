//! One spelling for a value, whichever database it comes from.
//!
//! SQLite has no booleans, times or identifiers, and lets any column hold anything; so what it holds is read as what PostgreSQL's column
//! is for.

use rusqlite::types::ValueRef;
use std::borrow::Cow;
use std::fmt::Write;

/// What a column of PostgreSQL is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `boolean`
    Bool,
    /// Whole numbers.
    Int,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
    /// `numeric`
    Numeric,
    /// Text.
    Text,
    /// `character(n)`, filled up with blanks.
    Padded,
    /// `bytea`
    Bytes,
    /// `timestamp with time zone`
    Timestamp,
    /// `timestamp without time zone`, taken for UTC.
    LocalTimestamp,
    /// `date`
    Date,
    /// `uuid`
    Uuid,
    /// `json` and `jsonb`
    Json,
    /// Anything else: its text.
    Other,
}

/// What becomes of the digits of a time that PostgreSQL has no room for (beyond microseconds): it depends on how the tool sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fine {
    /// As the server reads text.
    Rounded,
    /// As clients send numbers.
    Cut,
}

impl Kind {
    /// By the name of the type.
    #[must_use]
    pub fn of(type_name: &str) -> Self {
        match type_name {
            "bool" => Kind::Bool,
            "int2" | "int4" | "int8" | "oid" => Kind::Int,
            "float4" => Kind::Float4,
            "float8" => Kind::Float8,
            "numeric" => Kind::Numeric,
            "text" | "varchar" | "name" | "citext" => Kind::Text,
            "bpchar" => Kind::Padded,
            "bytea" => Kind::Bytes,
            "timestamptz" => Kind::Timestamp,
            "timestamp" => Kind::LocalTimestamp,
            "date" => Kind::Date,
            "uuid" => Kind::Uuid,
            "json" | "jsonb" => Kind::Json,
            _ => Kind::Other,
        }
    }

    /// Whether the digits of [`Fine`] matter.
    #[must_use]
    pub fn is_time(self) -> bool {
        matches!(self, Kind::Timestamp | Kind::LocalTimestamp)
    }

    /// The expression that gives a column as text for [`Kind::from_postgres`].
    #[must_use]
    pub fn expression(self, column: &str) -> String {
        let micros = |moment: &str| {
            format!(
                "CASE WHEN isfinite({column}) THEN round(extract(epoch FROM {moment}) * 1000000)::bigint::text ELSE {column}::text END"
            )
        };
        match self {
            Kind::Bool => format!("({column})::int::text"),
            Kind::Bytes => format!("encode({column}, 'hex')"),
            Kind::Timestamp | Kind::LocalTimestamp => micros(column),
            Kind::Date => micros(&format!("{column}::timestamp")),
            _ => format!("{column}::text"),
        }
    }

    /// What the expression gave, in the common spelling.
    #[must_use]
    pub fn from_postgres(self, text: &str) -> Cow<'_, str> {
        match self {
            Kind::Float4 => float4(text),
            Kind::Float8 => float8(text),
            Kind::Numeric => decimal(text),
            Kind::Padded => text.trim_end_matches(' ').into(),
            Kind::Json => json(text),
            _ => text.into(),
        }
    }

    /// What SQLite holds, in the common spelling; `None` for NULL.
    #[must_use]
    pub fn from_sqlite(self, value: ValueRef<'_>, fine: Fine) -> Option<Cow<'_, str>> {
        let text = match value {
            ValueRef::Null => return None,
            ValueRef::Integer(number) => return Some(self.of_integer(number)),
            ValueRef::Real(number) => return Some(self.of_real(number, fine)),
            ValueRef::Text(bytes) if self == Kind::Bytes => return Some(hex(bytes).into()),
            ValueRef::Text(bytes) => String::from_utf8_lossy(bytes),
            ValueRef::Blob(bytes) => match (self, bytes.len()) {
                (Kind::Uuid, 16) => return Some(uuid(&hex(bytes)).into_owned().into()),
                (Kind::Bytes, _) => return Some(hex(bytes).into()),
                _ => String::from_utf8_lossy(bytes),
            },
        };
        Some(self.of_text(text, fine))
    }

    fn of_integer(self, number: i64) -> Cow<'static, str> {
        match self {
            Kind::Timestamp | Kind::LocalTimestamp | Kind::Date => epoch(number).to_string().into(),
            Kind::Float4 | Kind::Float8 => Cow::Owned(self.from_postgres(&number.to_string()).into_owned()),
            Kind::Bool => u8::from(number != 0).to_string().into(),
            _ => number.to_string().into(),
        }
    }

    fn of_real(self, number: f64, fine: Fine) -> Cow<'static, str> {
        let text = number.to_string();
        match self {
            Kind::Timestamp | Kind::LocalTimestamp | Kind::Date => {
                let micros = number * 1e6;
                let whole = if fine == Fine::Cut { micros.floor() } else { micros.round() };
                whole.to_string().into()
            }
            Kind::Int | Kind::Text => text.into(),
            _ => Cow::Owned(self.of_text(text.into(), fine).into_owned()),
        }
    }

    fn of_text(self, text: Cow<'_, str>, fine: Fine) -> Cow<'_, str> {
        match self {
            Kind::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "t" | "true" | "1" | "yes" | "on" => "1".into(),
                "f" | "false" | "0" | "no" | "off" => "0".into(),
                _ => text,
            },
            Kind::Timestamp | Kind::LocalTimestamp | Kind::Date => match super::time::micros(&text, fine) {
                Some(micros) => micros.to_string().into(),
                None => text,
            },
            Kind::Uuid => uuid(text.trim()).into_owned().into(),
            Kind::Int => text.trim().to_owned().into(),
            Kind::Float4 | Kind::Float8 | Kind::Numeric | Kind::Padded | Kind::Json => {
                self.from_postgres(&text).into_owned().into()
            }
            Kind::Text | Kind::Bytes | Kind::Other => text,
        }
    }
}

/// Seconds, milli-, micro- or nanoseconds since 1970, told apart by their size, as microseconds.
fn epoch(number: i64) -> i64 {
    const SECONDS_END: u64 = 100_000_000_000;
    match number.unsigned_abs() {
        n if n < SECONDS_END => number.saturating_mul(1_000_000),
        n if n < SECONDS_END * 1_000 => number.saturating_mul(1_000),
        n if n < SECONDS_END * 1_000_000 => number,
        _ => number.div_euclid(1_000),
    }
}

fn float4(text: &str) -> Cow<'_, str> {
    text.trim().parse::<f32>().map_or_else(|_| text.into(), |n| (n + 0.0).to_string().into())
}

fn float8(text: &str) -> Cow<'_, str> {
    text.trim().parse::<f64>().map_or_else(|_| text.into(), |n| (n + 0.0).to_string().into())
}

/// Without zeros at the end, and without a sign on zero.
fn decimal(text: &str) -> Cow<'_, str> {
    let trimmed = text.trim();
    if trimmed.contains(['e', 'E']) {
        return float8(text);
    }
    let trimmed = match trimmed.contains('.') {
        true => trimmed.trim_end_matches('0').trim_end_matches('.'),
        false => trimmed,
    };
    if trimmed == "-0" || trimmed.is_empty() { "0".into() } else { trimmed.into() }
}

fn uuid(text: &str) -> Cow<'_, str> {
    let digits: String =
        text.chars().filter(|c| c.is_ascii_hexdigit()).collect::<String>().to_ascii_lowercase();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)].map(|(from, to)| digits.get(from..to));
    match parts {
        [Some(a), Some(b), Some(c), Some(d), Some(e)] if digits.len() == 32 => {
            format!("{a}-{b}-{c}-{d}-{e}").into()
        }
        _ => text.into(),
    }
}

/// Keys sorted, blanks gone: `jsonb` keeps neither.
fn json(text: &str) -> Cow<'_, str> {
    fn write(value: &serde_json::Value, out: &mut String) {
        match value {
            serde_json::Value::Object(map) => {
                let mut keys: Vec<_> = map.iter().collect();
                keys.sort_by_key(|(key, _)| *key);
                out.push('{');
                for (key, value) in keys {
                    out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                    out.push(':');
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            serde_json::Value::Array(items) => {
                out.push('[');
                for item in items {
                    write(item, out);
                    out.push(',');
                }
                out.push(']');
            }
            serde_json::Value::Number(number) => out.push_str(&decimal(&number.to_string())),
            other => out.push_str(&other.to_string()),
        }
    }
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return text.into() };
    let mut out = String::with_capacity(text.len());
    write(&value, &mut out);
    out.into()
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(kind: Kind, sqlite: ValueRef<'_>, postgres: &str) {
        let ours = kind.from_sqlite(sqlite, Fine::Rounded).unwrap();
        assert_eq!(ours, kind.from_postgres(postgres), "{kind:?} {sqlite:?}");
    }

    #[test]
    fn values_of_both_databases_get_one_spelling() {
        same(Kind::Bool, ValueRef::Integer(1), "1");
        same(Kind::Bool, ValueRef::Text(b"false"), "0");
        same(Kind::Int, ValueRef::Integer(-7), "-7");
        same(Kind::Float8, ValueRef::Real(0.1), "0.1");
        same(Kind::Float8, ValueRef::Integer(3), "3");
        same(Kind::Float8, ValueRef::Real(1e22), "1e+22");
        same(Kind::Float4, ValueRef::Real(0.1), "0.1");
        same(Kind::Numeric, ValueRef::Real(1.5), "1.500");
        same(Kind::Numeric, ValueRef::Integer(2), "2.00");
        same(Kind::Text, ValueRef::Text("né".as_bytes()), "né");
        same(Kind::Text, ValueRef::Integer(5), "5");
        same(Kind::Padded, ValueRef::Text(b"ab"), "ab   ");
        same(Kind::Bytes, ValueRef::Blob(b"\x00\xff"), "00ff");
        same(Kind::Bytes, ValueRef::Text(b"a"), "61");
        let guid = "0b9f2a7e-0000-4000-8000-00000000000a";
        same(Kind::Uuid, ValueRef::Text(b"{0B9F2A7E-0000-4000-8000-00000000000A}"), guid);
        same(
            Kind::Uuid,
            ValueRef::Blob(&[0x0b, 0x9f, 0x2a, 0x7e, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 10]),
            guid,
        );
        same(
            Kind::Json,
            ValueRef::Text(b"{ \"b\":1.0, \"a\":[true,null] }"),
            "{\"a\": [true, null], \"b\": 1}",
        );
        same(Kind::Timestamp, ValueRef::Integer(1_700_000_000), "1700000000000000");
        same(Kind::Timestamp, ValueRef::Integer(1_700_000_000_123), "1700000000123000");
        same(Kind::Timestamp, ValueRef::Text(b"2023-11-14T22:13:20Z"), "1700000000000000");
        same(Kind::Date, ValueRef::Text(b"1970-01-02"), "86400000000");
        assert_eq!(Kind::Text.from_sqlite(ValueRef::Null, Fine::Cut), None);
    }

    #[test]
    fn different_values_stay_different() {
        let text = |kind: Kind, value: ValueRef<'_>| kind.from_sqlite(value, Fine::Cut).unwrap().into_owned();
        assert_ne!(text(Kind::Bool, ValueRef::Integer(0)), "1");
        assert_ne!(text(Kind::Text, ValueRef::Text(b" a")), "a");
        assert_ne!(text(Kind::Numeric, ValueRef::Text(b"10")), "1");
        assert_ne!(text(Kind::Json, ValueRef::Text(b"[1,2]")), text(Kind::Json, ValueRef::Text(b"[12]")));
    }
}

//! What a registry wants before it lets one in: the header `WWW-Authenticate` of its refusal.

/// What it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token, to be fetched elsewhere.
    Token(Wanted),
    /// The password itself; also meant by a refusal that does not say.
    Password,
}

/// `Bearer realm="https://auth…",service="…",scope="…"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
}

/// Reads the headers: a token goes before the password.
pub(crate) fn challenge<'a>(mut headers: impl Iterator<Item = &'a str>) -> Challenge {
    headers.find_map(Wanted::parse).map_or(Challenge::Password, Challenge::Token)
}

impl Wanted {
    fn parse(header: &str) -> Option<Self> {
        let rest = header.strip_prefix("Bearer ").or_else(|| header.strip_prefix("bearer "))?;
        let field = |name: &str| {
            let at = rest.find(&format!("{name}=\""))? + name.len() + 2;
            rest.get(at..)?.split('"').next().map(str::to_owned)
        };
        Some(Wanted { realm: field("realm")?, service: field("service"), scope: field("scope") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_before_the_password() {
        let of = |headers: &[&str]| challenge(headers.iter().copied());
        assert_eq!(of(&[]), Challenge::Password);
        assert_eq!(of(&["Basic realm=\"x\""]), Challenge::Password);
        let wanted = Wanted { realm: "https://a/t".into(), service: Some("s".into()), scope: None };
        let bearer = "Bearer realm=\"https://a/t\",service=\"s\"";
        assert_eq!(of(&["Basic realm=\"x\"", bearer]), Challenge::Token(wanted));
    }
}

//! References of images: `docker.io/posit/connect:2026.03.1`.

use connect_migrator_connect::version::Version;

/// A reference without its tag or digest, and the tag or digest.
#[must_use]
pub fn split(reference: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = reference.split_once('@') {
        // `name:tag@digest`: the digest decides.
        let name = split(name).0;
        return (name, Some(digest));
    }
    match reference.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (reference, None),
    }
}

/// The registry's host and the repository in it, as docker completes them: `connect` is `docker.io/library/connect`.
#[must_use]
pub fn host_and_repository(name: &str) -> (String, String) {
    match name.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
            let lone = host == "docker.io" && !rest.contains('/');
            (host.into(), if lone { format!("library/{rest}") } else { rest.into() })
        }
        Some(_) => ("docker.io".into(), name.into()),
        None => ("docker.io".into(), format!("library/{name}")),
    }
}

/// The reference of the same repository by digest.
#[must_use]
pub fn by_digest(reference: &str, digest: &str) -> String {
    format!("{}@{digest}", split(reference).0)
}

/// The version that a reference's tag tells.
#[must_use]
pub fn version_in_tag(reference: &str) -> Option<Version> {
    split(reference).1.filter(|tag| !tag.starts_with("sha256:")).and_then(Version::find)
}

/// The digest under which the registry knows an image, out of the engine's list: `name@sha256:…`.
#[must_use]
pub fn pinned(reference: &str, repo_digests: &[String]) -> Option<String> {
    let name = split(reference).0;
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    repo_digests
        .iter()
        .find(|digest| {
            let have = split(digest).0;
            have == name || have == short
        })
        .cloned()
}

/// Whether a text can be the reference of an image that stays what it is.
///
/// # Errors
/// Why not.
pub fn check(text: &str) -> Result<(), String> {
    let (name, rest) = split(text);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
    if name.is_empty() || !name.chars().all(allowed) || name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(format!("`{text}` is not the reference of an image"));
    }
    match rest {
        None => Err(format!("`{text}` names no version; add a tag or a digest, for `latest` moves")),
        Some("latest") => {
            Err(format!("`{text}` moves, and is years old in some repositories; name a version"))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split_where_the_engine_splits_them() {
        for (text, parts) in [
            ("a/b:1", ("a/b", Some("1"))),
            ("127.0.0.1:5000/posit/connect", ("127.0.0.1:5000/posit/connect", None)),
            ("127.0.0.1:5000/posit/connect:1", ("127.0.0.1:5000/posit/connect", Some("1"))),
            ("a@sha256:00", ("a", Some("sha256:00"))),
            ("h:1/a:2@sha256:00", ("h:1/a", Some("sha256:00"))),
        ] {
            assert_eq!(split(text), parts, "{text}");
        }
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        for (name, host, repository) in [
            ("connect", "docker.io", "library/connect"),
            ("docker.io/connect", "docker.io", "library/connect"),
            ("posit/connect", "docker.io", "posit/connect"),
            ("ghcr.io/posit-dev/connect", "ghcr.io", "posit-dev/connect"),
            ("localhost/x", "localhost", "x"),
            ("h:5000/a/b", "h:5000", "a/b"),
        ] {
            assert_eq!(host_and_repository(name), (host.into(), repository.into()), "{name}");
        }
    }

    #[test]
    fn the_digest_of_the_right_repository_is_taken() {
        let digests = vec!["other/connect@sha256:11".to_string(), "posit/connect@sha256:22".to_string()];
        assert_eq!(pinned("docker.io/posit/connect:1", &digests).as_deref(), Some("posit/connect@sha256:22"));
        assert_eq!(pinned("h:5000/posit/connect:1", &digests), None);
    }

    #[test]
    fn tags_tell_versions() {
        assert_eq!(version_in_tag("a:2026.03.1-std").unwrap().to_string(), "2026.03.1");
        assert_eq!(version_in_tag("h:5000/a:jammy-2023.07.0").unwrap().to_string(), "2023.07.0");
        assert_eq!(version_in_tag("a@sha256:2026"), None);
    }
}

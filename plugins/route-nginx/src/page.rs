//! The maintenance page, as an nginx server of its own that answers 503 to everything.

use crate::conf::{Configuration, glob};
use crate::endpoint::Endpoint;
use std::path::{Path, PathBuf};

/// The header that marks our own maintenance page.
pub const MARK: &str = "x-connect-migrator";
/// A page of an administrator is not larger.
pub const PAGE_MAX_BYTES: usize = 64 * 1024;
/// nginx reads no word of more than 4096 bytes; every byte may need an escape.
const PIECE_MAX_BYTES: usize = 1900;
/// The first line, by which a file of ours is known again.
const HEADING: &str = "# Written by connect-migrator";

const PAGE: &str = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
content=\"width=device-width\">\n<title>Maintenance</title>\n<body style=\"font-family: sans-serif; max-width: 32em; margin: 20vh \
auto 0; padding: 0 1em\">\n<h1>Back in a moment</h1>\n<p>This server is being moved. Everything will be where it was; please try \
again in a few minutes.</p>\n</body>\n</html>\n";

/// The name of our file in nginx' configuration.
#[must_use]
pub fn file_name(instance: &str) -> String {
    format!("connect-migrator-{}-maintenance.conf", plain(instance, '-'))
}

/// Whether a file's bytes are ours.
#[must_use]
pub fn is_ours(bytes: &[u8]) -> bool {
    bytes.starts_with(HEADING.as_bytes())
}

/// The content of our file. `own_page` is the administrator's HTML.
#[must_use]
pub fn server(instance: &str, listen: &Endpoint, retry_after: u32, own_page: Option<&str>) -> String {
    let mut text = format!(
        "{HEADING} for the migration `{}`, and removed by it at commit and on rollback.\n",
        plain(instance, '-')
    );
    let mut body = String::new();
    match own_page {
        None => body.push_str(&escaped(PAGE)),
        Some(page) => {
            // What `return` is given is searched for variables, and a `$` cannot be escaped there; what `geo` is given is not.
            for (index, piece) in pieces(page).into_iter().enumerate() {
                let name = format!("$connect_migrator_{}_page_{index}", plain(instance, '_'));
                text.push_str(&format!("geo {name} {{\n    default \"{}\";\n}}\n", escaped(piece)));
                body.push_str(&name.replace('$', "${"));
                body.push('}');
            }
        }
    }
    text.push_str(&format!(
        "server {{\n    listen {listen};\n    server_name _;\n    access_log off;\n    charset utf-8;\n    default_type text/html;\n    \
         add_header Retry-After {retry_after} always;\n    add_header Cache-Control no-store always;\n    \
         add_header {MARK} maintenance always;\n    return 503 \"{body}\";\n}}\n"
    ));
    text
}

/// Where our file can stand so that nginx reads it in its `http` block: a folder of which an `include` there takes every `*.conf`.
#[must_use]
pub fn place(configuration: &Configuration, instance: &str) -> Option<PathBuf> {
    let name = file_name(instance);
    configuration
        .nodes()
        .filter(|(_, node)| node.name == "include" && !node.is_block)
        .filter(|(_, node)| {
            node.parent.is_some_and(|parent| {
                let parent = configuration.node(parent);
                parent.name == "http" && parent.parent.is_none()
            })
        })
        .filter_map(|(_, node)| {
            let pattern = configuration.resolve(node.arg(0)?);
            let folder = pattern.parent()?;
            let takes = glob::matches(&pattern.file_name()?.to_string_lossy(), &name);
            let plain_folder = !glob::is_pattern(&folder.to_string_lossy());
            (takes && plain_folder && folder.is_dir()).then(|| folder.join(&name))
        })
        .min_by_key(|path| !is_conf_d(path))
}

fn is_conf_d(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with("conf.d"))
}

fn plain(instance: &str, other: char) -> String {
    instance
        .chars()
        .map(|char| if char.is_ascii_alphanumeric() || char == '_' { char } else { other })
        .collect()
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"")
}

fn pieces(mut text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    while !text.is_empty() {
        let mut end = text.len().min(PIECE_MAX_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, rest) = text.split_at(end);
        pieces.push(piece);
        text = rest;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::parse("127.0.0.1:3941", None).unwrap()
    }

    #[test]
    fn the_file_is_known_as_ours_and_says_when_to_try_again() {
        let text = server("prod", &endpoint(), 45, None);
        assert!(is_ours(text.as_bytes()));
        assert!(text.contains("    listen 127.0.0.1:3941;\n"));
        assert!(text.contains("add_header Retry-After 45 always;"));
        assert!(!text.contains('$'));
        assert_eq!(file_name("a/b c"), "connect-migrator-a-b-c-maintenance.conf");
    }

    #[test]
    fn every_word_of_a_large_own_page_is_short_enough_for_nginx() {
        let page = "<p>\"é\" \\ ${x} {;}</p>\n".repeat(2000);
        let text = server("prod", &endpoint(), 30, Some(&page));
        let tokens = crate::conf::token::tokens(text.as_bytes()).unwrap();
        let longest = tokens
            .iter()
            .filter(|token| token.kind == crate::conf::token::Kind::Word)
            .map(|token| token.span.len());
        assert!(longest.max().unwrap() < 4096);
        let words =
            tokens.iter().map(|token| crate::conf::token::value(&text.as_bytes()[token.span.clone()]));
        let joined: String = words.filter(|word| word.contains("<p>") || word.contains("</p>")).collect();
        assert!(page.starts_with(&joined[..1000]));
        assert_eq!(pieces(&page).concat(), page);
    }

    #[test]
    fn the_file_goes_where_an_include_of_the_http_block_takes_it() {
        let cases = [
            ("events {} http { include sites/*; include conf.d/*.conf; }", Some("conf.d")),
            ("events {} http { include sites/*; include absent/*.conf; }", Some("sites")),
            ("events {} http { include conf.d/a.conf; } stream { include conf.d/*.conf; }", None),
            ("events {} http { include conf.d/*.vhost; server { include conf.d/*.conf; } }", None),
        ];
        for (text, wanted) in cases {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["conf.d", "sites"] {
                std::fs::create_dir(dir.path().join(folder)).unwrap();
            }
            std::fs::write(dir.path().join("conf.d/a.conf"), "").unwrap();
            std::fs::write(dir.path().join("nginx.conf"), text).unwrap();
            let configuration = Configuration::read(&dir.path().join("nginx.conf")).unwrap();
            let wanted =
                wanted.map(|folder| dir.path().join(folder).join("connect-migrator-prod-maintenance.conf"));
            assert_eq!(place(&configuration, "prod"), wanted, "{text}");
        }
    }
}

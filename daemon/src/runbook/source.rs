//! The `[connect]` table: the Connect that is moved.

use super::diagnostics::{Diagnostic, quoted};
use super::table::{Field, Mistakes, Table};
use connect_migrator_connect::secrets::secrets_in_url;
use connect_migrator_sdk::Source;
use std::path::PathBuf;
use toml::de::DeTable;

/// Reads the table; what is not there keeps its default.
pub(super) fn read(entries: &DeTable<'_>, mistakes: &mut Mistakes) -> Source {
    let mut source = Source::default();
    let mut table = Table::new("[connect]", entries);
    source.unit = table.or("unit", source.unit, mistakes, unit);
    source.config = table.or("config", source.config, mistakes, path);
    source.url = table.field("url").and_then(|field| url(&field, mistakes));
    source.api_key = table.field("api-key").and_then(|field| field.credential(mistakes));
    source.install_dir = table.or("install-dir", source.install_dir, mistakes, path);
    table.finish(mistakes);
    source
}

fn unit(field: &Field<'_, '_>, mistakes: &mut Mistakes) -> Option<String> {
    let name = field.string("write the name of the unit: `unit = \"rstudio-connect.service\"`", mistakes)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':' | '\\');
    if name.ends_with(".service") && name.len() > ".service".len() && name.chars().all(plain) {
        return Some(name.into());
    }
    let mistake =
        Diagnostic::new(field.span.clone(), format!("`{}` is not the name of a service", quoted(name)))
            .label("expected a name that ends with `.service`");
    mistakes.push(match name.contains('.') || !name.chars().all(plain) || name.is_empty() {
        true => mistake,
        false => mistake.hint(format!("write `unit = \"{name}.service\"`")),
    });
    None
}

fn path(field: &Field<'_, '_>, mistakes: &mut Mistakes) -> Option<PathBuf> {
    let path = field.string("write an absolute path", mistakes)?;
    if path.starts_with('/') && !path.contains('\0') {
        return Some(path.into());
    }
    mistakes.push(
        Diagnostic::new(field.span.clone(), format!("`{}` is not an absolute path", quoted(path)))
            .label("expected a path that starts with `/`"),
    );
    None
}

fn url(field: &Field<'_, '_>, mistakes: &mut Mistakes) -> Option<String> {
    let hint = "write where users reach Connect: `url = \"https://connect.example.com\"`";
    let text = field.string(hint, mistakes)?;
    if !secrets_in_url(text).is_empty() {
        mistakes.push(
            Diagnostic::new(field.span.clone(), "`url` contains a password")
                .label("a password must not stand in a runbook")
                .hint(hint),
        );
        return None;
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if !host.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some(text.into());
    }
    mistakes.push(
        Diagnostic::new(field.span.clone(), format!("`{}` is not a URL", quoted(text)))
            .label("expected `http://` or `https://` and a host")
            .hint(hint),
    );
    None
}

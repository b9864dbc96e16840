//! What Connect needs of a proxy beyond the address, and what of it the locations lack.
//!
//! <https://docs.posit.co/connect/admin/proxy/>

use crate::conf::{Configuration, NodeId};
use crate::locate::Value;
use crate::route::WEBSOCKET_REMEDY;
use connect_migrator_sdk::Finding;

/// nginx closes a connection on which Connect says nothing for so long, when nothing is set.
const DEFAULT_READ_TIMEOUT_SECONDS: u64 = 60;

/// Warnings about the locations that the value decides.
#[must_use]
pub fn advice(configuration: &Configuration, value: &Value) -> Vec<Finding> {
    let http = |id: &NodeId| {
        configuration.ancestors(*id).last().is_some_and(|top| configuration.node(top).name == "http")
    };
    let proxies: Vec<NodeId> = value.proxies.iter().copied().filter(http).collect();
    let mut findings = Vec::new();
    let mut warn = |key: &str, text: &str, lacks: &dyn Fn(NodeId) -> Option<String>, remedy: &str| {
        let places: Vec<String> = proxies
            .iter()
            .filter_map(|id| lacks(*id).map(|what| format!("{} ({what})", configuration.place(*id))))
            .collect();
        if !places.is_empty() {
            findings.push(Finding::warning(key, format!("{text}: {}", places.join("; ")), remedy));
        }
    };
    warn(
        "websocket-headers",
        "websockets are not passed on to Connect, and interactive content needs them",
        &|id| websocket_lacks(configuration, id),
        WEBSOCKET_REMEDY,
    );
    warn(
        "original-url-header",
        "Connect is not told the URL that the user typed",
        &|id| {
            let headers = headers(configuration, id);
            let has = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
            let told = has("X-RSC-Request") || (has("X-Forwarded-Proto") && has("X-Forwarded-Host"));
            (!told).then(|| "neither X-RSC-Request nor X-Forwarded-Proto with X-Forwarded-Host".into())
        },
        "put `proxy_set_header X-RSC-Request $scheme://$host:$server_port$request_uri;` into the location",
    );
    warn(
        "body-size",
        "uploads are limited",
        &|id| match effective(configuration, id, "client_max_body_size").as_deref() {
            Some("0") => None,
            Some(limit) => Some(format!("client_max_body_size {limit}")),
            None => Some("client_max_body_size is not set, which means 1m".into()),
        },
        "put `client_max_body_size 0;` into the location: bundles are uploaded through it",
    );
    warn(
        "read-timeout",
        "answers that take long are cut off",
        &|id| {
            let set = effective(configuration, id, "proxy_read_timeout")?;
            let seconds = seconds(&set)?;
            (seconds < DEFAULT_READ_TIMEOUT_SECONDS).then(|| format!("proxy_read_timeout {set}"))
        },
        "set `proxy_read_timeout` to a minute or more: idle websockets and long tasks are cut off otherwise",
    );
    warn(
        "intercepted-errors",
        "nginx replaces the answers of Connect that are errors",
        &|id| {
            let on = effective(configuration, id, "proxy_intercept_errors")?;
            (on == "on").then(|| "proxy_intercept_errors on".into())
        },
        "nothing needs to be done: users see your own page for 503 instead of ours, without a Retry-After",
    );
    findings
}

/// Whether nginx may put a page of its own in the place of a 503 from where the value leads.
#[must_use]
pub fn intercepts_errors(configuration: &Configuration, value: &Value) -> bool {
    value
        .proxies
        .iter()
        .any(|id| effective(configuration, *id, "proxy_intercept_errors").as_deref() == Some("on"))
}

fn websocket_lacks(configuration: &Configuration, id: NodeId) -> Option<String> {
    let headers = headers(configuration, id);
    let has = |name: &str| {
        headers.iter().any(|(header, value)| header.eq_ignore_ascii_case(name) && !value.is_empty())
    };
    let mut lacks = Vec::new();
    if !has("Upgrade") {
        lacks.push("proxy_set_header Upgrade");
    }
    if !has("Connection") {
        lacks.push("proxy_set_header Connection");
    }
    if effective(configuration, id, "proxy_http_version").as_deref() != Some("1.1") {
        lacks.push("proxy_http_version 1.1");
    }
    (!lacks.is_empty()).then(|| format!("no {}", lacks.join(", no ")))
}

/// The headers that nginx sets at this place: those of the innermost block that sets any.
fn headers(configuration: &Configuration, id: NodeId) -> Vec<(String, String)> {
    for block in configuration.ancestors(id) {
        let set: Vec<(String, String)> = configuration
            .children(block, "proxy_set_header")
            .map(|id| configuration.node(id))
            .filter_map(|node| Some((node.arg(0)?.to_owned(), node.arg(1)?.to_owned())))
            .collect();
        if !set.is_empty() {
            return set;
        }
    }
    Vec::new()
}

fn effective(configuration: &Configuration, id: NodeId, name: &str) -> Option<String> {
    configuration.ancestors(id).find_map(|block| {
        let last = configuration.children(block, name).last()?;
        configuration.node(last).arg(0).map(str::to_owned)
    })
}

/// The seconds of a time such as `75`, `90s`, `5m`, `1h 30m`, `500ms`.
fn seconds(text: &str) -> Option<u64> {
    let mut millis = 0_u64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits)?;
        let unit_length = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(unit_length)?;
        let factor = match unit {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis = millis.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after.trim_start();
    }
    Some(millis / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_nginx_writes_them() {
        let cases = [
            ("75", Some(75)),
            ("90s", Some(90)),
            ("5m", Some(300)),
            ("1h 30m", Some(5400)),
            ("500ms", Some(0)),
            ("x", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(seconds(text), wanted, "{text}");
        }
    }
}

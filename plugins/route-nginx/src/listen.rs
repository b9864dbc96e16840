//! Where nginx itself can be reached, so that a request passes through the very server block whose value changes.

use crate::conf::{Configuration, NodeId};
use crate::endpoint::Endpoint;
use crate::locate::{Value, names_of, server_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A way into nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whether nginx expects TLS there.
    pub tls: bool,
    /// Where to connect to.
    pub address: SocketAddr,
    /// `path:line` of the `listen`, or the setting that names it.
    pub place: String,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{} ({})", if self.tls { "https" } else { "http" }, self.address, self.place)
    }
}

/// Reads the setting `probe`. `None` when it is not `http://host:port` or `https://host:port` with an IP address or `localhost`.
#[must_use]
pub fn given(probe: &str) -> Option<Entry> {
    let (scheme, rest) = probe.split_once("://")?;
    let tls = match scheme {
        "http" => false,
        "https" => true,
        _ => return None,
    };
    let endpoint = Endpoint::parse(rest.trim_end_matches('/'), Some(if tls { 443 } else { 80 }))?;
    Some(Entry { tls, address: endpoint.socket()?, place: "the setting `probe`".into() })
}

/// The best way into the server blocks that `value` decides, for the URL `https://host:port` that users type: of the block with
/// that name, of the same scheme, on the same port, each if there is one.
#[must_use]
pub fn entry(
    configuration: &Configuration,
    value: &Value,
    url_tls: bool,
    url_host: &str,
    url_port: u16,
) -> Option<Entry> {
    let mut candidates = Vec::new();
    for proxy in &value.proxies {
        let Some(server) = server_of(configuration, *proxy) else { continue };
        let named = names_of(configuration, server).iter().any(|name| name.eq_ignore_ascii_case(url_host));
        for entry in entries(configuration, server) {
            let score = (named, entry.tls == url_tls, entry.address.port() == url_port);
            candidates.push((score, entry));
        }
    }
    // The first of the best: max_by_key would answer the last.
    let best = candidates.iter().map(|(score, _)| *score).max()?;
    candidates.into_iter().find(|(score, _)| *score == best).map(|(_, entry)| entry)
}

fn entries(configuration: &Configuration, server: NodeId) -> Vec<Entry> {
    let legacy_tls =
        configuration.children(server, "ssl").any(|id| configuration.node(id).arg(0) == Some("on"));
    let mut listens = configuration.children(server, "listen").peekable();
    if listens.peek().is_none() {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 80);
        return vec![Entry { tls: legacy_tls, address, place: configuration.place(server) }];
    }
    listens
        .filter_map(|id| {
            let node = configuration.node(id);
            let has = |name: &str| node.args.iter().skip(1).any(|word| word.value == name);
            // Both need more than a plain request.
            if has("proxy_protocol") || has("quic") || has("udp") {
                return None;
            }
            let address = address(node.arg(0)?)?;
            Some(Entry { tls: legacy_tls || has("ssl"), address, place: configuration.place(id) })
        })
        .collect()
}

/// Where to connect to for a `listen`.
fn address(listen: &str) -> Option<SocketAddr> {
    if !listen.is_empty() && listen.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.parse().ok()?));
    }
    let endpoint = Endpoint::parse(&listen.replacen('*', "0.0.0.0", 1), Some(80))?;
    let ip = match endpoint.ip()? {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Some(SocketAddr::new(ip, endpoint.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_is_turned_into_an_address_to_connect_to() {
        let cases = [
            ("80", Some("127.0.0.1:80")),
            ("*:8080", Some("127.0.0.1:8080")),
            ("0.0.0.0:443", Some("127.0.0.1:443")),
            ("[::]:443", Some("[::1]:443")),
            ("10.0.0.5", Some("10.0.0.5:80")),
            ("localhost:81", Some("127.0.0.1:81")),
            ("unix:/run/nginx.sock", None),
            ("8000-8010", None),
        ];
        for (listen, wanted) in cases {
            assert_eq!(address(listen).map(|address| address.to_string()).as_deref(), wanted, "{listen}");
        }
    }

    #[test]
    fn the_setting_probe_is_an_address_with_a_scheme() {
        assert_eq!(
            given("https://127.0.0.1:8443/").unwrap().to_string(),
            "https://127.0.0.1:8443 (the setting `probe`)"
        );
        assert_eq!(given("http://[::1]").unwrap().address.to_string(), "[::1]:80");
        for probe in ["127.0.0.1:80", "ftp://127.0.0.1", "http://connect.example.com:80", "http://"] {
            assert_eq!(given(probe), None, "{probe}");
        }
    }
}

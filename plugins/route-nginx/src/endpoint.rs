//! Addresses as nginx' directives write them, and which of them lead to the source.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// A name or an IP address, without brackets, in lower case.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Endpoint {
    /// Reads `host`, `host:port` or `[host]:port`. `None` when it is something else, such as a path of a socket.
    #[must_use]
    pub fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
            Some(_) => return None,
            None => default_port?,
        };
        let sound = |char: char| char.is_alphanumeric() || matches!(char, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(sound) {
            return None;
        }
        Some(Endpoint { host: host.to_ascii_lowercase(), port })
    }

    /// The IP address, when the host is one, or is `localhost`.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self.host.as_str() {
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            host => host.parse().ok(),
        }
    }

    /// Whether the host is this machine's loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Whether both mean the same place: equal ports, and equal hosts, where `localhost` and `127.0.0.1` are equal.
    #[must_use]
    pub fn same_place(&self, other: &Endpoint) -> bool {
        self.port == other.port
            && (self.host == other.host || (self.ip().is_some() && self.ip() == other.ip()))
    }

    /// The address to connect to.
    #[must_use]
    pub fn socket(&self) -> Option<SocketAddr> {
        self.ip().map(|ip| SocketAddr::new(ip, self.port))
    }
}

/// Where the source answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourcePlace {
    /// This port, on any address of this machine.
    AnyLocal(u16),
    /// Exactly here.
    Exactly(Endpoint),
}

impl SourcePlace {
    /// Whether `endpoint` leads to the source.
    #[must_use]
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        match self {
            SourcePlace::Exactly(place) => place.same_place(endpoint),
            SourcePlace::AnyLocal(port) => *port == endpoint.port && is_this_machine(endpoint),
        }
    }
}

impl std::fmt::Display for SourcePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SourcePlace::Exactly(place) => place.fmt(f),
            SourcePlace::AnyLocal(port) => write!(f, "port {port} of this machine"),
        }
    }
}

fn is_this_machine(endpoint: &Endpoint) -> bool {
    match endpoint.ip() {
        Some(ip) => ip.is_loopback() || ip.is_unspecified() || is_own(ip),
        None => nix::unistd::gethostname().is_ok_and(|name| {
            let name = name.to_string_lossy().to_ascii_lowercase();
            let short = name.split('.').next().unwrap_or_default();
            endpoint.host == name || endpoint.host == short
        }),
    }
}

/// Only an address of this machine can be bound; nothing is sent.
fn is_own(ip: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(text, None).unwrap()
    }

    #[test]
    fn addresses_are_read_as_nginx_writes_them() {
        for text in ["127.0.0.1:3939", "localhost:3939", "[::1]:3939", "connect-1.example.com:80", "a_b:1"] {
            assert_eq!(endpoint(text).to_string(), text);
        }
        assert_eq!(Endpoint::parse("Example.com", Some(80)).unwrap().to_string(), "example.com:80");
        for text in [
            "",
            ":80",
            "a:",
            "a:99999",
            "a:b",
            "$backend",
            "a b:1",
            "unix:/run/x.sock",
            "[1.2.3.4]:1",
            "::1:80",
        ] {
            assert_eq!(Endpoint::parse(text, None), None, "{text}");
        }
    }

    #[test]
    fn the_source_is_found_under_every_address_of_this_machine() {
        let source = SourcePlace::AnyLocal(3939);
        for text in ["127.0.0.1:3939", "localhost:3939", "[::1]:3939", "127.0.1.1:3939"] {
            assert!(source.is(&endpoint(text)), "{text}");
        }
        // 192.0.2.0/24 is set aside for documentation: no machine has it.
        for text in ["127.0.0.1:3940", "192.0.2.7:3939", "elsewhere.example.com:3939"] {
            assert!(!source.is(&endpoint(text)), "{text}");
        }
        let source = SourcePlace::Exactly(endpoint("127.0.0.1:3939"));
        assert!(source.is(&endpoint("localhost:3939")));
        assert!(!source.is(&endpoint("127.0.1.1:3939")));
    }
}

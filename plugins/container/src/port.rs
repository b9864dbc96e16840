//! Where the container is to answer, against what listens there already.

use crate::settings::Network;
use crate::world::Subject;
use connect_migrator_connect::installation::{Installation, Listen};
use connect_migrator_sdk::Finding;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;

/// The state of a socket that listens, as the kernel writes it.
const LISTENS: &str = "0A";

/// Whether the address to publish at is free.
#[must_use]
pub fn port(subject: &Subject<'_>, installation: Option<&Installation>) -> Finding {
    let publish = &subject.names.publish;
    let shown = &subject.settings.publish;
    let taken = |text: String| {
        Finding::blocker(
            "port-taken",
            text,
            format!(
                "choose another port with `publish`, or stop that program (`ss -ltnp 'sport = :{}'`)",
                publish.port
            ),
        )
    };
    let sources = installation.map(Installation::listens).unwrap_or_default();
    if sources.iter().any(|listen| meet(listen, publish)) {
        // Binding it would only meet the source.
        let foreign = listening(&subject.world.proc, publish.port)
            .into_iter()
            .find(|listen| meet(listen, publish) && !sources.iter().any(|source| meet(source, listen)));
        return match foreign {
            Some(Listen { host, .. }) => {
                taken(format!("{shown} is in use by another program than Connect, which listens on {host}"))
            }
            None => Finding::ok("port", format!("{shown} is the source's own port, free once it is stopped")),
        };
    }
    let host = if publish.host.is_empty() { "0.0.0.0" } else { &publish.host };
    match TcpListener::bind((host, publish.port)) {
        Ok(_) => Finding::ok("port", format!("{shown} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            taken(format!("{shown} is in use by another program"))
        }
        Err(error) => Finding::blocker(
            "publish-address",
            format!("{shown} cannot be listened on: {error}"),
            "choose an address of this host with `publish`",
        ),
    }
}

/// Whether the engine can bind the published port only once the source is stopped. On the host's network Connect binds it itself.
#[must_use]
pub fn is_the_sources(subject: &Subject<'_>, installation: &Installation) -> bool {
    subject.settings.network == Network::Bridge
        && installation.listens().iter().any(|listen| meet(listen, &subject.names.publish))
}

/// Whether one of two listeners would be in the other's way. A name that is no address counts as every address.
fn meet(one: &Listen, other: &Listen) -> bool {
    let address = |listen: &Listen| match listen.host.as_str() {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified()),
    };
    one.port == other.port
        && match (address(one), address(other)) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        }
}

/// What listens on a port of this host, as the kernel tells.
fn listening(proc: &Path, port: u16) -> Vec<Listen> {
    let read = |name| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
    (read("net/tcp") + &read("net/tcp6"))
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (address, at) = words.next()?.split_once(':')?;
            let listens = words.nth(1)? == LISTENS && u16::from_str_radix(at, 16).ok()? == port;
            let host = address_of(address).filter(|_| listens)?.to_string();
            Some(Listen { host, port, tls: false })
        })
        .collect()
}

/// `0100007F`: words of four bytes, each as this machine's number.
fn address_of(hex: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for word in hex.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(bytes) => Some(Ipv4Addr::from(bytes).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_meet_on_the_same_port_of_the_same_address_or_of_all() {
        let listen = |text: &str| Listen::parse(text, false).unwrap();
        for (one, other, is) in [
            (":3939", "127.0.0.1:3939", true),
            ("0.0.0.0:3939", "10.0.0.5:3939", true),
            ("[::]:3939", "10.0.0.5:3939", true),
            ("10.0.0.5:3939", "10.0.0.5:3939", true),
            ("localhost:3939", "127.0.0.1:3939", true),
            ("me.example.com:3939", "10.0.0.5:3939", true),
            ("10.0.0.5:3939", "127.0.0.1:3939", false),
            (":3939", ":3940", false),
        ] {
            assert_eq!(meet(&listen(one), &listen(other)), is, "{one} {other}");
            assert_eq!(meet(&listen(other), &listen(one)), is, "{other} {one}");
        }
    }

    #[test]
    fn the_kernel_tells_who_listens() {
        let four = TcpListener::bind("127.0.0.2:0").unwrap();
        let port = four.local_addr().unwrap().port();
        let hosts = |port| -> Vec<String> {
            listening(Path::new("/proc"), port).into_iter().map(|listen| listen.host).collect()
        };
        assert_eq!(hosts(port), ["127.0.0.2"]);
        drop(four);
        assert_eq!(
            address_of(&format!("{}{:08X}", "0".repeat(24), u32::from_ne_bytes([0, 0, 0, 1]))),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!(address_of("xyz"), None);
    }
}

//! Whether a database on this host lets the container's network in: it decides by address, and has seen this host's only so far.
//!
//! A database elsewhere sees this host's address, as before: the engine puts it in place of the container's.

use crate::engine::Engine;
use crate::settings::Network;
use crate::world::Subject;
use connect_migrator_connect::container::{DatabasePlace, database_places};
use connect_migrator_connect::installation::{Installation, is_loopback};
use connect_migrator_sdk::Finding;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, lookup_host};
use tokio::time::timeout;

/// How long the database may take to say whether it lets somebody in.
const ANSWER_TIMEOUT_SECONDS: u64 = 5;
/// Longer than any refusal of PostgreSQL.
const ANSWER_MAX_BYTES: usize = 8 * 1024;
/// Version 3.0 of its protocol.
const PROTOCOL: u32 = 3 << 16;
/// Its code for "no entry of pg_hba.conf lets you in".
const NOT_AUTHORIZED: &str = "28000";

/// What the database said to who came from the container's network.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It would go on, with a password for example.
    LetsIn,
    /// Its words.
    Refuses(String),
    /// Nobody answers there.
    Unreachable(String),
    /// There is no bridge before the first container: nobody can come from there yet.
    NotTried,
    /// Nothing for too long.
    Nothing,
}

/// What there is to say about databases on this host; nothing about others.
pub async fn check(subject: &Subject<'_>, engine: &Engine, installation: &Installation) -> Vec<Finding> {
    if subject.settings.network == Network::Host {
        return Vec::new();
    }
    let places = database_places(installation);
    if places.is_empty() {
        return Vec::new();
    }
    let Some((network, gateway)) = engine.bridge().await else { return Vec::new() };
    let mut found = Vec::new();
    for place in &places {
        for (host, port) in &place.hosts {
            found.extend(look(place, host, *port, &network, gateway).await);
        }
    }
    found
}

async fn look(
    place: &DatabasePlace,
    host: &str,
    port: u16,
    network: &str,
    gateway: IpAddr,
) -> Option<Finding> {
    // A socket's folder is mounted, and a loopback address is a blocker of its own.
    if host.starts_with('/') || is_loopback(host) {
        return None;
    }
    let there = lookup_host((host, port)).await.ok()?.find(|there| there.is_ipv4() == gateway.is_ipv4())?;
    if !is_here(there.ip()) {
        return None;
    }
    let said = timeout(Duration::from_secs(ANSWER_TIMEOUT_SECONDS), ask(place, there, gateway)).await;
    let said = match said {
        Ok(Ok(said)) => said,
        Ok(Err(_)) => Said::NotTried,
        Err(_) => Said::Nothing,
    };
    Some(told(place, &format!("{host}:{port}"), network, said))
}

fn told(place: &DatabasePlace, at: &str, network: &str, said: Said) -> Finding {
    let key = "database-lets-in";
    let what = format!("the database of {} at {at}, on this host,", place.setting);
    let whom = format!("who comes from {network}, where the container will be");
    let remedy = format!(
        "let `listen_addresses` hold an address that containers reach, and add a line such as `host {} {} {network} scram-sha-256` \
         to pg_hba.conf, then reload PostgreSQL; or set `network = \"host\"` for this step",
        or_all(&place.database),
        or_all(&place.user)
    );
    match said {
        Said::LetsIn => Finding::ok(key, format!("{what} lets {network} in")),
        // Lines of `hostssl` let in only who comes with TLS.
        Said::Refuses(why) if !place.plain => Finding::warning(
            key,
            format!("{what} refuses {whom}, without TLS: {why}"),
            format!("see that it lets that network in with TLS: {remedy}"),
        ),
        Said::Refuses(why) => Finding::blocker(key, format!("{what} refuses {whom}: {why}"), remedy),
        Said::Unreachable(why) => {
            Finding::blocker(key, format!("{what} does not answer {whom}: {why}"), remedy)
        }
        Said::NotTried => Finding::warning(
            key,
            format!(
                "{what} sees the container as one of {network}; whether it lets that in could not be tried"
            ),
            remedy,
        ),
        Said::Nothing => Finding::warning(
            key,
            format!("{what} did not say within {ANSWER_TIMEOUT_SECONDS} s whether it lets {network} in"),
            remedy,
        ),
    }
}

fn or_all(name: &str) -> &str {
    if name.is_empty() { "all" } else { name }
}

fn is_here(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// Asks from the address `from` for a session. No password is sent.
///
/// # Errors
/// When nobody can come from there.
async fn ask(place: &DatabasePlace, there: SocketAddr, from: IpAddr) -> io::Result<Said> {
    let socket = if there.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(from, 0))?;
    let asked = async {
        let mut stream = socket.connect(there).await?;
        stream.write_all(&greeting(&place.user, &place.database)).await?;
        let mut answer = Vec::new();
        let mut limited = stream.take(ANSWER_MAX_BYTES as u64);
        // The first byte tells; a refusal is followed by the end.
        while answer.first().is_none_or(|kind| *kind == b'E') && limited.read_buf(&mut answer).await? > 0 {}
        Ok::<_, io::Error>(answer)
    };
    Ok(match asked.await {
        Ok(answer) => understood(&answer),
        Err(error) => Said::Unreachable(error.to_string()),
    })
}

/// The first message of a session.
fn greeting(user: &str, database: &str) -> Vec<u8> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for word in ["user", user, "database", if database.is_empty() { user } else { database }] {
        body.extend(word.bytes().filter(|byte| *byte != 0));
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + size_of::<u32>()).unwrap_or(u32::MAX);
    [length.to_be_bytes().to_vec(), body].concat()
}

/// What the first message of the server means.
fn understood(answer: &[u8]) -> Said {
    if answer.is_empty() {
        return Said::Unreachable("it closed the connection".into());
    }
    let Some(fields) = answer.strip_prefix(b"E").and_then(|rest| rest.get(size_of::<u32>()..)) else {
        return Said::LetsIn;
    };
    let fields: Vec<String> =
        fields.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    let field = |kind: char| fields.iter().find_map(|field| field.strip_prefix(kind));
    // Any other refusal comes after the entries were looked at.
    if field('C') != Some(NOT_AUTHORIZED) {
        return Said::LetsIn;
    }
    Said::Refuses(field('M').unwrap_or("it does not say why").to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;
    use connect_migrator_sdk::Severity;
    use tokio::net::TcpListener;

    fn refusal(code: &str, message: &str) -> Vec<u8> {
        let fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0");
        let length = u32::try_from(fields.len() + 4).unwrap();
        [b"E".to_vec(), length.to_be_bytes().to_vec(), fields.into_bytes()].concat()
    }

    fn place(plain: bool) -> DatabasePlace {
        let (user, database) = ("connect".into(), "db".into());
        DatabasePlace { setting: "Postgres.URL".into(), hosts: Vec::new(), user, database, plain }
    }

    /// What a server says that answers so; from which address it was asked, and what.
    async fn said(answer: Vec<u8>) -> (Said, IpAddr, String) {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let serve = tokio::spawn(async move {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let mut asked = vec![0; 512];
            let read = stream.read(&mut asked).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            (peer.ip(), String::from_utf8_lossy(&asked[8..read]).replace('\0', " "))
        });
        let said = ask(&place(false), there, "127.0.0.9".parse().unwrap()).await.unwrap();
        let (peer, asked) = serve.await.unwrap();
        (said, peer, asked)
    }

    #[tokio::test]
    async fn the_database_is_asked_from_the_network_of_the_container() {
        let no_entry = "no pg_hba.conf entry for host \"127.0.0.9\"";
        for (answer, expected) in [
            (b"R\0\0\0\x08\0\0\0\x0a".to_vec(), Said::LetsIn),
            (refusal("28000", no_entry), Said::Refuses(no_entry.into())),
            (refusal("3D000", "database \"db\" does not exist"), Said::LetsIn),
            (Vec::new(), Said::Unreachable("it closed the connection".into())),
        ] {
            let (said, from, asked) = said(answer).await;
            assert_eq!(said, expected);
            assert_eq!((from.to_string().as_str(), asked.trim()), ("127.0.0.9", "user connect database db"));
        }
    }

    #[tokio::test]
    async fn nobody_at_the_port_and_no_bridge_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        drop(listener);
        let refused = ask(&place(false), there, "127.0.0.9".parse().unwrap()).await.unwrap();
        assert!(matches!(refused, Said::Unreachable(_)), "{refused:?}");
        // Of a network for documentation: no machine has it.
        assert!(ask(&place(false), there, "192.0.2.1".parse().unwrap()).await.is_err());
    }

    #[test]
    fn who_is_not_let_in_is_told_what_to_write_where() {
        let no_entry = || Said::Refuses("no pg_hba.conf entry".into());
        let blocker = told(&place(true), "db:5432", "10.88.0.0/16", no_entry());
        assert_eq!(blocker.severity, Severity::Blocker);
        assert!(blocker.remedy.contains("host db connect 10.88.0.0/16"), "{}", blocker.remedy);
        for (plain, said) in [(false, no_entry()), (true, Said::NotTried), (true, Said::Nothing)] {
            assert_eq!(told(&place(plain), "db:5432", "10.88.0.0/16", said).severity, Severity::Warning);
        }
        assert_eq!(told(&place(true), "db:5432", "10.88.0.0/16", Said::LetsIn).severity, Severity::Ok);
    }
}

//! The proxy in front of Connect: which site of nginx leads to it.

use connect_migrator_route_nginx::conf::Configuration;
use connect_migrator_route_nginx::endpoint::{Endpoint, SourcePlace};
use connect_migrator_route_nginx::locate::{Leads, NoValue, Wanted, locate, names_of, server_of};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NGINX: &str = "/usr/sbin/nginx";
const CONFIGURATION: &str = "/etc/nginx/nginx.conf";
/// Where the step serves its maintenance page.
const MAINTENANCE: (&str, u16) = ("127.0.0.1", 3941);
/// Other proxies, which no step of ours changes, by their program.
const OTHERS: [(&str, &str); 5] = [
    ("Apache", "/usr/sbin/apache2"),
    ("Apache", "/usr/sbin/httpd"),
    ("HAProxy", "/usr/sbin/haproxy"),
    ("Caddy", "/usr/bin/caddy"),
    ("Traefik", "/usr/bin/traefik"),
];

/// The one site that leads to Connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    /// The file, as nginx includes it.
    pub(super) file: PathBuf,
    /// The value that leads to Connect, with its place.
    pub(super) value: String,
    /// The names of its server block.
    pub(super) names: Vec<String>,
}

/// Finds the site.
///
/// # Errors
/// With why there is not exactly one.
pub(super) fn look(port: u16, publish_port: u16) -> Result<Site, String> {
    if !Path::new(NGINX).is_file() || !Path::new(CONFIGURATION).is_file() {
        let other = OTHERS.iter().find(|(_, program)| Path::new(program).is_file());
        return Err(match other {
            Some((name, program)) => format!(
                "there is no nginx on this host, but {name} ({program}), which no step of this package changes: write a step for \
                 it (the package's README says how), or put nginx in front of Connect"
            ),
            None => format!(
                "there is no nginx on this host ({NGINX}, {CONFIGURATION}); if users reach Connect directly or through another \
                 machine, put nginx in front of Connect, or write a step for what leads them there (the package's README says how)"
            ),
        });
    }
    let configuration = Configuration::read(Path::new(CONFIGURATION))
        .map_err(|error| format!("nginx's configuration cannot be read: {error}"))?;
    find(&configuration, port, publish_port)
}

fn find(configuration: &Configuration, port: u16, publish_port: u16) -> Result<Site, String> {
    let mut files: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (id, node) in configuration.nodes() {
        if node.name == "proxy_pass"
            && let Some(server) = server_of(configuration, id)
        {
            let file = configuration.file(configuration.node(server).file);
            files.entry(file.real.clone()).or_insert_with(|| file.path.clone());
        }
    }
    let mut sites = Vec::new();
    let mut reasons = Vec::new();
    for (real, path) in files {
        let wanted = Wanted {
            site: real,
            server_name: None,
            source: SourcePlace::AnyLocal(port),
            maintenance: Endpoint { host: MAINTENANCE.0.into(), port: MAINTENANCE.1 },
            upstream: Endpoint { host: "127.0.0.1".into(), port: publish_port },
        };
        match locate(configuration, &wanted) {
            Ok(value) if value.leads == Leads::Source => {
                let server = value.proxies.first().and_then(|proxy| server_of(configuration, *proxy));
                let names = server.map(|server| names_of(configuration, server)).unwrap_or_default();
                sites.push(Site { file: path, value: format!("{} at {}", value.text, value.place), names });
            }
            Ok(value) => reasons.push(format!(
                "{} leads already to the new server or the maintenance page ({})",
                path.display(),
                value.place
            )),
            Err(NoValue::Nothing { .. }) => {}
            Err(error) => reasons.push(format!("{}: {error}; {}", path.display(), error.remedy())),
        }
    }
    let mut sites = sites.into_iter();
    match (sites.next(), sites.next()) {
        (Some(site), None) => Ok(site),
        (Some(first), Some(second)) => {
            let all: Vec<String> = [first, second]
                .into_iter()
                .chain(sites)
                .map(|site| site.file.display().to_string())
                .collect();
            Err(format!(
                "several sites of nginx lead to Connect: {}; choose the one through which users come",
                all.join(", ")
            ))
        }
        (None, _) if reasons.is_empty() => Err(format!(
            "no `proxy_pass` that nginx reads leads to port {port} of this machine, on which Connect listens"
        )),
        (None, _) => Err(reasons.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sites: &[(&str, &str)]) -> Result<Site, String> {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("nginx.conf");
        std::fs::write(&main, "events {}\nhttp { include sites/*; }\n").unwrap();
        std::fs::create_dir(dir.path().join("sites")).unwrap();
        for (name, text) in sites {
            std::fs::write(dir.path().join("sites").join(name), text).unwrap();
        }
        let found = find(&Configuration::read(&main).unwrap(), 3939, 3940);
        let shown = |text: String| text.replace(&dir.path().display().to_string(), "DIR");
        found.map_err(shown).map(|site| Site { file: site.file.file_name().unwrap().into(), ..site })
    }

    const LEADS: &str = "server { server_name a.example; location / { proxy_pass http://127.0.0.1:3939; } }";

    #[test]
    fn the_one_site_that_leads_to_connect_is_found_among_others() {
        let other = "server { server_name b.example; location / { proxy_pass http://127.0.0.1:8080; } }";
        let site = of(&[("connect", LEADS), ("other", other)]).unwrap();
        assert_eq!((site.file, site.names), (PathBuf::from("connect"), vec!["a.example".to_owned()]));
    }

    #[test]
    fn none_and_several_are_explained_and_not_guessed() {
        assert!(of(&[]).unwrap_err().contains("port 3939"));
        let several = of(&[("a", LEADS), ("b", LEADS)]).unwrap_err();
        assert!(several.contains("DIR/sites/a, DIR/sites/b"), "{several}");
        let variable = of(&[("a", "server { location / { proxy_pass http://$backend; } }")]).unwrap_err();
        assert!(variable.contains("variable"), "{variable}");
    }
}

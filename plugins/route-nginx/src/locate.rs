//! Finds the one value of the administrator's configuration that decides whether users reach the source or the container.

use crate::conf::{Configuration, NodeId, Word};
use crate::endpoint::{Endpoint, SourcePlace};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

/// What to look for, and where.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The site's file, symbolic links resolved.
    pub site: PathBuf,
    /// Only in server blocks of this name.
    pub server_name: Option<String>,
    /// The old value.
    pub source: SourcePlace,
    /// The value during the window.
    pub maintenance: Endpoint,
    /// The new value.
    pub upstream: Endpoint,
}

/// Where the value leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// To the source.
    Source,
    /// To the maintenance page.
    Maintenance,
    /// To the container.
    Target,
}

/// The one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The file to edit, symbolic links resolved.
    pub file: PathBuf,
    /// `path:line`, with the path as the configuration names it.
    pub place: String,
    /// The bytes of the value within the file.
    pub span: Range<usize>,
    /// The value: `http://host:port` of a `proxy_pass`, `host:port` of a server of an upstream block.
    pub text: String,
    /// Where it leads.
    pub leads: Leads,
    /// The `upstream` block that it stands in.
    pub upstream_block: Option<String>,
    /// The `proxy_pass` directives that it decides.
    pub proxies: Vec<NodeId>,
}

impl Value {
    /// The value that leads to `endpoint`, spelled as this one is.
    #[must_use]
    pub fn leading_to(&self, endpoint: &Endpoint) -> String {
        // The maintenance page and the container both speak plain HTTP.
        if self.text.contains("://") { format!("http://{endpoint}") } else { endpoint.to_string() }
    }
}

/// Why there is no such value, or more than one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoValue {
    /// The site is not part of the configuration.
    #[error("nginx does not read {}: it is not {main} and no `include` leads to it", .site.display())]
    SiteNotRead {
        /// The site.
        site: PathBuf,
        /// The main file.
        main: String,
    },
    /// No server block has the wanted name.
    #[error("no server block of the site is named {wanted}; it has {}", list(.there))]
    NoSuchServer {
        /// The name.
        wanted: String,
        /// The names that exist.
        there: Vec<String>,
    },
    /// Nothing leads to the source.
    #[error("no `proxy_pass` of the site leads to {source_place}; {}", if .there.is_empty() { "there is none at all".to_owned() } else { format!("there is {}", list(.there)) })]
    Nothing {
        /// The source.
        source_place: String,
        /// What is there instead, each with its place.
        there: Vec<String>,
    },
    /// The address is only known at run time.
    #[error("the address comes from a variable: {}", list(.there))]
    Variable {
        /// Each with its place.
        there: Vec<String>,
    },
    /// More than one value would have to change.
    #[error("more than one value leads to Connect: {}", list(.there))]
    Several {
        /// Each with its place.
        there: Vec<String>,
    },
    /// The upstream block has more servers than the source.
    #[error("the upstream block `{block}` also has {}", list(.there))]
    OtherServers {
        /// The block's name.
        block: String,
        /// Each with its place.
        there: Vec<String>,
    },
    /// TLS between nginx and Connect, in a way that one value cannot change.
    #[error("nginx speaks TLS to Connect ({}), and the scheme stands apart from the address", list(.there))]
    TlsToUpstream {
        /// Each `proxy_pass` with its place.
        there: Vec<String>,
    },
}

impl NoValue {
    /// The stable key of the finding.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            NoValue::SiteNotRead { .. } => "site-not-read",
            NoValue::NoSuchServer { .. } => "server-name-not-found",
            NoValue::Nothing { .. } => "route-not-found",
            NoValue::Variable { .. } => "route-variable",
            NoValue::Several { .. } => "route-ambiguous",
            NoValue::OtherServers { .. } => "route-other-servers",
            NoValue::TlsToUpstream { .. } => "route-tls-upstream",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            NoValue::SiteNotRead { .. } => {
                "set `site` to the file that holds Connect's server block (`nginx -T` lists all that nginx reads), or enable it"
            }
            NoValue::NoSuchServer { .. } => "set `server-name` to one of these, or leave it out",
            NoValue::Nothing { .. } => {
                "set `site` to the file whose `proxy_pass` leads to Connect, and `source-address` if Connect is reached under \
                 another address than its own configuration tells"
            }
            NoValue::Variable { .. } => {
                "write the address itself, or the name of an upstream block, into `proxy_pass`, and reload nginx"
            }
            NoValue::Several { .. } => {
                "name them through one upstream block: write `upstream connect { server <the address>; }` once, outside of the \
                 server blocks, and `proxy_pass http://connect;` in each of these places; or choose one server block with \
                 `server-name`"
            }
            NoValue::OtherServers { .. } => {
                "take the other servers out of the block, or mark them `down`: after the migration only the container may answer"
            }
            NoValue::TlsToUpstream { .. } => {
                "let nginx speak http to Connect on this machine, or write the address into `proxy_pass` instead of an upstream \
                 block, so that scheme and address are one value"
            }
        }
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join("; ") }
}

/// A `proxy_pass`, taken apart.
struct Proxy {
    id: NodeId,
    scheme: Option<&'static str>,
    /// The text between the scheme and the path.
    authority: String,
}

/// Finds the value.
///
/// # Errors
/// When there is none, or it is not one.
pub fn locate(configuration: &Configuration, wanted: &Wanted) -> Result<Value, NoValue> {
    if !configuration.files().any(|(_, file)| file.real == wanted.site) {
        let main = configuration.main().display().to_string();
        return Err(NoValue::SiteNotRead { site: wanted.site.clone(), main });
    }
    let proxies = proxies_of_site(configuration, wanted)?;
    let mut values: BTreeMap<(PathBuf, usize), Value> = BTreeMap::new();
    let mut variables = Vec::new();
    let mut elsewhere = Vec::new();
    for proxy in &proxies {
        let shown = shown(configuration, proxy.id);
        if proxy.authority.contains('$') {
            variables.push(shown);
            continue;
        }
        match values_of(configuration, wanted, proxy)? {
            found if found.is_empty() => elsewhere.push(shown),
            found => {
                for value in found {
                    let entry = values.entry((value.file.clone(), value.span.start)).or_insert(value);
                    if !entry.proxies.contains(&proxy.id) {
                        entry.proxies.push(proxy.id);
                    }
                }
            }
        }
    }
    let mut values = values.into_values();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (Some(first), Some(second)) => {
            let all = [first, second].into_iter().chain(values);
            Err(NoValue::Several {
                there: all.map(|value| format!("{} at {}", value.text, value.place)).collect(),
            })
        }
        _ if !variables.is_empty() => Err(NoValue::Variable { there: variables }),
        _ => Err(NoValue::Nothing { source_place: wanted.source.to_string(), there: elsewhere }),
    }
}

/// The `proxy_pass` directives elsewhere in the configuration that lead to the source without passing the value: each as text with
/// its place.
#[must_use]
pub fn left_behind(configuration: &Configuration, wanted: &Wanted, value: &Value) -> Vec<String> {
    let mut left = Vec::new();
    for proxy in all_proxies(configuration) {
        if value.proxies.contains(&proxy.id) {
            continue;
        }
        let found = values_of(configuration, wanted, &proxy).unwrap_or_default();
        let other = |found: &Value| (&found.file, found.span.start) != (&value.file, value.span.start);
        if proxy.authority.contains('$') && configuration.is_within(proxy.id, &wanted.site)
            || found.iter().any(|found| other(found) && found.leads == Leads::Source)
        {
            left.push(shown(configuration, proxy.id));
        }
    }
    left
}

/// The block named `server` that a directive stands in.
#[must_use]
pub fn server_of(configuration: &Configuration, id: NodeId) -> Option<NodeId> {
    configuration.ancestors(id).find(|id| {
        let node = configuration.node(*id);
        node.name == "server" && node.is_block
    })
}

/// The names of a server block, without the empty one.
#[must_use]
pub fn names_of(configuration: &Configuration, server: NodeId) -> Vec<String> {
    let names = configuration.children(server, "server_name").flat_map(|id| &configuration.node(id).args);
    names.map(|word| word.value.clone()).filter(|name| !name.is_empty()).collect()
}

fn shown(configuration: &Configuration, id: NodeId) -> String {
    format!(
        "`proxy_pass {}` at {}",
        configuration.node(id).arg(0).unwrap_or_default(),
        configuration.place(id)
    )
}

fn proxies_of_site(configuration: &Configuration, wanted: &Wanted) -> Result<Vec<Proxy>, NoValue> {
    let mut names_there = Vec::new();
    let mut server_found = false;
    let mut proxies = Vec::new();
    let named = |id: NodeId, name: &str| {
        names_of(configuration, id).iter().any(|have| have.eq_ignore_ascii_case(name))
    };
    if let Some(name) = &wanted.server_name {
        for (id, node) in configuration.nodes() {
            let server = node.name == "server" && node.is_block;
            if server && configuration.is_within(id, &wanted.site) {
                names_there.extend(names_of(configuration, id));
                server_found |= named(id, name);
            }
        }
        if !server_found {
            return Err(NoValue::NoSuchServer { wanted: name.clone(), there: names_there });
        }
    }
    for proxy in all_proxies(configuration) {
        let Some(server) = server_of(configuration, proxy.id) else { continue };
        let of_name = wanted.server_name.as_ref().is_none_or(|name| named(server, name));
        if of_name && configuration.is_within(proxy.id, &wanted.site) {
            proxies.push(proxy);
        }
    }
    Ok(proxies)
}

fn all_proxies(configuration: &Configuration) -> impl Iterator<Item = Proxy> + '_ {
    configuration.nodes().filter(|(_, node)| node.name == "proxy_pass" && !node.is_block).filter_map(
        |(id, node)| {
            let value = node.arg(0)?;
            let (scheme, rest) = match value.split_once("://") {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some("http"), rest),
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some("https"), rest),
                Some(_) => (None, value),
                None => (None, value),
            };
            // A variable may follow the address directly: `http://127.0.0.1:3939$request_uri`.
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let authority = rest.get(..end).unwrap_or(rest);
            let authority = match authority.find('$') {
                Some(at)
                    if at > 0
                        && authority
                            .get(..at)
                            .is_some_and(|before| Endpoint::parse(before, None).is_some()) =>
                {
                    authority.get(..at).unwrap_or(authority)
                }
                _ => authority,
            };
            Some(Proxy { id, scheme, authority: authority.to_owned() })
        },
    )
}

/// The values that decide where `proxy` leads, of those that lead to one of the three wanted places.
fn values_of(configuration: &Configuration, wanted: &Wanted, proxy: &Proxy) -> Result<Vec<Value>, NoValue> {
    if let Some(block) = upstream_block(configuration, proxy) {
        return servers_of(configuration, wanted, proxy, block);
    }
    let default_port = proxy.scheme.map(|scheme| if scheme == "https" { 443 } else { 80 });
    let Some(endpoint) = Endpoint::parse(&proxy.authority, default_port) else { return Ok(Vec::new()) };
    let Some(leads) = leads(wanted, &endpoint) else { return Ok(Vec::new()) };
    let text = match proxy.scheme {
        Some(_) => {
            let value = configuration.node(proxy.id).arg(0).unwrap_or_default();
            let scheme_end = value.find("://").map_or(0, |at| at + 3);
            format!("{}{}", value.get(..scheme_end).unwrap_or_default(), proxy.authority)
        }
        None => proxy.authority.clone(),
    };
    let word = configuration.node(proxy.id).args.first();
    Ok(word.and_then(|word| value_in(configuration, proxy.id, word, text, leads, None)).into_iter().collect())
}

fn upstream_block(configuration: &Configuration, proxy: &Proxy) -> Option<NodeId> {
    let top = |id: NodeId| configuration.ancestors(id).last();
    configuration
        .nodes()
        .find(|(id, node)| {
            node.name == "upstream"
                && node.is_block
                && node.arg(0).is_some_and(|name| name.eq_ignore_ascii_case(&proxy.authority))
                && top(*id) == top(proxy.id)
        })
        .map(|(id, _)| id)
}

fn servers_of(
    configuration: &Configuration,
    wanted: &Wanted,
    proxy: &Proxy,
    block: NodeId,
) -> Result<Vec<Value>, NoValue> {
    let name = configuration.node(block).arg(0).unwrap_or_default().to_owned();
    let mut values = Vec::new();
    let mut others = Vec::new();
    for server in configuration.children(block, "server") {
        let node = configuration.node(server);
        let Some(word) = node.args.first() else { continue };
        // In http an upstream server without a port means 80; in stream nginx refuses it.
        let endpoint = Endpoint::parse(&word.value, proxy.scheme.map(|_| 80));
        match endpoint.and_then(|endpoint| leads(wanted, &endpoint)) {
            Some(leads) => {
                values.extend(value_in(
                    configuration,
                    server,
                    word,
                    word.value.clone(),
                    leads,
                    Some(name.clone()),
                ));
            }
            None if node.args.iter().any(|word| word.value == "down") => {}
            None => others.push(format!("`server {}` at {}", word.value, configuration.place(server))),
        }
    }
    if values.is_empty() {
        return Ok(values);
    }
    if !others.is_empty() {
        return Err(NoValue::OtherServers { block: name, there: others });
    }
    if proxy.scheme == Some("https") {
        return Err(NoValue::TlsToUpstream { there: vec![shown(configuration, proxy.id)] });
    }
    Ok(values)
}

fn leads(wanted: &Wanted, endpoint: &Endpoint) -> Option<Leads> {
    if wanted.source.is(endpoint) {
        Some(Leads::Source)
    } else if wanted.maintenance.same_place(endpoint) {
        Some(Leads::Maintenance)
    } else if wanted.upstream.same_place(endpoint) {
        Some(Leads::Target)
    } else {
        None
    }
}

/// `None` when the text does not stand in the file as such (an escape within an address: nobody writes that).
fn value_in(
    configuration: &Configuration,
    id: NodeId,
    word: &Word,
    text: String,
    leads: Leads,
    upstream_block: Option<String>,
) -> Option<Value> {
    let file = configuration.file(configuration.node(id).file);
    let raw = file.bytes.get(word.span.clone())?;
    let at = raw.windows(text.len()).position(|window| window == text.as_bytes())?;
    let start = word.span.start + at;
    Some(Value {
        file: file.real.clone(),
        place: configuration.place(id),
        span: start..start + text.len(),
        text,
        leads,
        upstream_block,
        proxies: Vec::new(),
    })
}

//! Which value is found in which configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use connect_migrator_route_nginx::conf::Configuration;
use connect_migrator_route_nginx::endpoint::{Endpoint, SourcePlace};
use connect_migrator_route_nginx::locate::{Leads, Value, Wanted, left_behind, locate};
use connect_migrator_route_nginx::stage::spliced;
use proptest::prelude::*;
use std::path::PathBuf;

struct Case {
    dir: tempfile::TempDir,
    wanted: Wanted,
}

/// `files` below a folder with an nginx.conf that includes conf.d and sites in its http block; the site is `sites/connect`.
fn case(files: &[(&str, &str)]) -> Case {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    std::fs::write(
        base.join("nginx.conf"),
        "events {}\nhttp {\n include conf.d/*.conf;\n include sites/*;\n}\n",
    )
    .unwrap();
    for (name, text) in files {
        let path = base.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let endpoint = |text| Endpoint::parse(text, None).unwrap();
    let wanted = Wanted {
        site: base.join("sites/connect"),
        server_name: None,
        source: SourcePlace::AnyLocal(3939),
        maintenance: endpoint("127.0.0.1:3941"),
        upstream: endpoint("127.0.0.1:3940"),
    };
    Case { dir, wanted }
}

impl Case {
    fn configuration(&self) -> Configuration {
        Configuration::read(&self.dir.path().canonicalize().unwrap().join("nginx.conf")).unwrap()
    }

    fn found(&self) -> Value {
        locate(&self.configuration(), &self.wanted).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The key and the text of the refusal.
    fn refused(&self) -> (&'static str, String) {
        let error = locate(&self.configuration(), &self.wanted).expect_err("is refused");
        assert!(!error.remedy().is_empty());
        let base = self.dir.path().canonicalize().unwrap();
        (error.key(), error.to_string().replace(&format!("{}/", base.display()), ""))
    }

    fn in_file(&self, value: &Value) -> (PathBuf, String) {
        let bytes = std::fs::read(&value.file).unwrap();
        let text = String::from_utf8(bytes[value.span.clone()].to_vec()).unwrap();
        let base = self.dir.path().canonicalize().unwrap();
        (value.file.strip_prefix(base).unwrap().into(), text)
    }
}

#[test]
fn the_one_value_is_found_however_it_is_written() {
    let cases = [
        ("proxy_pass http://127.0.0.1:3939;", "http://127.0.0.1:3939"),
        ("proxy_pass http://localhost:3939/;", "http://localhost:3939"),
        ("proxy_pass http://[::1]:3939/connect/;", "http://[::1]:3939"),
        ("proxy_pass HTTP://LocalHost:3939;", "HTTP://LocalHost:3939"),
        ("proxy_pass \"http://127.0.0.1:3939\";", "http://127.0.0.1:3939"),
        ("proxy_pass 'http://127.0.0.1:3939/a b';", "http://127.0.0.1:3939"),
        ("proxy_pass http://127.0.0.1:3939$request_uri;", "http://127.0.0.1:3939"),
        ("proxy_pass\n# not http://127.0.0.1:3939 but\n\thttp://127.0.0.1:3939 ;", "http://127.0.0.1:3939"),
        ("proxy_pass https://127.0.0.1:3939;", "https://127.0.0.1:3939"),
    ];
    for (directive, wanted) in cases {
        let text =
            format!("# proxy_pass http://127.0.0.1:3939;\nserver {{ location / {{ {directive} }} }}\n");
        let case = case(&[("sites/connect", &text)]);
        let value = case.found();
        assert_eq!(case.in_file(&value), ("sites/connect".into(), wanted.to_owned()), "{directive}");
        assert_eq!(value.leads, Leads::Source);
        assert_eq!(value.leading_to(&case.wanted.upstream), "http://127.0.0.1:3940");
        assert!(value.span.start > 35, "the comment is not the value");
    }
}

#[test]
fn an_upstream_block_holds_the_value_in_whatever_file_it_stands() {
    let case = case(&[
        (
            "conf.d/connect.conf",
            "upstream connect {\n  zone c 64k;\n  server 127.0.0.1:3939 max_fails=0; # ours\n  keepalive 8;\n}\n",
        ),
        (
            "sites/connect",
            "server { listen 80; location / { proxy_pass http://connect; } }\nserver { listen 443 ssl; location / { proxy_pass http://Connect/; } location /a { proxy_pass http://connect; } }\n",
        ),
    ]);
    let value = case.found();
    assert_eq!(case.in_file(&value), ("conf.d/connect.conf".into(), "127.0.0.1:3939".into()));
    assert_eq!(value.upstream_block.as_deref(), Some("connect"));
    assert_eq!(value.proxies.len(), 3);
    assert_eq!(value.leading_to(&case.wanted.maintenance), "127.0.0.1:3941");
    assert!(value.place.ends_with("conf.d/connect.conf:3"), "{}", value.place);
}

#[test]
fn the_value_may_stand_in_a_file_that_the_site_includes() {
    let case = case(&[
        ("snippets/proxy", "proxy_set_header Host $host;\nproxy_pass http://localhost:3939;\n"),
        (
            "sites/connect",
            "server { location / { include snippets/proxy; } location /b { include snippets/proxy; } }",
        ),
    ]);
    let value = case.found();
    assert_eq!(case.in_file(&value), ("snippets/proxy".into(), "http://localhost:3939".into()));
    assert_eq!(value.proxies.len(), 2, "one value, read twice");
}

#[test]
fn a_symbolic_link_to_the_site_is_the_site() {
    let mut case = case(&[
        ("sites-available/connect", "server { location / { proxy_pass http://127.0.0.1:3939; } }"),
        ("sites/x", ""),
    ]);
    let base = case.dir.path().canonicalize().unwrap();
    std::os::unix::fs::symlink("../sites-available/connect", base.join("sites/connect")).unwrap();
    case.wanted.site = base.join("sites/connect").canonicalize().unwrap();
    assert_eq!(case.in_file(&case.found()).0, PathBuf::from("sites-available/connect"));
}

#[test]
fn a_server_block_is_chosen_by_its_name() {
    let mut case = case(&[(
        "sites/connect",
        "server { server_name a.example.com; location / { proxy_pass http://127.0.0.1:3939; } }\n\
         server { server_name b.example.com c.example.com; location / { proxy_pass http://localhost:3939; } }\n",
    )]);
    let (key, text) = case.refused();
    assert_eq!(key, "route-ambiguous");
    assert_eq!(
        text,
        "more than one value leads to Connect: http://127.0.0.1:3939 at sites/connect:1; http://localhost:3939 at sites/connect:2"
    );
    case.wanted.server_name = Some("C.example.com".into());
    assert_eq!(case.in_file(&case.found()).1, "http://localhost:3939");
    let left = left_behind(&case.configuration(), &case.wanted, &case.found());
    assert_eq!(left.len(), 1, "the other one is told: {left:?}");
    assert!(left[0].starts_with("`proxy_pass http://127.0.0.1:3939` at "));
    case.wanted.server_name = Some("d.example.com".into());
    let (key, text) = case.refused();
    assert_eq!(key, "server-name-not-found");
    assert!(text.contains("it has a.example.com; b.example.com; c.example.com"), "{text}");
}

#[test]
fn other_sites_do_not_matter_but_are_told() {
    let case = case(&[
        (
            "sites/connect",
            "server { location / { proxy_pass http://127.0.0.1:3939; } location /app { proxy_pass http://127.0.0.1:8080; } }",
        ),
        ("sites/other", "server { location / { proxy_pass http://127.0.0.1:9000; } }"),
        ("sites/internal", "server { listen 8081; location / { proxy_pass http://localhost:3939; } }"),
    ]);
    let value = case.found();
    assert_eq!(case.in_file(&value).0, PathBuf::from("sites/connect"));
    let left = left_behind(&case.configuration(), &case.wanted, &value);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].contains("sites/internal:1"), "{left:?}");
}

#[test]
fn a_stream_server_is_found_and_its_upstreams_are_not_those_of_http() {
    let case = case(&[
        (
            "nginx.conf",
            "events {}\nstream { include streams/*; }\nhttp { include sites/*; upstream connect { server 127.0.0.1:1; } }\n",
        ),
        ("streams/up", "upstream connect { server 127.0.0.1:3939; }"),
        ("sites/other", ""),
        ("sites/connect", ""),
        ("streams/connect", "server { listen 80; proxy_pass connect; }"),
    ]);
    let mut case = case;
    case.wanted.site = case.dir.path().canonicalize().unwrap().join("streams/connect");
    assert_eq!(case.in_file(&case.found()), ("streams/up".into(), "127.0.0.1:3939".into()));
}

#[test]
fn what_cannot_be_changed_by_one_value_is_refused_with_its_place() {
    let up = |text| ("conf.d/up.conf", text);
    type Refused<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Refused<'_>; 9] = [
        (
            &[("sites/connect", "server {\nlocation / { proxy_pass http://127.0.0.1:8787; }\n}")],
            "route-not-found",
            "no `proxy_pass` of the site leads to port 3939 of this machine; there is `proxy_pass http://127.0.0.1:8787` at sites/connect:2",
        ),
        (&[("sites/connect", "server { return 404; }")], "route-not-found", "there is none at all"),
        (
            &[("sites/connect", "server { set $b http://127.0.0.1:3939; location / { proxy_pass $b; } }")],
            "route-variable",
            "the address comes from a variable: `proxy_pass $b` at sites/connect:1",
        ),
        (
            &[("sites/connect", "server { location / { proxy_pass http://$backend:3939; } }")],
            "route-variable",
            "`proxy_pass http://$backend:3939` at sites/connect:1",
        ),
        (
            &[(
                "sites/connect",
                "server { location / { proxy_pass http://127.0.0.1:3939; } location /x { proxy_pass http://127.0.0.1:3939; } }",
            )],
            "route-ambiguous",
            "more than one value leads to Connect: http://127.0.0.1:3939 at sites/connect:1; http://127.0.0.1:3939 at sites/connect:1",
        ),
        (
            &[
                up(
                    "upstream c { server 127.0.0.1:3939; server 10.1.2.3:3939 backup; server 10.1.2.4:3939 down; }",
                ),
                ("sites/connect", "server { location / { proxy_pass http://c; } }"),
            ],
            "route-other-servers",
            "the upstream block `c` also has `server 10.1.2.3:3939` at conf.d/up.conf:1",
        ),
        (
            &[
                up("upstream c { server 127.0.0.1:3939; }"),
                ("sites/connect", "server { location / { proxy_pass https://c; } }"),
            ],
            "route-tls-upstream",
            "nginx speaks TLS to Connect (`proxy_pass https://c` at sites/connect:1)",
        ),
        (
            &[
                up("upstream c { server localhost:3939; server 127.0.0.1:3939; }"),
                ("sites/connect", "server { location / { proxy_pass http://c; } }"),
            ],
            "route-ambiguous",
            "localhost:3939 at conf.d/up.conf:1; 127.0.0.1:3939 at conf.d/up.conf:1",
        ),
        (
            &[("available/connect", "server {}"), ("sites/x", "")],
            "site-not-read",
            "and no `include` leads to it",
        ),
    ];
    for (files, wanted_key, wanted_text) in cases {
        let mut case = case(files);
        if wanted_key == "site-not-read" {
            case.wanted.site = case.dir.path().canonicalize().unwrap().join("available/connect");
        }
        let (key, text) = case.refused();
        assert_eq!(key, wanted_key, "{text}");
        assert!(text.contains(wanted_text), "{text}");
    }
}

#[test]
fn the_value_is_known_again_after_each_change() {
    for (address, leads) in [("127.0.0.1:3941", Leads::Maintenance), ("localhost:3940", Leads::Target)] {
        let text = format!("server {{ location / {{ proxy_pass http://{address}; }} }}");
        let case = case(&[("sites/connect", &text)]);
        assert_eq!(case.found().leads, leads);
    }
}

/// What may stand between two words of a configuration.
fn gap() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![" ", "\t", "\n", "\r\n", "# http://127.0.0.1:3939 \" ' { } ;\n", "\n#\n"]),
        1..4,
    )
    // A `#` right after a word would be a part of it.
    .prop_map(|parts| format!("\t{}", parts.concat()))
}

/// Directives that have nothing to do with the route, and are easily taken for something else.
fn noise() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "",
        "set $x \"proxy_pass http://127.0.0.1:3939;\";",
        "add_header A 'it\\'s; { # ';",
        "if ($http_x ~ \"a{2}\") { return 403; }",
        "log_format x '${request} \\\\';",
        "location ~ \\.php$ { proxy_pass http://127.0.0.1:9000; }",
        "rewrite '^/a{1,2};$' /b;",
        "server_name a.example.com b\"c;",
        "content_by_lua_block { proxy_pass(\"http://127.0.0.1:3939\") -- }\n }",
    ])
    .prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn only_the_value_changes_in_whatever_surrounds_it(
        gaps in prop::collection::vec(gap(), 8),
        noises in prop::collection::vec(noise(), 3),
        quote in prop::sample::select(vec!["", "\"", "'"]),
        path in prop::sample::select(vec!["", "/", "/a/b"]),
    ) {
        let (g, n) = (&gaps, &noises);
        let before = format!("{}{}server{}{{{}{}location{}/{}{{{}proxy_pass{}{quote}", g[0], n[0], g[1], g[2], n[1], g[3], g[4], g[5], g[6]);
        let after = format!("{path}{quote}{};}}{}}}\n", g[7], n[2]);
        let case = case(&[("sites/connect", &format!("{before}http://127.0.0.1:3939{after}"))]);
        let value = case.found();
        prop_assert_eq!(value.leads, Leads::Source);
        let old = std::fs::read(&value.file).unwrap();
        let new = spliced(&old, vec![(value.span.clone(), value.leading_to(&case.wanted.upstream))]);
        prop_assert_eq!(String::from_utf8(new.clone()).unwrap(), format!("{before}http://127.0.0.1:3940{after}"));
        std::fs::write(&value.file, &new).unwrap();
        let again = case.found();
        prop_assert_eq!(again.leads, Leads::Target);
        prop_assert_eq!(spliced(&new, vec![(again.span, value.text)]), old);
    }
}

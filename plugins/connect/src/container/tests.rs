use super::database::{certificates_of, hosts_of};
use super::*;
use crate::installation::Places;
use connect_migrator_sdk::{Severity, Source};
use proptest::prelude::*;

struct Host {
    root: tempfile::TempDir,
    rules: ContainerRules,
}

fn image() -> ImageFacts {
    ImageFacts {
        codename: Some("noble".into()),
        r: vec!["4.5.2".into()],
        python: vec!["3.12.4".into()],
        quarto: vec!["1.8.24".into()],
        minimal: false,
    }
}

impl Host {
    fn new(network: Network) -> Self {
        let root = tempfile::tempdir().unwrap();
        let publish = Listen { host: "127.0.0.1".into(), port: 3940, tls: false };
        let rules =
            ContainerRules { image: Some(image()), ..ContainerRules::new(network, publish, root.path()) };
        Host { root, rules }
    }

    fn path(&self, name: &str) -> String {
        self.root.path().join(name).display().to_string()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn derive(&self, gcfg: &str) -> Derived {
        self.derive_with(gcfg, "")
    }

    fn derive_with(&self, gcfg: &str, environment: &str) -> Derived {
        self.file("rstudio-connect.gcfg", gcfg);
        self.file("default", environment);
        let source = Source {
            config: self.root.path().join("rstudio-connect.gcfg"),
            install_dir: self.root.path().join("none"),
            ..Source::default()
        };
        let places = Places {
            environment_file: self.root.path().join("default"),
            unit_dirs: vec![self.root.path().join("units")],
        };
        derive(&Installation::read_at(&source, &places).unwrap(), &self.rules).unwrap()
    }
}

fn diff(derived: &Derived) -> String {
    let (before, after) = (derived.shown_before(), derived.shown_after());
    let old: Vec<&str> = before.lines().collect();
    let new: Vec<&str> = after.lines().collect();
    let lost = old.iter().filter(|l| !new.contains(l)).map(|l| format!("-{l}"));
    let gained = new.iter().filter(|l| !old.contains(l)).map(|l| format!("+{l}"));
    lost.chain(gained).collect::<Vec<_>>().join("\n")
}

fn finding<'a>(derived: &'a Derived, key: &str) -> &'a Finding {
    derived
        .findings
        .iter()
        .find(|f| f.key == key)
        .unwrap_or_else(|| panic!("no {key} in {:#?}", derived.findings))
}

const PLAIN: &str = "[Server]\nDataDir = /mnt/connect\nAddress = https://c.example.com\n[HTTP]\nListen = :3939\n\
    [Database]\nProvider = postgres\n[Postgres]\nURL = postgres://c@db.example.com/connect\n\
    [Logging]\nServiceLog = STDOUT\nAccessLog = STDERR\n";

#[test]
fn a_configuration_that_fits_is_not_changed() {
    let derived = Host::new(Network::Bridge).derive(PLAIN);
    assert_eq!(derived.changes, []);
    assert_eq!(derived.gcfg.as_str(), PLAIN);
    let mounts: Vec<_> = derived.mounts.iter().map(|m| (m.host.to_str().unwrap(), m.read_only)).collect();
    assert_eq!(mounts, [("/mnt/connect", false)]);
    assert!(derived.findings.iter().all(|f| f.severity == Severity::Ok), "{:#?}", derived.findings);
}

#[test]
fn what_belongs_to_the_host_is_changed_and_nothing_else() {
    let derived = Host::new(Network::Bridge).derive(concat!(
        "; ours\n[Server]\nDataDir = /mnt/connect ; the share\nRVersion = /opt/R/4.3.1\n",
        "[HTTP]\nListen = 127.0.0.1:80 ; local\n[Database]\nProvider = postgres\n[Postgres]\n",
        "URL = postgres://c:secret1@db.example.com/connect\nPassword = secret2\n",
        "[R]\nExecutable = /opt/R/4.3.1/bin/R\nExecutable = /opt/R/4.5.2/bin/R ; new\nExecutable = /usr/bin/R\n",
        "[Python]\nEnabled = true\nExecutable = /opt/python/3.9.5/bin/python\n[Quarto]\nEnabled = yes\n",
        "[RPackageRepository \"CRAN\"]\nURL = https://p3m.dev/cran/__linux__/jammy/latest\n",
        "[Logging]\nServiceLog = /var/log/x.log\nAuditLog = /var/log/a.log\n",
    ));
    insta::assert_snapshot!(diff(&derived), @r#"
    -RVersion = /opt/R/4.3.1
    -Listen = 127.0.0.1:80 ; local
    -Executable = /opt/R/4.3.1/bin/R
    -Executable = /usr/bin/R
    -Executable = /opt/python/3.9.5/bin/python
    -URL = https://p3m.dev/cran/__linux__/jammy/latest
    -ServiceLog = /var/log/x.log
    -AuditLog = /var/log/a.log
    +RVersion = /opt/R/4.5.2
    +Listen = :3939 ; local
    +Executable = /opt/python/3.12.4/bin/python
    +Executable = /opt/quarto/1.8.24/bin/quarto
    +URL = https://p3m.dev/cran/__linux__/noble/latest
    +ServiceLog = STDOUT
    +AuditLog = STDOUT
    +AccessLog = STDOUT
    "#);
    assert_eq!(derived.gcfg.get_all("R", None, "Executable"), ["/opt/R/4.5.2/bin/R"]);
    assert_eq!(finding(&derived, "interpreter-r").severity, Severity::Warning);
    assert!(finding(&derived, "interpreter-python").text.contains("3.9.5"));
    assert_eq!(finding(&derived, "interpreter-quarto").severity, Severity::Ok);
    let shown = format!("{}{}{:?}", derived.shown_before(), derived.shown_after(), derived.changes);
    assert!(!shown.contains("secret1") && !shown.contains("secret2"), "{shown}");
    assert!(String::from_utf8(derived.gcfg.to_bytes()).unwrap().contains("secret2"));
}

#[test]
fn on_the_hosts_network_it_listens_where_it_is_published() {
    let derived = Host::new(Network::Host).derive(PLAIN);
    assert_eq!(derived.gcfg.get("HTTP", None, "Listen").as_deref(), Some("127.0.0.1:3940"));
}

#[test]
fn a_database_on_this_machine_needs_the_hosts_network() {
    for url in [
        "postgres://c@localhost/x",
        "postgres://c:p@127.0.0.1:5432/x",
        "postgres:///x",
        "postgres://c@[::1]/x",
    ] {
        let gcfg = PLAIN.replace("postgres://c@db.example.com/connect", url);
        let found = Host::new(Network::Bridge).derive(&gcfg);
        assert_eq!(finding(&found, "database-loopback").severity, Severity::Blocker, "{url}");
        assert!(
            !Host::new(Network::Host).derive(&gcfg).findings.iter().any(|f| f.key == "database-loopback")
        );
    }
}

#[test]
fn names_of_the_hosts_own_table_go_along() {
    let host = Host::new(Network::Bridge);
    host.file("hosts", "10.1.2.3 DB.example.com db # old\n127.0.1.1 me\n");
    let derived = host.derive(PLAIN);
    assert_eq!(derived.extra_hosts, [("DB.example.com".to_string(), "10.1.2.3".to_string())]);
    let derived = host.derive(&PLAIN.replace("db.example.com", "me"));
    assert_eq!(finding(&derived, "database-loopback").severity, Severity::Blocker);
}

#[test]
fn a_database_on_this_machine_is_not_reached_from_a_network_of_its_own() {
    for (url, here) in [
        ("postgres://u@localhost/d", true),
        ("postgres://u@127.0.0.1:5432/d", true),
        ("postgres://u@/d?host=/var/run/postgresql", false),
        ("postgres://u@db.example.com/d", false),
    ] {
        assert_eq!(database_is_on_loopback(url), here, "{url}");
    }
}

#[test]
fn hosts_of_a_database_url_are_found() {
    for (url, hosts) in [
        ("postgres://u:p@h:1/d?sslmode=disable", &["h"][..]),
        ("postgres://u:p/w@x@h/d", &["h"]),
        ("postgres://u@a:1,b:2/d", &["a", "b"]),
        ("postgresql://u@/d?host=/var/run/postgresql", &["/var/run/postgresql"]),
        ("postgres://u@%2Fvar%2Frun/d", &["/var/run"]),
        ("postgres://u@[fe80::1]:1/d", &["fe80::1"]),
        ("postgres:///d", &["localhost"]),
    ] {
        assert_eq!(hosts_of(url), hosts, "{url}");
    }
}

#[test]
fn a_socket_and_folders_outside_the_data_directory_are_mounted() {
    let host = Host::new(Network::Bridge);
    let secrets = host.path("secrets");
    let metrics = host.path("metrics");
    std::fs::create_dir(&metrics).unwrap();
    let derived = host.derive(&format!(
        "{}[Database]\nDir = {secrets}\n[Metrics]\nDataPath = {metrics}\n",
        PLAIN.replace("c@db.example.com/connect", "c@/x?host=/var/run/postgresql")
    ));
    let mounts: Vec<_> = derived.mounts.iter().map(|m| (m.host.display().to_string(), m.read_only)).collect();
    assert_eq!(
        mounts,
        [
            ("/mnt/connect".to_string(), false),
            (secrets, false),
            (metrics, false),
            ("/var/run/postgresql".to_string(), true)
        ]
    );
}

#[test]
fn files_that_the_configuration_names_are_mounted_read_only() {
    let host = Host::new(Network::Bridge);
    let key = host.file("tls/key.pem", "x");
    let landing = host.path("tls");
    let derived = host.derive(&format!(
        "{PLAIN}[HTTPS]\nListen = :3939\nKey = {key}\nCertificate = /nowhere/cert.pem\n[Branding]\nDir = /usr/share\n[X]\nY = /etc\n[Server]\nLandingDir = {landing}\n"
    ));
    assert!(derived.mounts.iter().any(|m| m.host.to_str() == Some(&key) && m.read_only));
    assert!(derived.mounts.iter().any(|m| m.host.to_str() == Some(&landing) && m.read_only));
    assert!(!derived.mounts.iter().any(|m| m.host.starts_with("/usr") || m.host == Path::new("/etc")));
    assert_eq!(finding(&derived, "files-not-mounted").severity, Severity::Warning);
    // The listener with TLS makes room for the published one.
    assert_eq!(finding(&derived, "tls-in-connect").severity, Severity::Warning);
    assert_eq!(derived.gcfg.get("HTTPS", None, "Listen").as_deref(), Some(":3443"));
}

#[test]
fn variables_go_along_but_secrets_go_into_the_file() {
    let derived = Host::new(Network::Bridge).derive_with(
        PLAIN,
        "CONNECT_POSTGRES_PASSWORD=hunter2\nCONNECT_SERVER_EMAILPROVIDER=none\nCONNECT_HTTP_LISTEN=127.0.0.1:1\n\
         LD_LIBRARY_PATH=/x\nCONNECT_API_KEY=abc\nCONNECT_LOADING_URL=http://u:p4ss@h/\n",
    );
    assert_eq!(derived.gcfg.get("Postgres", None, "Password").as_deref(), Some("hunter2"));
    assert_eq!(derived.gcfg.get("Loading", None, "URL").as_deref(), Some("http://u:p4ss@h/"));
    // The variable would win over the file.
    assert!(!derived.environment.contains_key("CONNECT_HTTP_LISTEN"));
    assert_eq!(derived.environment.keys().collect::<Vec<_>>(), ["CONNECT_SERVER_EMAILPROVIDER"]);
    assert!(finding(&derived, "environment-file").text.contains("LD_LIBRARY_PATH"));
    assert!(!format!("{:?}{}", derived.changes, derived.shown_after()).contains("hunter2"));
}

#[test]
fn an_image_that_tells_nothing_is_a_warning_and_one_without_interpreters_a_blocker() {
    let mut host = Host::new(Network::Bridge);
    let gcfg = format!("{PLAIN}[Python]\nEnabled = true\nExecutable = /opt/python/3.9.5/bin/python\n");
    host.rules.image = Some(ImageFacts::default());
    assert_eq!(finding(&host.derive(&gcfg), "interpreter-python").severity, Severity::Warning);
    host.rules.image = Some(ImageFacts { minimal: true, ..ImageFacts::default() });
    assert_eq!(finding(&host.derive(&gcfg), "interpreter-python").severity, Severity::Blocker);
    // Nothing is known yet: nothing is changed and nothing claimed.
    host.rules.image = None;
    let derived = host.derive(&gcfg);
    assert!(derived.changes.is_empty() && derived.findings.is_empty(), "{derived:#?}");
}

#[test]
fn the_second_configuration_file_blocks_when_it_says_something_of_its_own() {
    let host = Host::new(Network::Bridge);
    for (text, severity) in [
        ("[http]\nlisten = :3939\n", Severity::Warning),
        ("[HTTP]\nListen = :80\n", Severity::Blocker),
        ("[HTTP\n", Severity::Blocker),
    ] {
        host.file("rstudio-connect-migration.gcfg", text);
        assert_eq!(finding(&host.derive(PLAIN), "migration-config").severity, severity, "{text}");
    }
}

#[test]
fn host_users_drop_ins_and_odbc_are_pointed_out() {
    let host = Host::new(Network::Bridge);
    host.file("odbc.ini", "x");
    host.file("units/rstudio-connect.service.d/a.conf", "[Service]\nEnvironment=A=b\n");
    let derived = host.derive(&format!("{PLAIN}[Authentication]\nProvider = PAM\n"));
    for key in ["host-files", "environment-drop-in", "authentication-pam"] {
        assert_eq!(finding(&derived, key).severity, Severity::Warning);
    }
}

#[test]
fn the_default_keytab_is_pointed_out_where_there_is_one() {
    let host = Host::new(Network::Bridge);
    assert!(!host.derive(PLAIN).findings.iter().any(|f| f.key == "host-files"));
    let keytab = host.file("krb5.keytab", "x");
    let derived = host.derive(PLAIN);
    let found = finding(&derived, "host-files");
    assert!(found.severity == Severity::Warning && found.text.contains(&keytab), "{found:?}");
}

#[test]
fn profiles_of_the_hosts_r_are_pointed_out_where_they_do_anything() {
    let host = Host::new(Network::Bridge);
    let used = host.file("R/4.3.1/lib/R/etc/Rprofile.site", "# ours\noptions(repos = \"https://cran\")\n");
    host.file("R/4.4.0/lib/R/etc/Rprofile.site", "## nothing\n\n");
    let unused = host.file("R/3.6.0/lib/R/etc/Rprofile.site", "options()\n");
    let of_distribution = host.file("R/Rprofile.site", "options()\n");
    let named = format!(
        "{PLAIN}[R]\nExecutable = {}\nExecutable = {}\n",
        host.path("R/4.3.1/bin/R"),
        host.path("R/4.4.0/bin/R")
    );
    let derived = host.derive(&named);
    let found = finding(&derived, "r-profile");
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.text.contains(&used) && found.text.contains(&of_distribution), "{found:?}");
    assert!(!found.text.contains("4.4.0") && !found.text.contains(&unused), "{found:?}");

    // Where none is named Connect takes all that are there.
    let mut host = host;
    host.rules.r_folder = host.root.path().join("R");
    let derived = host.derive(PLAIN);
    assert!(finding(&derived, "r-profile").text.contains(&unused), "{:?}", derived.findings);
}

#[test]
fn labels_of_the_images_are_read() {
    let labels = |name: &str| match name {
        "co.posit.image.os" => Some("Ubuntu 24.04"),
        "co.posit.image.tools.R" => Some("4.5.2, 4.4.3"),
        "co.posit.image.variant" => Some("Standard"),
        _ => None,
    };
    let facts = ImageFacts::from_labels(labels);
    assert_eq!((facts.codename.as_deref(), facts.r.len(), facts.minimal), (Some("noble"), 2, false));
    for (os, name) in [
        ("ubuntu-22.04", Some("jammy")),
        ("Debian 12", Some("bookworm")),
        ("Red Hat Enterprise Linux 9", Some("rhel9")),
        ("Rocky 9.4", Some("rhel9")),
        ("Alpine 3", None),
        ("", None),
    ] {
        assert_eq!(codename(os).as_deref(), name, "{os}");
    }
}

proptest! {
    #[test]
    fn deriving_twice_changes_nothing_more(
        listen in prop_oneof![Just(":3939"), Just("127.0.0.1:3939"), Just(":80")],
        r in prop::collection::vec(prop_oneof![Just("/opt/R/4.5.2/bin/R"), Just("/opt/R/4.1.0/bin/R"), Just("/usr/bin/R")], 0..4),
        log in prop_oneof![Just("STDOUT"), Just("/var/log/x")],
        host_network in any::<bool>(),
    ) {
        let host = Host::new(if host_network { Network::Host } else { Network::Bridge });
        let executables: String = r.iter().map(|path| format!("Executable = {path}\n")).collect();
        let gcfg = format!("[HTTP]\nListen = {listen}\n[R]\n{executables}[Logging]\nServiceLog = {log}\n");
        let once = host.derive(&gcfg);
        let twice = host.derive(once.gcfg.as_str());
        prop_assert_eq!(&twice.changes, &[]);
        prop_assert_eq!(once.gcfg.as_str(), twice.gcfg.as_str());
        let unique: std::collections::BTreeSet<_> = once.findings.iter().map(|f| &f.key).collect();
        prop_assert_eq!(unique.len(), once.findings.len());
    }
}

#[test]
fn certificates_that_a_database_url_names_are_found() {
    let url = "postgres://c@h/d?sslmode=verify-full&sslrootcert=/etc/ssl/my%20ca.pem&sslkey=relative";
    assert_eq!(certificates_of(url), [("sslrootcert", "/etc/ssl/my ca.pem".to_owned())]);
    assert_eq!(certificates_of("postgres://c@h/d"), []);
}

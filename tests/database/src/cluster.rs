//! A PostgreSQL server of our own, on loopback, with TLS.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// The user of every database; not a superuser.
pub const USER: &str = "connect";
/// Its password.
pub const PASSWORD: &str = "p@ss;w#rd $/%";

/// A running server; ends when the last one is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

impl Cluster {
    /// The server that all tests of this process share. `None` where none is installed, said aloud.
    #[must_use]
    pub fn shared() -> Option<Arc<Cluster>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Some(running);
        }
        let started = Arc::new(Cluster::start(true)?);
        *shared = Arc::downgrade(&started);
        Some(started)
    }

    /// Starts a server, with or without TLS.
    #[must_use]
    pub fn start(tls: bool) -> Option<Cluster> {
        let mut installed: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .map(|entries| entries.flatten().map(|e| e.path().join("bin")).collect())
            .unwrap_or_default();
        installed.retain(|bin| bin.join("initdb").exists());
        installed.sort();
        let Some(bin) = installed.pop() else {
            println!("SKIPPED: no /usr/lib/postgresql/*/bin/initdb on this machine (apt install postgresql)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Cluster { dir, bin, port };
        let data = cluster.file("pg");
        cluster.run("initdb", &["-D", &data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]);
        let mut options = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\npassword_encryption = 'scram-sha-256'\n",
            cluster.dir.path().display()
        );
        if tls {
            cluster.certificates();
            options.push_str(&format!(
                "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\n",
                cluster.file("server.pem"),
                cluster.file("server.key")
            ));
        }
        let conf = format!("{data}/postgresql.conf");
        let text = std::fs::read_to_string(&conf).unwrap() + &options;
        std::fs::write(&conf, text).unwrap();
        let kind = if tls { "hostssl" } else { "host" };
        std::fs::write(
            format!("{data}/pg_hba.conf"),
            format!("local all postgres trust\n{kind} all all 127.0.0.1/32 scram-sha-256\n"),
        )
        .unwrap();
        let log = cluster.file("pg.log");
        cluster.run("pg_ctl", &["-D", &data, "-w", "-t", "60", "-l", &log, "start"]);
        cluster.sql("postgres", &format!("CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'"));
        Some(cluster)
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// The certificate of the authority that signed the server's.
    #[must_use]
    pub fn authority(&self) -> String {
        self.file("ca.pem")
    }

    fn certificates(&self) {
        let openssl = |args: &str| {
            let words: Vec<&str> = args.split_whitespace().collect();
            let status = Command::new("openssl")
                .args(words)
                .current_dir(self.dir.path())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            assert!(status.unwrap().success(), "openssl {args}");
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {key} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"));
        openssl(&format!("req {key} -subj /CN=localhost -keyout server.key -out server.csr"));
        std::fs::write(self.file("ext"), "subjectAltName=DNS:localhost\n").unwrap();
        openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem",
        );
        openssl(&format!("req -x509 {key} -days 2 -subj /CN=other -keyout other.key -out other.pem"));
        std::fs::set_permissions(self.file("server.key"), PermissionsExt::from_mode(0o600)).unwrap();
        if nix::unistd::Uid::effective().is_root() {
            let user = nix::unistd::User::from_name("postgres").unwrap().unwrap();
            std::os::unix::fs::chown(
                self.file("server.key"),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .unwrap();
        }
    }

    /// A certificate that has nothing to do with the server.
    #[must_use]
    pub fn other_authority(&self) -> String {
        self.file("other.pem")
    }

    /// PostgreSQL refuses to run as root: then it runs as the user that its package made.
    fn run(&self, program: &str, args: &[&str]) {
        let path = self.bin.join(program);
        let mut command = if nix::unistd::Uid::effective().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        let status = command.args(args).current_dir(self.dir.path()).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{program} {args:?}");
    }

    /// Runs SQL as the superuser; answers what psql prints.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string(), "-U", "postgres", "-d", database, "-c", sql])
            .output()
            .unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Somebody who is connected and does nothing, until the value goes away.
    #[must_use]
    pub fn session(&self, database: &str, user: &str) -> Connected {
        let host = if user == USER { "localhost".into() } else { self.dir.path().to_owned() };
        let child = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-h"])
            .arg(host)
            .args(["-p", &self.port.to_string(), "-U", user, "-d", database])
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let connected = Connected(child);
        let there = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' AND datname = '{database}' AND pid <> pg_backend_pid()"
        );
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.sql(database, &there) == "0" {
            assert!(Instant::now() < deadline, "{user} does not get into {database}");
            std::thread::sleep(Duration::from_millis(20));
        }
        connected
    }

    /// A shell command that runs SQL as the superuser.
    #[must_use]
    pub fn psql(&self, database: &str, sql: &str) -> String {
        format!(
            "{} -X -q -h {} -p {} -U postgres -d {database} -c \"{sql}\"",
            self.bin.join("psql").display(),
            self.dir.path().display(),
            self.port
        )
    }

    /// A fresh database of [`USER`]'s and its URL, which has the certificate checked.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {USER}"));
        self.url(name, &format!("sslmode=verify-full&sslrootcert={}", self.authority()))
    }

    /// A URL with options.
    #[must_use]
    pub fn url(&self, database: &str, options: &str) -> String {
        format!("postgres://{USER}@localhost:{}/{database}?{options}", self.port)
    }

    /// What stands in a database: tables with their rows.
    #[must_use]
    pub fn tables(&self, database: &str) -> Vec<String> {
        let names = self.sql(
            database,
            "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'public' AND relkind IN ('r', 'v', 'S')",
        );
        names.split_whitespace().map(str::to_owned).collect()
    }

    /// The folder of the server's socket, log and certificates.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// A program that is connected to a database.
#[derive(Debug)]
pub struct Connected(std::process::Child);

impl Drop for Connected {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.file("pg");
        self.run("pg_ctl", &["-D", &data, "-w", "-m", "immediate", "stop"]);
    }
}

use super::*;
use std::os::unix::fs::PermissionsExt;

struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new(gcfg: &str, environment: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("c.gcfg"), gcfg).unwrap();
        std::fs::write(root.path().join("default"), environment).unwrap();
        Host { root }
    }

    fn program(self, script: &str) -> Self {
        let bin = self.root.path().join("opt/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("connect"), script).unwrap();
        std::fs::set_permissions(bin.join("connect"), PermissionsExt::from_mode(0o755)).unwrap();
        self
    }

    fn read(&self) -> Result<Installation, InstallationError> {
        let root = self.root.path();
        let source =
            Source { config: root.join("c.gcfg"), install_dir: root.join("opt"), ..Source::default() };
        let places = Places { environment_file: root.join("default"), unit_dirs: vec![root.join("units")] };
        Installation::read_at(&source, &places)
    }
}

#[test]
fn an_empty_file_means_the_documented_defaults() {
    let read = Host::new("", "").read().unwrap();
    assert_eq!(read.data_dir, Path::new("/var/lib/rstudio-connect"));
    assert_eq!(read.secret_key_path(), Path::new("/var/lib/rstudio-connect/db/secret.key"));
    assert_eq!(read.database_provider, DatabaseProvider::Sqlite);
    assert_eq!(read.local_url(), "http://127.0.0.1:3939");
    assert_eq!(read.run_as, "rstudio-connect");
    assert_eq!(read.version, None);
}

#[test]
fn the_file_is_followed_and_the_environment_wins() {
    let gcfg = "[Server]\nDataDir = /mnt/a\nAddress = https://c\n[Database]\nProvider = Postgres\n[HTTP]\nListen = :80\n";
    let environment =
        "# note\nCONNECT_SERVER_DATADIR=\"/mnt/b c\"\nCONNECT_HTTP_LISTEN='[::1]:3940'\nnonsense\n";
    let read =
        Host::new(gcfg, environment).program("#!/bin/sh\necho 'Posit Connect v2026.03.1'\n").read().unwrap();
    assert_eq!(read.data_dir, Path::new("/mnt/b c"));
    assert_eq!(read.database_dir, Path::new("/mnt/b c/db"));
    assert_eq!(read.database_provider, DatabaseProvider::Postgres);
    assert_eq!(read.local_url(), "http://[::1]:3940");
    assert!(read.listen.is_loopback());
    assert_eq!(read.address.as_deref(), Some("https://c"));
    assert_eq!(read.version.unwrap().to_string(), "2026.03.1");
}

#[test]
fn only_https_means_https() {
    let read = Host::new("[HTTPS]\nListen = 0.0.0.0:443\n", "").read().unwrap();
    assert_eq!(read.local_url(), "https://127.0.0.1:443");
}

#[test]
fn what_cannot_be_read_is_named() {
    let host = Host::new("[Server]\nDataDir = relative\n", "");
    assert!(host.read().unwrap_err().to_string().contains("Server.DataDir"));
    let host = Host::new("[HTTP]\nListen = 3939\n", "");
    assert!(host.read().unwrap_err().to_string().contains("HTTP.Listen"));
    let host = Host::new("[Server]\nDataDir /x\n", "");
    assert!(host.read().unwrap_err().to_string().contains("line 2, column 9"));
    std::fs::remove_file(host.root.path().join("c.gcfg")).unwrap();
    assert!(matches!(host.read().unwrap_err(), InstallationError::Unreadable { .. }));
}

#[test]
fn drop_ins_with_environment_are_found() {
    let host = Host::new("", "");
    let dir = host.root.path().join("units/rstudio-connect.service.d");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("a.conf"), "[Service]\nEnvironment=LD_LIBRARY_PATH=/x\n").unwrap();
    std::fs::write(dir.join("b.conf"), "[Service]\nLimitNOFILE=1\n").unwrap();
    assert_eq!(host.read().unwrap().environment_drop_ins, [dir.join("a.conf")]);
}

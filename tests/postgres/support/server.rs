//! The server: made, started and stopped once for all tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use super::daemon::{self, Daemon, free_port};

/// Password of every role. No output of ours may ever hold it.
pub const PASSWORD: &str = "never-print-me-9d1f";

/// Roles: `synapse` owns the databases; `stranger` is somebody else; `unwelcome` is refused by pg_hba.conf.
const ROLES: &str = "CREATE ROLE synapse LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE unwelcome LOGIN;";

/// Who may come in: everybody with a password over the loopback, the tests themselves without.
const PG_HBA: &str = "\
local all         postgres                trust
local replication postgres                trust
host  all         unwelcome 127.0.0.1/32  reject
host  all         all       127.0.0.1/32  scram-sha-256
";

/// A running PostgreSQL.
pub struct Server {
    daemon: Daemon,
    programs: PathBuf,
    pub port: u16,
}

/// The server that all tests share.
pub fn server() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(Server::make);
    // Statics are never dropped: the guardian sees the end of this process.
    &SERVER
}

impl Server {
    fn make() -> Self {
        let programs = programs();
        let directory = daemon::new_directory();
        let path = |name: &str| directory.join(name).display().to_string();
        write_certificates(&directory);
        let initdb = programs.join("initdb").display().to_string();
        let data = path("data");
        let locale = ["--encoding=UTF8", "--locale=C", "--username=postgres", "--auth=trust", "--no-sync"];
        daemon::run(&[&[initdb.as_str(), "-D", &data], locale.as_slice()].concat());
        fs::write(directory.join("data/pg_hba.conf"), PG_HBA).expect("pg_hba.conf");
        let ssl = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", path("server.crt")),
            format!("ssl_key_file={}", path("server.key")),
        ];
        let server = Self::start(directory, programs, &ssl);
        let passwords =
            ["synapse", "stranger", "unwelcome"].map(|role| format!("ALTER ROLE {role} PASSWORD '{PASSWORD}';"));
        server.psql("postgres", &format!("{ROLES}{}", passwords.concat()));
        server
    }

    /// Runs SQL as the superuser.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let (socket, port) = (self.socket(), self.port.to_string());
        let psql = self.program("psql");
        daemon::run(&[
            &psql,
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            &socket,
            "-p",
            &port,
            "-U",
            "postgres",
            "-d",
            database,
            "-c",
            sql,
        ])
    }

    fn start(directory: PathBuf, programs: PathBuf, settings: &[String]) -> Self {
        let port = free_port();
        let mut command = vec![
            programs.join("postgres").display().to_string(),
            "-D".to_owned(),
            directory.join("data").display().to_string(),
        ];
        // No autovacuum: a test decides itself when something is vacuumed.
        let common = ["listen_addresses=127.0.0.1", "fsync=off", "autovacuum=off", "max_connections=200"];
        let own = [format!("port={port}"), format!("unix_socket_directories={}", directory.display())];
        for setting in common.map(str::to_owned).iter().chain(&own).chain(settings) {
            command.extend(["-c".to_owned(), setting.clone()]);
        }
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let server = Self { daemon: Daemon::start(directory, "INT", &words), programs, port };
        server.wait();
        server
    }

    fn wait(&self) {
        let ready = self.program("pg_isready");
        let started = Instant::now();
        while !Command::new(&ready)
            .args(["-q", "-h", &self.socket(), "-p", &self.port.to_string()])
            .status()
            .unwrap()
            .success()
        {
            assert!(started.elapsed() < Duration::from_secs(60), "PostgreSQL did not start:\n{}", self.daemon.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A hot standby of this server. It offers no TLS.
    pub fn standby(&self) -> Self {
        let directory = daemon::new_directory();
        let data = directory.join("data").display().to_string();
        let (socket, port) = (self.socket(), self.port.to_string());
        daemon::run(&[
            &self.program("pg_basebackup"),
            "-D",
            &data,
            "-h",
            &socket,
            "-p",
            &port,
            "-U",
            "postgres",
            "-c",
            "fast",
            "-R",
            "--no-sync",
        ]);
        Self::start(directory, self.programs.clone(), &["ssl=off".to_owned()])
    }

    /// The directory of its Unix socket.
    pub fn socket(&self) -> String {
        self.daemon.directory.display().to_string()
    }

    /// The authority that signed its certificate, which is for `localhost` alone.
    pub fn ca_file(&self) -> String {
        self.daemon.directory.join("ca.crt").display().to_string()
    }

    /// A program of its version.
    pub fn program(&self, name: &str) -> String {
        self.programs.join(name).display().to_string()
    }
}

/// The newest PostgreSQL of this machine.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL's programs (Debian package postgresql)");
    let newest = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).max();
    PathBuf::from(format!("/usr/lib/postgresql/{}/bin", newest.expect("a version of PostgreSQL")))
}

fn write_certificates(directory: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &ca).expect("a certificate");
    let other = CertifiedIssuer::self_signed(CertificateParams::default(), KeyPair::generate().expect("a key"));
    for (name, text) in [
        ("ca.crt", ca.pem()),
        ("other-ca.crt", other.expect("an authority").pem()),
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        fs::write(directory.join(name), text).expect(name);
    }
    // PostgreSQL refuses a key that others may read.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(directory.join("server.key"), mode).expect("the key's mode");
    assert!(
        !rustix::process::geteuid().is_root() || {
            Command::new("chown").args(["-R", "postgres:postgres"]).arg(directory).status().unwrap().success()
        }
    );
}

//! The server: made, started and stopped once for all tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    authority::certificate_for,
    daemon::{self, Daemon, Volume, free_port},
    eventually, setup,
};

/// Password of every role. No output of ours may ever hold it.
pub const PASSWORD: &str = "never-print-me-9d1f";

/// Roles: `synapse` owns the databases, `mas` those of the Matrix Authentication Service; `stranger` is somebody else;
/// `unwelcome` is refused by pg_hba.conf; `databases` may make and rename databases of `synapse` and `mas`.
const ROLES: &str = "CREATE ROLE synapse LOGIN; CREATE ROLE mas LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE unwelcome LOGIN; \
                     CREATE ROLE databases LOGIN CREATEDB; GRANT synapse, mas TO databases;";

/// Who may come in: everybody with a password over the loopback, the tests themselves without, and so the roles of a drill, whose
/// PostgreSQL asks nobody for a password.
const PG_HBA: &str = "\
local all         postgres,synapse_keeper_drill,synapse_keeper_drill_admin trust
local replication postgres                trust
host  all         unwelcome 127.0.0.1/32  reject
host  all         all       127.0.0.1/32  scram-sha-256
";

/// The file with the number of its first process.
const PROCESS: &str = "process";

/// A running PostgreSQL.
pub struct Server {
    daemon: Daemon,
    programs: PathBuf,
    /// What it was started with.
    command: Vec<String>,
    volume: Option<Volume>,
    pub port: u16,
}

/// The server that all tests share.
pub fn server() -> &'static Server {
    static SERVER: LazyLock<&Server> = LazyLock::new(|| Server::of_its_own(&[]));
    &SERVER
}

/// One that speaks German, which tests share: what it refuses is told by its SQLSTATE and not by its words.
pub fn german_server() -> &'static Server {
    static SERVER: LazyLock<&Server> = LazyLock::new(|| Server::of_its_own_in_german(&[]));
    &SERVER
}

impl Server {
    /// One for a test that would get into the way of others, or they into its. It lives as long as this process: the
    /// guardian sees its end.
    pub fn of_its_own(settings: &[&str]) -> &'static Self {
        Box::leak(Box::new(Self::make(settings, None, &[])))
    }

    /// The same, and it speaks German. gettext takes the language of this variable for every locale but C. A newer glibc (seen with
    /// 2.41), which the programs of another Debian bring along, does not take it for C.UTF-8 either: those speak English here, too.
    pub fn of_its_own_in_german(settings: &[&str]) -> &'static Self {
        let settings = [settings, &["lc_messages=C.UTF-8"]].concat();
        let server = Box::leak(Box::new(Self::make(&settings, None, &["/usr/bin/env", "LANGUAGE=de"])));
        let is_german = server.daemon.log().contains("Datenbanksystem");
        assert!(is_german || std::env::var_os("POSTGRES_MAJOR").is_some(), "it has no German: {}", server.daemon.log());
        server
    }

    /// One with a small disk in the place of this directory: `data/pg_wal`, a new one for a tablespace, or `data`. Then the WAL is
    /// elsewhere.
    pub fn on_a_small_disk(directory: &str, megabytes: u32, settings: &[&str]) -> &'static Self {
        Box::leak(Box::new(Self::make(settings, Some((directory, megabytes)), &[])))
    }

    fn make(settings: &[&str], small_disk: Option<(&str, u32)>, prefix: &[&str]) -> Self {
        let programs = programs().to_owned();
        let directory = daemon::new_directory();
        let volume = small_disk.map(|(name, megabytes)| Volume { directory: directory.join(name), megabytes });
        let path = |name: &str| directory.join(name).display().to_string();
        write_certificates(&directory);
        let initdb = programs.join("initdb").display().to_string();
        let data = path("data");
        let locale = ["--encoding=UTF8", "--locale=C", "--username=postgres", "--auth=trust", "--no-sync"];
        // Small segments of WAL fit onto a small disk.
        let segments = small_disk.map(|_| "--wal-segsize=1");
        let wal = path("wal");
        let elsewhere = small_disk.filter(|(name, _)| *name == "data").map(|_| ["--waldir", wal.as_str()]);
        let elsewhere = elsewhere.as_ref().map_or(&[] as &[&str], |arguments| arguments);
        daemon::run(&[&[initdb.as_str(), "-D", &data], locale.as_slice(), segments.as_slice(), elsewhere].concat());
        if let Some(Volume { directory, .. }) = &volume {
            fs::create_dir_all(directory).expect("a directory");
        }
        fs::write(directory.join("data/pg_hba.conf"), PG_HBA).expect("pg_hba.conf");
        let ssl = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", path("server.crt")),
            format!("ssl_key_file={}", path("server.key")),
        ];
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).chain(ssl).collect();
        let server = Self::start(directory, programs, &settings, volume, prefix);
        let passwords = ["synapse", "mas", "stranger", "unwelcome", "databases"]
            .map(|role| format!("ALTER ROLE {role} PASSWORD '{PASSWORD}';"));
        server.psql("postgres", &format!("{ROLES}{}", passwords.concat()));
        server
    }

    /// Waits for the end of what a task that was killed has told it: who connects in the middle of a renaming is told that the
    /// database is not there.
    pub async fn ends_sessions_of(&self, operation: &str) {
        let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%/{operation}%'");
        let ended = async || self.psql("postgres", &sessions).trim() == "0";
        eventually("its sessions have ended", ended).await;
    }

    /// Runs SQL as the superuser.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        let (socket, port) = (self.socket(), self.port.to_string());
        let psql = self.program("psql");
        // A name alone would be read as more where it has a `=` in it.
        let database = format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
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
            &database,
            "-c",
            sql,
        ])
    }

    fn start(
        directory: PathBuf,
        programs: PathBuf,
        settings: &[String],
        volume: Option<Volume>,
        prefix: &[&str],
    ) -> Self {
        let port = free_port();
        let mut command: Vec<String> = prefix.iter().map(|word| (*word).to_owned()).collect();
        let data = directory.join("data").display().to_string();
        command.extend([programs.join("postgres").display().to_string(), "-D".to_owned(), data]);
        // No autovacuum: a test decides itself when something is vacuumed.
        let common = ["listen_addresses=127.0.0.1", "fsync=off", "autovacuum=off", "max_connections=200"];
        // Its own file with its process is on its small disk, which nobody else sees.
        let process = directory.join(PROCESS).display().to_string();
        let own = [
            format!("port={port}"),
            format!("unix_socket_directories={}", directory.display()),
            format!("external_pid_file={process}"),
        ];
        for setting in common.map(str::to_owned).iter().chain(&own).chain(settings) {
            command.extend(["-c".to_owned(), setting.clone()]);
        }
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let daemon = Daemon::start_on(volume.as_ref(), directory, "INT", &words);
        let server = Self { daemon, programs, command, volume, port };
        server.wait();
        server
    }

    /// Waits until it takes sessions.
    pub fn wait(&self) {
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

    /// SIGKILL for the process that starts all others, and waits until these have noticed it: while one is there it cannot start
    /// again.
    pub fn crash(&self) {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its processes");
        kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("it runs");
        let runs = |pid: &str| fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while children.split_whitespace().any(runs) {
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL for the process behind a session: PostgreSQL ends all others, and starts anew by itself.
    pub fn crash_backend(&self, pid: &str) {
        kill_process(Pid::from_raw(pid.parse().expect("a process")).expect("a process"), Signal::KILL)
            .expect("it runs");
    }

    /// Brings it back up after [`Self::crash`].
    pub fn start_again(&self) {
        let words: Vec<&str> = self.command.iter().map(String::as_str).collect();
        // It lives as long as these tests.
        std::mem::forget(Daemon::start(self.daemon.directory.clone(), "INT", &words));
        self.wait();
    }

    /// Its small disk, as it is seen from outside.
    pub fn small_disk(&self) -> PathBuf {
        let Volume { directory, .. } = self.volume.as_ref().expect("a server on a small disk");
        let inside = directory.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.pid().to_string()).join("root").join(inside)
    }

    /// Its first process, the one that starts all others.
    pub fn pid(&self) -> i32 {
        let file = fs::read_to_string(self.daemon.directory.join(PROCESS)).expect("its process");
        file.lines().next().and_then(|line| line.parse().ok()).expect("a process")
    }

    /// A hot standby of this server. It offers no TLS.
    pub fn standby(&self) -> Self {
        self.standby_with(&[], &[])
    }

    /// A hot standby for which this server keeps what its queries may see; with a slot, also while it is not there.
    pub fn standby_with_feedback(&self, slot: Option<&str>) -> Self {
        let slot: Vec<&str> = slot.into_iter().flat_map(|slot| ["-C", "-S", slot]).collect();
        self.standby_with(&slot, &["hot_standby_feedback=on", "wal_receiver_status_interval=1"])
    }

    fn standby_with(&self, options: &[&str], settings: &[&str]) -> Self {
        let directory = daemon::new_directory();
        let data = directory.join("data").display().to_string();
        let (socket, port) = (self.socket(), self.port.to_string());
        let program = self.program("pg_basebackup");
        let from = [program.as_str(), "-D", &data, "-h", &socket, "-p", &port, "-U", "postgres"];
        daemon::run(&[from.as_slice(), &["-c", "fast", "-R", "--no-sync"], options].concat());
        let settings: Vec<String> = settings.iter().chain(&["ssl=off"]).map(|setting| (*setting).to_owned()).collect();
        Self::start(directory, self.programs.clone(), &settings, None, &[])
    }

    /// Changes who may come in: lines of `pg_hba.conf` before the others.
    pub fn lets_in(&self, lines: &str) {
        fs::write(self.daemon.directory.join("data/pg_hba.conf"), format!("{lines}{PG_HBA}")).expect("pg_hba.conf");
        self.psql("postgres", "SELECT pg_reload_conf(), pg_sleep(0.3)");
    }

    /// A new folder that it may write to.
    pub fn new_folder(&self, name: &str) -> String {
        let folder = self.daemon.directory.join(name);
        fs::create_dir(&folder).expect("a folder");
        daemon::give_to_postgres(&folder);
        folder.display().to_string()
    }

    /// A new directory that PostgreSQL may write to.
    pub fn directory_for_postgres(&self, path: &str) {
        fs::create_dir(path).expect("a directory");
        daemon::give_to_postgres(Path::new(path));
    }

    /// All that it has written to its log.
    pub fn log(&self) -> String {
        self.daemon.log()
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

/// The major that all servers of these tests have: `POSTGRES_MAJOR`, or what this machine has.
pub fn major() -> Option<String> {
    std::env::var("POSTGRES_MAJOR").ok().filter(|major| !major.is_empty())
}

/// The folder with the programs of that major.
pub fn programs() -> &'static Path {
    static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| {
        let major = major();
        setup::path("tests/postgres/programs", &major.as_deref().into_iter().collect::<Vec<_>>())
    });
    &PROGRAMS
}

fn write_certificates(directory: &Path) {
    let signed = certificate_for("localhost");
    let other = certificate_for("localhost");
    for (name, text) in [
        ("ca.crt", signed.authority),
        ("other-ca.crt", other.authority),
        ("server.crt", signed.certificate),
        ("server.key", signed.key),
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

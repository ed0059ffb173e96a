//! PgBouncer in transaction mode: what must not stand between a task and PostgreSQL.

use std::{
    fs,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::{
    PASSWORD,
    daemon::{self, Daemon, free_port},
    server, setup,
};

/// A running PgBouncer in front of the server.
pub struct Pooler {
    daemon: Daemon,
    pub port: u16,
}

impl Pooler {
    /// `ignored`: names of settings in a connection's start that it drops without a word.
    pub fn start(ignored: &str) -> Self {
        let directory = daemon::new_directory();
        let port = free_port();
        let users = directory.join("users.txt");
        fs::write(&users, format!("\"synapse\" \"{PASSWORD}\"\n")).expect("users.txt");
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = scram-sha-256\nauth_file = {}\npool_mode = transaction\nignore_startup_parameters = {ignored}\n",
            server().port,
            users.display()
        );
        let ini = directory.join("pgbouncer.ini");
        fs::write(&ini, settings).expect("pgbouncer.ini");
        let pgbouncer = setup::installed("/usr/sbin/pgbouncer", "pgbouncer");
        let daemon = Daemon::start(directory, "KILL", &[pgbouncer, &ini.display().to_string()]);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "pgbouncer did not start:\n{}", daemon.log());
            thread::sleep(Duration::from_millis(50));
        }
        Self { daemon, port }
    }
}

impl std::fmt::Debug for Pooler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.daemon.log())
    }
}

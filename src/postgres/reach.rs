//! How a program of PostgreSQL's reaches a database: by environment variables and files of ours.
//!
//! Nothing stands among its arguments: a name with `=` or `://` in it would be read as a whole connection string there. The
//! password is in a file that only we may read. And nothing of a home or of whoever started us counts: a leftover certificate
//! or a `.pgpass` of somebody else's would change how it connects.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;
use tokio::process::Command;

use super::Target;
use crate::api::postgres::TlsMode;

/// The authorities of the system, where Debian has them. Older libpq knows no `sslrootcert=system`.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A file system in memory that every container has.
const MEMORY: &str = "/dev/shm";

/// What libpq takes from no environment variable: when it notices that the server's node is gone.
const SERVICE: &str = "[server]\nkeepalives=1\nkeepalives_idle=10\nkeepalives_interval=5\nkeepalives_count=3\n\
                       tcp_user_timeout=30000\n";

/// A folder that only we may read, in memory where that can be. It goes with the last program that needs it.
#[derive(Debug)]
pub struct Files {
    folder: TempDir,
    count: AtomicU32,
}

impl Files {
    /// Makes it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new() -> io::Result<Self> {
        let folder = |place: &Path| tempfile::Builder::new().prefix("synapse-keeper-").tempdir_in(place);
        let folder = folder(Path::new(MEMORY)).or_else(|_| folder(&env::temp_dir()))?;
        let files = Self { folder, count: AtomicU32::new(0) };
        files.write("service", SERVICE.as_bytes())?;
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.path(name);
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(content)?;
        Ok(path)
    }

    /// Tells a program how to reach a database.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn tell(&self, command: &mut Command, target: &Target) -> io::Result<()> {
        forget_surroundings(command);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let password = &target.credentials.password;
        let password = match password.is_empty() {
            true => self.path("no-password"),
            false => self.write(&format!("password-{number}"), password_line(password).as_bytes())?,
        };
        let none = self.path("none");
        command
            .env("PGHOST", target.address())
            .env("PGPORT", target.port.to_string())
            .env("PGDATABASE", &target.database)
            .env("PGUSER", &target.credentials.username)
            .env("PGPASSFILE", password)
            .env("PGAPPNAME", target.application.to_string())
            .env("PGCONNECT_TIMEOUT", "15")
            .env("PGSERVICEFILE", self.path("service"))
            .env("PGSERVICE", "server")
            .env("PGCLIENTENCODING", "UTF8")
            .env("PGSSLMODE", target.tls.name())
            .env("PGGSSENCMODE", "disable")
            .env("PGSSLCRL", &none)
            .env("PGSSLROOTCERT", &none)
            .env("PGSYSCONFDIR", self.folder.path())
            .env("HOME", self.folder.path());
        // libpq refuses a key that others may read, such as a mounted one.
        let (certificate, key) = match &target.client {
            Some(client) => {
                (client.certificate.clone(), self.write(&format!("key-{number}"), &fs::read(&client.key)?)?)
            }
            None => (none.clone(), none),
        };
        command.env("PGSSLCERT", certificate).env("PGSSLKEY", key);
        // Where it is told of an authority, libpq verifies in other modes too.
        if matches!(target.tls, TlsMode::VerifyCa | TlsMode::VerifyFull) {
            command.env("PGSSLROOTCERT", target.ca_file.as_deref().unwrap_or(Path::new(SYSTEM_CA)));
        }
        Ok(())
    }
}

/// Makes sure that this program has none of libpq's variables: our own driver reads them as well, and not all of them can be
/// taken back from it. Where there are some, the program is started anew in its own place, and this does not return. The
/// password of `--username` stays.
///
/// # Errors
/// It cannot be started anew.
pub fn forget_variables() -> io::Result<()> {
    let is_libpq_s = |name: &OsString| name.as_encoded_bytes().starts_with(b"PG") && name != "PGPASSWORD";
    let names: Vec<OsString> = env::vars_os().map(|(name, _)| name).filter(is_libpq_s).collect();
    if names.is_empty() {
        return Ok(());
    }
    let mut again = std::process::Command::new(env::current_exe()?);
    again.args(env::args_os().skip(1));
    for name in names {
        again.env_remove(name);
    }
    Err(again.exec())
}

/// What libpq and its programs would read of whoever started us: variables, and the language of messages.
fn forget_surroundings(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let is_libpq_s = name_text.starts_with("PG") || name_text.starts_with("PSQL");
        let is_language = name_text.starts_with("LC_") || name_text.starts_with("LANG");
        // With Synapse's password, or that of the Matrix Authentication Service, where a task is started by hand.
        if is_libpq_s || is_language || name_text.ends_with("PGPASSWORD") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}

/// A line of a password file, for every server.
fn password_line(password: &str) -> String {
    format!("*:*:*:*:{}\n", password.replace('\\', "\\\\").replace(':', "\\:"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::postgres::{Application, Credentials};

    fn target(database: &str) -> Target {
        Target {
            host: "[::1]".to_owned(),
            port: 5433,
            database: database.to_owned(),
            tls: TlsMode::Require,
            ca_file: None,
            client: None,
            credentials: Credentials { username: "synapse".to_owned(), password: "p:w\\".to_owned() },
            application: Application { operation: "a".to_owned(), run: 1, attempt: 2 },
        }
    }

    #[test]
    fn a_program_is_told_by_its_environment_and_by_files_that_only_we_may_read() {
        let files = Files::new().unwrap();
        let mut command = Command::new("psql");
        files.tell(&mut command, &target("postgresql://x")).unwrap();
        let command = command.as_std();
        assert_eq!(command.get_args().count(), 0);
        let of = |name: &str| {
            let mut found = command.get_envs().filter(|(key, _)| *key == name);
            found.next().and_then(|(_, value)| value).map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(of("PGDATABASE").as_deref(), Some("postgresql://x"));
        assert_eq!(of("PGHOST").as_deref(), Some("::1"));
        assert_eq!(of("PGPASSWORD"), None);
        let password = of("PGPASSFILE").unwrap();
        assert_eq!(fs::read_to_string(&password).unwrap(), "*:*:*:*:p\\:w\\\\\n");
        assert_eq!(fs::metadata(&password).unwrap().permissions().mode() & 0o777, 0o600);
        for file in ["PGSSLCERT", "PGSSLKEY", "PGSSLROOTCERT"] {
            assert!(!Path::new(&of(file).unwrap()).exists(), "{file}");
        }
        let folder = of("HOME").unwrap();
        drop(files);
        assert!(!Path::new(&folder).exists(), "nothing is left");
    }
}

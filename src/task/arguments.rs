//! Arguments that every task has: which database, which volume, whose operation.

use std::{path::PathBuf, time::SystemTime};

use crate::{
    api::postgres::{IgnoredSession, TlsMode},
    contract::{TaskError, mounted},
    postgres::{Application, ClientCertificate, Credentials, Result, Target},
};

/// The database and who asks.
#[derive(clap::Args, Clone, Debug)]
pub struct Connection {
    /// Host of PostgreSQL: a name, an address, or the directory of its Unix socket.
    #[arg(long)]
    pub host: String,
    #[arg(long, default_value_t = 5432)]
    pub port: u16,
    #[arg(long)]
    pub database: String,
    /// Encryption of the connection, in libpq's terms.
    #[arg(long, value_enum, default_value_t)]
    pub tls_mode: TlsMode,
    /// Certificate authority of the server's certificate, in PEM. Without it: the system's.
    #[arg(long)]
    pub ca_file: Option<PathBuf>,
    /// Certificate of the client, in PEM, where `pg_hba.conf` asks for one.
    #[arg(long, requires = "client_key_file")]
    pub client_cert_file: Option<PathBuf>,
    /// The private key of that certificate, in PEM.
    #[arg(long, requires = "client_cert_file")]
    pub client_key_file: Option<PathBuf>,
    /// Directory with the files `username` and `password`, such as a mounted Secret.
    #[arg(long)]
    pub credentials_dir: Option<PathBuf>,
    /// The role, where there is no directory; its password is read from the environment variable PGPASSWORD.
    #[arg(long, conflicts_with = "credentials_dir", required_unless_present = "credentials_dir")]
    pub username: Option<String>,
    /// The environment variable with that role's password.
    #[arg(skip = "PGPASSWORD")]
    pub password_variable: &'static str,
    /// A session that must not stop a step: `role=<role>,applicationName=<name>`, or one of the two.
    #[arg(long = "ignore-session", value_name = "SESSION", value_parser = ignored_session)]
    pub ignore_sessions: Vec<IgnoredSession>,
    /// Where the volume of the database is mounted: its free space is looked up there.
    #[arg(long)]
    pub data_volume: Option<PathBuf>,
    /// UID of the operation.
    #[arg(long, default_value_t = by_hand(), hide_default_value = true)]
    pub operation: String,
    #[arg(long, default_value_t = 0)]
    pub run: i64,
    #[arg(long, default_value_t = 0)]
    pub attempt: i32,
}

impl Connection {
    /// The database with the role's password.
    ///
    /// # Errors
    /// Terminal, if the mounted Secret lacks something (see [`Credentials::read`]) or the certificate authority is not
    /// there.
    pub fn target(&self) -> Result<Target> {
        let credentials = match (&self.credentials_dir, &self.username) {
            (Some(directory), _) => Credentials::read(directory)?,
            (None, username) => Credentials {
                username: username.clone().unwrap_or_default(),
                password: std::env::var(self.password_variable).unwrap_or_default(),
            },
        };
        let of_client = self.client_cert_file.iter().chain(&self.client_key_file);
        let files =
            self.ca_file.iter().map(|path| ("caSecret", path)).chain(of_client.map(|path| ("clientSecret", path)));
        if let Some((field, path)) = files.into_iter().find(|(_, path)| !path.exists()) {
            return Err(TaskError::terminal(
                "SecretKeyMissing",
                mounted::lacks(
                    path.parent().unwrap_or(path),
                    &path.file_name().unwrap_or_default().to_string_lossy(),
                    &format!("postgres.tls.{field}"),
                ),
            ));
        }
        let client = self.client_cert_file.clone().zip(self.client_key_file.clone());
        Ok(Target {
            host: self.host.clone(),
            port: self.port,
            database: self.database.clone(),
            tls: self.tls_mode,
            ca_file: self.ca_file.clone(),
            client: client.map(|(certificate, key)| ClientCertificate { certificate, key }),
            credentials,
            application: Application { operation: self.operation.clone(), run: self.run, attempt: self.attempt },
        })
    }
}

/// An operation of its own for each call by hand: two of them must not end each other's sessions.
fn by_hand() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("by-hand-{:x}-{:x}", now.as_micros(), std::process::id())
}

/// Either part may be missing. An application's name may hold a comma, so it goes on to the end.
pub(super) fn ignored_session(text: &str) -> std::result::Result<IgnoredSession, String> {
    let (role, name) = match text.split_once("applicationName=") {
        Some((role, name)) => (role.strip_suffix(',').unwrap_or(role), Some(name)),
        None => (text, None),
    };
    let role = match role {
        "" => None,
        role => Some(role.strip_prefix("role=").ok_or("write role=<role>,applicationName=<name>, or one of the two")?),
    };
    Ok(IgnoredSession { role: role.map(str::to_owned), application_name: name.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_session_has_either_part_or_both() {
        let read = |text| ignored_session(text).map(|session| (session.role, session.application_name));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read("role=a"), Ok((some("a"), None)));
        assert_eq!(read("applicationName=b"), Ok((None, some("b"))));
        assert_eq!(read("role=a,applicationName=b, c=d"), Ok((some("a"), some("b, c=d"))));
        assert!(read("user=a").is_err());
    }
}

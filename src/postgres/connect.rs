//! Opening a session.

use std::{fmt, path::PathBuf, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{Credentials, Explain, Result, errors};
use crate::{api::postgres::TlsMode, task::report::TaskError};

/// How long PostgreSQL may take to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The oldest PostgreSQL that works: Synapse refuses an older one, and `client_connection_check_interval` is new in it.
pub const OLDEST_POSTGRES: i32 = 140_000;

/// What every session starts with. They travel in the connection's start message, so that they hold from the first
/// statement on and never leak into a server session that a pooler would hand to somebody else.
const SETTINGS: [(&str, &str); 9] = [
    // A killed client does not stop its statement: VACUUM FULL would go on holding its lock. With this, PostgreSQL looks
    // each second whether the client is still there.
    ("client_connection_check_interval", "1s"),
    // The same for a node that is gone without closing its connections.
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    // Waiting for a lock makes everybody else queue behind us.
    ("lock_timeout", "10s"),
    // For reading; a task that vacuums sets its own.
    ("statement_timeout", "60s"),
    ("idle_in_transaction_session_timeout", "60s"),
    // Parallel workers share memory in /dev/shm, of which a container has 64 MiB by default.
    ("max_parallel_workers_per_gather", "0"),
    ("max_parallel_maintenance_workers", "0"),
];

/// Who a session says it is: `synapse-keeper/<operation uid>/<run>.<attempt>`, as `application_name`.
///
/// An attempt finds the sessions of earlier ones by it (see [`super::sessions::end_earlier`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// UID of the operation.
    pub operation: String,
    pub run: i64,
    pub attempt: i32,
}

impl Application {
    /// What the names of all our sessions begin with, whoever's operation it is.
    pub const PREFIX: &str = "synapse-keeper/";

    /// What the names of this operation's sessions begin with. PostgreSQL keeps 63 bytes of a name: a UID has 36.
    pub fn operation_prefix(&self) -> String {
        format!("{}{:.36}/", Self::PREFIX, self.operation)
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}.{}", self.operation_prefix(), self.run, self.attempt)
    }
}

/// A database and how to reach it.
#[derive(Clone, Debug)]
pub struct Target {
    /// A name, an address, or the directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub database: String,
    pub tls: TlsMode,
    /// Certificate authority, in PEM. Without it: the system's.
    pub ca_file: Option<PathBuf>,
    pub credentials: Credentials,
    pub application: Application,
}

/// One open session.
pub struct Session {
    pub connection: PgConnection,
    /// The server process behind it.
    pub pid: i32,
    /// `server_version_num`.
    pub version: i32,
}

impl Session {
    /// Statements that return nothing.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn execute(&mut self, sql: &str) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.connection).await.map(drop)
    }
}

impl Target {
    /// The same server and role, another database.
    pub fn to(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// Opens a session.
    ///
    /// # Errors
    /// What was refused, by whom, and what to do; see [`errors`]. Terminal, `Pooler`, if the session did not get our
    /// settings: they are what keeps a killed task from holding its locks.
    pub async fn connect(&self) -> Result<Session> {
        self.resolve().await?;
        let options = self.options();
        let mut connection = match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(connected) => connected.map_err(|error| errors::refused(&error, self))?,
            Err(_) => return Err(errors::no_answer(self, CONNECT_TIMEOUT)),
        };
        let (interval, pid, version): (String, i32, i32) = sqlx::query_as(
            "SELECT current_setting('client_connection_check_interval', true), pg_backend_pid(), \
             current_setting('server_version_num')::int",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await
        .explain("asking for the server's version")?;
        if interval != "1s" {
            return Err(TaskError::terminal(
                "Pooler",
                format!("The settings of our session did not reach PostgreSQL at {self}. {}", errors::POOLER_ADVICE),
            ));
        }
        Ok(Session { connection, pid, version })
    }

    /// A name that does not resolve is told apart from a server that does not answer.
    async fn resolve(&self) -> Result<()> {
        if self.host.starts_with('/') {
            return Ok(());
        }
        let looked_up = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        looked_up.map(drop).map_err(|error| errors::unresolved(self, &error.to_string()))
    }

    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .database(&self.database)
            .username(&self.credentials.username)
            .password(&self.credentials.password)
            .application_name(&self.application.to_string())
            .extra_float_digits(None)
            .options(SETTINGS)
            .ssl_mode(match self.tls {
                TlsMode::Disable => PgSslMode::Disable,
                TlsMode::Prefer => PgSslMode::Prefer,
                TlsMode::Require => PgSslMode::Require,
                TlsMode::VerifyCa => PgSslMode::VerifyCa,
                TlsMode::VerifyFull => PgSslMode::VerifyFull,
            });
        match &self.ca_file {
            Some(path) => options.ssl_root_cert(path),
            None => options,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_name_fits_postgres() {
        let application =
            Application { operation: "0a36cf4e-6ffa-4f0b-a6ae-5e1c5ae1e9ee".to_owned(), run: 99_999, attempt: 99 };
        assert_eq!(application.to_string(), "synapse-keeper/0a36cf4e-6ffa-4f0b-a6ae-5e1c5ae1e9ee/99999.99");
        assert!(application.to_string().len() <= 63);
    }
}

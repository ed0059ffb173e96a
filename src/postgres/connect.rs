//! Opening a session.
//!
//! The sockets of our own sessions have neither keepalives nor `TCP_USER_TIMEOUT`, which those of libpq's programs have (see
//! [`super::reach`]). sqlx 0.9 connects by itself, has no option for them, and does not show its socket. Without `unsafe` a
//! process takes a socket by its number only with `pidfd_getfd`: containerd's default seccomp profile, which our Jobs have
//! (`RuntimeDefault`), allows that with `CAP_SYS_PTRACE` alone, and they have no capability. A relay between a Unix socket, at
//! which sqlx can connect, and a TCP socket of ours would copy each byte twice more. So a session of its own watches each server
//! beside the task (`task::watch`), and ends the task when the server is silent. PostgreSQL has the same figures for its side
//! of each connection (see [`settings`]).

use std::{
    fmt,
    net::Ipv6Addr,
    path::PathBuf,
    sync::OnceLock,
    time::{Duration, Instant},
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, FromRow, PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{Credentials, Explain, Result, errors, settings};
use crate::{
    api::postgres::TlsMode,
    contract::{TaskError, output::progress},
};

/// How long PostgreSQL may take to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The environment variable with the seconds within which the network of our Pod opens, from the first connection on. Without it
/// a refused connection is final.
pub const NETWORK_OPENS_WITHIN: &str = "SYNAPSE_KEEPER_NETWORK_OPENS_WITHIN";
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When this task first connected to anything.
static FIRST_CONNECTION: OnceLock<Instant> = OnceLock::new();

/// The oldest PostgreSQL that works: Synapse refuses an older one, and `client_connection_check_interval` is new in it.
pub const OLDEST_POSTGRES: i32 = 140_000;

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
    pub client: Option<ClientCertificate>,
    pub credentials: Credentials,
    pub application: Application,
}

/// What the client shows where `pg_hba.conf` asks for it: files in PEM.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
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
        let began = *FIRST_CONNECTION.get_or_init(Instant::now);
        loop {
            match self.connect_once().await {
                Err(error) if network_may_open(&error, began.elapsed()) => {
                    progress(&format!("tries again, for the network of a new Pod may open late: {}", error.message));
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                settled => return settled,
            }
        }
    }

    async fn connect_once(&self) -> Result<Session> {
        self.resolve().await?;
        let options = self.options();
        let mut connection = match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.why_refused(&error).await),
            Err(_) => return Err(errors::no_answer(self, CONNECT_TIMEOUT)),
        };
        // In one message: behind a pooler a prepared statement may be another session's by the next one.
        let asked = sqlx::raw_sql(
            "SELECT current_setting('client_connection_check_interval', true), pg_backend_pid(), \
             current_setting('server_version_num')::int",
        );
        let asked = asked.fetch_one(&mut connection).await.and_then(|row| <(String, i32, i32)>::from_row(&row));
        let (interval, pid, version) = asked.explain("asking for the server's version")?;
        if interval != "1s" {
            return Err(TaskError::terminal(
                "Pooler",
                format!("The settings of our session did not reach PostgreSQL at {self}. {}", errors::POOLER_ADVICE),
            ));
        }
        let mut session = Session { connection, pid, version };
        if let Some(statements) = settings::once_connected(version) {
            session.execute(&statements).await.explain("setting what this version knows")?;
        }
        Ok(session)
    }

    /// The host without the brackets in which a URL has an address of IPv6.
    pub fn address(&self) -> &str {
        let inside = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inside.filter(|inside| inside.parse::<Ipv6Addr>().is_ok()).unwrap_or(&self.host)
    }

    /// Why a connection was refused. Whether another one with TLS would be let in is tried, for PostgreSQL tells it in its own
    /// language.
    async fn why_refused(&self, error: &sqlx::Error) -> TaskError {
        if self.tls == TlsMode::Disable && errors::is_of_pg_hba(error) {
            let with_tls = Self { tls: TlsMode::Require, ..self.clone() };
            let tried = tokio::time::timeout(CONNECT_TIMEOUT, with_tls.options().connect()).await;
            let is_let_in = match tried {
                Ok(Ok(_)) => true,
                // A wrong password, say: that question comes after pg_hba.conf.
                Ok(Err(other)) => errors::sqlstate(&other).is_some() && !errors::is_of_pg_hba(&other),
                Err(_) => false,
            };
            if is_let_in {
                return errors::wants_tls(error, self);
            }
        }
        errors::refused(error, self)
    }

    /// A name that does not resolve is told apart from a server that does not answer.
    async fn resolve(&self) -> Result<()> {
        if self.host.starts_with('/') {
            return Ok(());
        }
        let looked_up = tokio::net::lookup_host((self.address(), self.port)).await;
        looked_up.map(drop).map_err(|error| errors::unresolved(self, &error.to_string()))
    }

    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(self.address())
            .port(self.port)
            .database(&self.database)
            .username(&self.credentials.username)
            .password(&self.credentials.password)
            .application_name(&self.application.to_string())
            .extra_float_digits(None)
            .options(settings::of_sessions())
            .ssl_mode(match self.tls {
                TlsMode::Disable => PgSslMode::Disable,
                TlsMode::Prefer => PgSslMode::Prefer,
                TlsMode::Require => PgSslMode::Require,
                TlsMode::VerifyCa => PgSslMode::VerifyCa,
                TlsMode::VerifyFull => PgSslMode::VerifyFull,
            });
        let options = match &self.ca_file {
            Some(path) => options.ssl_root_cert(path),
            None => options,
        };
        match &self.client {
            Some(client) => options.ssl_client_cert(&client.certificate).ssl_client_key(&client.key),
            None => options,
        }
    }
}

/// Whether it is early in the life of a Pod whose network may open late: a service mesh or a NetworkPolicy takes some seconds.
fn network_may_open(error: &TaskError, since: Duration) -> bool {
    let within = std::env::var(NETWORK_OPENS_WITHIN).ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    let is_closed = ["HostUnresolved", "ConnectionRefused", "ConnectionLost"].contains(&error.reason.as_str());
    is_closed && since < Duration::from_secs(within)
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

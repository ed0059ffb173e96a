//! Where the homeserver's database is and how to reach it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::references::{Certificate, Claim, Credentials, SecretKey};

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Host name or address of PostgreSQL itself. A pooler in transaction mode is refused: locks do not survive there.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// Name of the database.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// Secret with `username` and `password` of the role that owns the tables.
    pub credentials: Credentials,
    /// Secret with `username` and `password` of a role that may make and rename databases (CREATEDB, member of the role
    /// above). Only restores use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_credentials: Option<Credentials>,
    /// Encryption of the connection.
    #[serde(default)]
    pub tls: Tls,
    /// Claim that holds PostgreSQL's data. Jobs mount it read-only on its node, only to read how much disk is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_volume: Option<Claim>,
    /// Sessions of that role that do not write, such as an exporter that logs in with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ignore_sessions: Vec<IgnoredSession>,
}

fn default_port() -> i32 {
    5432
}

/// A session that must not stop a step. The fields that are given must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IgnoredSession {
    /// The session's role (`pg_stat_activity.usename`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub role: Option<String>,
    /// The session's application name (`pg_stat_activity.application_name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub application_name: Option<String>,
}

/// Encryption of the connection, in libpq's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// How much is checked; libpq's `sslmode`.
    #[serde(default)]
    pub mode: TlsMode,
    /// Certificate authority that signed the server's certificate, in PEM. Without it: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
    /// Certificate of the client, where `pg_hba.conf` asks for one (`cert`, `clientcert`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<Certificate>,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub enum TlsMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl TlsMode {
    /// As libpq calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl std::fmt::Display for TlsMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for IgnoredSession {
    /// As `--ignore-session` takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let role = self.role.iter().map(|role| format!("role={role}"));
        let application = self.application_name.iter().map(|name| format!("applicationName={name}"));
        f.write_str(&role.chain(application).collect::<Vec<_>>().join(","))
    }
}

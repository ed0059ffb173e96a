//! The database of the Matrix Authentication Service, for tasks that work on it together with Synapse's.
//!
//! Each of the two has the sessions of all users in it: one alone would go back in time without the other.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::arguments::{Connection, ignored_session};
use crate::{
    api::postgres::{IgnoredSession, TlsMode},
    contract::TaskError,
};

/// The password of `--mas-username`, where there is no directory.
const PASSWORD_VARIABLE: &str = "MAS_PGPASSWORD";

/// Where that database is.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationService {
    /// Host of the PostgreSQL of the Matrix Authentication Service. Without it: there is no such service.
    #[arg(long, required = false, requires = "mas_database")]
    pub mas_host: String,
    #[arg(long, default_value_t = 5432)]
    pub mas_port: u16,
    #[arg(long, required = false, requires = "mas_host")]
    pub mas_database: String,
    /// As --tls-mode.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub mas_tls_mode: TlsMode,
    /// As --ca-file.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_ca_file: Option<PathBuf>,
    /// As --client-cert-file.
    #[arg(long, requires = "mas_client_key_file")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_client_cert_file: Option<PathBuf>,
    /// As --client-key-file.
    #[arg(long, requires = "mas_client_cert_file")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_client_key_file: Option<PathBuf>,
    /// As --credentials-dir.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_credentials_dir: Option<PathBuf>,
    /// The role, where there is no directory; its password is read from the environment variable MAS_PGPASSWORD.
    #[arg(long, conflicts_with = "mas_credentials_dir")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_username: Option<String>,
    /// As --admin-credentials-dir, for a restore where this database is on another server. On one server one role swaps both.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_admin_credentials_dir: Option<PathBuf>,
    /// As --ignore-session.
    #[arg(long = "mas-ignore-session", value_name = "SESSION", value_parser = ignored_session)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mas_ignore_sessions: Vec<IgnoredSession>,
    /// As --data-volume.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mas_data_volume: Option<PathBuf>,
}

impl AuthenticationService {
    /// The same as arguments of a task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = vec![
            format!("--mas-host={}", self.mas_host),
            format!("--mas-port={}", self.mas_port),
            format!("--mas-database={}", self.mas_database),
            format!("--mas-tls-mode={}", self.mas_tls_mode),
        ];
        let path = |name: &str, path: &Option<PathBuf>| {
            path.as_deref().map(Path::display).map(|path| format!("--mas-{name}={path}"))
        };
        args.extend(path("ca-file", &self.mas_ca_file));
        args.extend(path("client-cert-file", &self.mas_client_cert_file));
        args.extend(path("client-key-file", &self.mas_client_key_file));
        args.extend(path("credentials-dir", &self.mas_credentials_dir));
        args.extend(path("admin-credentials-dir", &self.mas_admin_credentials_dir));
        args.extend(path("data-volume", &self.mas_data_volume));
        args.extend(self.mas_ignore_sessions.iter().map(|session| format!("--mas-ignore-session={session}")));
        args
    }

    /// How the operation that works on Synapse's database reaches this one.
    pub fn connection(&self, of: &Connection) -> Connection {
        Connection {
            host: self.mas_host.clone(),
            port: self.mas_port,
            database: self.mas_database.clone(),
            tls_mode: self.mas_tls_mode,
            ca_file: self.mas_ca_file.clone(),
            client_cert_file: self.mas_client_cert_file.clone(),
            client_key_file: self.mas_client_key_file.clone(),
            credentials_dir: self.mas_credentials_dir.clone(),
            username: self.mas_username.clone(),
            password_variable: PASSWORD_VARIABLE,
            ignore_sessions: self.mas_ignore_sessions.clone(),
            data_volume: self.mas_data_volume.clone(),
            operation: of.operation.clone(),
            run: of.run,
            attempt: of.attempt,
        }
    }
}

/// Whose database it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    #[default]
    Synapse,
    AuthenticationService,
}

impl Whose {
    pub fn is_synapse(&self) -> bool {
        *self == Self::Synapse
    }

    /// Says of an error in which of the databases it was. Fields that it names are below the field in brackets.
    pub fn tell(self, error: TaskError) -> TaskError {
        match self {
            Self::Synapse => error,
            Self::AuthenticationService => {
                let message = error.message;
                let message = format!("Matrix Authentication Service (spec.matrixAuthenticationService): {message}");
                TaskError { message, ..error }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        service: Option<AuthenticationService>,
    }

    fn parsed(args: &[String]) -> clap::error::Result<Option<AuthenticationService>> {
        Line::try_parse_from(std::iter::once("task").chain(args.iter().map(String::as_str))).map(|line| line.service)
    }

    #[test]
    fn it_travels_as_arguments_and_as_json() {
        let json = r#"{"masHost": "db", "masPort": 5433, "masDatabase": "mas", "masTlsMode": "verify-full", "masCaFile": "/ca/x",
                       "masClientCertFile": "/client/x", "masClientKeyFile": "/client/y",
                       "masCredentialsDir": "/c", "masAdminCredentialsDir": "/a", "masDataVolume": "/d",
                       "masIgnoreSessions": [{"role": "r", "applicationName": "a, b"}]}"#;
        let service: AuthenticationService = serde_json::from_str(json).unwrap();
        assert_eq!(parsed(&service.to_args()).unwrap(), Some(service));
    }

    #[test]
    fn there_may_be_none_but_not_half_of_one() {
        assert_eq!(parsed(&[]).unwrap(), None);
        for half in ["--mas-host=db", "--mas-database=mas"] {
            assert!(parsed(&[half.to_owned()]).is_err(), "{half}");
        }
    }

    #[test]
    fn an_error_says_whose_database_it_was() {
        let error = || TaskError::terminal("PasswordRefused", "The Secret of postgres.credentials is wrong.");
        assert_eq!(Whose::Synapse.tell(error()), error());
        let told = Whose::AuthenticationService.tell(error());
        assert_eq!(told.reason, "PasswordRefused");
        assert!(
            told.message.starts_with("Matrix Authentication Service (spec.matrixAuthenticationService): The Secret")
        );
    }
}

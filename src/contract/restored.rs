//! What a restore has made.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{bytes, quote};

/// A database that a restore has made and that is not the homeserver's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseLeft {
    pub name: String,
    /// In bytes.
    pub bytes: i64,
    /// For people, such as `1.2 GiB`.
    pub size: String,
    /// Namespace and name of the SynapseRestore that made it, where the database says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<String>,
    /// The database of the Matrix Authentication Service that was restored with it, by its name. It may be on another server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_service: Option<String>,
}

impl DatabaseLeft {
    pub fn new(name: &str, bytes: i64, restore: Option<&str>) -> Self {
        let size = bytes::human(bytes);
        Self { name: name.to_owned(), bytes, size, restore: restore.map(str::to_owned), authentication_service: None }
    }

    /// The same with the database of the Matrix Authentication Service, where one was restored with it.
    #[must_use]
    pub fn with_authentication(self, name: Option<String>) -> Self {
        Self { authentication_service: name, ..self }
    }

    /// What to type to be rid of it.
    pub fn drop_statement(&self) -> String {
        let drop = |name: &str| format!("DROP DATABASE {}", quote::ident(name));
        match &self.authentication_service {
            None => drop(&self.name),
            Some(other) => {
                format!("{}; and on the server of the Matrix Authentication Service: {}", drop(&self.name), drop(other))
            }
        }
    }
}

impl std::fmt::Display for DatabaseLeft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "database {} ({})", self.name, self.size)?;
        self.authentication_service
            .iter()
            .try_for_each(|name| write!(f, ", with {name} of the Matrix Authentication Service,"))
    }
}

/// A restored database in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// The backup, or restic's snapshot with the dump; absent: the dump was on a claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The dump, where it was none of our backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<RestoredDump>,
    /// The moment that it shows, by PostgreSQL's clock; of a dump, when it was written.
    pub taken_at: Time,
    /// The homeserver's database.
    pub database: String,
    /// The name of the database whose place it took. It is kept until somebody drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// For people: how large that one is, such as `1.2 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_size: Option<String>,
    /// The database of the Matrix Authentication Service, which came back with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_service: Option<RestoredAuthentication>,
}

/// The dump that a database came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredDump {
    /// On its claim or in its snapshot.
    pub path: String,
    /// Of the file, in hexadecimal.
    pub sha256: String,
}

/// The restored database of the Matrix Authentication Service in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredAuthentication {
    pub database: String,
    /// The name of the database whose place it took. It is kept until somebody drops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// For people: how large that one is, such as `1.2 GiB`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_size: Option<String>,
}

//! What an inspection found.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DatabaseLeft;

/// What `task inspect` found. See [`crate::api::synapse::SynapseStatus`] for the meaning of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InspectionFindings {
    /// By PostgreSQL's clock.
    pub inspected_at: Option<Time>,
    pub postgres_version: String,
    /// `server_version_num`.
    pub postgres_version_num: i32,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub database_bytes: i64,
    pub dead_rows: i64,
    pub largest_tables: Vec<TableFacts>,
    pub schema_version: Option<i32>,
    pub schema_compat_version: Option<i32>,
    /// Tables that every whole homeserver has, and that are not there.
    pub missing_tables: Vec<String>,
    pub synapse_version: Option<String>,
    /// Why the version of Synapse is not known.
    pub synapse_version_error: Option<String>,
    pub pending_background_updates: Vec<String>,
    /// Such as `events_stream_seq is at 10, stream_positions is at 42`.
    pub inconsistent_sequences: Vec<String>,
    pub unused_rooms: Option<i64>,
    pub uncensored_redactions: Option<i64>,
    /// The users are of another homeserver than the stated one: of which.
    pub foreign_server: Option<String>,
    /// Tables that belong to a role whose rights ours does not have, for people.
    pub foreign_tables: Option<String>,
    /// The database is a standby.
    pub in_recovery: bool,
    /// Databases of the same owner that restores have made and not swapped in.
    pub left_databases: Vec<DatabaseLeft>,
    /// What PostgreSQL's role lacks to see everything, for people.
    pub warnings: Vec<String>,
}

/// What PostgreSQL says of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableFacts {
    pub name: String,
    /// The table with its indexes and TOAST, in bytes.
    pub bytes: i64,
    /// Live rows, estimated.
    pub rows: i64,
    /// Dead rows, estimated.
    pub dead_rows: i64,
    /// The last VACUUM, by hand or by autovacuum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_vacuum: Option<Time>,
}

//! `Synapse`: the homeserver, described once. Every other kind refers to it by name.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{jobs::JobSettings, postgres::Postgres, references::KeyOfSecret};
use crate::contract::{DatabaseLeft, ErrorClass, TableFacts};

/// A Matrix Synapse homeserver that is already running on this cluster.
///
/// synapse-keeper does not deploy it. It reports on it, and the other kinds work on it.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "synapse-keeper.dev",
    version = "v1alpha1",
    kind = "Synapse",
    plural = "synapses",
    shortname = "syn",
    namespaced,
    status = "SynapseStatus",
    category = "synapse-keeper",
    derive = "PartialEq",
    doc = "A Matrix Synapse homeserver: where it runs and where its database is. The other kinds refer to it by name.",
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must have at most 40 characters: names of Jobs and Leases are made from it"),
    printcolumn(name = "Server", type_ = "string", json_path = ".spec.serverName"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.synapseVersion"),
    printcolumn(name = "PostgreSQL", type_ = "string", json_path = ".status.postgresVersion", priority = 1),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.databaseSize"),
    printcolumn(name = "Dead-Rows", type_ = "integer", json_path = ".status.deadRows", priority = 1),
    printcolumn(name = "Schema", type_ = "integer", json_path = ".status.schemaVersion", priority = 1),
    printcolumn(name = "Unused-Rooms", type_ = "integer", json_path = ".status.unusedRooms", priority = 1),
    printcolumn(name = "Backup", type_ = "date", json_path = ".status.lastBackup"),
    printcolumn(name = "Verified", type_ = "date", json_path = ".status.lastVerified", priority = 1),
    printcolumn(name = "Operation", type_ = "string", json_path = ".status.operation"),
    printcolumn(name = "Down", type_ = "date", json_path = ".status.notServedSince"),
    printcolumn(name = "Inspected", type_ = "date", json_path = ".status.inspectedAt"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SynapseSpec {
    /// The homeserver's `server_name`: the part of user ids behind the colon. It never changes in a homeserver's life.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("serverName is immutable: it is the identity of the homeserver"))]
    pub server_name: String,
    /// What writes to the homeserver's data: the main process and all workers.
    pub workloads: Workloads,
    /// The homeserver's database.
    pub postgres: Postgres,
    /// Where Synapse answers inside the cluster. Without it the version of Synapse is not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_api: Option<AdminApi>,
    /// The Matrix Authentication Service, where there is one. It stops with Synapse and starts before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix_authentication_service: Option<MatrixAuthenticationService>,
    /// The image of Synapse, where drills and restores have to ask it. Without it: that of the main process's container, the one
    /// named `synapse` or the only one of `workloads.main`. Python must be in it, as in the official one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Where Synapse keeps the files that users upload, for backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_store: Option<MediaStore>,
    /// What else a homeserver is made of, for backups: Jobs mount it, the operator does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ConfigSources>,
    /// The file with the homeserver's signing keys (Synapse's `signing_key_path`), as a key of a Secret. A backup notes the
    /// ids of the keys, and a drill looks whether they fit the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<KeyOfSecret>,
    /// How the Jobs for this homeserver look.
    #[serde(default)]
    pub jobs: JobSettings,
    /// Stops everything new for this homeserver. A run that is under way goes on to its end.
    #[serde(default)]
    pub suspend: bool,
}

/// A folder on a PersistentVolumeClaim.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MediaStore {
    /// Name of the PersistentVolumeClaim that Synapse's Pods mount.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Synapse's `media_store_path`, as seen from the root of the claim; `.` is the root itself.
    #[serde(default = "default_media_path")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^(\.|[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*)$")
    )]
    pub path: String,
    /// A storage provider of Synapse has the media, such as S3 (`media_storage_providers`). A backup has the files that are in the
    /// folder, and does not look for those that the database names: back that storage up as well.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
}

fn default_media_path() -> String {
    "media_store".to_owned()
}

/// Objects of the homeserver's namespace that hold its configuration, its signing keys and other secrets.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigSources {
    /// Names of Secrets. The one with the signing key should be among them: without it a restored homeserver is another one
    /// to the rest of the federation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub secrets: Vec<String>,
    /// Names of ConfigMaps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub config_maps: Vec<String>,
}

/// Deployments and StatefulSets, by the labels of the objects themselves (not of their Pods) or one by one.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.selector) != has(self.refs)").message("give either selector or refs"))]
#[x_kube(validation = Rule::new("!has(self.selector) || (has(self.selector.matchLabels) && self.selector.matchLabels.size() > 0) || (has(self.selector.matchExpressions) && self.selector.matchExpressions.size() > 0)").message("an empty selector would match every workload of the namespace"))]
#[x_kube(validation = Rule::new("!has(self.refs) || self.refs.size() > 0").message("refs must name at least one workload"))]
pub struct Workloads {
    /// Labels of the Deployment and StatefulSet objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_selector")]
    pub selector: Option<LabelSelector>,
    /// The workloads by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub refs: Option<Vec<WorkloadRef>>,
    /// The main process, the one that migrates the schema. It starts before the workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub main: Option<WorkloadRef>,
}

/// `LabelSelector` with bounds, without which the rules above cost too much for the API server.
fn label_selector(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 63}},
            "matchExpressions": {"type": "array", "maxItems": 16, "items": {
                "type": "object",
                "required": ["key", "operator"],
                "properties": {
                    "key": {"type": "string", "maxLength": 317},
                    "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                    "values": {"type": "array", "maxItems": 16, "items": {"type": "string", "maxLength": 63}},
                },
            }},
        },
    })
}

/// One Deployment or StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    pub kind: WorkloadKind,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The kinds that can be scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
}

impl WorkloadKind {
    /// The name in API paths, RBAC rules and `kubectl scale`.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
        }
    }
}

impl std::fmt::Display for WorkloadRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}/{}", self.kind, self.name)
    }
}

/// Synapse's HTTP API inside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdminApi {
    /// Base URL of the main process, such as `http://synapse:8008`.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^https?://[^/?#@]+/?$"))]
    pub url: String,
}

/// The Matrix Authentication Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixAuthenticationService {
    /// Its Deployments and StatefulSets.
    pub workloads: Workloads,
    /// Its database, on Synapse's server or on another. Backups and restores take both databases together, and a restore is
    /// refused without it. On one server the role of `spec.postgres.adminCredentials` swaps both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
}

/// What is true of the homeserver, as last seen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SynapseStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready` first; the others are named in `docs/conditions.md`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Synapse's version as it last reported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synapse_version: Option<String>,
    /// Version of the database's schema (`schema_version.version`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i32>,
    /// Oldest schema version whose code can still use this database (`schema_compat_version`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_compat_version: Option<i32>,
    /// PostgreSQL's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Encoding, collation and ctype of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
    /// Size of the database in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_bytes: Option<i64>,
    /// `databaseBytes` for people, such as `12.4 GiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_size: Option<String>,
    /// Dead rows in all tables, as PostgreSQL estimates them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_rows: Option<i64>,
    /// The ten largest tables.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub largest_tables: Vec<TableFacts>,
    /// Background updates of Synapse that are not done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending_background_updates: Vec<String>,
    /// Sequences behind their tables or their stream positions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inconsistent_sequences: Vec<String>,
    /// Databases that restores have made and not swapped in: they failed, were deleted or were killed. Nobody uses these, and
    /// nobody drops them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_databases: Vec<DatabaseLeft>,
    /// Rooms in which no local user is, is invited or has knocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_rooms: Option<i64>,
    /// Redactions whose message is still in the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncensored_redactions: Option<i64>,
    /// When the facts above were read, by PostgreSQL's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inspected_at: Option<Time>,
    /// Since when no Pod of the main process is Ready, a downtime of an operation included. Absent: one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_served_since: Option<Time>,
    /// The operation that holds the homeserver now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The moment of the newest backup that any SynapseBackup of the namespace has of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<Time>,
    /// The moment of the newest of them that was restored by a drill and found whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified: Option<Time>,
    /// The inspection under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inspection: Option<Inspection>,
}

/// The locale of a database. Synapse accepts `UTF8`, `C`, `C`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Locale {
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
}

/// An inspection: one Job that reads and writes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// Counts the inspections of this object; part of the Job's name.
    pub number: i64,
    /// The generation that is inspected.
    pub generation: i64,
    /// When the inspection was asked for.
    pub started_at: Time,
    /// When its result was taken; none: it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// UID of the Job, once it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// How many inspections in a row failed.
    #[serde(default)]
    pub failures: i32,
    /// Whether another try may help, where the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_class: Option<ErrorClass>,
}

//! `SynapseRestore`: brings a homeserver back from a backup.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    backup::Content,
    downtime::Downtime,
    dump::DumpSource,
    jobs::JobSettings,
    operation::{OperationStatus, Run},
    references::SynapseRef,
    repository::Repository,
};
use crate::contract::{DatabaseLeft, Restored};

/// A backup brought back, once. The same name restores nothing a second time.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "synapse-keeper.dev",
    version = "v1alpha1",
    kind = "SynapseRestore",
    plural = "synapserestores",
    shortname = "synrs",
    namespaced,
    status = "RestoreStatus",
    category = "synapse-keeper",
    derive = "PartialEq",
    doc = "Brings the database of a Synapse homeserver back from a backup, beside the one that serves, and swaps the names.",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: names of Jobs are made from it"),
    validation = Rule::new("!has(self.spec.from.dump) || !has(self.spec.contents) || !('Media' in self.spec.contents)").message("a dump has no media: put them back by hand"),
    validation = Rule::new("!has(self.spec.from.dump) || !has(self.spec.database) || self.spec.database.method == 'Beside'").message("a dump comes back beside the database that serves: take method Beside"),
    validation = Rule::new("self.spec == oldSelf.spec").message("a SynapseRestore is immutable: make a new one under another name"),
    printcolumn(name = "Synapse", type_ = "string", json_path = ".spec.synapseRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Restored", type_ = "date", json_path = ".status.restored.takenAt"),
    printcolumn(name = "Downtime", type_ = "string", json_path = ".status.last.downtime"),
    printcolumn(name = "Kept", type_ = "string", json_path = ".status.restored.kept", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SynapseRestoreSpec {
    /// The homeserver, in the same namespace.
    pub synapse_ref: SynapseRef,
    /// What comes back.
    pub from: RestoreSource,
    /// What is restored; without it all that the backup has and the `Synapse` object names. Secrets and ConfigMaps are not: see
    /// `synapse-keeper task restore-config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    #[x_kube(validation = Rule::new("'Database' in self").message("contents must have Database: media can be put back by hand, with synapse-keeper task restore-media"))]
    #[x_kube(validation = Rule::new("!('Config' in self)").message("Secrets and ConfigMaps are not restored by an operation: synapse-keeper task restore-config writes them to a file"))]
    pub contents: Option<Vec<Content>>,
    /// What becomes of the database that is there.
    #[serde(default)]
    pub database: RestoreDatabase,
    /// How long users may be locked out: while the names are swapped, not while the backup is read.
    #[serde(default)]
    pub downtime: Downtime,
    /// How the Jobs look, where it differs from the `Synapse` object.
    #[serde(default)]
    pub jobs: JobSettings,
}

/// A backup of a `SynapseBackup`, or in a repository alone, for the cluster that made it may be gone; or somebody's dump.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.backupRef), has(self.repository), has(self.dump)].filter(given, given).size() == 1").message("give one of backupRef, repository and dump"))]
#[x_kube(validation = Rule::new("!has(self.before) || self.snapshot == 'latest'").message("give either snapshot or before"))]
#[x_kube(validation = Rule::new("!has(self.dump) || (self.snapshot == 'latest' && !has(self.before))").message("which dump it is stands in dump"))]
pub struct RestoreSource {
    /// A `SynapseBackup` of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<BackupRef>,
    /// A repository. Whoever made the backups: they are told by the homeserver's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// A dump that somebody else made: its database alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpSource>,
    /// A backup's name as `status.snapshots` has it, or the beginning of it; `latest`: the newest.
    #[serde(default = "latest")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^(latest|[0-9a-f]{4,64})$"))]
    pub snapshot: String,
    /// The newest that is not younger than this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Time>,
}

fn latest() -> String {
    "latest".to_owned()
}

impl RestoreSource {
    /// The moment of `before`.
    pub fn before(&self) -> Option<Timestamp> {
        self.before.as_ref().map(|before| before.0)
    }
}

/// A `SynapseBackup` of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRef {
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What becomes of the database that is there. It is never dropped.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.method == 'Beside' || self.existing == 'Refuse'").message("method InPlace renames no database: it wants one that nobody has used"))]
pub struct RestoreDatabase {
    /// Where the backup comes back.
    #[serde(default)]
    pub method: Method,
    /// What becomes of a database that somebody has used. One that a freshly installed Synapse has made, with no user and no
    /// event, is renamed either way.
    #[serde(default)]
    pub existing: Existing,
    /// What becomes of purges that were under way when the backup was made: Synapse would go on with them at its start.
    #[serde(default)]
    pub scheduled_tasks: ScheduledTasks,
    /// How much disk is free for PostgreSQL, such as 20Gi, where the `Synapse` object names no `postgres.dataVolume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti)?$"))]
    pub free_space: Option<String>,
}

/// Where the backup's database comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
pub enum Method {
    /// Into a new database, which takes the old one's name when it is whole: users wait for that alone. It takes a role that
    /// may make databases.
    #[default]
    Beside,
    /// Into the homeserver's own database, which nobody has used yet. Synapse is down meanwhile, and stays down while the
    /// database is unfinished.
    InPlace,
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Beside => "beside",
            Self::InPlace => "in-place",
        })
    }
}

/// What becomes of a database that somebody has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
pub enum Existing {
    /// Nothing is done.
    #[default]
    Refuse,
    /// It is kept under a name with the time.
    Rename,
}

impl std::fmt::Display for Existing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Rename => "rename",
        })
    }
}

/// What becomes of purges of rooms, of history and of a user's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
pub enum ScheduledTasks {
    /// They are cancelled, and told.
    #[default]
    Cancel,
    /// They go on.
    Keep,
}

impl std::fmt::Display for ScheduledTasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Cancel => "cancel",
            Self::Keep => "keep",
        })
    }
}

/// What every operation has, and what came back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreStatus {
    #[serde(flatten)]
    pub operation: OperationStatus,
    /// What the homeserver has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// The database that a restore that failed had made beside the homeserver's. Nobody uses it, and nobody drops it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<DatabaseLeft>,
}

impl RestoreStatus {
    /// Takes the engine's memory, and from the swap what it did.
    pub fn absorb(&mut self, operation: OperationStatus) {
        let run = operation.run.as_deref();
        let steps = run.iter().flat_map(|run| &run.steps);
        if run.is_some_and(Run::was_taken_back) {
            self.restored = None;
        } else if let Some(restored) = steps.filter_map(|step| step.result.as_ref()?.restored.clone()).next_back() {
            self.restored = Some(restored);
        }
        self.left = run.filter(|run| run.is_finished()).and_then(Run::database_left).cloned();
        self.operation = operation;
    }
}

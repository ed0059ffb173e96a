//! `SynapseMaintenance`: what keeps a homeserver's database small and fast.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    downtime::Downtime, jobs::JobSettings, operation::OperationStatus, references::SynapseRef, schedule::Schedule,
};

/// Maintenance of a homeserver, once or on a schedule.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "synapse-keeper.dev",
    version = "v1alpha1",
    kind = "SynapseMaintenance",
    plural = "synapsemaintenances",
    shortname = "synmt",
    namespaced,
    status = "OperationStatus",
    category = "synapse-keeper",
    derive = "PartialEq",
    doc = "Maintenance of a Synapse homeserver, once or on a schedule.",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: names of Jobs are made from it"),
    printcolumn(name = "Synapse", type_ = "string", json_path = ".spec.synapseRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Downtime", type_ = "string", json_path = ".status.last.downtime"),
    printcolumn(name = "Freed", type_ = "string", json_path = ".status.last.freed"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule.cron", priority = 1),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRunAt", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.schedule) == has(oldSelf.schedule)").message("a schedule can be neither added nor removed: make a new object").field_path(".schedule"))]
#[x_kube(validation = Rule::new("has(self.schedule) || (self.synapseRef == oldSelf.synapseRef && self.steps == oldSelf.steps && self.dryRun == oldSelf.dryRun && self.downtime == oldSelf.downtime)").message("a maintenance without a schedule runs once and is immutable: make a new object"))]
#[x_kube(validation = Rule::new("self.downtime.allowed || self.steps.all(s, !has(s.vacuum) || s.vacuum.mode != 'Full')").message("vacuum with mode Full takes the homeserver down: set downtime.allowed to true or use mode Analyze"))]
pub struct SynapseMaintenanceSpec {
    /// The homeserver.
    #[x_kube(validation = Rule::new("self == oldSelf").message("synapseRef is immutable"))]
    pub synapse_ref: SynapseRef,
    /// When to run. Without it: once, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Starts no new run. One that is under way goes on to its end.
    #[serde(default)]
    pub suspend: bool,
    /// Writes to `status.plan` what the run would do, and changes nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// How long users may be locked out.
    #[serde(default)]
    pub downtime: Downtime,
    /// What to do, in this order; steps that need no downtime come first.
    #[schemars(length(min = 1, max = 16))]
    pub steps: Vec<Step>,
    /// How the Jobs look, where it differs from the `Synapse` object.
    #[serde(default)]
    pub jobs: JobSettings,
}

/// One thing to do. Exactly one field is set.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.vacuum)").message("a step must name what to do: vacuum"))]
pub struct Step {
    /// Gives space back and refreshes the planner's statistics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vacuum: Option<Vacuum>,
}

/// PostgreSQL's VACUUM.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vacuum {
    /// Which VACUUM.
    pub mode: VacuumMode,
    /// Names of the tables. Without it: all tables of the database's schema.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub tables: Vec<String>,
    /// Mode Full: a table that would give back less than this is left alone.
    #[serde(default = "default_minimum_gain")]
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]{1,15}(Ki|Mi|Gi|Ti)?$"))]
    pub minimum_gain: String,
    /// Mode Full: how much disk is free for PostgreSQL, where the operator cannot see it (see `postgres.dataVolume`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = r"^[0-9]{1,15}(Ki|Mi|Gi|Ti)?$"))]
    pub free_space: Option<String>,
}

fn default_minimum_gain() -> String {
    "16Mi".to_owned()
}

/// What VACUUM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum VacuumMode {
    /// `VACUUM (ANALYZE)`: beside a serving Synapse. Space becomes free for new rows; the files stay as large.
    Analyze,
    /// `VACUUM FULL`: writes each table anew and gives the rest back to the disk. Synapse is down meanwhile.
    Full,
}

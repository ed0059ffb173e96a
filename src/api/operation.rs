//! The status of an operation: the same for every kind, because one engine drives them all.
//!
//! This is the engine's memory. What it decides, it decides from here and from named children (Jobs, the Lease), so that
//! an operator that is killed at any moment is followed by one that knows as much. `phase`, `step` and `last` are for
//! people; nothing reads them back.

mod run;
mod stage;
mod step;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use run::{Failure, Outcome, PinnedSynapse, RecordedWorkload, Role, Run, Trigger, Undo, Window, restart_reserve};
pub use stage::{Interrupted, Stage, Weight};
pub use step::{Cursor, DatabaseAccess, Outlived, PinnedClaim, PodTrace, StepSpec, StepState, StepStatus};

use crate::contract::StepPlan;

/// What an operation has done, is doing and will do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Reconciling`, `Stalled` (as kstatus reads them), `Complete`, `Failed`, `Quiesced`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// For people: Pending, Preflight, Running, Stopping, Offline, Resuming, Scheduled, Succeeded, Failed, Suspended,
    /// Stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// For people: the step under way and how many there are, such as `vacuum-1 (2/3)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The run under way, or the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<Box<Run>>,
    /// For people: the figures of the last finished run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Figures>,
    /// What a run would do, from the last preflight.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<StepPlan>,
    /// How long the homeserver would be down, in seconds, estimated at the last preflight: all offline steps of `plan`, and
    /// what is kept of `downtime.atMost` for Pods to stop and start (60 s, at most a quarter). Absent: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_downtime_seconds: Option<i64>,
    /// The next scheduled run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_run_at: Option<Time>,
    /// The latest time of the schedule that was dealt with: run or skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_scheduled_at: Option<Time>,
    /// The value of the run-now annotation that was last answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_now_answered: Option<String>,
    /// Where the next scheduled run goes on, by step name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cursors: Vec<Cursor>,
    /// The last runs, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<HistoryEntry>,
}

/// An object whose fields the API server neither knows nor prunes: the spec's own schema, once more, would double the CRD.
pub(super) fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// Figures of a run for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Figures {
    /// Such as `41s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<String>,
    /// From the first scale-down until as many Pods were Ready as before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_seconds: Option<i64>,
    /// Such as `1.2 GiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed: Option<String>,
    /// Bytes given back to the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freed_bytes: Option<i64>,
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    pub number: i64,
    pub trigger: Trigger,
    pub outcome: Outcome,
    pub started_at: Time,
    pub finished_at: Time,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(flatten)]
    pub figures: Figures,
}

impl OperationStatus {
    /// The run under way.
    pub fn active_run(&self) -> Option<&Run> {
        self.run.as_deref().filter(|run| !run.is_finished())
    }
}

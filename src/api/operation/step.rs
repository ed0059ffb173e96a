//! A step of a run: what it is, and what has become of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    any_object,
    stage::{Stage, StageFlags},
};
use crate::{
    api::{
        Duration,
        mounts::Mount,
        verification::{OwnSynapse, ScratchServer},
    },
    contract::StepResult,
};

/// A PersistentVolumeClaim, as it was when a Job was to mount it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedClaim {
    pub name: String,
    /// The node of the Pod that had it. Absent: nobody had it, or nobody whose node is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The same in a list.
fn any_objects(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "array", "items": any_object(generator)})
}

/// What a step is. Its recipe describes it; the engine adds its deadline, and to its arguments where to go on and what preflight has
/// found. It stands on record before its Job is made, so every operator after this one builds the same Job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepSpec {
    /// `preflight`, or the name of what is done with its place in the spec, such as `vacuum-1`. Unique in the run; at most 40
    /// characters.
    pub name: String,
    #[serde(flatten)]
    #[schemars(with = "StageFlags")]
    pub stage: Stage,
    /// The task and its arguments. The engine adds those of the connection and of the budget.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// What its Pod gets of the database.
    #[serde(default)]
    pub database: DatabaseAccess,
    /// What its Pod mounts besides the credentials of PostgreSQL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_objects")]
    pub mounts: Vec<Mount>,
    /// A PostgreSQL beside the task in its Pod, for this step alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub server: Option<ScratchServer>,
    /// The homeserver's own Synapse beside the task in its Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub own_synapse: Option<OwnSynapse>,
    /// How much memory its Pod may use, where neither the object nor its `Synapse` says it. Absent: what every task may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
    /// The task and its arguments that roll the step back, if its outcome is unknown, or if no Pod of Synapse becomes Ready
    /// afterwards. The task finds out what there is to do, which may be nothing. Absent: the step is not rolled back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undo: Vec<String>,
    /// How long its Job may take, where no budget of the downtime bounds it. Then the Job is ended, and the run fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepStatus {
    #[serde(flatten)]
    pub spec: StepSpec,
    /// What became of the attempts before this one was not known either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_in_doubt: bool,
    pub state: StepState,
    /// Counts from 1; part of the Job's name.
    #[serde(default)]
    pub attempt: i32,
    /// What is known of this attempt's Pod. Absent: its Job was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodTrace>,
    /// UID of this attempt's Job, once it was seen. With it, a missing Job was deleted; without it, it was never made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// No new attempt before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// The Pod that waits for a claim that this attempt's Job has: the Job is stopped for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gives_way_to: Option<String>,
    /// What went on in the Pod of this attempt's Job when its task had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlived_by: Option<Outlived>,
    /// Why a step failed that decides nothing, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong in the last attempt, or what there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the task reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<StepResult>,
}

/// Containers that others have put into the Pod of a Job, such as a service mesh, and that go on when its task has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Outlived {
    pub pod: String,
    pub containers: Vec<String>,
    /// The Job was deleted for it: it would never have ended.
    #[serde(default)]
    pub job_deleted: bool,
}

/// What a step needs of the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DatabaseAccess {
    /// Nothing: not even its password is mounted.
    None,
    #[default]
    Connection,
    /// Also how much disk is free: `postgres.dataVolume` is mounted, on the node that has it.
    WithDisk,
}

/// What is known of the Pod of a Job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodTrace {
    /// Its Job was asked for once, and it has not been seen to run.
    Asked,
    /// It was seen to run, or its Job was asked for again, and one may have come and gone unseen.
    MayHaveRun,
    /// It had not run when its Job was being deleted: no kubelet starts it any more.
    NeverRan,
}

/// Where a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepState {
    Pending,
    /// Written before the Job is created: there may be one from now on.
    Running,
    Succeeded,
    Failed,
}

/// Where a step of a scheduled operation goes on in its next run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    pub step: String,
    /// The task's own mark, such as a table's name.
    pub position: String,
}

impl StepStatus {
    /// A step that has not begun.
    pub fn pending(spec: StepSpec) -> Self {
        Self {
            spec,
            was_in_doubt: false,
            state: StepState::Pending,
            attempt: 0,
            pod: None,
            job_uid: None,
            started_at: None,
            finished_at: None,
            retry_at: None,
            gives_way_to: None,
            outlived_by: None,
            reason: None,
            message: None,
            result: None,
        }
    }
}

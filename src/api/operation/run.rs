//! A run of an operation: one way from its beginning to its end.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    any_object,
    step::{PinnedClaim, StepState, StepStatus},
};
use crate::{
    api::{
        downtime::Downtime,
        synapse::{SynapseSpec, WorkloadRef},
    },
    contract::{DatabaseLeft, ErrorClass},
};

/// One run of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Counts the runs of this object from 1; part of the names of its Jobs.
    pub number: i64,
    /// Why it runs.
    pub trigger: Trigger,
    /// The generation of the spec that it carries out.
    pub generation: i64,
    pub started_at: Time,
    /// When it must have begun its work; later it is skipped. Only for scheduled runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_before: Option<Time>,
    /// The homeserver as it was described when the run took its Lease. Edits wait for the next run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synapse: Option<Box<PinnedSynapse>>,
    /// The image of the tools that the run began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The claims that were last looked at for a Job, of those that are on one node at a time: a Job that mounts one runs there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<PinnedClaim>,
    /// The budget that the run began with.
    pub downtime: Downtime,
    /// Preflight first, then the steps in the order in which they are done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepStatus>,
    /// The downtime: there once the counts are on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// Why the run does not reach its end. Set once: the first failure is the one that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it had done, or may have done, is being taken back, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo: Option<Undo>,
    /// The homeserver's database was found unfinished, and is so still: Synapse must not start with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// A step that can be taken back has begun, or its taking back has, and nobody knows what became of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
    /// What the homeserver had when another run left its database unfinished: this one goes on, and gives it back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherited: Vec<RecordedWorkload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

/// A run takes back what it did, because Synapse does not start with it, or what it may have done, because nobody knows. The
/// homeserver is down meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    /// The place of the step that does it.
    pub step: usize,
    pub began_at: Time,
    /// Why it could not be taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Why a run was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Trigger {
    /// The object has no schedule.
    Once,
    Schedule,
    /// The run-now annotation.
    Annotation,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    Succeeded,
    Failed,
    /// It was due but never began its work.
    Skipped,
}

/// A `Synapse` object as it was at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedSynapse {
    pub name: String,
    pub uid: String,
    pub generation: i64,
    /// The spec at that moment.
    #[schemars(schema_with = "any_object")]
    pub spec: SynapseSpec,
}

/// The downtime of a run. Every time in it is written before the act that it stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// What was there, in the order in which it is stopped.
    pub workloads: Vec<RecordedWorkload>,
    /// When the counts were recorded; the first scale-down follows.
    pub recorded_at: Time,
    /// When no Pod was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_at: Option<Time>,
    /// When the workloads began to come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_began_at: Option<Time>,
    /// When every count had been given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned_at: Option<Time>,
    /// When a Pod of the main process was first seen to run since. Before that nobody has tried what is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tried_at: Option<Time>,
    /// What was missing when `downtime.readyWithin` was over. Absent: nothing, or it is not over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// When any Pod of Synapse was Ready for the first time since. Clients may have written from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_ready_at: Option<Time>,
    /// When as many Pods were Ready as before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Time>,
}

/// A workload and what it had before the downtime.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordedWorkload {
    #[serde(flatten)]
    pub workload: WorkloadRef,
    pub role: Role,
    /// The replicas that it gets back. 0 stays 0.
    pub replicas: i32,
    /// How many of its Pods were Ready.
    pub ready: i32,
    /// It was seen at 0 replicas after the record was made. From here on, replicas are somebody else's will.
    #[serde(default)]
    pub stopped: bool,
    /// Its count was given back, or somebody else had set one, or it is gone.
    #[serde(default)]
    pub returned: bool,
}

/// What a workload is to the homeserver. The order is the order of starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    /// The Matrix Authentication Service.
    Authentication,
    /// Synapse's main process, which migrates the schema.
    Main,
    Worker,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// One word for programs, such as `Contested`.
    pub reason: String,
    /// What happened and what to do.
    pub message: String,
    /// Whether another try can help.
    pub class: ErrorClass,
    pub at: Time,
}

/// What is kept of the downtime's budget for Pods to stop and start, at most.
const RESTART_RESERVE: SignedDuration = SignedDuration::from_secs(60);

/// What is kept of a downtime of at most so long, so that Synapse is Ready again at its end. The same for a plan and for
/// a run.
pub fn restart_reserve(at_most: SignedDuration) -> SignedDuration {
    RESTART_RESERVE.min(at_most / 4)
}

impl Run {
    /// When offline work must be over, so that Synapse is Ready again within `downtime.atMost`.
    pub fn work_until(&self) -> Option<Timestamp> {
        let at_most = self.downtime.at_most.to_signed();
        self.going_down_since().map(|since| since.0 + (at_most - restart_reserve(at_most)))
    }

    /// When the homeserver began to go down, this time.
    pub fn going_down_since(&self) -> Option<&Time> {
        let window = self.window.as_ref()?;
        Some(self.undo.as_ref().map_or(&window.recorded_at, |undo| &undo.began_at))
    }

    /// Why it does not reach its end, or, where it takes back what it did, why it cannot.
    pub fn failure_of_work(&self) -> Option<&Failure> {
        self.undo.as_ref().map_or(self.failure.as_ref(), |undo| undo.failure.as_ref())
    }

    /// Ends its work. The first failure is the one that counts.
    pub fn fail(&mut self, failure: Failure) {
        let place = self.undo.as_mut().map_or(&mut self.failure, |undo| &mut undo.failure);
        place.get_or_insert(failure);
    }

    /// From the first scale-down until as many Pods were Ready as before. Where they never were: until the end of the run, which
    /// waited for them, or until every count had been given back.
    pub fn downtime_taken(&self) -> Option<SignedDuration> {
        let window = self.window.as_ref()?;
        let is_down = self.ended_down();
        let end = window.ready_at.as_ref().or(self.finished_at.as_ref().filter(|_| is_down));
        let end = end.or(window.returned_at.as_ref())?;
        Some(SignedDuration::from_secs(end.0.duration_since(window.recorded_at.0).as_secs()))
    }

    /// The Pods were not Ready again when the run stopped waiting for them.
    pub fn ended_down(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.not_ready.is_some() && window.ready_at.is_none())
    }

    /// When it stopped waiting for the Pods, which were not Ready again. `None`: they were, or it waits, or they are down.
    pub fn gave_up_at(&self) -> Option<Timestamp> {
        let window = self.window.as_ref().filter(|_| self.ended_down() && !self.holds_counts())?;
        let waited_until = || Some(window.resume_began_at.as_ref()?.0 + self.downtime.ready_within.to_signed());
        self.finished_at.as_ref().map(|at| at.0).or_else(waited_until)
    }

    /// The place of the first step that has not succeeded, of those that want the homeserver's Lease: the one that takes back
    /// what was done, where there is one.
    pub fn next_step(&self) -> Option<usize> {
        if let Some(undo) = &self.undo {
            return Some(undo.step).filter(|_| !self.was_taken_back());
        }
        self.steps.iter().position(|step| !step.spec.stage.is_afterwards() && step.state != StepState::Succeeded)
    }

    /// The place of the first step that has not succeeded, of those without which the run has not.
    pub fn next_deciding_step(&self) -> Option<usize> {
        self.steps.iter().position(|step| step.spec.stage.decides() && step.state != StepState::Succeeded)
    }

    /// The place of the first step that comes when the homeserver's Lease has been given back, and has not ended.
    pub fn next_step_afterwards(&self) -> Option<usize> {
        let has_ended = |state| matches!(state, StepState::Succeeded | StepState::Failed);
        self.steps.iter().position(|step| step.spec.stage.is_afterwards() && !has_ended(step.state))
    }

    /// The database that a failed run has made beside the homeserver's, and that is there still, as far as is known.
    pub fn database_left(&self) -> Option<&DatabaseLeft> {
        self.failure.as_ref().filter(|_| !self.in_doubt)?;
        let results = self.steps.iter().filter_map(|step| step.result.as_ref());
        results.fold(None, |left, result| match &result.restored {
            Some(_) => None,
            None => result.beside.as_ref().or(left),
        })
    }

    /// The place of a step whose task has ended and whose Job is kept from its end by a container of others.
    pub fn outlived_step(&self) -> Option<usize> {
        let is_kept = |step: &StepStatus| step.outlived_by.as_ref().is_some_and(|outlived| !outlived.job_deleted);
        self.steps.iter().position(|step| step.state != StepState::Running && is_kept(step))
    }

    /// What it had done was taken back.
    pub fn was_taken_back(&self) -> bool {
        let step = self.undo.as_ref().and_then(|undo| self.steps.get(undo.step));
        step.is_some_and(|step| step.state == StepState::Succeeded)
    }

    /// What workloads had, where that must not be forgotten.
    pub fn counts(&self) -> Option<&[RecordedWorkload]> {
        let inherited = Some(self.inherited.as_slice()).filter(|inherited| !inherited.is_empty());
        self.window.as_ref().map(|window| window.workloads.as_slice()).or(inherited)
    }

    /// The step that can be taken back, once it has begun. No run has more than one.
    pub fn step_to_take_back(&self) -> Option<&StepStatus> {
        self.steps.iter().find(|step| !step.spec.undo.is_empty() && step.attempt > 0)
    }

    /// What Synapse would find is unfinished or may be out of step, as far as is known: it must not start with it.
    pub fn must_stay_down(&self) -> bool {
        self.unfinished
            || self.in_doubt && self.step_to_take_back().is_some_and(|step| step.spec.stage.keeps_down_in_doubt())
    }

    /// Counts of this run's workloads are out: recorded and not all given back.
    pub fn holds_counts(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.returned_at.is_none())
    }

    /// The run has reached its end, whatever that was.
    pub fn is_finished(&self) -> bool {
        self.outcome.is_some()
    }
}

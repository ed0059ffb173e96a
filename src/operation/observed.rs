//! What [`super::observe`] saw and [`super::plan`](mod@super::plan) decides from: plain data.

use crate::{
    api::{
        SynapseBackup,
        operation::{OperationStatus, Outlived, RecordedWorkload, Role},
        synapse::{SynapseSpec, WorkloadRef},
        verification::SynapseImage,
    },
    contract::Report,
    recipes::{Lane, RecipeStep, Refusal, Request},
};

/// A Pod on a lost node never ends. Its statement ends with its connection, so nobody waits for it longer.
pub const TASK_STOPS_WITHIN: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);

/// The operation itself.
#[derive(Clone, Debug)]
pub struct Subject {
    pub kind: &'static str,
    /// Which of its runs.
    pub lane: &'static Lane,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: i64,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// It carries our finalizer, and that is this lane's.
    pub has_finalizer: bool,
    /// Value of the annotation that asks for a run now.
    pub run_now: Option<String>,
    /// When it was made: a schedule begins here.
    pub created: jiff::Timestamp,
    pub request: Request,
    pub status: OperationStatus,
}

impl Subject {
    /// Who holds a Lease when this operation does: `kind/name/uid`.
    pub fn identity(&self) -> String {
        format!("{}/{}/{}", self.kind, self.name, self.uid)
    }
}

/// Everything else. A field that the present state of the run does not need is at its default.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The `Synapse` object; `None`: there is none.
    pub synapse: Option<ObservedSynapse>,
    /// The `SynapseBackup` that the request names, before the run is pinned.
    pub backup: Option<SynapseBackup>,
    /// The image of the homeserver's own Synapse, before the run is pinned, where the request wants it.
    pub synapse_image: Option<SynapseImage>,
    /// What the recipe makes of it.
    pub steps: Vec<RecipeStep>,
    pub lease: LeaseState,
    /// The workloads: before the downtime as the `Synapse` object names them, in it those on record.
    pub workloads: Vec<Live>,
    /// Why it cannot be done: found before any workload was touched.
    pub refusal: Option<Refusal>,
    /// Workloads that match the `Synapse` object, run, and are not on record.
    pub appeared: Vec<WorkloadRef>,
    /// Another operation whose status holds unreturned counts of one of the workloads.
    pub counts_held_by: Option<String>,
    /// The Job of the step under way.
    pub job: Option<ObservedJob>,
    /// The Job of a step that has ended, which is kept from its own end by a container that others have put into its Pod.
    pub outlived_job: Option<ObservedJob>,
    /// Jobs of a lane that does not keep them, once there is nothing left to do for them.
    pub jobs_left: Vec<JobLeft>,
    /// Pods of this operation's Jobs that still run though their Job is gone: somebody deleted it.
    pub task_pods: Vec<String>,
    /// The operator is being uninstalled: bring everything back, begin nothing.
    pub uninstalling: bool,
    /// The claims that the step about to begin mounts.
    pub claims: Vec<ObservedClaim>,
    /// A Pod of somebody else's that waits on another node for a claim that the Job of the step under way has.
    pub claim_wanted_by: Option<String>,
    /// The image that the operator was told to use for tasks.
    pub image: String,
}

/// The homeserver's description.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedSynapse {
    pub uid: String,
    pub generation: i64,
    pub deleting: bool,
    pub spec: SynapseSpec,
}

/// The homeserver's Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LeaseState {
    #[default]
    Free,
    /// Held by this operation.
    Mine {
        /// The counts stand on it.
        counts: bool,
        /// It says that the database is unfinished.
        unfinished: bool,
        /// It says so to who comes next.
        kept_down: bool,
    },
    /// Held by another: who, for people.
    Theirs(String),
    /// Its holder has ended, and has left the database unfinished.
    KeptDown(KeptDown),
}

impl LeaseState {
    /// What this operation's Lease should be.
    pub fn mine(counts: bool, unfinished: bool) -> Self {
        Self::Mine { counts, unfinished, kept_down: false }
    }
}

/// A homeserver whose replicas stay at 0, because its database is unfinished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptDown {
    /// Who held the Lease, as [`Subject::identity`] has it.
    pub holder: String,
    /// What it had.
    pub counts: Vec<RecordedWorkload>,
    /// Why, and how to go on, for people.
    pub message: String,
}

/// A workload as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    pub workload: WorkloadRef,
    pub role: Role,
    /// What `/scale` says is wanted; `None`: the workload is gone.
    pub replicas: Option<i32>,
    /// Its Pods, terminating ones included.
    pub pods: Vec<ObservedPod>,
    /// Who changed the replicas last, where the API knows.
    pub changed_by: Option<String>,
    /// Its Pods go one by one, and each waits for the one before it to be Ready: a StatefulSet whose `podManagementPolicy` is
    /// OrderedReady.
    pub ordered: bool,
    /// Why no Pod of it can be made, in its controller's words.
    pub cannot_make_pods: Option<String>,
}

impl Live {
    /// How many of its Pods are Ready. One that is Terminating may still be Ready, and serves nobody: no Service leads to it.
    pub fn ready(&self) -> i32 {
        self.pods.iter().filter(|pod| pod.ready && !pod.terminating).count() as i32
    }
}

/// A Pod of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPod {
    pub name: String,
    pub node: String,
    pub ready: bool,
    pub terminating: bool,
    /// A container of it runs, or has run.
    pub ran: bool,
    /// Why it is not Ready, in the words of scheduler or kubelet.
    pub problem: Option<String>,
}

/// A PersistentVolumeClaim that a step mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedClaim {
    pub name: String,
    /// The step writes to it.
    pub writable: bool,
    /// How it may be mounted, in Kubernetes' words; `None`: there is no such claim.
    pub modes: Option<Vec<String>>,
    /// The node of the Pod that has it, if that is none of ours.
    pub node: Option<String>,
}

/// A Job of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservedJob {
    pub uid: String,
    /// Its owner is this operation.
    pub ours: bool,
    /// When its deletion began; its Pods are not all gone.
    pub deleted_at: Option<jiff::Timestamp>,
    pub state: JobState,
    /// What its task reported.
    pub report: Option<Report>,
    /// Why its Pod does not start or how it ended, in the kubelet's words and with the last log lines.
    pub pod: Option<String>,
    /// The node of its Pod.
    pub node: Option<String>,
    /// Its Pod runs or has run.
    pub started: bool,
    /// The Pod's container was killed for memory.
    pub out_of_memory: bool,
    /// The task has ended, and containers of its Pod that others have put there keep the Job from its end. `state` is that of
    /// the task.
    pub outlived: Option<Outlived>,
}

#[cfg(test)]
impl ObservedJob {
    /// One of ours whose Pod has run.
    pub fn of(state: JobState, report: Option<Report>) -> Self {
        Self {
            uid: "job".to_owned(),
            ours: true,
            deleted_at: None,
            state,
            report,
            pod: None,
            node: None,
            started: true,
            out_of_memory: false,
            outlived: None,
        }
    }
}

/// A Job that should be gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobLeft {
    pub name: String,
    /// It was deleted; its Pods are ending.
    pub is_going: bool,
}

/// Where a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Its Pods may still run.
    Active,
    Complete,
    /// In the Job controller's words.
    Failed(String),
}

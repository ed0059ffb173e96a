//! The plan against a simulated world: no API server, thousands of lives in a second.
//!
//! A random script of blows (somebody scales up, a Job dies, the Lease vanishes, the object is deleted, the operator is
//! killed between any two of its writes) falls on an operation; then the world is left in peace. Whatever came before, the
//! run must come to its end and the invariants below must have held at every moment.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Action, Plan, plan};
use crate::{
    api::{
        SynapseMaintenance, SynapseMaintenanceSpec, SynapseSpec,
        operation::{OperationStatus, Outcome, RecordedWorkload, Role, StepState},
        synapse::{WorkloadKind, WorkloadRef},
    },
    operation::{
        observed::{
            JobState, KeptDown, LeaseState, Live, Observed, ObservedJob, ObservedPod, ObservedSynapse, Subject,
        },
        scale::Change,
    },
    recipes::{Operation, RecipeStep, Sight},
    task::report::{ErrorClass, Leaves, Report, StepResult, TaskError},
};

/// What befalls the operation.
#[derive(Clone, Debug)]
enum Blow {
    /// Time passes: Pods come and go, Jobs go on.
    Tick(i64),
    /// The operator reconciles until it waits.
    Reconcile,
    /// The operator makes this many turns of a reconcile and is killed in the last: before the status is written, before
    /// the act, or after it.
    Killed(usize, Moment),
    /// Somebody sets a workload's replicas.
    Scale(usize, i32),
    /// The next Job that ends, ends like this.
    Fate(Fate),
    JobDeleted,
    LeaseDeleted,
    /// Another operation takes the Lease if it is free, and gives it back later.
    LeaseTaken,
    LeaseGivenBack,
    ObjectDeleted,
    SynapseDeleted,
    WorkloadDeleted(usize),
    Uninstalling(bool),
    /// A Pod that ignores SIGTERM, or one that does not become Ready.
    PodsHang(usize),
    /// A Pod waits on another node for a volume that the Job of a step that comes afterwards has, or waits no more.
    VolumeWanted(bool),
    /// Synapse does not start with what it finds, until that is taken back; or it does.
    DoesNotStart(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Moment {
    BeforeStatus,
    BeforeAct,
    AfterAct,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Succeeds,
    Transient,
    Terminal,
    /// It has begun, and cannot tidy up.
    LeavesHalf,
    DiesWithoutAWord,
    NeverStarts,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SimLease {
    holder: String,
    counts: Option<Vec<RecordedWorkload>>,
    unfinished: bool,
    pub(super) kept_down: bool,
}

#[derive(Clone, Debug)]
struct SimJob {
    offline: bool,
    holds: bool,
    /// The database was unfinished when it began, and what it was then.
    leaves: Option<Leaves>,
    fate: Fate,
    age: i64,
    deleted_at: Option<Timestamp>,
    state: JobState,
    uid: String,
}

#[derive(Clone, Debug)]
pub(super) struct SimWorkload {
    workload: WorkloadRef,
    role: Role,
    original: i32,
    replicas: Option<i32>,
    pods: i32,
    /// Somebody else has set replicas, or the Pods hang: what it ends up with is not ours alone.
    meddled: bool,
    pub(super) hangs: bool,
}

impl SimWorkload {
    pub(super) fn role(&self) -> Role {
        self.role
    }
}

pub(super) struct World {
    pub(super) subject: Subject,
    maintenance: SynapseMaintenance,
    /// There are also steps that come afterwards: one that decides, and one that does not.
    afterwards: bool,
    /// Offline steps can be taken back.
    pub(super) undoes: bool,
    /// No Pod of Synapse becomes Ready, until a step is taken back.
    pub(super) does_not_start: bool,
    exists: bool,
    synapse: Option<ObservedSynapse>,
    pub(super) lease: Option<SimLease>,
    /// The database is marked as unfinished.
    pub(super) mark: bool,
    /// Offline steps write into the homeserver's own database.
    pub(super) holds: bool,
    pub(super) workloads: Vec<SimWorkload>,
    jobs: BTreeMap<(String, i32), SimJob>,
    /// Seconds that the Pod of a Job that somebody deleted still runs.
    lingers: i64,
    next_fate: Fate,
    volume_wanted: bool,
    uninstalling: bool,
    pub(super) now: Timestamp,
    pub(super) successes: BTreeMap<String, usize>,
    /// Every Job that ends from now on.
    all_fail: bool,
}

const SYNAPSE: &str = "
serverName: example.org
workloads: {refs: [{kind: StatefulSet, name: main}], main: {kind: StatefulSet, name: main}}
postgres: {host: postgres, database: synapse, credentials: {secretName: postgres}}
";

impl World {
    pub(super) fn new(steps: &str) -> Self {
        let spec: SynapseMaintenanceSpec =
            serde_yaml_ng::from_str(&format!("{{synapseRef: {{name: example}}, steps: {steps}}}")).unwrap();
        let maintenance = SynapseMaintenance::new("m", spec);
        let spec_of_synapse: SynapseSpec = serde_yaml_ng::from_str(SYNAPSE).unwrap();
        let now: Timestamp = "2026-11-22T03:00:00Z".parse().unwrap();
        let workload = |kind, name: &str, role, original| SimWorkload {
            workload: WorkloadRef { kind, name: name.to_owned() },
            role,
            original,
            replicas: Some(original),
            pods: original,
            meddled: false,
            hangs: false,
        };
        Self {
            subject: Subject {
                kind: "SynapseMaintenance",
                lane: &crate::recipes::lane::OWN,
                namespace: "matrix".to_owned(),
                name: "m".to_owned(),
                uid: "uid".to_owned(),
                generation: 1,
                deleting: false,
                has_finalizer: false,
                run_now: None,
                created: now,
                request: maintenance.request(),
                status: OperationStatus::default(),
            },
            maintenance,
            afterwards: false,
            undoes: false,
            does_not_start: false,
            exists: true,
            synapse: Some(ObservedSynapse {
                uid: "s".to_owned(),
                generation: 1,
                deleting: false,
                spec: spec_of_synapse,
            }),
            lease: None,
            mark: false,
            holds: false,
            workloads: vec![
                workload(WorkloadKind::StatefulSet, "main", Role::Main, 1),
                workload(WorkloadKind::Deployment, "worker", Role::Worker, 3),
                workload(WorkloadKind::Deployment, "idle", Role::Worker, 0),
                workload(WorkloadKind::Deployment, "mas", Role::Authentication, 2),
            ],
            jobs: BTreeMap::new(),
            lingers: 0,
            next_fate: Fate::Succeeds,
            volume_wanted: false,
            uninstalling: false,
            now,
            successes: BTreeMap::new(),
            all_fail: false,
        }
    }

    pub(super) fn all_jobs_fail(&mut self) {
        self.all_fail = true;
        self.jobs.values_mut().filter(|job| job.state == JobState::Active).for_each(|job| job.fate = Fate::Terminal);
    }

    /// As long as this holds, Jobs end like that.
    pub(super) fn jobs_do_well(&mut self) {
        self.all_fail = false;
    }

    /// The next Job writes half of what it should, and cannot take it away.
    pub(super) fn leaves_half(&mut self) {
        self.next_fate = Fate::LeavesHalf;
    }

    /// Another object for the same homeserver.
    pub(super) fn another(&mut self, uid: &str, heals: bool) {
        assert!(!self.subject.has_finalizer, "the one before is over");
        uid.clone_into(&mut self.subject.uid);
        self.subject.status = OperationStatus::default();
        self.subject.deleting = false;
        self.exists = true;
        self.subject.request.heals = heals;
        self.successes.clear();
        self.jobs.clear();
    }

    pub(super) fn with_steps_afterwards(self) -> Self {
        Self { afterwards: true, ..self }
    }

    /// What the recipe wants.
    fn recipe(&self, homeserver: &SynapseSpec) -> Vec<RecipeStep> {
        let mut steps = self.maintenance.steps(Sight::of(homeserver));
        for step in steps.iter_mut().filter(|step| step.offline) {
            step.holds = self.holds;
            if self.undoes || self.holds {
                step.undo = vec!["undo".to_owned()];
            }
        }
        if self.afterwards {
            let afterwards = |name: &str, decides| RecipeStep {
                name: name.to_owned(),
                offline: false,
                afterwards: true,
                decides,
                ..steps[0].clone()
            };
            // The first in the list: they come last all the same.
            let both = [afterwards(OPTIONAL, false), afterwards(DECIDING, true)];
            steps.splice(0..0, both);
        }
        steps
    }

    fn recorded(&self) -> Option<&[RecordedWorkload]> {
        self.subject.status.active_run()?.counts()
    }

    /// The annotations that the run wants on its Lease.
    fn as_recorded(&self) -> SimLease {
        let unfinished = self.subject.status.active_run().is_some_and(|run| run.unfinished);
        SimLease { counts: self.recorded().map(<[_]>::to_vec), unfinished, ..SimLease::default() }
    }

    fn offline_job_runs(&self) -> bool {
        self.jobs.values().any(|job| job.offline && job.state == JobState::Active)
    }

    /// As [`crate::operation::observe`] does it.
    pub(super) fn observe(&self) -> Observed {
        let mut observed =
            Observed { uninstalling: self.uninstalling, image: "tools".to_owned(), ..Default::default() };
        let Some(run) = self.subject.status.active_run() else { return observed };
        observed.synapse = self.synapse.clone();
        if let Some(synapse) = &self.synapse {
            observed.steps = self.recipe(&synapse.spec);
        }
        observed.lease = match &self.lease {
            None => LeaseState::Free,
            Some(SimLease { holder, counts, unfinished, kept_down }) if *holder == self.subject.identity() => {
                LeaseState::Mine { counts: counts.is_some(), unfinished: *unfinished, kept_down: *kept_down }
            }
            Some(SimLease { holder, counts, kept_down: true, .. }) => LeaseState::KeptDown(KeptDown {
                holder: holder.clone(),
                counts: counts.clone().unwrap_or_default(),
                message: "a database is unfinished".to_owned(),
            }),
            Some(SimLease { holder, .. }) => LeaseState::Theirs(holder.clone()),
        };
        if let Some(step) = run.steps.iter().find(|step| step.state == StepState::Running) {
            observed.job = self.jobs.get(&(step.name.clone(), step.attempt)).map(|job| self.observe_job(job));
            let wanted = self.volume_wanted && step.afterwards && observed.job.is_some();
            observed.claim_wanted_by = wanted.then(|| "main-0".to_owned());
        }
        if observed.job.is_none() && self.lingers > 0 {
            observed.task_pods = vec!["task".to_owned()];
        }
        observed.workloads = self
            .workloads
            .iter()
            .map(|one| Live {
                workload: one.workload.clone(),
                role: one.role,
                replicas: one.replicas,
                changed_by: None,
                pods: (0..one.pods)
                    .map(|number| ObservedPod {
                        name: format!("{}-{number}", one.workload.name),
                        ready: !(one.hangs || self.does_not_start && one.role != Role::Authentication),
                        ..Default::default()
                    })
                    .collect(),
            })
            .collect();
        observed
    }

    fn observe_job(&self, job: &SimJob) -> ObservedJob {
        let report = |error| Report {
            error,
            result: Some(StepResult { bytes_before: Some(10), bytes_after: Some(7), ..Default::default() }),
            findings: None,
            leaves: job.leaves,
            details_in_log: false,
        };
        let error = |class| Some(TaskError { class, reason: "Refused".to_owned(), message: "no".to_owned() });
        ObservedJob {
            uid: job.uid.clone(),
            ours: true,
            deleted_at: job.deleted_at,
            state: job.state.clone(),
            started: job.fate != Fate::NeverStarts && job.age > 1,
            report: match (&job.state, job.fate) {
                (JobState::Active, _) | (_, Fate::DiesWithoutAWord | Fate::NeverStarts) => None,
                (_, Fate::Succeeds) => Some(report(None)),
                (_, Fate::LeavesHalf) => Some(Report { leaves: None, ..report(error(ErrorClass::Terminal)) }),
                (_, Fate::Transient) => Some(report(error(ErrorClass::Transient))),
                (_, Fate::Terminal) => Some(report(error(ErrorClass::Terminal))),
            },
            pod: None,
            node: None,
            out_of_memory: false,
        }
    }

    /// A reconcile of at most `turns` turns. True: it came to a wait.
    pub(super) fn reconcile(&mut self, turns: usize, killed: Option<Moment>) -> bool {
        for turn in 1..=turns {
            if !self.exists {
                return true;
            }
            let moment = killed.filter(|_| turn == turns);
            let Plan { status, action } = plan(&self.subject, &self.observe(), self.now);
            if moment == Some(Moment::BeforeStatus) {
                return false;
            }
            self.subject.status = status;
            if let Action::Wait(time) = action {
                assert!(!time.is_negative(), "waits for the past");
                return true;
            }
            if moment == Some(Moment::BeforeAct) {
                return false;
            }
            self.act(&action);
            if moment == Some(Moment::AfterAct) {
                return false;
            }
        }
        assert!(killed.is_some(), "goes round in circles: {:#?}", self.subject.status.run);
        false
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Wait(_) | Action::Continue => {}
            Action::AcquireLease => {
                let lease = SimLease { holder: self.subject.identity(), ..self.as_recorded() };
                self.lease.get_or_insert(lease);
            }
            Action::TakeOverLease(from) => {
                let lease = SimLease { holder: self.subject.identity(), ..self.as_recorded() };
                self.lease = self.lease.take().map(|held| if held.holder == *from { lease } else { held });
            }
            Action::PublishCounts | Action::KeepDown => {
                let lease = SimLease { kept_down: *action == Action::KeepDown, ..self.as_recorded() };
                assert!(lease.counts.is_some(), "counts are in the status before they are on the Lease");
                if let Some(held) = &mut self.lease {
                    assert_eq!(held.holder, self.subject.identity());
                    *held = SimLease { holder: held.holder.clone(), ..lease };
                }
            }
            Action::ReleaseLease => {
                self.assert_nothing_is_out();
                self.lease = self.lease.take().filter(|lease| lease.holder != self.subject.identity());
            }
            Action::AddFinalizer => self.subject.has_finalizer = true,
            Action::RemoveFinalizer => {
                if !self.subject.status.run.as_ref().is_some_and(|run| run.unfinished) {
                    self.assert_nothing_is_out();
                }
                self.subject.has_finalizer = false;
                self.exists = !self.subject.deleting;
            }
            Action::Scale(changes) => {
                for Change { workload, from, to } in changes {
                    self.scale(workload, *from, *to);
                }
            }
            Action::SweepJobs | Action::ClearJobs => {}
            Action::CreateJob(index) => self.create_job(*index),
            Action::DeleteJob(index) => {
                let step = &self.subject.status.run.as_ref().unwrap().steps[*index];
                if let Some(job) = self.jobs.get_mut(&(step.name.clone(), step.attempt)) {
                    job.deleted_at.get_or_insert(self.now);
                }
            }
        }
    }

    fn scale(&mut self, workload: &WorkloadRef, from: i32, to: i32) {
        let recorded = self.recorded().expect("counts are recorded before the first scale").to_vec();
        let on_record = recorded.iter().find(|recorded| recorded.workload == *workload).expect("it is on record");
        assert!(self.subject.has_finalizer, "the finalizer is there while counts are out");
        let on_lease = self.lease.as_ref().is_some_and(|lease| lease.counts.is_some());
        assert!(to == 0 || !self.mark, "{workload:?} comes back to an unfinished database");
        let offline_job_runs = self.offline_job_runs() || self.lingers > 0;
        let one = self.workloads.iter_mut().find(|one| one.workload == *workload).unwrap();
        if to == 0 {
            assert!(on_lease, "the counts are on the Lease before the first scale");
        } else {
            assert!(!offline_job_runs, "an offline Job ran when {workload:?} came back");
            assert_eq!(from, 0, "resume writes only where replicas are 0");
            assert_eq!(to, on_record.replicas);
            assert!(one.meddled || to == one.original, "{to} is not what {workload:?} had");
        }
        if one.replicas == Some(from) {
            one.replicas = Some(to);
        }
    }

    fn create_job(&mut self, index: usize) {
        let run = self.subject.status.run.as_ref().unwrap();
        let step = &run.steps[index];
        assert_eq!(step.state, StepState::Running, "there may be a Job only when the status says so");
        let mine = self.lease.as_ref().filter(|lease| lease.holder == self.subject.identity());
        let holds_lease = mine.is_some();
        assert!(!step.holds || mine.is_some_and(|lease| lease.unfinished), "its Lease tells of it before it begins");
        assert_eq!(holds_lease, !step.afterwards, "no Job without Lease, but for those that nobody waits for");
        if step.afterwards {
            self.assert_nothing_is_out();
            assert!(run.failure.is_none() && run.next_step().is_none(), "it comes when all else has succeeded");
            assert!(step.decides() || run.next_deciding_step().is_none(), "it comes when the run has succeeded");
        }
        let (offline, holds) = (step.offline, step.holds);
        let up: Vec<_> = self.workloads.iter().filter(|one| one.pods > 0 || one.replicas > Some(0)).collect();
        assert!(!offline || up.is_empty(), "an offline Job beside {up:?}");
        assert!(self.lingers <= 0, "a Job beside the Pod of another");
        let fate = std::mem::replace(&mut self.next_fate, Fate::Succeeds);
        let fate = if self.all_fail { Fate::Terminal } else { fate };
        let key = (step.name.clone(), step.attempt);
        let uid = format!("{key:?}/{}", self.now);
        self.jobs.entry(key).or_insert(SimJob {
            offline,
            holds,
            leaves: None,
            fate,
            age: 0,
            deleted_at: None,
            state: JobState::Active,
            uid,
        });
    }

    fn assert_nothing_is_out(&self) {
        for recorded in self.recorded().into_iter().flatten().filter(|recorded| recorded.replicas > 0) {
            let one = self.workloads.iter().find(|one| one.workload == recorded.workload).unwrap();
            assert!(one.replicas != Some(0) || one.meddled, "let go while {:?} is at 0", one.workload);
        }
    }

    pub(super) fn tick(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.lingers -= seconds;
        for one in self.workloads.iter_mut().filter(|one| !one.hangs) {
            one.pods = one.replicas.unwrap_or(0);
        }
        for ((step, _), job) in &mut self.jobs {
            job.age += seconds;
            if job.state == JobState::Active && job.age > 2 && job.fate != Fate::NeverStarts && job.deleted_at.is_none()
            {
                job.state = match job.fate {
                    Fate::Succeeds => JobState::Complete,
                    _ => JobState::Failed("BackoffLimitExceeded: it failed".to_owned()),
                };
                // What it reports agrees with what it has left.
                if job.holds && matches!(job.fate, Fate::Transient | Fate::Terminal) {
                    let before = self.mark;
                    (self.mark, job.leaves) = match job.age % 2 {
                        0 => (before, Some(Leaves::AsItWas)),
                        _ => (false, Some(Leaves::Empty)),
                    };
                } else if job.holds {
                    self.mark = job.fate != Fate::Succeeds;
                } else if job.fate == Fate::Succeeds && step.starts_with("undo-") && self.holds {
                    self.mark = false;
                }
                if job.fate == Fate::Succeeds {
                    self.does_not_start &= !step.starts_with("undo-");
                    *self.successes.entry(step.clone()).or_default() += 1;
                }
            }
        }
        // Who is stopped in the middle leaves half of it.
        self.mark |= self.jobs.values().any(|job| {
            job.holds && job.deleted_at.is_some() && job.state == JobState::Active && job.fate != Fate::NeverStarts
        });
        self.jobs.retain(|_, job| job.deleted_at.is_none());
        // The loop over Leases, which needs no object: see `crate::operation::orphans`.
        let is_orphan = |lease: &&mut SimLease| !self.exists && lease.holder == self.subject.identity();
        let Some(lease) = self.lease.as_mut().filter(is_orphan) else { return };
        self.jobs.clear();
        if lease.unfinished {
            lease.kept_down = true;
            return;
        }
        for count in lease.counts.take().iter().flatten() {
            let one = self.workloads.iter_mut().find(|one| one.workload == count.workload).unwrap();
            assert!(!self.mark, "{:?} comes back to an unfinished database", one.workload);
            one.replicas = one.replicas.map(|replicas| if replicas == 0 { count.replicas } else { replicas });
        }
        self.lease = None;
    }

    fn strike(&mut self, blow: &Blow) {
        match blow {
            Blow::Tick(seconds) => self.tick(*seconds),
            Blow::Reconcile => drop(self.reconcile(60, None)),
            Blow::Killed(turns, moment) => drop(self.reconcile(*turns, Some(*moment))),
            Blow::Scale(index, replicas) => {
                let one = &mut self.workloads[*index];
                one.meddled = true;
                one.replicas = one.replicas.map(|_| *replicas);
            }
            Blow::Fate(fate) => self.next_fate = *fate,
            Blow::JobDeleted => {
                if self.jobs.values().any(|job| job.state == JobState::Active) {
                    self.lingers = 15;
                }
                self.mark |= self.jobs.values().any(|job| job.holds && job.state == JobState::Active);
                self.jobs.clear();
            }
            Blow::LeaseDeleted => self.lease = None,
            Blow::LeaseTaken => {
                let other = SimLease { holder: "SynapseMaintenance/other/x".to_owned(), ..SimLease::default() };
                self.lease.get_or_insert(other);
            }
            Blow::LeaseGivenBack => {
                let stays = |lease: &SimLease| lease.kept_down || lease.holder == self.subject.identity();
                self.lease = self.lease.take().filter(stays);
            }
            Blow::ObjectDeleted => {
                self.subject.deleting = true;
                self.exists &= self.subject.has_finalizer;
            }
            Blow::SynapseDeleted => self.synapse = None,
            Blow::WorkloadDeleted(index) => {
                let one = &mut self.workloads[*index];
                (one.replicas, one.pods, one.meddled) = (None, 0, true);
            }
            Blow::Uninstalling(uninstalling) => self.uninstalling = *uninstalling,
            Blow::VolumeWanted(wanted) => self.volume_wanted = *wanted,
            Blow::PodsHang(index) => self.workloads[*index].hangs = true,
            Blow::DoesNotStart(does_not) => self.does_not_start = *does_not,
        }
    }

    /// The world calms down; the operation must come to its end.
    pub(super) fn leave_in_peace(&mut self) {
        (self.uninstalling, self.volume_wanted) = (false, false);
        self.strike(&Blow::LeaseGivenBack);
        if self.subject.status.active_run().is_none_or(|run| run.synapse.is_none()) && self.synapse.is_none() {
            self.strike(&Blow::ObjectDeleted);
        }
        for _ in 0..3000 {
            self.reconcile(60, None);
            self.tick(5);
            let ended = self.subject.status.run.as_ref().is_some_and(|run| run.is_finished());
            let is_left = self.lease.as_ref().is_none_or(|lease| lease.kept_down);
            if self.exists && ended && !self.subject.has_finalizer || !self.exists && is_left {
                return;
            }
        }
        panic!("the run does not end: {:#?}", self.subject.status.run);
    }

    /// What keeps the workloads at 0.
    pub(super) fn is_kept_down(&self) -> bool {
        let by_run = self.subject.status.run.as_ref().is_some_and(|run| run.unfinished);
        by_run || self.lease.as_ref().is_some_and(|lease| lease.kept_down)
    }

    pub(super) fn assert_all_is_back(&self) {
        assert!(!self.mark, "the database is unfinished");
        for one in self.workloads.iter().filter(|one| !one.meddled) {
            assert_eq!(one.replicas, Some(one.original), "{:?}", one.workload);
        }
        assert!(self.lease.as_ref().is_none_or(|lease| lease.holder != self.subject.identity()), "{:?}", self.lease);
        self.assert_is_over();
    }

    /// The mark stands, or may, and nobody can tell: all of it was tried.
    pub(super) fn assert_is_kept_down(&self) {
        let original = |one: &&SimWorkload| !one.meddled && one.original > 0;
        for one in self.workloads.iter().filter(original) {
            assert_eq!(one.replicas, Some(0), "{:?}", one.workload);
        }
        if self.exists {
            let run = self.subject.status.run.as_ref().unwrap();
            assert!(run.undo.as_ref().is_some_and(|undo| undo.failure.is_some()), "{run:#?}");
            let entry = &self.subject.status.history[0];
            assert_eq!(entry.reason.as_deref(), Some("DatabaseUnfinished"), "{entry:?}");
        }
        self.assert_is_over();
    }

    fn assert_is_over(&self) {
        assert!(!self.offline_job_runs());
        if !self.exists {
            return;
        }
        let history = &self.subject.status.history;
        assert_eq!(history.len(), 1, "{history:?}");
        let run = self.subject.status.run.as_ref().unwrap();
        let mut steps = run.steps.iter();
        match history[0].outcome {
            Outcome::Succeeded => assert!(steps.all(|step| {
                step.state == StepState::Succeeded || !step.decides() && step.state == StepState::Failed
            })),
            _ => assert!(steps.all(|step| step.decides() || step.attempt == 0), "{:?}", run.steps),
        }
    }
}

fn blow() -> impl Strategy<Value = Blow> {
    let moment = prop_oneof![Just(Moment::BeforeStatus), Just(Moment::BeforeAct), Just(Moment::AfterAct)];
    let fate = prop_oneof![
        Just(Fate::Transient),
        Just(Fate::Terminal),
        Just(Fate::LeavesHalf),
        Just(Fate::DiesWithoutAWord),
        Just(Fate::NeverStarts)
    ];
    prop_oneof![
        30 => (1..5_i64).prop_map(Blow::Tick),
        1 => (60..4000_i64).prop_map(Blow::Tick),
        20 => Just(Blow::Reconcile),
        30 => (1..12_usize, moment).prop_map(|(turns, moment)| Blow::Killed(turns, moment)),
        3 => (0..4_usize, 0..3_i32).prop_map(|(index, replicas)| Blow::Scale(index, replicas)),
        4 => fate.prop_map(Blow::Fate),
        1 => Just(Blow::JobDeleted),
        1 => Just(Blow::LeaseDeleted),
        1 => Just(Blow::LeaseTaken),
        1 => Just(Blow::LeaseGivenBack),
        1 => Just(Blow::ObjectDeleted),
        1 => Just(Blow::SynapseDeleted),
        1 => (0..4_usize).prop_map(Blow::WorkloadDeleted),
        1 => any::<bool>().prop_map(Blow::Uninstalling),
        1 => (0..4_usize).prop_map(Blow::PodsHang),
        2 => any::<bool>().prop_map(Blow::VolumeWanted),
        2 => any::<bool>().prop_map(Blow::DoesNotStart),
    ]
}

const DECIDING: &str = "deciding";
const OPTIONAL: &str = "optional";

const STEPS: &str = "[{vacuum: {mode: Full}}, {vacuum: {mode: Analyze}}]";

#[test]
fn killed_at_every_turn_and_moment_it_ends_the_same() {
    for moment in [Moment::BeforeStatus, Moment::BeforeAct, Moment::AfterAct] {
        // Killed at each turn of each of its lives.
        for lives in 1..6 {
            let mut world = World::new(STEPS).with_steps_afterwards();
            for _ in 0..400 {
                world.reconcile(lives, Some(moment));
                world.reconcile(1, Some(Moment::AfterAct));
                world.tick(1);
            }
            world.leave_in_peace();
            world.assert_all_is_back();
            assert_eq!(world.subject.status.history[0].outcome, Outcome::Succeeded, "{moment:?}");
            let steps = ["preflight", "vacuum-2", "vacuum-1", DECIDING, OPTIONAL];
            let once = BTreeMap::from(steps.map(|step| (step.to_owned(), 1)));
            assert_eq!(world.successes, once, "no Job twice to effect");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens_the_replicas_come_back(afterwards: bool, undoes: bool, blows in prop::collection::vec(blow(), 1..120)) {
        let mut world = World::new(STEPS);
        (world.afterwards, world.undoes) = (afterwards, undoes);
        for blow in &blows {
            world.strike(blow);
        }
        world.leave_in_peace();
        world.assert_all_is_back();
    }

    #[test]
    fn whatever_happens_nobody_is_served_from_an_unfinished_database(blows in prop::collection::vec(blow(), 1..120)) {
        let mut world = World::new(STEPS);
        world.holds = true;
        for blow in &blows {
            world.strike(blow);
        }
        world.leave_in_peace();
        if world.is_kept_down() {
            world.assert_is_kept_down();
        } else {
            world.assert_all_is_back();
        }
    }
}

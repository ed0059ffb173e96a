//! A homeserver, its Jobs and its Lease, as far as the plan sees them; and an operator that does what the plan says.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::super::{Action, Plan, plan};
use crate::{
    api::{
        SynapseMaintenance, SynapseMaintenanceSpec, SynapseSpec,
        operation::{OperationStatus, RecordedWorkload, Role, StepState},
        synapse::{WorkloadKind, WorkloadRef},
    },
    operation::{
        observed::{JobState, ObservedSynapse, Subject},
        scale::Change,
    },
    recipes::{Operation, RecipeStep, Sight},
    task::report::Leaves,
};

/// A step that comes afterwards and decides the run, and one that does not.
pub(super) const DECIDING: &str = "deciding";
pub(super) const OPTIONAL: &str = "optional";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::operation::plan) enum Moment {
    BeforeStatus,
    BeforeAct,
    AfterAct,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fate {
    Succeeds,
    Transient,
    Terminal,
    /// It has begun, and cannot tidy up.
    LeavesHalf,
    DiesWithoutAWord,
    NeverStarts,
}

#[derive(Clone, Debug, Default)]
pub(in crate::operation::plan) struct SimLease {
    pub(super) holder: String,
    pub(super) counts: Option<Vec<RecordedWorkload>>,
    pub(super) unfinished: bool,
    pub(in crate::operation::plan) kept_down: bool,
}

#[derive(Clone, Debug)]
pub(super) struct SimJob {
    pub(super) offline: bool,
    pub(super) holds: bool,
    /// The database was unfinished when it began, and what it was then.
    pub(super) leaves: Option<Leaves>,
    pub(super) fate: Fate,
    pub(super) age: i64,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) state: JobState,
    pub(super) uid: String,
}

#[derive(Clone, Debug)]
pub(in crate::operation::plan) struct SimWorkload {
    pub(super) workload: WorkloadRef,
    pub(super) role: Role,
    pub(super) original: i32,
    pub(super) replicas: Option<i32>,
    pub(super) pods: i32,
    /// Somebody else has set replicas, or the Pods hang: what it ends up with is not ours alone.
    pub(super) meddled: bool,
    pub(in crate::operation::plan) hangs: bool,
}

impl SimWorkload {
    pub(in crate::operation::plan) fn role(&self) -> Role {
        self.role
    }
}

pub(in crate::operation::plan) struct World {
    pub(in crate::operation::plan) subject: Subject,
    pub(super) maintenance: SynapseMaintenance,
    /// There are also steps that come afterwards: one that decides, and one that does not.
    pub(super) afterwards: bool,
    /// Offline steps can be taken back.
    pub(in crate::operation::plan) undoes: bool,
    /// No Pod of Synapse becomes Ready, until a step is taken back.
    pub(in crate::operation::plan) does_not_start: bool,
    pub(super) exists: bool,
    pub(super) synapse: Option<ObservedSynapse>,
    pub(in crate::operation::plan) lease: Option<SimLease>,
    /// The database is marked as unfinished.
    pub(in crate::operation::plan) mark: bool,
    /// Offline steps write into the homeserver's own database.
    pub(in crate::operation::plan) holds: bool,
    pub(in crate::operation::plan) workloads: Vec<SimWorkload>,
    pub(super) jobs: BTreeMap<(String, i32), SimJob>,
    /// Seconds that the Pod of a Job that somebody deleted still runs.
    pub(super) lingers: i64,
    pub(super) next_fate: Fate,
    pub(super) volume_wanted: bool,
    pub(super) uninstalling: bool,
    pub(in crate::operation::plan) now: Timestamp,
    pub(in crate::operation::plan) successes: BTreeMap<String, usize>,
    /// Every Job that ends from now on.
    pub(super) all_fail: bool,
}

const SYNAPSE: &str = "
serverName: example.org
workloads: {refs: [{kind: StatefulSet, name: main}], main: {kind: StatefulSet, name: main}}
postgres: {host: postgres, database: synapse, credentials: {secretName: postgres}}
";

impl World {
    pub(in crate::operation::plan) fn new(steps: &str) -> Self {
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

    pub(in crate::operation::plan) fn all_jobs_fail(&mut self) {
        self.all_fail = true;
        self.jobs.values_mut().filter(|job| job.state == JobState::Active).for_each(|job| job.fate = Fate::Terminal);
    }

    /// As long as this holds, Jobs end like that.
    pub(in crate::operation::plan) fn jobs_do_well(&mut self) {
        self.all_fail = false;
    }

    /// The next Job writes half of what it should, and cannot take it away.
    pub(in crate::operation::plan) fn leaves_half(&mut self) {
        self.next_fate = Fate::LeavesHalf;
    }

    /// Another object for the same homeserver.
    pub(in crate::operation::plan) fn another(&mut self, uid: &str, heals: bool) {
        assert!(!self.subject.has_finalizer, "the one before is over");
        uid.clone_into(&mut self.subject.uid);
        self.subject.status = OperationStatus::default();
        self.subject.deleting = false;
        self.exists = true;
        self.subject.request.heals = heals;
        self.successes.clear();
        self.jobs.clear();
    }

    pub(in crate::operation::plan) fn with_steps_afterwards(self) -> Self {
        Self { afterwards: true, ..self }
    }

    /// What the recipe wants.
    pub(super) fn recipe(&self, homeserver: &SynapseSpec) -> Vec<RecipeStep> {
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

    pub(super) fn recorded(&self) -> Option<&[RecordedWorkload]> {
        self.subject.status.active_run()?.counts()
    }

    /// The annotations that the run wants on its Lease.
    fn as_recorded(&self) -> SimLease {
        let unfinished = self.subject.status.active_run().is_some_and(|run| run.unfinished);
        SimLease { counts: self.recorded().map(<[_]>::to_vec), unfinished, ..SimLease::default() }
    }

    pub(super) fn offline_job_runs(&self) -> bool {
        self.jobs.values().any(|job| job.offline && job.state == JobState::Active)
    }

    /// A reconcile of at most `turns` turns. True: it came to a wait.
    pub(in crate::operation::plan) fn reconcile(&mut self, turns: usize, killed: Option<Moment>) -> bool {
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

    pub(in crate::operation::plan) fn tick(&mut self, seconds: i64) {
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
}

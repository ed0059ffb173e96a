//! A homeserver, its Jobs and its Lease, as far as the plan sees them; and an operator that does what the plan says.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{Action, Plan, plan},
    databases::{Pair, Work},
    jobs::{Fate, SimJob},
};
use crate::{
    api::{
        SynapseMaintenance, SynapseMaintenanceSpec, SynapseSpec,
        operation::{Interrupted, OperationStatus, RecordedWorkload, Role, Run, Stage, Weight},
        synapse::{WorkloadKind, WorkloadRef},
    },
    operation::{
        observed::{ObservedSynapse, Subject},
        scale::Change,
    },
    recipes::{Operation, RecipeStep, Sight},
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

#[derive(Clone, Debug, Default)]
pub(in crate::operation::plan) struct SimLease {
    pub(super) holder: String,
    pub(super) counts: Option<Vec<RecordedWorkload>>,
    pub(super) unfinished: bool,
    pub(in crate::operation::plan) kept_down: bool,
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

    pub(in crate::operation::plan) fn is_down(&self) -> bool {
        self.replicas == Some(0)
    }

    /// Somebody gives it what it had.
    pub(in crate::operation::plan) fn start(&mut self) {
        self.replicas = Some(self.original);
    }
}

pub(in crate::operation::plan) struct World {
    pub(in crate::operation::plan) subject: Subject,
    pub(super) maintenance: SynapseMaintenance,
    /// There are also steps that come afterwards: one that decides, and one that does not.
    pub(super) afterwards: bool,
    /// What offline steps do.
    pub(in crate::operation::plan) work: Work,
    /// No Pod of Synapse becomes Ready, until a step is taken back.
    pub(in crate::operation::plan) does_not_start: bool,
    /// No Pod of the homeserver can be made.
    pub(in crate::operation::plan) no_room: bool,
    pub(super) exists: bool,
    pub(super) synapse: Option<ObservedSynapse>,
    pub(in crate::operation::plan) lease: Option<SimLease>,
    /// The database is marked as unfinished.
    pub(in crate::operation::plan) mark: bool,
    /// What has been swapped.
    pub(in crate::operation::plan) pair: Pair,
    pub(in crate::operation::plan) workloads: Vec<SimWorkload>,
    pub(super) jobs: BTreeMap<(String, i32), SimJob>,
    /// Seconds that the Pod of a Job that somebody deleted still runs.
    pub(super) lingers: i64,
    pub(in crate::operation::plan) next_fate: Fate,
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
            work: Work::Vacuum,
            does_not_start: false,
            no_room: false,
            exists: true,
            synapse: Some(ObservedSynapse {
                uid: "s".to_owned(),
                generation: 1,
                deleting: false,
                spec: spec_of_synapse,
            }),
            lease: None,
            mark: false,
            pair: Pair::default(),
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
        for step in steps.iter_mut().filter(|step| step.spec.stage.is_offline()) {
            step.spec.stage = Stage::Offline(match self.work {
                Work::InPlace => Interrupted::Unfinished,
                Work::TwoSwaps => Interrupted::OutOfStep,
                _ => Interrupted::Whole,
            });
            if self.work != Work::Vacuum {
                step.spec.undo = vec!["undo".to_owned()];
            }
        }
        if self.afterwards {
            let afterwards = |name: &str, weight| {
                let mut step = steps[0].clone();
                step.spec.name = name.to_owned();
                step.spec.stage = Stage::Afterwards(weight);
                step.spec.undo = Vec::new();
                step
            };
            // The first in the list: they come last all the same.
            let both = [afterwards(OPTIONAL, Weight::Optional), afterwards(DECIDING, Weight::Decides)];
            steps.splice(0..0, both);
        }
        steps
    }

    pub(super) fn recorded(&self) -> Option<&[RecordedWorkload]> {
        self.subject.status.active_run()?.counts()
    }

    /// The annotations that the run wants on its Lease.
    fn as_recorded(&self) -> SimLease {
        let unfinished = self.subject.status.active_run().is_some_and(Run::must_stay_down);
        SimLease { counts: self.recorded().map(<[_]>::to_vec), unfinished, ..SimLease::default() }
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
                if !self.subject.status.run.as_ref().is_some_and(|run| run.must_stay_down()) {
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
                if let Some(job) = self.jobs.get_mut(&(step.spec.name.clone(), step.attempt)) {
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
        assert!(to == 0 || self.may_be_served(), "{workload:?} comes back to {:?}", self.pair);
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

    pub(super) fn assert_nothing_is_out(&self) {
        for recorded in self.recorded().into_iter().flatten().filter(|recorded| recorded.replicas > 0) {
            let one = self.workloads.iter().find(|one| one.workload == recorded.workload).unwrap();
            assert!(one.replicas != Some(0) || one.meddled, "let go while {:?} is at 0", one.workload);
        }
    }

    pub(in crate::operation::plan) fn tick(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.lingers -= seconds;
        for one in self.workloads.iter_mut().filter(|one| !one.hangs) {
            let wanted = one.replicas.unwrap_or(0);
            one.pods = if self.no_room { wanted.min(one.pods) } else { wanted };
        }
        self.jobs_go_on(seconds);
        // The loop over Leases, which needs no object: see `crate::operation::orphans`.
        let is_orphan = |lease: &&mut SimLease| !self.exists && lease.holder == self.subject.identity();
        let Some(lease) = self.lease.as_mut().filter(is_orphan) else { return };
        self.jobs.clear();
        if lease.unfinished {
            lease.kept_down = true;
            return;
        }
        let counts = lease.counts.take();
        assert!(counts.is_none() || self.may_be_served(), "all comes back to {:?}", self.pair);
        for count in counts.iter().flatten() {
            let one = self.workloads.iter_mut().find(|one| one.workload == count.workload).unwrap();
            one.replicas = one.replicas.map(|replicas| if replicas == 0 { count.replicas } else { replicas });
        }
        self.lease = None;
    }
}

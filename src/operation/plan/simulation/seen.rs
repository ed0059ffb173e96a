//! What the operator sees of the world.

use super::{
    jobs::{Fate, SimJob},
    world::{SimLease, World},
};
use crate::{
    api::operation::{Outlived, Role, StepState},
    contract::{ErrorClass, Report, StepResult, TaskError},
    operation::observed::{JobState, KeptDown, LeaseState, Live, Observed, ObservedJob, ObservedPod},
};

impl World {
    /// As [`crate::operation::observe`] does it.
    pub(in crate::operation::plan) fn observe(&self) -> Observed {
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
            observed.job = self.jobs.get(&(step.spec.name.clone(), step.attempt)).map(|job| self.observe_job(job));
            let wanted = self.volume_wanted && step.spec.stage.is_afterwards() && observed.job.is_some();
            observed.claim_wanted_by = wanted.then(|| "main-0".to_owned());
        }
        if let Some(step) = run.outlived_step().map(|index| &run.steps[index]) {
            let outlived = self.jobs.get(&(step.spec.name.clone(), step.attempt));
            observed.outlived_job = outlived.map(|job| self.observe_job(job));
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
                ordered: false,
                cannot_make_pods: (self.no_room && one.pods < one.replicas.unwrap_or(0))
                    .then(|| "exceeded quota".to_owned()),
                pods: (0..one.pods)
                    .map(|number| ObservedPod {
                        name: format!("{}-{number}", one.workload.name),
                        ran: true,
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
            started: job.has_started(),
            report: match (&job.state, job.fate) {
                (JobState::Active, _) | (_, Fate::DiesWithoutAWord | Fate::NeverStarts) => None,
                (_, Fate::Succeeds | Fate::Outlived) => Some(report(None)),
                (_, Fate::LeavesHalf) => Some(Report { leaves: None, ..report(error(ErrorClass::Terminal)) }),
                (_, Fate::Transient) => Some(report(error(ErrorClass::Transient))),
                (_, Fate::Terminal) => Some(report(error(ErrorClass::Terminal))),
            },
            pod: None,
            node: None,
            out_of_memory: false,
            outlived: (job.fate == Fate::Outlived && job.state == JobState::Complete).then(|| Outlived {
                pod: "task".to_owned(),
                containers: vec!["mesh-proxy".to_owned()],
                job_deleted: false,
            }),
        }
    }
}

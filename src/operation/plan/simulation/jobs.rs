//! Jobs: how they begin, end and are stopped.

use jiff::Timestamp;

use super::world::World;
use crate::{
    api::operation::StepState,
    contract::Leaves,
    operation::{observed::JobState, pinned::PLACEMENT},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::operation::plan) enum Fate {
    Succeeds,
    Transient,
    Terminal,
    /// It has begun, and cannot tidy up.
    LeavesHalf,
    DiesWithoutAWord,
    NeverStarts,
    /// It succeeds, and its Pod has a container that goes on.
    Outlived,
}

/// What a Job has to do with the step that can be taken back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    DoesIt,
    TakesItBack,
}

#[derive(Clone, Debug)]
pub(super) struct SimJob {
    offline: bool,
    part: Option<Part>,
    pub(super) leaves: Option<Leaves>,
    pub(super) fate: Fate,
    pub(super) age: i64,
    pub(super) deleted_at: Option<Timestamp>,
    pub(super) state: JobState,
    pub(super) uid: String,
}

impl SimJob {
    /// Its Pod runs or has run. One that is deleted before never does.
    pub(super) fn has_started(&self) -> bool {
        self.fate != Fate::NeverStarts && self.age > 1
    }
}

impl World {
    pub(in crate::operation::plan) fn all_jobs_fail(&mut self) {
        self.all_fail = true;
        self.jobs.values_mut().filter(|job| job.state == JobState::Active).for_each(|job| job.fate = Fate::Terminal);
    }

    /// As long as this holds, Jobs end like that.
    pub(in crate::operation::plan) fn jobs_do_well(&mut self) {
        self.all_fail = false;
    }

    pub(super) fn offline_job_runs(&self) -> bool {
        self.jobs.values().any(|job| job.offline && job.state == JobState::Active)
    }

    /// Jobs that a container keeps from their end.
    pub(in crate::operation::plan) fn outlived_jobs(&self) -> usize {
        self.jobs.values().filter(|job| job.fate == Fate::Outlived && job.deleted_at.is_none()).count()
    }

    pub(super) fn create_job(&mut self, index: usize) {
        let run = self.subject.status.run.as_ref().unwrap();
        let step = &run.steps[index];
        assert_eq!(step.state, StepState::Running, "there may be a Job only when the status says so");
        let mine = self.lease.as_ref().filter(|lease| lease.holder == self.subject.identity());
        let holds_lease = mine.is_some();
        let is_told = mine.is_some_and(|lease| lease.unfinished);
        assert!(!run.must_stay_down() || is_told, "its Lease tells of it before it begins");
        assert_eq!(
            holds_lease,
            !step.spec.stage.is_afterwards(),
            "no Job without Lease, but for those that nobody waits for"
        );
        if step.spec.stage.is_afterwards() {
            self.assert_nothing_is_out();
            assert!(run.failure.is_none() && run.next_step().is_none(), "it comes when all else has succeeded");
            assert!(
                step.spec.stage.decides() || run.next_deciding_step().is_none(),
                "it comes when the run has succeeded"
            );
        }
        let offline = step.spec.stage.is_offline();
        let up: Vec<_> = self.workloads.iter().filter(|one| one.pods > 0 || one.replicas > Some(0)).collect();
        assert!(!offline || up.is_empty(), "an offline Job beside {up:?}");
        assert!(self.lingers <= 0, "a Job beside the Pod of another");
        let takes_back = run.undo.as_ref().is_some_and(|undo| undo.step == index);
        let part = match takes_back {
            true => Some(Part::TakesItBack),
            false => (!step.spec.undo.is_empty()).then_some(Part::DoesIt),
        };
        // Who looks for a place does nothing, and ends like preflight; blows are for those that work.
        let fate = match step.spec.name.as_str() {
            PLACEMENT => Fate::Succeeds,
            _ => std::mem::replace(&mut self.next_fate, Fate::Succeeds),
        };
        let fate = if self.all_fail { Fate::Terminal } else { fate };
        let key = (step.spec.name.clone(), step.attempt);
        let uid = format!("{key:?}/{}", self.now);
        self.jobs.entry(key).or_insert(SimJob {
            offline,
            part,
            leaves: None,
            fate,
            age: 0,
            deleted_at: None,
            state: JobState::Active,
            uid,
        });
    }

    pub(super) fn jobs_go_on(&mut self, seconds: i64) {
        let mut jobs = std::mem::take(&mut self.jobs);
        for ((step, _), job) in jobs.iter_mut().filter(|(_, job)| job.deleted_at.is_none()) {
            job.age += seconds;
            if job.state != JobState::Active || job.age <= 2 || job.fate == Fate::NeverStarts {
                continue;
            }
            job.state = match job.fate {
                Fate::Succeeds | Fate::Outlived => JobState::Complete,
                _ => JobState::Failed("BackoffLimitExceeded: it failed".to_owned()),
            };
            let back = job.part == Some(Part::TakesItBack);
            if job.part.is_some() {
                let fate = if job.fate == Fate::Outlived { Fate::Succeeds } else { job.fate };
                job.leaves = self.task_ends(back, Some(fate), job.age);
            }
            if matches!(job.fate, Fate::Succeeds | Fate::Outlived) {
                self.does_not_start &= !back;
                *self.successes.entry(step.clone()).or_default() += 1;
            }
        }
        self.jobs = jobs;
        self.cut_off(|job| job.deleted_at.is_some() && job.has_started());
        self.jobs.retain(|_, job| job.deleted_at.is_none());
    }

    /// Somebody deletes all Jobs. What nobody has seen may have begun all the same.
    pub(in crate::operation::plan) fn lose_jobs(&mut self) {
        if self.jobs.values().any(|job| job.state == JobState::Active) {
            self.lingers = 15;
        }
        self.cut_off(|job| job.fate != Fate::NeverStarts && (job.deleted_at.is_none() || job.has_started()));
        self.jobs.clear();
    }

    /// Who is stopped in the middle leaves half of it, or all, or nothing.
    fn cut_off(&mut self, is_hit: impl Fn(&SimJob) -> bool) {
        let hit = self.jobs.values().filter(|job| job.state == JobState::Active && is_hit(job));
        let hit: Vec<(Option<Part>, i64)> = hit.map(|job| (job.part, job.age)).collect();
        for (part, age) in hit.into_iter().filter_map(|(part, age)| Some((part?, age))) {
            self.task_ends(part == Part::TakesItBack, None, age);
        }
    }
}

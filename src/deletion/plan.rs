//! Does the object wait for its data, and how far is that? Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::{
    api::{
        backup::BackupStatus,
        conditions::{Conditions, Type},
        deletion::{Deletion, DeletionPolicy},
        operation::StepState,
    },
    contract::{Report, TaskError},
    operation::observed::{JobLeft, JobState, ObservedJob},
    pause::{self, doubling},
};

/// The pause after a first failure; it doubles.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// The longest pause: a Secret that was given back, or a storage that is up again, is noticed after it at the latest.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(10);
/// How long a Job's Pod may take to start: an image of some hundred megabytes must have time to come.
const START_WITHIN: SignedDuration = SignedDuration::from_mins(5);
/// A Job without an owner wakes nobody.
const LOOK_AT_JOB: SignedDuration = SignedDuration::from_secs(3);
/// Runs and Jobs that come to their end.
const POLL: SignedDuration = SignedDuration::from_secs(1);
/// How soon it is asked again whether the operator is still being uninstalled.
const SAFETY: SignedDuration = SignedDuration::from_secs(30);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub generation: i64,
    pub policy: DeletionPolicy,
    /// The object has a deletion timestamp.
    pub deleting: bool,
    pub has_finalizer: bool,
    /// A run of the object's, or a drill, is under way.
    pub is_busy: bool,
    /// It has stored nothing: it never had a run, and adopts nothing.
    pub has_nothing: bool,
    /// Jobs of the object, while none of them is the deletion's at work.
    pub jobs_left: Vec<JobLeft>,
    /// The Job of the attempt under way.
    pub job: Option<ObservedJob>,
    /// The operator is being uninstalled: nothing begins.
    pub uninstalling: bool,
    /// What to type to keep the data.
    pub way_out: String,
}

/// One thing to do once the status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until the object changes.
    Rest,
    Wait(SignedDuration),
    AddFinalizer,
    /// Take the finalizer off.
    LetGo,
    /// Delete every Job of the object and let their Pods end.
    ClearJobs,
    CreateJob,
}

/// Decides.
pub fn plan(before: &BackupStatus, seen: &Seen, now: Timestamp) -> (BackupStatus, Action) {
    let mut status = before.clone();
    let action = match (seen.policy, seen.deleting, seen.has_finalizer) {
        (DeletionPolicy::Delete, false, false) => Action::AddFinalizer,
        (DeletionPolicy::Retain, false, true) => Action::LetGo,
        // What is under way is stopped first: it would go on deleting.
        (DeletionPolicy::Retain, true, true) => when_jobs_are_gone(seen, Action::LetGo),
        (DeletionPolicy::Delete, true, true) => delete(&mut status, seen, now),
        _ => Action::Rest,
    };
    (status, action)
}

fn when_jobs_are_gone(seen: &Seen, then: Action) -> Action {
    match &seen.jobs_left[..] {
        [] => then,
        left if left.iter().all(|job| job.is_going) => Action::Wait(POLL),
        _ => Action::ClearJobs,
    }
}

fn delete(status: &mut BackupStatus, seen: &Seen, now: Timestamp) -> Action {
    if seen.is_busy {
        tell(status, seen, now, "DataDeletionWaits", "waits for the end of the run that is under way");
        return Action::Wait(POLL);
    }
    match status.deletion.clone() {
        _ if seen.has_nothing => when_jobs_are_gone(seen, Action::LetGo),
        Some(Deletion { state: StepState::Succeeded, .. }) => when_jobs_are_gone(seen, Action::LetGo),
        Some(deletion) if deletion.state == StepState::Running => follow(status, deletion, seen, now),
        last => begin(status, last, seen, now),
    }
}

fn begin(status: &mut BackupStatus, last: Option<Deletion>, seen: &Seen, now: Timestamp) -> Action {
    let retry_at = last.as_ref().and_then(|last| last.retry_at.as_ref());
    if let Some(pause) = retry_at.and_then(|at| pause::left(at.0, LONGEST_PAUSE, now)) {
        return Action::Wait(pause);
    }
    if seen.uninstalling {
        return Action::Wait(SAFETY);
    }
    if when_jobs_are_gone(seen, Action::CreateJob) != Action::CreateJob {
        return when_jobs_are_gone(seen, Action::CreateJob);
    }
    // Why an earlier attempt failed is told until one has not.
    if last.is_none() {
        tell(status, seen, now, "DeletingData", "a Job deletes the backups in the repository");
    }
    status.deletion = Some(Deletion {
        state: StepState::Running,
        attempt: last.map_or(1, |last| last.attempt + 1),
        started_at: Time(now),
        job_uid: None,
        retry_at: None,
    });
    Action::CreateJob
}

fn follow(status: &mut BackupStatus, deletion: Deletion, seen: &Seen, now: Timestamp) -> Action {
    let started_at = deletion.started_at.0;
    let Some(job) = &seen.job else {
        return match deletion.job_uid {
            None => Action::CreateJob,
            Some(_) => fail(status, seen, now, &unknown("JobDeleted", "somebody deleted its Job")),
        };
    };
    if !job.ours {
        let message = "a Job with the name of ours belongs to another object: delete that Job";
        return fail(status, seen, now, &TaskError::transient("JobNameTaken", message));
    }
    status.deletion = Some(Deletion { job_uid: Some(job.uid.clone()), ..deletion });
    match (&job.state, &job.report) {
        (JobState::Active, _) if job.started => Action::Wait(LOOK_AT_JOB),
        (JobState::Active, _) => {
            let why = job.pod.clone().unwrap_or_else(|| "no Pod was made for its Job".to_owned());
            if now.duration_since(started_at) > START_WITHIN {
                return fail(status, seen, now, &TaskError::transient("PodDoesNotStart", why));
            }
            Action::Wait(LOOK_AT_JOB)
        }
        (_, Some(Report { error: Some(error), .. })) => fail(status, seen, now, error),
        (JobState::Complete, Some(report)) => {
            let summary = report.result.as_ref().map(|result| result.summary.as_str()).unwrap_or_default();
            end(status, StepState::Succeeded, None);
            conditions(status, seen, now).set(Type::DataDeleted, true, "DataDeleted", summary);
            when_jobs_are_gone(seen, Action::ClearJobs)
        }
        (JobState::Complete, None) => {
            fail(status, seen, now, &unknown("ResultUnknown", "its result went with its Pod"))
        }
        (JobState::Failed(why), _) => {
            let message = [why.as_str(), job.pod.as_deref().unwrap_or_default()].join("; ");
            fail(status, seen, now, &unknown("JobFailed", &message))
        }
    }
}

/// Another attempt follows, whatever it was: a Secret may come back, and a storage too.
pub fn fail(status: &mut BackupStatus, seen: &Seen, now: Timestamp, error: &TaskError) -> Action {
    let attempt = status.deletion.as_ref().map_or(1, |deletion| deletion.attempt);
    let pause = doubling(FIRST_PAUSE, attempt).min(LONGEST_PAUSE);
    end(status, StepState::Failed, Some(Time(now + pause)));
    let message = format!(
        "{} The data are not deleted yet; tries again. To let the object go and keep them: {}",
        error.message, seen.way_out
    );
    tell(status, seen, now, &error.reason, &message);
    Action::Wait(pause)
}

fn end(status: &mut BackupStatus, state: StepState, retry_at: Option<Time>) {
    if let Some(deletion) = &mut status.deletion {
        (deletion.state, deletion.retry_at) = (state, retry_at);
    }
}

fn tell(status: &mut BackupStatus, seen: &Seen, now: Timestamp, reason: &str, message: &str) {
    conditions(status, seen, now).set(Type::DataDeleted, false, reason, message);
}

fn conditions<'a>(status: &'a mut BackupStatus, seen: &Seen, now: Timestamp) -> Conditions<'a> {
    Conditions::new(&mut status.operation.conditions, seen.generation, now)
}

fn unknown(reason: &str, message: &str) -> TaskError {
    TaskError::transient(reason, format!("{message}: what it did is unknown."))
}

#[cfg(test)]
mod tests;

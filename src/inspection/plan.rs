//! Is an inspection due, under way, or over? Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{project, seen::Seen, serving};
use crate::{
    api::synapse::{Inspection, SynapseStatus},
    contract::{Findings, InspectionFindings, Report, TaskError},
    operation::observed::JobState,
    pause::{self, doubling},
    task::restore::prefix_beside,
};

/// An inspection is that old when the next one is due.
const EVERY: SignedDuration = SignedDuration::from_hours(24);
/// The shortest pause after an inspection that found something wrong; it grows with the time that it has been wrong.
const WRONG_PAUSE: SignedDuration = SignedDuration::from_mins(10);
/// The pause after a first failure; it doubles.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(30);
/// The longest pause while something is wrong: what was mended shows after it at the latest.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);
/// How long a Job's Pod may take to start before it is said so.
const START_WITHIN: SignedDuration = SignedDuration::from_mins(2);
/// A Job whose Pod has not started is looked at this often.
const LOOK_AT_POD: SignedDuration = SignedDuration::from_secs(5);
/// A second look at what is watched.
const SAFETY: SignedDuration = SignedDuration::from_secs(60);

/// One thing to do once the status is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Wait(SignedDuration),
    CreateJob,
    /// Its result is in the status.
    DeleteJob,
}

/// Decides.
pub fn plan(before: &SynapseStatus, seen: &Seen, now: Timestamp) -> (SynapseStatus, Action) {
    let mut status = before.clone();
    status.observed_generation = Some(seen.generation);
    status.operation = seen.holder.clone();
    status.last_backup = seen.last_backup.clone();
    status.last_verified = seen.last_verified.clone();
    let under_way = status.inspection.clone().filter(|inspection| inspection.finished_at.is_none());
    let action = match under_way {
        Some(inspection) => follow(&mut status, inspection, seen, now),
        None => begin(&mut status, seen, now),
    };
    if let Some(found) = &seen.workloads {
        project::workloads(&mut status, seen.generation, found, now);
    }
    if let Some(serving) = &seen.serving {
        serving::write(&mut status, seen.generation, serving, seen.downtime, now);
    } else if seen.is_down {
        serving::is_down(&mut status, seen.downtime, now);
    }
    if !seen.asks_synapse {
        project::forget_synapse(&mut status);
    }
    project::ready(&mut status, seen, now);
    // Nobody tells when a workload comes, or changes.
    let for_workloads = project::looks_for_workloads(&status, seen.generation).then_some(SAFETY);
    let again = [for_workloads, serving::look_again(&status)].into_iter().flatten().min();
    let action = match (action, again) {
        (Action::Wait(time), Some(again)) => Action::Wait(time.min(again)),
        (action, _) => action,
    };
    (status, action)
}

fn begin(status: &mut SynapseStatus, seen: &Seen, now: Timestamp) -> Action {
    if seen.suspended || seen.is_down {
        return Action::Wait(SAFETY);
    }
    let last = status.inspection.clone();
    if let Some(pause) = last.as_ref().and_then(|last| pause::left(due_at(status, last, seen), EVERY, now)) {
        return Action::Wait(pause);
    }
    status.inspection = Some(Inspection {
        number: last.as_ref().map_or(1, |last| last.number + 1),
        generation: seen.generation,
        started_at: Time(now),
        finished_at: None,
        job_uid: None,
        failures: last.as_ref().map_or(0, |last| last.failures),
        error_class: last.and_then(|last| last.error_class),
    });
    Action::CreateJob
}

/// When the next inspection is due after this finished one.
fn due_at(status: &SynapseStatus, last: &Inspection, seen: &Seen) -> Timestamp {
    let finished = last.finished_at.as_ref().map_or(last.started_at.0, |time| time.0);
    if last.generation != seen.generation || seen.last_operation.is_some_and(|ended| ended >= last.started_at.0) {
        // At once, but not in a circle: an inspection that fails for the new generation has that generation.
        return finished;
    }
    if last.failures == 0 {
        let wrong_for = project::wrong_since(status).map(|since| finished.duration_since(since));
        let well = if status.left_databases.is_empty() { EVERY } else { LONGEST_PAUSE };
        return finished + wrong_for.map_or(well, |wrong_for| wrong_for.clamp(WRONG_PAUSE, LONGEST_PAUSE));
    }
    finished + doubling(FIRST_PAUSE, last.failures).min(LONGEST_PAUSE)
}

fn follow(status: &mut SynapseStatus, mut inspection: Inspection, seen: &Seen, now: Timestamp) -> Action {
    let Some(job) = &seen.job else {
        return match inspection.job_uid {
            None => Action::CreateJob,
            Some(_) => {
                end(status, inspection, Err(unknown("somebody deleted the inspection's Job".to_owned())), seen, now)
            }
        };
    };
    if !job.ours {
        let message = "a Job with the name of the inspection's belongs to another object: delete that Job. The next inspection \
                       has another name";
        return end(status, inspection, Err(TaskError::transient("JobNameTaken", message)), seen, now);
    }
    inspection.job_uid = Some(job.uid.clone());
    status.inspection = Some(inspection.clone());
    match (&job.state, &job.report) {
        (JobState::Active, _) if job.started => Action::Wait(SAFETY),
        (JobState::Active, _) => {
            if now.duration_since(inspection.started_at.0) > START_WITHIN {
                let why = job.pod.clone().unwrap_or_else(|| "no Pod was made for the inspection's Job".to_owned());
                let message = format!("the inspection's Pod does not start: {why}");
                project::failed(status, seen.generation, &TaskError::terminal("PodDoesNotStart", message), now);
            }
            Action::Wait(LOOK_AT_POD)
        }
        (_, Some(Report { error: None, findings: Some(Findings::Inspection(findings)), .. })) => {
            end(status, inspection, Ok(findings.as_ref().clone()), seen, now)
        }
        (_, Some(Report { error: Some(error), .. })) => end(status, inspection, Err(error.clone()), seen, now),
        (JobState::Failed(why), _) => end(
            status,
            inspection,
            Err(unknown([why.as_str(), job.pod.as_deref().unwrap_or_default()].join("; "))),
            seen,
            now,
        ),
        (JobState::Complete, _) => {
            end(status, inspection, Err(unknown("the inspection's result went with its Pod".to_owned())), seen, now)
        }
    }
}

fn end(
    status: &mut SynapseStatus,
    mut inspection: Inspection,
    result: Result<InspectionFindings, TaskError>,
    seen: &Seen,
    now: Timestamp,
) -> Action {
    inspection.finished_at = Some(Time(now));
    inspection.failures = if result.is_ok() { 0 } else { inspection.failures + 1 };
    let generation = inspection.generation;
    status.inspection = Some(inspection);
    match result {
        Ok(mut findings) => {
            // An operation has stopped it since: its silence is no news.
            if seen.is_down {
                findings.synapse_version_error = None;
            }
            // A restore that is under way will swap its own in, or drop it.
            let is_wanted = |name: &str| seen.at_work.iter().any(|uid| name.starts_with(&prefix_beside(uid)));
            findings.left_databases.retain(|left| !is_wanted(&left.name) && seen.may_have_left(left));
            project::found(status, generation, findings, now);
        }
        Err(error) => project::failed(status, generation, &error, now),
    }
    Action::DeleteJob
}

fn unknown(message: String) -> TaskError {
    TaskError::transient("InspectionFailed", message)
}

#[cfg(test)]
mod tests;

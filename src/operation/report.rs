//! What people and programs read: conditions, phase, history. Pure. Events are in [`super::events`].

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{lease, observed::Subject};
use crate::{
    api::{
        conditions::{Conditions, Type},
        operation::{Failure, Figures, HistoryEntry, OperationStatus, Outcome, Run, StepState, Trigger},
    },
    operation::headline::{Headline, Phase},
    recipes::Lane,
    words::moment,
};

/// How many runs the history holds.
const HISTORY: usize = 10;

/// Writes phase, step and conditions.
pub fn write(status: &mut OperationStatus, subject: &Subject, headline: &Headline, now: Timestamp) {
    status.observed_generation = Some(subject.generation);
    status.phase = Some(format!("{:?}", headline.phase));
    status.step = step_of(status);
    let quiesced = quiesced(status);
    let last = status.history.iter().find(|entry| entry.outcome != Outcome::Skipped).map(|entry| entry.outcome);
    let retention = retention(status);
    let (reason, message) = (headline.reason.as_str(), headline.message.as_str());

    let mut conditions = Conditions::new(&mut status.conditions, subject.generation, now);
    match headline.phase {
        Phase::Succeeded => {
            conditions.set(Type::Ready, true, reason, message).set(Type::Complete, true, reason, message);
            conditions.clear(Type::Reconciling).clear(Type::Stalled).clear(Type::Failed);
        }
        Phase::Failed => {
            conditions.set(Type::Ready, false, reason, message).set(Type::Failed, true, reason, message);
            conditions.set(Type::Stalled, true, reason, message).clear(Type::Reconciling);
        }
        Phase::Scheduled if last == Some(Outcome::Failed) => {
            // No Stalled: the next run may well succeed.
            conditions.set(Type::Ready, false, reason, message).set(Type::Failed, true, reason, message);
            conditions.clear(Type::Reconciling).clear(Type::Stalled);
        }
        Phase::Scheduled => {
            conditions.set(Type::Ready, true, reason, message);
            conditions.clear(Type::Reconciling).clear(Type::Stalled).clear(Type::Failed);
        }
        Phase::Stalled => {
            conditions.set(Type::Ready, false, reason, message).set(Type::Stalled, true, reason, message);
            conditions.clear(Type::Reconciling);
        }
        Phase::Suspended => {
            conditions.set(Type::Ready, false, reason, message);
            conditions.clear(Type::Reconciling).clear(Type::Stalled);
        }
        Phase::Pending | Phase::Preflight | Phase::Running | Phase::Stopping | Phase::Offline | Phase::Resuming => {
            conditions.set(Type::Ready, false, reason, message).set(Type::Reconciling, true, reason, message);
            conditions.clear(Type::Stalled);
        }
    }
    match retention {
        Some(Err((reason, message))) => drop(conditions.set(Type::RetentionFailed, true, &reason, &message)),
        Some(Ok(())) => drop(conditions.clear(Type::RetentionFailed)),
        None => {}
    }
    match quiesced {
        Some(counts) => conditions.set(Type::Quiesced, true, "Downtime", &counts),
        None => conditions.clear(Type::Quiesced),
    };
}

/// How the step that decides nothing ended. `None`: there is none, or it has not got there: what the last run left stays
/// true.
fn retention(status: &OperationStatus) -> Option<Result<(), (String, String)>> {
    let step = status.run.as_ref()?.steps.iter().find(|step| !step.spec.stage.decides())?;
    match step.state {
        StepState::Succeeded => Some(Ok(())),
        StepState::Failed => {
            // A step of an older release has its reason in its message.
            let reason = step.reason.clone().unwrap_or_else(|| "StepFailed".to_owned());
            Some(Err((reason, step.message.clone().unwrap_or_default())))
        }
        StepState::Pending | StepState::Running => None,
    }
}

/// `vacuum-1 (2/3)` while it is under way.
fn step_of(status: &OperationStatus) -> Option<String> {
    let steps = &status.active_run()?.steps;
    let index = steps.iter().position(|step| step.state != StepState::Succeeded)?;
    Some(format!("{} ({}/{})", steps[index].spec.name, index + 1, steps.len()))
}

/// The counts that are out, for a person who must bring them back by hand.
pub(super) fn quiesced(status: &OperationStatus) -> Option<String> {
    let window = status.active_run().filter(|run| run.holds_counts())?.window.as_ref()?;
    let counts: Vec<String> =
        window.workloads.iter().map(|recorded| format!("{} had {}", recorded.workload, recorded.replicas)).collect();
    Some(format!("since {}: {}", moment(window.recorded_at.0), counts.join(", ")))
}

/// That the replicas stay at 0, and what they were.
pub(super) fn kept_down(run: &Run) -> Option<String> {
    let counts = run.counts().filter(|_| run.must_stay_down())?.iter();
    let counts: Vec<String> =
        counts.map(|recorded| format!("{} had {}", recorded.workload, recorded.replicas)).collect();
    let lease = run.synapse.as_ref().map(|pinned| lease::name(&pinned.name)).unwrap_or_default();
    let is_half =
        run.step_to_take_back().is_some_and(|step| step.spec.stage.keeps_down_in_doubt() && !step.spec.stage.fills());
    let why = match run.in_doubt && is_half {
        true => "the databases of Synapse and of its Matrix Authentication Service may be out of step",
        false => "the database is unfinished",
    };
    Some(format!(
        "{why}, so the replicas stay at 0 ({}): make a SynapseRestore under a new name, which goes on and \
         brings them back, or see kubectl describe lease {lease} for how to bring them back with the database as it is",
        counts.join(", ")
    ))
}

/// What was missing when the run stopped waiting for the Pods, where that is not why it failed.
pub(super) fn not_ready_besides(run: &Run) -> Option<&str> {
    let not_ready = run.window.as_ref().filter(|_| run.ended_down())?.not_ready.as_deref()?;
    let is_why = |failure: Option<&Failure>| failure.is_some_and(|failure| failure.reason == "NotReadyAgain");
    (!is_why(run.failure.as_ref()) && !is_why(run.failure_of_work())).then_some(not_ready)
}

/// Behind an advice to change the spec: CEL refuses it where the object runs once.
pub(super) const IN_A_NEW_OBJECT: &str = " (in a new object if this one has no schedule)";

/// What to say of a downtime that took longer than its budget. Work ends early enough for a usual start of Synapse; an
/// unusual one is nothing that could be cut short.
pub(super) fn overrun(run: &Run) -> Option<String> {
    let (took, at_most) = (run.downtime_taken()?, &run.downtime.at_most);
    (took > at_most.to_signed()).then(|| {
        format!(
            "the downtime took {took:#}, longer than downtime.atMost ({at_most}): raise it{IN_A_NEW_OBJECT}, or see how long Pods take \
             to stop and to start"
        )
    })
}

/// Puts a run at the head of the history.
pub fn remember(status: &mut OperationStatus, entry: HistoryEntry) {
    status.history.insert(0, entry);
    status.history.truncate(HISTORY);
}

/// Notes a run that was due but came up too late, while the operator was down.
pub fn add_skipped(status: &mut OperationStatus, lane: &Lane, at: Timestamp, now: Timestamp) {
    let number = status.run.as_ref().map_or(0, |run| run.number);
    let entry = HistoryEntry {
        number,
        trigger: Trigger::Schedule,
        outcome: Outcome::Skipped,
        started_at: Time(at),
        finished_at: Time(now),
        reason: Some("Missed".to_owned()),
        message: Some(format!(
            "the run of {at} was missed by more than {}.startWithin; missed runs are not replayed",
            lane.schedule
        )),
        figures: Figures::default(),
    };
    remember(status, entry);
}

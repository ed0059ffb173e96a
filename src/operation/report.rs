//! What people and programs read: conditions, phase, history, events. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    observed::Subject,
    plan::{Headline, Phase},
};
use crate::api::{
    conditions::{Conditions, Type},
    operation::{Figures, HistoryEntry, OperationStatus, Outcome, StepState, Trigger},
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
    match quiesced {
        Some(counts) => conditions.set(Type::Quiesced, true, "Downtime", &counts),
        None => conditions.clear(Type::Quiesced),
    };
}

/// `vacuum-1 (2/3)` while it is under way.
fn step_of(status: &OperationStatus) -> Option<String> {
    let steps = &status.active_run()?.steps;
    let index = steps.iter().position(|step| step.state != StepState::Succeeded)?;
    Some(format!("{} ({}/{})", steps[index].name, index + 1, steps.len()))
}

/// The counts that are out, for a person who must bring them back by hand.
fn quiesced(status: &OperationStatus) -> Option<String> {
    let window = status.active_run().filter(|run| run.holds_counts())?.window.as_ref()?;
    let counts: Vec<String> =
        window.workloads.iter().map(|recorded| format!("{} had {}", recorded.workload, recorded.replicas)).collect();
    Some(format!("since {}: {}", window.recorded_at.0, counts.join(", ")))
}

/// Puts a run at the head of the history.
pub fn remember(status: &mut OperationStatus, entry: HistoryEntry) {
    status.history.insert(0, entry);
    status.history.truncate(HISTORY);
}

/// Notes a run that was due but came up too late, while the operator was down.
pub fn add_skipped(status: &mut OperationStatus, at: Timestamp, now: Timestamp) {
    let number = status.run.as_ref().map_or(0, |run| run.number);
    let entry = HistoryEntry {
        number,
        trigger: Trigger::Schedule,
        outcome: Outcome::Skipped,
        started_at: Time(at),
        finished_at: Time(now),
        reason: Some("Missed".to_owned()),
        message: Some(format!(
            "the run of {at} was missed by more than spec.schedule.startWithin; missed runs are not replayed"
        )),
        figures: Figures::default(),
    };
    remember(status, entry);
}

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub warning: bool,
    pub reason: String,
    pub action: &'static str,
    pub note: String,
}

/// The events that lead from one status to the next.
pub fn events(before: &OperationStatus, after: &OperationStatus) -> Vec<Event> {
    let mut events = Vec::new();
    let mut tell = |warning, reason: &str, action, note: String| {
        events.push(Event { warning, reason: reason.to_owned(), action, note })
    };
    let (Some(run), old) = (&after.run, &before.run) else { return events };
    let old = old.as_ref().filter(|old| old.number == run.number);

    if old.is_none() {
        tell(false, "Started", "Run", format!("run {} started ({:?})", run.number, run.trigger));
    }
    for step in &run.steps {
        let was = old.and_then(|old| old.steps.iter().find(|was| was.name == step.name));
        if was.map(|was| was.state) == Some(step.state) && was.map(|was| was.attempt) == Some(step.attempt) {
            continue;
        }
        match step.state {
            StepState::Pending if step.attempt > 0 => {
                tell(
                    true,
                    "StepRetried",
                    "Step",
                    format!(
                        "step {}, attempt {}: {}",
                        step.name,
                        step.attempt,
                        step.message.as_deref().unwrap_or_default()
                    ),
                );
            }
            StepState::Pending => {}
            StepState::Running => {
                tell(false, "StepStarted", "Step", format!("step {}, attempt {}", step.name, step.attempt))
            }
            StepState::Succeeded => {
                let said = step.result.as_ref().map(|result| result.summary.as_str()).or(step.message.as_deref());
                tell(
                    false,
                    "StepSucceeded",
                    "Step",
                    [step.name.as_str(), said.unwrap_or_default()].join(": ").trim_end_matches(": ").to_owned(),
                );
            }
            StepState::Failed => tell(
                true,
                "StepFailed",
                "Step",
                format!("step {}: {}", step.name, step.message.as_deref().unwrap_or_default()),
            ),
        }
    }
    let window = run.window.as_ref();
    let was = old.and_then(|old| old.window.as_ref());
    if let Some(window) = window {
        if was.is_none() {
            tell(false, "Quiescing", "Quiesce", quiesced(after).unwrap_or_default());
        }
        if window.stopped_at.is_some() && was.is_none_or(|was| was.stopped_at.is_none()) {
            tell(false, "Quiesced", "Quiesce", "no Pod of the homeserver is left".to_owned());
        }
        if window.returned_at.is_some() && was.is_none_or(|was| was.returned_at.is_none()) {
            tell(false, "ReplicasReturned", "Resume", "every workload has its replicas back".to_owned());
        }
        if window.ready_at.is_some() && was.is_none_or(|was| was.ready_at.is_none()) {
            tell(false, "Resumed", "Resume", "as many Pods are Ready as before".to_owned());
        }
    }
    if let Some(failure) = &run.failure
        && old.is_none_or(|old| old.failure.is_none())
    {
        tell(true, &failure.reason, "Run", failure.message.clone());
    }
    if run.outcome.is_some() && old.is_none_or(|old| old.outcome.is_none()) {
        let entry = after.history.first().filter(|entry| entry.number == run.number);
        let message = entry.and_then(|entry| entry.message.clone()).unwrap_or_default();
        let (warning, reason) = match run.outcome {
            Some(Outcome::Succeeded) => (false, "Succeeded"),
            Some(Outcome::Skipped) => (true, "Skipped"),
            _ => (true, "Failed"),
        };
        tell(warning, reason, "Run", message);
    }
    events
}

//! The events that lead from one status to the next. Pure.

use super::{
    job::CONTAINER,
    pinned::PLACEMENT,
    plan::TAKES_LEASE,
    report::{kept_down, not_ready_besides, overrun, quiesced},
};
use crate::{
    api::{
        conditions::{self, Type},
        operation::{OperationStatus, Outcome, Outlived, Run, StepSpec, StepState, StepStatus, Window},
    },
    recipes::Lane,
};

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub warning: bool,
    pub reason: String,
    /// What was being done. The API client folds events of the same reason and action into one, so a step gives its name.
    pub action: String,
    pub note: String,
}

impl Event {
    fn normal<N: Into<String>>(reason: &str, action: &str, note: N) -> Self {
        Self { warning: false, reason: reason.to_owned(), action: action.to_owned(), note: note.into() }
    }

    fn warning<N: Into<String>>(reason: &str, action: &str, note: N) -> Self {
        Self { warning: true, ..Self::normal(reason, action, note) }
    }
}

/// What there is to tell when `after` follows `before`.
pub fn between(lane: &Lane, before: &OperationStatus, after: &OperationStatus) -> Vec<Event> {
    let mut events = Vec::new();
    if let Some(run) = &after.run {
        events.extend(of_run(before, run, after));
    }
    events.extend(of_waiting(before, after));
    events.extend(of_clock(before, after));
    if let Some(lane) = lane.label {
        for event in &mut events {
            event.note.insert_str(0, &format!("{lane}: "));
        }
    }
    events
}

/// A record of the schedule lay in the future, and does not any more.
fn of_clock(before: &OperationStatus, after: &OperationStatus) -> Option<Event> {
    let (was, is) = (before.last_scheduled_at.as_ref()?, after.last_scheduled_at.as_ref()?);
    let note = format!(
        "the last scheduled run was on record for {}, which is in the future: the clock of an operator was ahead of time. The \
         schedule goes on from now",
        was.0
    );
    (was > is).then(|| Event::warning("ClockAhead", "Schedule", note))
}

/// What keeps it from its work and is not told as a run's failure: once, when it begins to.
fn of_waiting(before: &OperationStatus, after: &OperationStatus) -> Option<Event> {
    let ready = conditions::find(&after.conditions, Type::Ready)?;
    let was = conditions::find(&before.conditions, Type::Ready);
    if was.is_some_and(|was| was.reason == ready.reason) {
        return None;
    }
    let told = |reason: &str| {
        let Some(run) = &after.run else { return false };
        let leaves_unfinished = run.must_stay_down() && run.is_finished() && reason == "DatabaseUnfinished";
        leaves_unfinished || run.failure.as_ref().is_some_and(|failure| failure.reason == reason)
    };
    let event = match ready.reason.as_str() {
        "SynapseNotFound" => Event::warning,
        "DatabaseUnfinished" if !told(&ready.reason) => Event::warning,
        // It was told when it began to wait: of those that wait for one Lease another was faster.
        "HomeserverBusy" if was.is_some_and(|was| was.message == TAKES_LEASE) => return None,
        "HomeserverBusy" | "SynapseSuspended" => Event::normal,
        reason if conditions::is_true(&after.conditions, Type::Stalled) && !told(reason) => Event::warning,
        _ => return None,
    };
    Some(event(&ready.reason, "Run", ready.message.clone()))
}

fn of_run(before: &OperationStatus, run: &Run, after: &OperationStatus) -> Vec<Event> {
    let old = before.run.as_deref().filter(|old| old.number == run.number);
    let mut events = Vec::new();
    if old.is_none() {
        events.push(Event::normal("Started", "Run", format!("run {} started ({:?})", run.number, run.trigger)));
    }
    for step in &run.steps {
        let was = old.and_then(|old| old.steps.iter().find(|was| was.spec.name == step.spec.name));
        events.extend(of_step(was, step));
    }
    // Once in a run: where one Pod has such a container, all have.
    let outlived =
        |run: &Run| run.steps.iter().find_map(|step| step.outlived_by.clone().map(|by| (step.spec.name.clone(), by)));
    if let Some((step, by)) = outlived(run).filter(|_| old.is_none_or(|old| outlived(old).is_none())) {
        events.push(Event::warning("ContainerLivesOn", &step, lives_on(&by)));
    }
    if let Some(window) = &run.window {
        events.extend(of_window(old.and_then(|old| old.window.as_ref()), window, after));
    }
    let not_ready = |run: &Run| not_ready_besides(run).map(str::to_owned);
    if let Some(note) = not_ready(run).filter(|_| old.is_none_or(|old| not_ready(old).is_none())) {
        events.push(Event::warning("NotReadyAgain", "Resume", note));
    }
    if let Some(failure) = run.failure.as_ref().filter(|_| old.is_none_or(|old| old.failure.is_none())) {
        events.push(Event::warning(&failure.reason, "Run", failure.message.clone()));
    }
    if run.is_finished() && !old.is_some_and(Run::is_finished) {
        events.extend(overrun(run).map(|note| Event::warning("BudgetExceeded", "Resume", note)));
        events.extend(kept_down(run).map(|note| Event::warning("DatabaseUnfinished", "Resume", note)));
        events.push(of_end(run, after));
    }
    events
}

fn lives_on(Outlived { pod, containers, .. }: &Outlived) -> String {
    let (names, go) = (containers.join(", "), if containers.len() == 1 { "goes" } else { "go" });
    format!(
        "container {CONTAINER} of Pod {pod} has ended, {names} {go} on: the result is taken, and the Job, which would not end, \
         is deleted. Keep what puts it there away from our Pods with spec.jobs.labels or spec.jobs.annotations"
    )
}

fn of_step(was: Option<&StepStatus>, step: &StepStatus) -> Vec<Event> {
    if was.is_some_and(|was| (was.state, was.attempt) == (step.state, step.attempt)) {
        return Vec::new();
    }
    let StepStatus { spec: StepSpec { name, stage, .. }, attempt, .. } = step;
    let message = step.message.as_deref().unwrap_or_default();
    match step.state {
        StepState::Pending if *attempt > 0 => {
            vec![Event::warning("StepRetried", name, format!("step {name}, attempt {attempt}: {message}"))]
        }
        StepState::Running => vec![Event::normal("StepStarted", name, format!("step {name}, attempt {attempt}"))],
        StepState::Succeeded => of_success(step),
        StepState::Failed if !stage.decides() => vec![Event::warning("StepFailed", name, message)],
        // The run's failure tells why.
        StepState::Pending | StepState::Failed => Vec::new(),
    }
}

fn of_success(step: &StepStatus) -> Vec<Event> {
    let name = &step.spec.name;
    let summary = step.result.as_ref().map(|result| result.summary.as_str());
    let said: Vec<&str> = summary.into_iter().chain(step.message.as_deref()).filter(|said| !said.is_empty()).collect();
    let said = match (said.is_empty(), name.as_str(), step.attempt) {
        (false, ..) => said.join("; "),
        (true, PLACEMENT, 0) => "not needed, no step stops the homeserver".to_owned(),
        (true, PLACEMENT, _) => "its Pod found a node".to_owned(),
        (true, ..) => "done".to_owned(),
    };
    let mut events = vec![Event::normal("StepSucceeded", name, format!("step {name}: {said}"))];
    let warnings = step.result.iter().flat_map(|result| &result.warnings);
    // The API client folds events of one reason and action, and keeps the first note: so each step has one with all.
    let warnings: Vec<&str> = warnings.map(String::as_str).collect();
    if !warnings.is_empty() {
        events.push(Event::warning("StepWarned", name, format!("step {name}: {}", warnings.join("; "))));
    }
    events
}

fn of_window(was: Option<&Window>, window: &Window, after: &OperationStatus) -> Vec<Event> {
    let mut events = Vec::new();
    if was.is_none() {
        events.push(Event::normal("Quiescing", "Quiesce", quiesced(after).unwrap_or_default()));
    }
    let reached = |time: fn(&Window) -> bool| time(window) && !was.is_some_and(time);
    if reached(|window| window.stopped_at.is_some()) {
        events.push(Event::normal("Quiesced", "Quiesce", "no Pod of the homeserver is left"));
    }
    if reached(|window| window.returned_at.is_some()) {
        events.push(Event::normal("ReplicasReturned", "Resume", "every workload has its replicas back"));
    }
    if reached(|window| window.ready_at.is_some()) {
        events.push(Event::normal("Resumed", "Resume", "as many Pods are Ready as before"));
    }
    events
}

fn of_end(run: &Run, after: &OperationStatus) -> Event {
    let entry = after.history.first().filter(|entry| entry.number == run.number);
    let message = entry.and_then(|entry| entry.message.clone()).unwrap_or_default();
    match (run.outcome, &run.failure) {
        (Some(Outcome::Succeeded), _) => Event::normal("Succeeded", "Run", message),
        (Some(Outcome::Skipped), _) => Event::warning("Skipped", "Run", message),
        (_, failure) => {
            let why = failure.as_ref().map_or("unknown", |failure| &failure.reason);
            let replicas = match (run.must_stay_down(), &run.window) {
                (true, _) => "; the replicas stay at 0",
                (false, Some(_)) if run.ended_down() => {
                    "; the replica counts are back, and the homeserver is not Ready"
                }
                (false, Some(_)) => "; every replica is back",
                (false, None) => "; no replica was touched",
            };
            Event::warning("Failed", "Run", format!("run {} failed: {why}{replicas}", run.number))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::recipes::lane;

    fn step(fields: serde_json::Value) -> StepStatus {
        serde_json::from_value(fields).expect("a step")
    }

    #[test]
    fn what_a_step_warns_of_is_an_event_of_its_own() {
        let running = step(json!({"name": "preflight", "state": "Running", "attempt": 1}));
        let done = step(json!({
            "name": "preflight", "state": "Succeeded", "attempt": 1, "message": "psql of dba",
            "result": {"summary": "VACUUM FULL of 2 tables", "warnings": ["a transaction is open", "an unsafe locale"]},
        }));
        let succeeded =
            Event::normal("StepSucceeded", "preflight", "step preflight: VACUUM FULL of 2 tables; psql of dba");
        let warned =
            Event::warning("StepWarned", "preflight", "step preflight: a transaction is open; an unsafe locale");
        assert_eq!(of_step(Some(&running), &done), [succeeded, warned]);
        assert_eq!(of_step(Some(&done), &done), []);
    }

    #[test]
    fn a_step_without_a_summary_says_what_its_success_means() {
        let note = |name: &str, attempt: i32| {
            let done = step(json!({"name": name, "state": "Succeeded", "attempt": attempt}));
            of_step(None, &done).swap_remove(0).note
        };
        assert_eq!(note(PLACEMENT, 1), "step placement: its Pod found a node");
        assert_eq!(note(PLACEMENT, 0), "step placement: not needed, no step stops the homeserver");
        assert_eq!(note("vacuum-1", 1), "step vacuum-1: done");
    }

    fn ready(reason: &str, stalled: bool) -> OperationStatus {
        let mut status = OperationStatus::default();
        let mut conditions = conditions::Conditions::new(&mut status.conditions, 1, jiff::Timestamp::UNIX_EPOCH);
        conditions.set(Type::Ready, false, reason, "what to do");
        if stalled {
            conditions.set(Type::Stalled, true, reason, "what to do");
        }
        status
    }

    #[test]
    fn what_it_waits_for_is_told_once() {
        let starting = ready("Starting", false);
        for (reason, stalled, warning) in [
            ("SynapseNotFound", false, true),
            ("SynapseSuspended", false, false),
            ("HomeserverBusy", false, false),
            ("UnknownTimeZone", true, true),
            ("InvalidCron", true, true),
        ] {
            let waits = ready(reason, stalled);
            let event = Event { warning, ..Event::normal(reason, "Run", "what to do") };
            for before in [&OperationStatus::default(), &starting] {
                assert_eq!(between(&lane::OWN, before, &waits), std::slice::from_ref(&event));
            }
            assert_eq!(between(&lane::OWN, &waits, &waits), []);
            assert_eq!(between(&lane::OWN, &waits, &starting), []);
        }
    }

    #[test]
    fn who_is_not_the_next_to_have_the_lease_says_no_more_that_it_waits() {
        let mut lost = ready("Starting", false);
        lost.conditions[0].message = TAKES_LEASE.to_owned();
        assert_eq!(between(&lane::OWN, &lost, &ready("HomeserverBusy", false)), []);
        assert_eq!(between(&lane::OWN, &ready("Starting", false), &ready("HomeserverBusy", false)).len(), 1);
    }

    fn finished(fields: serde_json::Value) -> OperationStatus {
        let mut run = json!({
            "number": 1, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T03:00:00Z",
            "downtime": {"atMost": "10m"},
            "window": {
                "workloads": [], "recordedAt": "2026-11-22T03:00:00Z", "returnedAt": "2026-11-22T03:09:00Z",
                "stoppedAt": "2026-11-22T03:01:00Z", "resumeBeganAt": "2026-11-22T03:09:00Z",
            },
        });
        run.as_object_mut().expect("an object").extend(fields.as_object().expect("an object").clone());
        OperationStatus { run: Some(serde_json::from_value(run).expect("a run")), ..ready("Resuming", false) }
    }

    #[test]
    fn a_failure_that_stalls_is_told_once() {
        let failure =
            json!({"reason": "Contested", "message": "no", "class": "Transient", "at": "2026-11-22T03:05:00Z"});
        let before = finished(json!({"failure": failure.clone()}));
        let after = finished(json!({"failure": failure, "outcome": "Failed"}));
        let after = OperationStatus { conditions: ready("Contested", true).conditions, ..after };
        let reasons: Vec<String> = between(&lane::OWN, &before, &after).into_iter().map(|event| event.reason).collect();
        assert_eq!(reasons, ["Failed"]);
    }

    #[test]
    fn a_downtime_that_took_longer_than_its_budget_is_told() {
        for (ready_at, told) in [("2026-11-22T03:10:00Z", false), ("2026-11-22T03:10:01Z", true)] {
            let mut before = finished(json!({}));
            let window = before.run.as_mut().and_then(|run| run.window.as_mut()).expect("a window");
            window.ready_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(ready_at.parse().unwrap()));
            let mut after = before.clone();
            after.run.as_mut().expect("a run").outcome = Some(Outcome::Succeeded);
            let events = between(&lane::OWN, &before, &after);
            let exceeded: Vec<&Event> = events.iter().filter(|event| event.reason == "BudgetExceeded").collect();
            assert_eq!(exceeded.len(), usize::from(told), "{events:?}");
            for event in exceeded {
                assert!(event.warning && event.note.contains("10m 1s"), "{event:?}");
                assert!(event.note.contains("downtime.atMost (10m)"), "{event:?}");
            }
        }
    }
}

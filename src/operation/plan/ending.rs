//! The end of a run: its outcome, its figures, its place in the history.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Next, POLL, Planner};
use crate::{
    api::operation::{Figures, HistoryEntry, Outcome, Run, StepState, StepStatus},
    bytes,
    operation::{
        headline::{Headline, Phase},
        observed::LeaseState,
        pinned::PREFLIGHT,
        report,
    },
};

impl Planner<'_> {
    /// Closes the books. The Lease and the finalizer are gone by now.
    pub(super) fn finish(&mut self) -> Next {
        let now = Time(self.now);
        let run = self.run_mut();
        run.finished_at = Some(now.clone());
        let outcome = if run.failure.is_some() { Outcome::Failed } else { Outcome::Succeeded };
        run.outcome = Some(outcome);
        let run = self.run().clone();
        let figures = figures(&run);
        let entry = HistoryEntry {
            number: run.number,
            trigger: run.trigger,
            outcome,
            started_at: run.started_at.clone(),
            finished_at: now,
            reason: run.failure.as_ref().map(|failure| match run.must_stay_down() {
                true => "DatabaseUnfinished".to_owned(),
                false => failure.reason.clone(),
            }),
            message: Some(message(&run)),
            figures: figures.clone(),
        };
        self.status.last = Some(figures);
        let (reason, message) = (entry.reason.clone(), entry.message.clone());
        report::remember(&mut self.status, entry);
        let phase = match (self.subject.request.schedule.is_some(), outcome) {
            (true, _) => Phase::Scheduled,
            (false, Outcome::Succeeded) => Phase::Succeeded,
            (false, _) => Phase::Failed,
        };
        let reason = reason.unwrap_or_else(|| "Succeeded".to_owned());
        (Action::Continue, Headline { phase, reason, message: message.unwrap_or_default() })
    }

    /// `None`: what must not stay is gone.
    pub(super) fn clear_away(&mut self) -> Option<Next> {
        let jobs = &self.observed.jobs_left;
        if jobs.is_empty() {
            return None;
        }
        let (reason, message) = match &self.run().failure {
            Some(failure) => (failure.reason.clone(), failure.message.clone()),
            None => ("Resuming".to_owned(), "done".to_owned()),
        };
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        let message = format!("waits until its Jobs are gone: {} ({message})", names.join(", "));
        let action = if jobs.iter().all(|job| job.is_going) { Action::Wait(POLL) } else { Action::ClearJobs };
        Some((action, Headline { phase: Phase::Resuming, reason, message }))
    }

    /// A scheduled run whose time is over before it began its work. It goes the way of the others, but is no failure.
    pub(super) fn skip_if_late(&mut self) -> Option<Next> {
        let run = self.run();
        let began = run.steps.iter().any(|step| step.attempt > 0);
        let late = run.start_before.as_ref().is_some_and(|before| self.now > before.0);
        if began || !late || run.failure.is_some() {
            return None;
        }
        if matches!(self.observed.lease, LeaseState::Mine { .. }) {
            return Some((
                Action::ReleaseLease,
                self.pending("Skipped", "its time is over: frees the homeserver's Lease"),
            ));
        }
        let waited_for = self
            .status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|condition| condition.message.clone());
        let now = Time(self.now);
        let run = self.run_mut();
        run.finished_at = Some(now.clone());
        run.outcome = Some(Outcome::Skipped);
        let entry = HistoryEntry {
            number: run.number,
            trigger: run.trigger,
            outcome: Outcome::Skipped,
            started_at: run.started_at.clone(),
            finished_at: now,
            reason: Some("StartWithinExceeded".to_owned()),
            message: Some(format!(
                "could not start within {}.startWithin: {}",
                self.subject.lane.schedule,
                waited_for.unwrap_or_default()
            )),
            figures: Figures::default(),
        };
        let message = entry.message.clone().unwrap_or_default();
        report::remember(&mut self.status, entry);
        Some((Action::Continue, Headline { phase: Phase::Scheduled, reason: "Skipped".to_owned(), message }))
    }
}

/// What a run cost and gave.
fn figures(run: &Run) -> Figures {
    let downtime = run.downtime_taken();
    // By table: the database as a whole also grows by what Synapse writes meanwhile.
    let tables = || run.steps.iter().filter_map(|step| step.result.as_ref()).flat_map(|result| &result.tables);
    let freed = tables().map(|table| table.bytes_before - table.bytes_after).sum::<i64>();
    let freed = Some(freed).filter(|freed| *freed > 0);
    Figures {
        downtime: downtime.map(|downtime| format!("{}{downtime:#}", if run.ended_down() { "> " } else { "" })),
        downtime_seconds: downtime.map(|downtime| downtime.as_secs()),
        freed: freed.map(bytes::human),
        freed_bytes: freed,
    }
}

/// Why it failed or what it did, and whether users waited for longer than they should.
fn message(run: &Run) -> String {
    let said = run.failure.as_ref().map_or_else(|| summary(run), |failure| failure.message.clone());
    let left = run.database_left().map(|left| {
        format!(
            "{left} is left beside it, and nobody uses it: drop it when you do not want it ({})",
            left.drop_statement()
        )
    });
    let not_ready = report::not_ready_besides(run).map(|why| format!("and the homeserver is not Ready again: {why}"));
    [Some(said), not_ready, taken_back(run), what_stays(run), left, report::kept_down(run), report::overrun(run)]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ")
}

/// How taking back what it had done ended.
fn taken_back(run: &Run) -> Option<String> {
    let undo = run.undo.as_ref()?;
    let result = run.steps.get(undo.step).and_then(|step| step.result.as_ref());
    Some(match (&undo.failure, result) {
        (Some(failure), _) if run.in_doubt && !run.must_stay_down() => {
            let step = run.step_to_take_back().map_or("the last", |step| &step.spec.name);
            // What failed the run has often failed this, too: once is enough.
            let is_new = run.failure.as_ref().is_none_or(|first| first.message != failure.message);
            let why = if is_new { format!(" ({})", failure.message) } else { String::new() };
            format!(
                "whether step {step} was done is unknown, because it could not be rolled back{why}. The homeserver has the old \
                 database or the new one, and either is whole. The comment of the database says which: {}",
                comment_of_database(run)
            )
        }
        (Some(failure), _) => format!("it could not be rolled back: {}", failure.message),
        (None, Some(result)) => format!("it was rolled back: {}", result.summary),
        (None, None) => "it was rolled back".to_owned(),
    })
}

/// What to type to see whose database has the homeserver's name.
fn comment_of_database(run: &Run) -> String {
    let database = run.synapse.as_ref().map_or("synapse", |pinned| &pinned.spec.postgres.database);
    format!(
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = {}",
        crate::quote::literal(database)
    )
}

/// What a run that failed has done all the same, and what the homeserver has now: for a step that could be taken back and was not.
fn what_stays(run: &Run) -> Option<String> {
    let is_done = |step: &&StepStatus| step.state == StepState::Succeeded && run.undo.is_none();
    let done = run.step_to_take_back().filter(is_done).filter(|_| run.failure.is_some())?;
    let summary = done.result.as_ref().map(|result| result.summary.as_str()).filter(|summary| !summary.is_empty());
    Some(format!("what step {} did stays: {}", done.spec.name, summary.unwrap_or("it was done")))
}

/// What the steps say of themselves. Preflight's says what was to be done, not what was.
fn summary(run: &Run) -> String {
    let done = run.steps.iter().filter(|step| step.spec.name != PREFLIGHT);
    let said: Vec<&str> = done.filter_map(|step| step.result.as_ref()).map(|result| result.summary.as_str()).collect();
    let failed = run.steps.iter().filter(|step| !step.spec.stage.decides() && step.state == StepState::Failed);
    let failed = failed.map(|step| step.message.as_deref().unwrap_or_default());
    let said: Vec<&str> = said.into_iter().chain(failed).collect();
    match said.is_empty() {
        true => "nothing was changed: status.plan says what a run would do".to_owned(),
        false => said.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn failed(steps: &Value, more: &Value) -> Run {
        let mut run = json!({
            "number": 1, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T03:00:00Z", "downtime": {"atMost": "10m"},
            "failure": {"reason": "Contested", "message": "somebody scaled it up", "class": "Transient", "at": "2026-11-22T03:05:00Z"},
            "steps": steps, "outcome": "Failed",
        });
        run.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        serde_json::from_value(run).expect("a run")
    }

    #[test]
    fn a_failed_restore_names_the_database_that_it_leaves() {
        let left =
            |name: &str| json!({"name": name, "bytes": 390 << 20, "size": "390.0 MiB", "restore": "matrix/fire"});
        let filled = json!({"name": "database", "state": "Succeeded", "attempt": 1, "result": {"summary": "restored", "beside": left("synapse_keeper_1_1")}});
        let swap = |result: Value| json!({"name": "swap", "state": "Succeeded", "attempt": 1, "offline": true, "result": result});
        let swapped =
            swap(json!({"summary": "swapped", "restored": {"takenAt": "2026-11-22T02:00:00Z", "database": "synapse"}}));
        let back = json!({"name": "undo-swap", "state": "Succeeded", "attempt": 1, "offline": true,
                          "result": {"summary": "synapse is the old database again", "beside": left("synapse_keeper_1_2")}});
        for (steps, more, named) in [
            (json!([filled]), json!({}), Some("synapse_keeper_1_1")),
            (json!([filled, swapped]), json!({}), None),
            (json!([filled, swapped, back]), json!({}), Some("synapse_keeper_1_2")),
            // Whether it was swapped in is not known: the next inspection looks.
            (json!([filled]), json!({"inDoubt": true}), None),
            (json!([filled]), json!({"failure": null, "outcome": "Succeeded"}), None),
        ] {
            let run = failed(&steps, &more);
            let said = message(&run);
            let words = named.map(|name| format!("database {name} (390.0 MiB) is left"));
            assert_eq!(said.contains("is left"), named.is_some(), "{said}");
            assert!(words.is_none_or(|words| said.contains(&words) && said.contains("DROP DATABASE")), "{said}");
            let mut status = crate::api::restore::RestoreStatus::default();
            status.absorb(crate::api::operation::OperationStatus { run: Some(Box::new(run)), ..Default::default() });
            assert_eq!(status.left.as_ref().map(|left| left.name.as_str()), named);
        }
    }

    #[test]
    fn of_a_homeserver_with_an_authentication_service_both_databases_are_named() {
        let left = json!({"name": "synapse_keeper_1_1", "bytes": 390 << 20, "size": "390.0 MiB", "authenticationService": "synapse_keeper_1_1_mas"});
        let filled = json!({"name": "database", "state": "Succeeded", "attempt": 1, "result": {"summary": "restored", "beside": left}});
        let said = message(&failed(&json!([filled]), &json!({})));
        for words in [
            "database synapse_keeper_1_1 (390.0 MiB), with synapse_keeper_1_1_mas of the Matrix Authentication Service, is left",
            "DROP DATABASE \"synapse_keeper_1_1\"; and on the server of the Matrix Authentication Service: DROP DATABASE \"synapse_keeper_1_1_mas\"",
        ] {
            assert!(said.contains(words), "{said}");
        }
    }
}

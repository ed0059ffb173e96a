//! Between runs: is one due?

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Next, Planner, RESYNC, SAFETY};
use crate::{
    api::operation::{Outcome, Run, Trigger},
    operation::{
        headline::{Headline, Phase},
        report,
        schedule::{Calendar, Due},
    },
    recipes::Wait,
    words::moment,
};

impl Planner<'_> {
    pub(super) fn idle(&mut self) -> Next {
        if self.subject.has_finalizer {
            return (Action::RemoveFinalizer, self.rest());
        }
        if self.subject.deleting {
            return (Action::Wait(RESYNC), self.rest());
        }
        match self.subject.request.schedule.clone() {
            None => self.idle_once(),
            Some(schedule) => match Calendar::new(&schedule, &self.subject.uid) {
                Ok(calendar) => self.idle_scheduled(&calendar),
                Err(invalid) => {
                    self.status.next_run_at = None;
                    let (reason, message) =
                        (invalid.reason().to_owned(), format!("{}.{invalid}", self.subject.lane.schedule));
                    (Action::Wait(RESYNC), Headline { phase: Phase::Stalled, reason, message })
                }
            },
        }
    }

    fn idle_once(&mut self) -> Next {
        if self.status.run.is_some() {
            return (Action::Wait(RESYNC), self.rest());
        }
        match self.cannot_start() {
            Some(headline) => (Action::Wait(RESYNC), headline),
            None => self.start(Trigger::Once, None),
        }
    }

    fn idle_scheduled(&mut self, calendar: &Calendar) -> Next {
        let recorded = self.status.last_scheduled_at.as_ref().map_or(self.subject.created, |time| time.0);
        let dealt_with = Calendar::dealt_with(recorded, self.now);
        if dealt_with != recorded {
            self.status.last_scheduled_at = Some(Time(dealt_with));
        }
        let due = calendar.due(dealt_with, self.now);
        let next_run_at = calendar.next_after(self.now);
        self.status.next_run_at = next_run_at.map(Time);

        if let Some(headline) = self.cannot_start() {
            // What comes up meanwhile is passed over for good: lifting the suspension must not start last night's run.
            match due {
                Due::Now { at, .. } | Due::Missed { at } => self.status.last_scheduled_at = Some(Time(at)),
                Due::Later(_) => {}
            }
            self.status.next_run_at = None;
            // What it waits for is nothing that is watched.
            let wait = if self.is_asked_for() { SAFETY } else { self.until(next_run_at) };
            return (Action::Wait(wait), headline);
        }
        if self.is_asked_for() {
            self.status.run_now_answered = self.subject.run_now.clone();
            return self.start(Trigger::Annotation, None);
        }
        match due {
            Due::Now { at, start_before } => {
                self.status.last_scheduled_at = Some(Time(at));
                self.start(Trigger::Schedule, Some(Time(start_before)))
            }
            Due::Missed { at } => {
                self.status.last_scheduled_at = Some(Time(at));
                report::add_skipped(&mut self.status, self.subject.lane, at, self.now);
                (Action::Wait(self.until(next_run_at)), self.rest())
            }
            Due::Later(_) => (Action::Wait(self.until(next_run_at)), self.rest()),
        }
    }

    /// A person wants a run now.
    fn is_asked_for(&self) -> bool {
        self.subject.run_now.is_some() && self.subject.run_now != self.status.run_now_answered
    }

    /// Why no run may start, though one may be due.
    fn cannot_start(&self) -> Option<Headline> {
        let suspended = |message: &str| Headline {
            phase: Phase::Suspended,
            reason: "Suspended".to_owned(),
            message: message.to_owned(),
        };
        if self.subject.request.suspend {
            return Some(suspended("spec.suspend is true: no run starts"));
        }
        if self.observed.uninstalling {
            return Some(suspended("the operator is being uninstalled: no run starts"));
        }
        let Wait { reason, message } = self.subject.request.waits_for?;
        Some(Headline { phase: Phase::Scheduled, reason: reason.to_owned(), message: message.to_owned() })
    }

    fn start(&mut self, trigger: Trigger, start_before: Option<Time>) -> Next {
        let number = self.status.run.as_ref().map_or(1, |last| last.number + 1);
        self.status.plan.clear();
        self.status.expected_downtime_seconds = None;
        self.status.run = Some(Box::new(Run {
            number,
            trigger,
            generation: self.subject.generation,
            started_at: Time(self.now),
            start_before,
            synapse: None,
            image: None,
            claims: Vec::new(),
            downtime: self.subject.request.downtime.clone(),
            steps: Vec::new(),
            window: None,
            failure: None,
            undo: None,
            unfinished: false,
            in_doubt: false,
            inherited: Vec::new(),
            finished_at: None,
            outcome: None,
        }));
        let action = if number == 1 { Action::Continue } else { Action::SweepJobs };
        (action, self.pending("Starting", format!("run {number} starts")))
    }

    /// How the last run left it.
    fn rest(&self) -> Headline {
        let scheduled = self.subject.request.schedule.is_some();
        let Some(last) = self.status.history.iter().find(|entry| entry.outcome != Outcome::Skipped) else {
            return match scheduled {
                true => Headline {
                    phase: Phase::Scheduled,
                    reason: "Scheduled".to_owned(),
                    message: match &self.status.next_run_at {
                        Some(next) => format!("waits for its first run at {}", moment(next.0)),
                        None => "waits for its first run".to_owned(),
                    },
                },
                false => self.pending("Pending", "has not begun"),
            };
        };
        let phase = match (scheduled, last.outcome) {
            (true, _) => Phase::Scheduled,
            (false, Outcome::Succeeded) => Phase::Succeeded,
            (false, _) => Phase::Failed,
        };
        let word = if last.outcome == Outcome::Succeeded { "Succeeded" } else { "Failed" };
        Headline {
            phase,
            reason: last.reason.clone().unwrap_or_else(|| word.to_owned()),
            message: last.message.clone().unwrap_or_else(|| format!("run {} {}", last.number, word.to_lowercase())),
        }
    }

    /// The time until `at`, but not longer than a resync.
    fn until(&self, at: Option<jiff::Timestamp>) -> jiff::SignedDuration {
        at.map_or(RESYNC, |at| at.duration_since(self.now).clamp(super::POLL, RESYNC))
    }
}

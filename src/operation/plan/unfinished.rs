//! A step that writes into the homeserver's own database and has not come to its end: Synapse must not start with what it left.
//!
//! What stands there is known from the task's report. Where there is none, another Job empties the database, as it was before;
//! then the replicas come back as ever. Where that cannot be either, they stay at 0: the one thing that keeps them there.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Headline, Next, Phase, Planner};
use crate::{
    api::operation::Undo,
    operation::{observed::LeaseState, pinned},
    task::report::{Leaves, Report},
};

impl Planner<'_> {
    /// Takes from a failed attempt's report what it has left.
    pub(super) fn learn_what_is_left(&mut self, index: usize, report: Option<&Report>) {
        let run = self.run_mut();
        let step = &run.steps[index];
        if !step.holds {
            return;
        }
        match report.and_then(|report| report.leaves) {
            Some(Leaves::AsItWas) => run.unfinished = step.was_unfinished,
            Some(Leaves::Empty) => run.unfinished = false,
            // Half of it, or nobody knows.
            None => {}
        }
    }

    /// Has what a step has left half done taken out of the database, once. `None`: nothing is, or it was tried.
    pub(super) fn empty_what_is_unfinished(&mut self) -> Option<Next> {
        let now = Time(self.now);
        let run = self.run_mut();
        if !run.unfinished || run.undo.is_some() {
            return None;
        }
        let begun = run.steps.iter().find(|step| step.holds && step.attempt > 0)?;
        let message = format!("step {} has not come to its end: empties the database", begun.name);
        let undo = pinned::undo_of(begun);
        run.undo = Some(Undo { step: run.steps.len(), began_at: now, failure: None });
        run.steps.push(undo);
        Some((Action::Continue, Headline { phase: Phase::Offline, reason: "TakingBack".to_owned(), message }))
    }

    /// Says on the Lease that the replicas stay at 0. `None`: it says so, or they do not. A Lease that is another's by now, or
    /// that somebody has deleted, is not written: the message of the run's end has the counts.
    pub(super) fn keep_down(&mut self) -> Option<Next> {
        if !self.run().unfinished || !matches!(self.observed.lease, LeaseState::Mine { kept_down: false, .. }) {
            return None;
        }
        Some((Action::KeepDown, self.resuming("the database is unfinished: the replicas stay at 0")))
    }
}

//! Taking a step back, once in a run: where nobody knows what became of it, before any replica comes back; and where no Pod of
//! Synapse became Ready with what it did.
//!
//! What a step left is known from its task's report. Where there is none it is in doubt: another Job finds out, and takes back
//! what there is. Where that cannot be either, it depends on what may be there. A database that is half filled, or two of which
//! one was swapped, must not be served: the replicas stay at 0, which is the one thing that keeps them there. One swap alone is
//! one transaction. The name has a whole database, whichever it is, so everything comes back: users would gain nothing from a
//! homeserver that waits for a person.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Next, Planner};
use crate::{
    api::operation::{PodTrace, Run, StepState, Undo},
    contract::{Leaves, Report},
    operation::{
        headline::{Headline, Phase},
        observed::{JobState, LeaseState, ObservedJob},
        pinned,
    },
};

impl Planner<'_> {
    /// Nobody knows what becomes of a step that begins, if it is one that can be taken back or takes one back. True: Synapse must
    /// not start any more, and might have until now.
    pub(super) fn put_in_doubt(&mut self, index: usize) -> bool {
        let run = self.run_mut();
        let might = !run.must_stay_down();
        if can_be_in_doubt(run, index) {
            run.steps[index].was_in_doubt = run.in_doubt;
            run.in_doubt = true;
        }
        might && run.must_stay_down()
    }

    /// Takes from a failed attempt's report what it has left.
    pub(super) fn learn_what_is_left(&mut self, index: usize, report: Option<&Report>) {
        let run = self.run_mut();
        if !can_be_in_doubt(run, index) {
            return;
        }
        match report.and_then(|report| report.leaves) {
            Some(Leaves::AsItWas) => run.in_doubt = run.steps[index].was_in_doubt,
            Some(Leaves::Empty) => (run.in_doubt, run.unfinished) = (false, false),
            Some(Leaves::InStep) => run.in_doubt = false,
            // Half of it, or nobody knows.
            None => {}
        }
    }

    /// Takes from a Job that is stopped what can be seen before it is gone.
    pub(super) fn learn_from_stopped(&mut self, index: usize, job: &ObservedJob) {
        self.learn_what_is_left(index, job.report.as_ref().filter(|report| report.error.is_some()));
        self.trace_pod(index, job);
    }

    /// Notes what a look at the Job says of its Pod.
    pub(super) fn trace_pod(&mut self, index: usize, job: &ObservedJob) {
        let step = &mut self.run_mut().steps[index];
        if job.started || job.state != JobState::Active {
            step.pod = Some(PodTrace::MayHaveRun);
        } else if job.deleted_at.is_some() && step.pod == Some(PodTrace::Asked) {
            step.pod = Some(PodTrace::NeverRan);
        }
    }

    /// The Job is gone, and its Pod with it. One that had not run by then never has.
    pub(super) fn learn_from_gone(&mut self, index: usize) {
        let run = self.run_mut();
        if can_be_in_doubt(run, index) && run.steps[index].pod == Some(PodTrace::NeverRan) {
            run.in_doubt = run.steps[index].was_in_doubt;
        }
    }

    /// The step has succeeded: what was wanted is there, or what it was to be is taken back.
    pub(super) fn put_beyond_doubt(&mut self, index: usize) {
        let run = self.run_mut();
        run.in_doubt &= !can_be_in_doubt(run, index);
        // What was found unfinished is so again when a swap is taken back. An empty database may be served.
        let is_mended = run.undo.is_none() || run.step_to_take_back().is_some_and(|step| step.spec.stage.fills());
        run.unfinished &= run.next_step().is_some() || !is_mended;
    }

    /// Takes back what a step may have done, before any replica comes back. `None`: nothing is in doubt, or it was tried.
    pub(super) fn take_back_what_is_in_doubt(&mut self) -> Option<Next> {
        let run = self.run();
        let begun = run.step_to_take_back().filter(|step| step.state != StepState::Succeeded)?;
        // What empties a database is as good for what another run has left there.
        let is_wanted = run.in_doubt || begun.spec.stage.fills() && run.unfinished;
        if !is_wanted {
            return None;
        }
        let message = match begun.spec.stage.fills() {
            true => format!("step {} has not come to its end: empties the database", begun.spec.name),
            false => format!("what step {} has done is unknown: rolls it back if it was done", begun.spec.name),
        };
        self.begin_taking_back(message)
    }

    /// Takes back what the run has done to the homeserver, if the main process ran with it and no Pod of Synapse was Ready: after
    /// that clients hold tokens of it. `None`: there is nothing to take back, or it must not be.
    pub(super) fn take_back_what_does_not_start(&mut self) -> Option<Next> {
        let run = self.run();
        let window = run.window.as_ref()?;
        // What nobody could try is not bad: a quota or a full node is not mended by the database of before. What was
        // unfinished before must not come back.
        if window.first_ready_at.is_some() || window.tried_at.is_none() || !run.inherited.is_empty() {
            return None;
        }
        // What came back in place is whole, and there was nothing before it.
        let done =
            run.step_to_take_back().filter(|step| step.state == StepState::Succeeded && !step.spec.stage.fills())?;
        self.begin_taking_back(format!("no Pod of Synapse became Ready: rolls step {} back", done.spec.name))
    }

    /// Once. The homeserver goes down for it, where it is up or where somebody has started it meanwhile: with the counts that were
    /// recorded first.
    fn begin_taking_back(&mut self, message: String) -> Option<Next> {
        let now = Time(self.now);
        let run = self.run_mut();
        if run.undo.is_some() {
            return None;
        }
        let undo = pinned::undo_of(run.step_to_take_back()?);
        run.undo = Some(Undo { step: run.steps.len(), began_at: now, failure: None });
        run.steps.push(undo);
        let window = run.window.as_mut()?;
        (window.stopped_at, window.resume_began_at, window.returned_at) = (None, None, None);
        (window.tried_at, window.not_ready) = (None, None);
        for recorded in &mut window.workloads {
            (recorded.stopped, recorded.returned) = (false, false);
        }
        Some((Action::Continue, Headline { phase: Phase::Stopping, reason: "TakingBack".to_owned(), message }))
    }

    /// Says on the Lease that the replicas stay at 0. `None`: it says so, or they do not. A Lease that is another's by now, or
    /// that somebody has deleted, is not written: the message of the run's end has the counts.
    pub(super) fn keep_down(&mut self) -> Option<Next> {
        if !self.run().must_stay_down() || !matches!(self.observed.lease, LeaseState::Mine { kept_down: false, .. }) {
            return None;
        }
        Some((Action::KeepDown, self.resuming("the database is unfinished: the replicas stay at 0")))
    }
}

/// The step can be taken back, or takes one back.
fn can_be_in_doubt(run: &Run, index: usize) -> bool {
    let takes_back = run.undo.as_ref().is_some_and(|undo| undo.step == index);
    takes_back || !run.steps[index].spec.undo.is_empty()
}

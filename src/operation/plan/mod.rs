//! The decision: a pure function of the object, what was observed, and the time. No client, no clock, no IO.
//!
//! Read [`Planner::drive`] top to bottom: it is an operation's whole life. Every line asks whether something that must be
//! true is true yet; the first that is not answers with the one next action. Nothing is remembered between two calls but
//! the status, which is written *before* the action is done.

#[cfg(test)]
mod aftermath_tests;
mod ending;
mod idle;
#[cfg(test)]
mod in_doubt_tests;
mod order;
mod outlived;
#[cfg(test)]
mod outlived_tests;
#[cfg(test)]
mod simulation;
mod steps;
mod stop;
#[cfg(test)]
mod taking_back_tests;
#[cfg(test)]
mod tests;
mod undo;
#[cfg(test)]
mod unfinished_tests;
mod window;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    headline::{Headline, Phase},
    observed::{LeaseState, Observed, Subject},
    report,
    scale::Change,
};
use crate::{
    api::operation::{Failure, OperationStatus, Run, Window},
    contract::ErrorClass,
};

/// What the status should be, and what to do once it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub status: OperationStatus,
    pub action: Action,
}

/// One thing to do. Each is harmless when it is done twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing, until something changes or this much time has passed.
    Wait(SignedDuration),
    /// Nothing but the status: look again at once.
    Continue,
    /// Create the homeserver's Lease, with the counts that are out.
    AcquireLease,
    /// Take the Lease of this holder, who has ended and left the homeserver's database unfinished.
    TakeOverLease(String),
    /// Write the recorded counts on the Lease, and whether the database is unfinished.
    PublishCounts,
    /// Write on the Lease that the replicas stay at 0, for who comes next.
    KeepDown,
    /// Free the Lease. Only when no counts are out.
    ReleaseLease,
    /// Delete the Jobs of earlier runs.
    SweepJobs,
    /// Delete all Jobs of the lane and let their Pods end.
    ClearJobs,
    AddFinalizer,
    RemoveFinalizer,
    /// Set the replicas of workloads, in this order. All at once: each look at the world costs requests for every
    /// workload, and users wait.
    Scale(Vec<Change>),
    /// Create the Job of the step with this index.
    CreateJob(usize),
    /// Delete the Job of the step with this index and let its Pods end.
    DeleteJob(usize),
}

/// Polling while Pods come and go: they have no watch of their own, because a watch on every Pod of the cluster would
/// cost the operator more than these few looks.
const POLL: SignedDuration = SignedDuration::from_secs(1);
/// A second look at what is watched, in case the watch missed something.
const SAFETY: SignedDuration = SignedDuration::from_secs(30);
/// How long an object that waits for nothing is left alone.
const RESYNC: SignedDuration = SignedDuration::from_hours(1);

/// What is said while the Lease is being taken: another may be faster.
pub const TAKES_LEASE: &str = "takes the homeserver's Lease";

/// Decides.
pub fn plan(subject: &Subject, observed: &Observed, now: Timestamp) -> Plan {
    let mut planner = Planner { subject, observed, now, status: subject.status.clone() };
    let (action, headline) = planner.next();
    report::write(&mut planner.status, subject, &headline, now);
    Plan { status: planner.status, action }
}

type Next = (Action, Headline);

struct Planner<'a> {
    subject: &'a Subject,
    observed: &'a Observed,
    now: Timestamp,
    status: OperationStatus,
}

impl Planner<'_> {
    fn next(&mut self) -> Next {
        if self.status.active_run().is_some() { self.drive() } else { self.idle() }
    }

    /// One run, from its Lease to its end. The way back is the same for success and failure. What comes afterwards does not
    /// touch the homeserver.
    fn drive(&mut self) -> Next {
        if let Some(next) = self.skip_if_late() {
            return next;
        }
        self.notice_reasons_to_stop();
        if let Some(next) = self.delete_what_is_outlived() {
            return next;
        }
        if self.work_is_left()
            && let Some(next) = self.hold_lease().or_else(|| self.pin()).or_else(|| self.work())
        {
            return next;
        }
        self.stop_job()
            .or_else(|| self.take_back_what_is_in_doubt())
            .or_else(|| self.keep_down())
            .or_else(|| self.resume())
            .or_else(|| self.release())
            .or_else(|| self.afterwards())
            .or_else(|| self.clear_away())
            .unwrap_or_else(|| self.finish())
    }

    fn work_is_left(&self) -> bool {
        let run = self.run();
        run.failure_of_work().is_none() && (run.steps.is_empty() || run.next_step().is_some())
    }

    /// Something is left without which the run has not succeeded.
    fn is_undecided(&self) -> bool {
        let run = self.run();
        run.failure.is_none() && (run.steps.is_empty() || run.next_deciding_step().is_some())
    }

    /// The homeserver's Lease, before anything is done to the homeserver and until all is done. What does not work on it
    /// waits for no more than its description.
    fn hold_lease(&mut self) -> Option<Next> {
        match &self.observed.lease {
            LeaseState::Mine { .. } => None,
            LeaseState::Theirs(holder) => {
                let message = format!("waits for {holder}, which holds homeserver {}", self.subject.request.synapse);
                Some((Action::Wait(SAFETY), self.pending("HomeserverBusy", message)))
            }
            LeaseState::KeptDown(kept) if !self.subject.request.heals => {
                Some((Action::Wait(SAFETY), self.pending("DatabaseUnfinished", kept.message.clone())))
            }
            LeaseState::Free | LeaseState::KeptDown(_) if self.observed.uninstalling => {
                let message = "the operator is being uninstalled: waits for the next one";
                Some((Action::Wait(SAFETY), self.pending("Suspended", message)))
            }
            LeaseState::Free | LeaseState::KeptDown(_) => match &self.observed.synapse {
                // A Lease that vanished under a run is made again, with the counts: its Synapse object may be gone by then.
                None if self.run().synapse.is_none() => {
                    let name = &self.subject.request.synapse;
                    let message = format!(
                        "there is no Synapse object {name} in namespace {}: create it. If spec.synapseRef.name is wrong, create this \
                         object again with the right one: the field is immutable",
                        self.subject.namespace
                    );
                    Some((Action::Wait(SAFETY), self.pending("SynapseNotFound", message)))
                }
                Some(synapse) if synapse.spec.suspend && self.run().synapse.is_none() => {
                    let message =
                        format!("Synapse {} is suspended: set its spec.suspend to false", self.subject.request.synapse);
                    Some((Action::Wait(SAFETY), self.pending("SynapseSuspended", message)))
                }
                Some(_) if self.backup_is_missing() => {
                    let name = self.subject.request.backup.as_deref().unwrap_or_default();
                    let message = format!(
                        "there is no SynapseBackup {name} in namespace {}: make a new SynapseRestore that names another, or the \
                         repository itself",
                        self.subject.namespace
                    );
                    Some((Action::Wait(SAFETY), self.pending("BackupNotFound", message)))
                }
                _ if !self.subject.lane.holds_homeserver => None,
                _ => Some(self.take_lease()),
            },
        }
    }

    /// A new one, or one whose holder has left the database unfinished: with what the homeserver had before that.
    fn take_lease(&mut self) -> Next {
        let headline = self.pending("Starting", TAKES_LEASE);
        let kept = match &self.observed.lease {
            LeaseState::KeptDown(kept) => Some(kept.clone()),
            _ => None,
        };
        let run = self.run_mut();
        // A Lease that vanishes later is made again as it was.
        if run.synapse.is_none() {
            run.unfinished = kept.is_some();
            run.inherited = kept.iter().flat_map(|kept| kept.counts.clone()).collect();
        }
        (kept.map_or(Action::AcquireLease, |kept| Action::TakeOverLease(kept.holder)), headline)
    }

    /// The run is not pinned yet, and what it is to be made from is not there.
    fn backup_is_missing(&self) -> bool {
        self.run().synapse.is_none() && self.subject.request.backup.is_some() && self.observed.backup.is_none()
    }

    fn run(&self) -> &Run {
        self.status.run.as_ref().expect("drive is for an active run")
    }

    fn run_mut(&mut self) -> &mut Run {
        self.status.run.as_mut().expect("drive is for an active run")
    }

    fn window_mut(&mut self) -> Option<&mut Window> {
        self.run_mut().window.as_mut()
    }

    /// Ends the run early. The first reason is the one that counts.
    fn fail(&mut self, reason: &str, class: ErrorClass, message: impl Into<String>) {
        let at = Time(self.now);
        let (reason, message) = (reason.to_owned(), message.into());
        self.run_mut().fail(Failure { reason, message, class, at });
    }

    /// Ends the run early and looks again, so that the way back begins from a status that says why.
    fn failing(&mut self, reason: &str, class: ErrorClass, message: impl Into<String>) -> Option<Next> {
        let message = message.into();
        self.fail(reason, class, message.clone());
        Some((Action::Continue, Headline { phase: Phase::Resuming, reason: reason.to_owned(), message }))
    }

    fn pending(&self, reason: &str, message: impl Into<String>) -> Headline {
        Headline { phase: Phase::Pending, reason: reason.to_owned(), message: message.into() }
    }
}

/// Seconds from `since` to `now`.
fn elapsed(since: &Time, now: Timestamp) -> SignedDuration {
    now.duration_since(since.0)
}

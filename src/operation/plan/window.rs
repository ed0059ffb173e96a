//! The downtime: taking the workloads down and bringing them back.
//!
//! Before the first replica is touched the counts stand in two places, the operation's status and the homeserver's Lease.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Next, POLL, Planner, elapsed};
use crate::{
    api::operation::{RecordedWorkload, Role, Window},
    contract::ErrorClass::Transient,
    operation::{
        headline::{Headline, Phase},
        observed::{LeaseState, Live, ObservedJob, TASK_STOPS_WITHIN},
        plan::order::{held_by_its_order, stopping_order},
        scale::Change,
    },
};

impl Planner<'_> {
    /// `None`: the homeserver is down and no Pod of it is left.
    pub(super) fn take_down(&mut self) -> Option<Next> {
        let stopping = |message: &str| Headline {
            phase: Phase::Stopping,
            reason: "Stopping".to_owned(),
            message: message.to_owned(),
        };
        if self.run().window.is_none() {
            if let Some(holder) = &self.observed.counts_held_by {
                let message = format!(
                    "{holder} has not given back the replicas of a workload of this homeserver: wait for it, or delete it"
                );
                return self.failing("CountsHeldElsewhere", Transient, message);
            }
            if !self.subject.has_finalizer {
                return Some((Action::AddFinalizer, stopping("the replica counts are about to be recorded")));
            }
            self.record_counts();
            return Some((Action::PublishCounts, stopping("the replica counts are on record")));
        }
        if self.observed.lease != LeaseState::mine(true, self.run().must_stay_down()) {
            return Some((Action::PublishCounts, stopping("the replica counts are on record")));
        }

        let (live, now) = (self.observed.workloads.clone(), Time(self.now));
        let window = self.window_mut()?;
        if window.stopped_at.is_some() {
            return None;
        }
        let mut changes = Vec::new();
        for recorded in window.workloads.iter_mut().filter(|recorded| !recorded.stopped) {
            match find(&live, recorded).and_then(|live| live.replicas).unwrap_or(0) {
                0 => recorded.stopped = true,
                from => changes.push(Change { workload: recorded.workload.clone(), from, to: 0 }),
            }
        }
        if !changes.is_empty() {
            let headline = stopping(&format!("scales {}", list(&changes)));
            return Some((Action::Scale(changes), headline));
        }
        let left: Vec<&str> = live.iter().flat_map(|live| &live.pods).map(|pod| pod.name.as_str()).collect();
        if !left.is_empty() {
            let mut message = format!("waits until these Pods are gone: {}", left.join(", "));
            for held in live.iter().filter_map(|live| held_by_its_order(live, &self.subject.namespace)) {
                message.push_str(&format!(". {held}"));
            }
            return Some((Action::Wait(POLL), stopping(&message)));
        }
        window.stopped_at = Some(now);
        None
    }

    fn record_counts(&mut self) {
        let inherited = self.run().inherited.clone();
        let no_main = !self.observed.workloads.iter().any(|live| live.role == Role::Main);
        let mut workloads: Vec<RecordedWorkload> = self
            .observed
            .workloads
            .iter()
            .filter_map(|live| {
                let (workload, role) = (live.workload.clone(), live.role);
                let must_be_well = self.subject.request.heals && (role == Role::Main || no_main);
                // What another run has left at 0 had more before that.
                let inherited = inherited.iter().find(|inherited| inherited.workload == workload);
                let before = |replicas| inherited.filter(|_| replicas == 0).map_or(replicas, |one| one.replicas);
                live.replicas.map(before).map(|replicas| RecordedWorkload {
                    workload,
                    role,
                    replicas,
                    ready: if must_be_well { replicas } else { live.ready() },
                    stopped: false,
                    returned: false,
                })
            })
            .collect();
        let is_known = |one: &RecordedWorkload| workloads.iter().any(|known| known.workload == one.workload);
        let not_named: Vec<_> = inherited.iter().filter(|one| !is_known(one)).cloned().collect();
        workloads.extend(not_named);
        workloads.sort_by_key(|recorded| (stopping_order(recorded.role), recorded.workload.clone()));
        let recorded_at = Time(self.now);
        self.run_mut().window = Some(Window {
            workloads,
            recorded_at,
            stopped_at: None,
            resume_began_at: None,
            returned_at: None,
            tried_at: None,
            not_ready: None,
            first_ready_at: None,
            ready_at: None,
        });
    }

    /// `None`: every count was given back and the Pods are Ready again, or nothing was ever taken. Or it must not be given back.
    pub(super) fn resume(&mut self) -> Option<Next> {
        if self.run().must_stay_down() {
            return None;
        }
        if let LeaseState::Mine { unfinished: true, .. } = self.observed.lease {
            return Some((Action::PublishCounts, self.resuming("the database is not unfinished any more")));
        }
        let live = self.observed.workloads.clone();
        let (now, deleting, namespace) = (self.now, self.subject.deleting, self.subject.namespace.as_str());
        let ready_within = self.run().downtime.ready_within.to_signed();
        let window = self.window_mut()?;
        window.resume_began_at.get_or_insert(Time(now));
        if window.returned_at.is_none() {
            // Starting is stopping backwards: MAS, the main process, the workers.
            let mut changes = Vec::new();
            for recorded in window.workloads.iter_mut().rev().filter(|recorded| !recorded.returned) {
                match find(&live, recorded).and_then(|live| live.replicas) {
                    Some(0) if recorded.replicas > 0 => {
                        changes.push(Change { workload: recorded.workload.clone(), from: 0, to: recorded.replicas });
                    }
                    // Back, or somebody's newer will, or gone.
                    _ => recorded.returned = true,
                }
            }
            if !changes.is_empty() {
                let headline = self.resuming(format!("scales {}", list(&changes)));
                return Some((Action::Scale(changes), headline));
            }
            window.returned_at = Some(Time(now));
        }
        if window.ready_at.is_some() || deleting {
            return None;
        }
        let serves = |live: &Live| live.role != Role::Authentication && live.ready() > 0;
        if live.iter().any(serves) {
            window.first_ready_at.get_or_insert(Time(now));
        }
        let has_main = window.workloads.iter().any(|recorded| recorded.role == Role::Main);
        let tries = |live: &&Live| live.role == if has_main { Role::Main } else { Role::Worker };
        if live.iter().filter(tries).flat_map(|live| &live.pods).any(|pod| pod.ran) {
            window.tried_at.get_or_insert(Time(now));
        }
        let waiting: Vec<String> =
            window.workloads.iter().filter_map(|recorded| not_ready(recorded, find(&live, recorded))).collect();
        if waiting.is_empty() {
            window.ready_at = Some(Time(now));
            return Some((Action::Continue, self.resuming("the homeserver is Ready again")));
        }
        let since = window.resume_began_at.clone().unwrap_or(Time(now));
        if elapsed(&since, now) > ready_within {
            let waiting = waiting.join("; ");
            let message = format!("{waiting}. {}", see_why_not_ready(&live, namespace));
            window.not_ready.get_or_insert(message.clone());
            self.fail("NotReadyAgain", Transient, format!("the replicas are back but not Ready: {message}"));
            return self.take_back_what_does_not_start();
        }
        Some((Action::Wait(POLL), self.resuming(format!("waits until Ready: {}", waiting.join("; ")))))
    }

    /// `None`: nothing of this run is on the homeserver any more.
    pub(super) fn release(&mut self) -> Option<Next> {
        if matches!(self.observed.lease, LeaseState::Mine { .. }) && !self.run().must_stay_down() {
            return Some((Action::ReleaseLease, self.resuming("frees the homeserver's Lease")));
        }
        self.subject.has_finalizer.then(|| (Action::RemoveFinalizer, self.resuming("all replicas are back")))
    }

    /// `None`: no Job of this run is left, and no Pod of one.
    pub(super) fn stop_job(&mut self) -> Option<Next> {
        use crate::api::operation::StepState::{Failed, Running};

        let run = self.run();
        let index = run.next_step().or_else(|| run.failure_of_work().and(run.next_step_afterwards()))?;
        if self.run().steps[index].state != Running {
            return self.wait_for_task_pods(index);
        }
        let job = self.observed.job.clone();
        if let Some(job) = job.as_ref().filter(|job| job.ours) {
            self.learn_from_stopped(index, job);
        }
        match &job {
            Some(job) if job.ours && job.deleted_at.is_none() => {
                Some((Action::DeleteJob(index), self.step_headline(index, "its Job is stopped")))
            }
            Some(job) if job.ours && !self.is_lost(job) => {
                Some((Action::Wait(POLL), self.step_headline(index, "its Job is stopped")))
            }
            Some(_) | None => {
                if let Some(next) = self.wait_for_task_pods(index) {
                    return Some(next);
                }
                if job.is_none() {
                    self.learn_from_gone(index);
                }
                let at = Time(self.now);
                let reason = self.run().failure.as_ref().map(|failure| failure.message.clone());
                let step = &mut self.run_mut().steps[index];
                step.state = Failed;
                step.finished_at = Some(at);
                step.message = reason;
                Some((Action::Continue, self.resuming("its Job is gone")))
            }
        }
    }

    /// Its Pods should have been gone for long: their node is lost. It counts from the deletion on, not from what led to it: the
    /// operator may have been away in between.
    pub(super) fn is_lost(&self, job: &ObservedJob) -> bool {
        job.deleted_at.is_some_and(|deleted_at| self.now.duration_since(deleted_at) > TASK_STOPS_WITHIN)
    }

    /// A Job that somebody deleted may be gone before its Pod: it may still write, so nothing else begins. `None`: none is
    /// left. What is on a lost node was not observed.
    pub(super) fn wait_for_task_pods(&self, index: usize) -> Option<Next> {
        if self.observed.task_pods.is_empty() {
            return None;
        }
        let what = format!("waits until these Pods of it are gone: {}", self.observed.task_pods.join(", "));
        Some((Action::Wait(POLL), self.step_headline(index, &what)))
    }

    pub(super) fn resuming(&self, message: impl Into<String>) -> Headline {
        let message = message.into();
        match &self.run().failure {
            Some(failure) => Headline {
                phase: Phase::Resuming,
                reason: failure.reason.clone(),
                message: format!("{message} ({})", failure.message),
            },
            None => Headline { phase: Phase::Resuming, reason: "Resuming".to_owned(), message },
        }
    }
}

fn find<'a>(live: &'a [Live], recorded: &RecordedWorkload) -> Option<&'a Live> {
    live.iter().find(|live| live.workload == recorded.workload)
}

fn list(changes: &[Change]) -> String {
    changes.iter().map(Change::to_string).collect::<Vec<_>>().join(", ")
}

/// What a workload still lacks, in the words of scheduler and kubelet.
fn not_ready(recorded: &RecordedWorkload, live: Option<&Live>) -> Option<String> {
    let live = live?;
    // Somebody may have chosen another number meanwhile: then that is what it can have.
    let wanted = recorded.ready.min(live.replicas?);
    let ready = live.ready();
    if ready >= wanted {
        return None;
    }
    let refused =
        live.cannot_make_pods.as_ref().map(|why| format!(": no Pod can be made: {}", why.trim_end_matches('.')));
    let problem = live.pods.iter().find_map(|pod| pod.problem.clone()).map(|problem| format!(": {problem}"));
    let going = live.pods.iter().find(|pod| pod.terminating).map(|pod| format!(": Pod {} is Terminating", pod.name));
    let why = refused.or(problem).or(going).unwrap_or_default();
    Some(format!("{} has {ready} of {wanted} Pods Ready{why}", recorded.workload))
}

/// What to type to see why: where there is no Pod, nothing is to be seen of Pods.
fn see_why_not_ready(live: &[Live], namespace: &str) -> String {
    match live.iter().find(|live| live.cannot_make_pods.is_some() || live.replicas > Some(0) && live.pods.is_empty()) {
        Some(Live { workload, .. }) => {
            format!("See why with kubectl -n {namespace} describe {} {}", workload.kind.plural(), workload.name)
        }
        None => format!("See why with kubectl -n {namespace} describe pods, and kubectl logs"),
    }
}

//! Reasons to end a run early. They are looked for before anything else is decided, so that a Job is stopped before
//! whatever intruded can be hurt by it.

use super::{Planner, elapsed};
use crate::{
    api::operation::Window,
    contract::ErrorClass::{Terminal, Transient},
    operation::{
        observed::{LeaseState, Live},
        plan::order::held_by_its_order,
        report::IN_A_NEW_OBJECT,
    },
};

impl Planner<'_> {
    pub(super) fn notice_reasons_to_stop(&mut self) {
        if self.subject.deleting && self.is_undecided() {
            return self.fail("Deleted", Terminal, "the object was deleted while it ran");
        }
        // Once the work is done there is nothing left to stop: what comes up now comes up a moment early.
        if !self.work_is_left() {
            return;
        }
        // What Synapse cannot start with is taken back whatever becomes of the object.
        let undoing = self.run().undo.is_some();
        if self.observed.uninstalling && self.run().synapse.is_some() && !undoing {
            return self.fail("Uninstalling", Transient, "the operator is being uninstalled");
        }
        if let (Some(_), LeaseState::Theirs(holder)) = (&self.run().synapse, &self.observed.lease) {
            let message = format!(
                "the homeserver's Lease was taken away: {holder} holds it now. Somebody deleted the Lease; nobody should"
            );
            return self.fail("LeaseLost", Transient, message);
        }
        if let Some(message) = self.pinned_synapse_is_gone().filter(|_| !undoing) {
            return self.fail("SynapseDeleted", Terminal, message);
        }
        let Some(window) = self.run().window.clone() else { return };
        if let Some(message) = self.contested(&window) {
            return self.fail("Contested", Transient, message);
        }
        if let Some(message) = self.pods_do_not_stop(&window) {
            return self.fail("PodsDoNotStop", Transient, message);
        }
        // Who ends a step that fills helps nobody: there was nothing before it that could be served.
        let fills = self.run().next_step().is_some_and(|index| self.run().steps[index].spec.stage.fills());
        if !fills && self.run().work_until().is_some_and(|until| self.now > until) {
            let at_most = &self.run().downtime.at_most;
            let vacuums =
                self.run().next_step().is_some_and(|index| self.run().steps[index].spec.name.starts_with("vacuum"));
            let or = if vacuums { ", or name fewer tables in its vacuum.tables" } else { "" };
            let message = format!(
                "the downtime's budget of {at_most} (spec.downtime.atMost) was used up before the work was done: raise it{IN_A_NEW_OBJECT}{or}"
            );
            self.fail("DowntimeExceeded", Transient, message);
        }
    }

    /// The `Synapse` object that the run began with was deleted, or is another one by now. Between steps only: a step that
    /// runs may come to its end.
    fn pinned_synapse_is_gone(&self) -> Option<String> {
        use crate::api::operation::StepState::Running;
        let run = self.run();
        let pinned = run.synapse.as_ref()?;
        if run.next_step().is_some_and(|index| run.steps[index].state == Running) {
            return None;
        }
        match &self.observed.synapse {
            Some(synapse) if synapse.uid == pinned.uid && !synapse.deleting => None,
            _ => Some(format!(
                "Synapse {} was deleted while the run worked on it: create it again before the next run",
                pinned.name
            )),
        }
    }

    /// Somebody else's will is at work on a workload that was down.
    fn contested(&self, window: &Window) -> Option<String> {
        if window.resume_began_at.is_some() {
            return None;
        }
        // Between the record and the stop: the record must not take away what somebody has just asked for.
        let changed = window.workloads.iter().filter(|recorded| !recorded.stopped).find_map(|recorded| {
            let live = self.observed.workloads.iter().find(|live| live.workload == recorded.workload)?;
            live.replicas.filter(|now| *now != 0 && *now != recorded.replicas).map(|now| (recorded, now))
        });
        if let Some((recorded, now)) = changed {
            return Some(format!(
                "{} was scaled to {now} when its {} replicas had just been recorded. Keep autoscalers and GitOps self-heal \
                 away from its replicas (docs/gitops.md)",
                recorded.workload, recorded.replicas
            ));
        }
        let stopped = |live: &Live| {
            window.workloads.iter().any(|recorded| recorded.workload == live.workload && recorded.stopped)
        };
        let live = || self.observed.workloads.iter().filter(|live| stopped(live));
        // Who scaled something up says more than the Pods that come of it.
        if let Some((live, replicas)) = live().find_map(|live| live.replicas.filter(|n| *n > 0).map(|n| (live, n))) {
            let by = match &live.changed_by {
                Some(manager) => format!("by {manager}. Keep GitOps self-heal away from its replicas (docs/gitops.md)"),
                None => "through /scale, of which the API does not record who: an autoscaler, or kubectl scale. Pause KEDA with the \
                         annotation autoscaling.keda.sh/paused=true of its ScaledObject (docs/gitops.md)"
                    .to_owned(),
            };
            return Some(format!(
                "{} was scaled to {replicas} while the homeserver was down for maintenance, {by}",
                live.workload
            ));
        }
        if window.stopped_at.is_some()
            && let Some((live, pod)) = live().find_map(|live| live.pods.first().map(|pod| (live, pod)))
        {
            return Some(format!(
                "Pod {} of {} appeared while the homeserver was down for maintenance. Keep whoever made it away during a \
                 downtime: kubectl -n {} get pod {} -o yaml --show-managed-fields",
                pod.name, live.workload, self.subject.namespace, pod.name
            ));
        }
        let appeared = self.observed.appeared.first()?;
        Some(format!(
            "{appeared} matches the homeserver's workloads and was started while the homeserver was down for maintenance. \
             Start it before or after, or narrow spec.workloads of the Synapse object"
        ))
    }

    /// A Pod on a lost node stays Terminating for ever.
    fn pods_do_not_stop(&self, window: &Window) -> Option<String> {
        let within = &self.run().downtime.stop_within;
        let since = self.run().going_down_since()?;
        if window.stopped_at.is_some() || elapsed(since, self.now) <= within.to_signed() {
            return None;
        }
        let held = |live: &Live| held_by_its_order(live, &self.subject.namespace);
        if let Some(held) = self.observed.workloads.iter().find_map(held) {
            return Some(format!("{held}. It was not done within {within} (spec.downtime.stopWithin)"));
        }
        let (live, pod) = self.observed.workloads.iter().find_map(|live| live.pods.first().map(|pod| (live, pod)))?;
        let (name, node, namespace) = (&pod.name, &pod.node, &self.subject.namespace);
        Some(format!(
            "Pod {name} of {} on node {node} has not stopped within {within} (spec.downtime.stopWithin). See why with: kubectl -n \
             {namespace} describe pod {name}. When node {node} is down for good: kubectl -n {namespace} delete pod {name} --force",
            live.workload
        ))
    }
}

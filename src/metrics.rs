//! Metrics for Prometheus. Labels are bounded: names of homeservers and words from explicit lists, never texts of errors.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::{
    api::operation::{OperationStatus, Outcome},
    operation::observed::Subject,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HomeserverLabels {
    namespace: String,
    synapse: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// The kinds whose objects are operations.
const KINDS: [&str; 1] = ["SynapseMaintenance"];

/// All metrics of the operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    quiesced: Family<HomeserverLabels, Gauge>,
    downtime: Family<HomeserverLabels, Gauge<f64, AtomicU64>>,
    runs: Family<OutcomeLabels, Counter>,
    reconciles: Family<OutcomeLabels, Counter>,
    watch_last_event: Family<KindLabels, Gauge<i64, AtomicI64>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            quiesced: Family::default(),
            downtime: Family::default(),
            runs: Family::default(),
            reconciles: Family::default(),
            watch_last_event: Family::default(),
        };
        // Prometheus does not see the step from absent to 1: without zeros the first failure would raise no alert.
        for kind in KINDS {
            for outcome in ["succeeded", "skipped", "failed"] {
                drop(metrics.runs.get_or_create(&OutcomeLabels { kind, outcome }));
            }
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let mut registry = Registry::with_prefix("synapse_keeper");
        let quiesced = "1 while the homeserver's replicas are at 0 by our hand";
        registry.register("homeserver_quiesced", quiesced, self.quiesced.clone());
        let downtime = "Downtime of the last run that had one";
        registry.register_with_unit("homeserver_last_downtime", downtime, Unit::Seconds, self.downtime.clone());
        registry.register("runs", "Finished runs of operations", self.runs.clone());
        registry.register("reconciles", "Reconciles by what came of them", self.reconciles.clone());
        let event = "Unix time of the last event of a watch";
        registry.register_with_unit("watch_last_event", event, Unit::Seconds, self.watch_last_event.clone());
        self.registry = Arc::new(registry);
        self
    }

    /// Notes what a new status says.
    pub fn record(&self, subject: &Subject, after: &OperationStatus) {
        let labels =
            HomeserverLabels { namespace: subject.namespace.clone(), synapse: subject.request.synapse.clone() };
        let Some(run) = &after.run else { return };
        if run.window.is_some() {
            self.quiesced.get_or_create(&labels).set(i64::from(run.holds_counts()));
        }
        let just_finished = run.is_finished() && subject.status.active_run().is_some();
        if !just_finished {
            return;
        }
        let outcome = match run.outcome {
            Some(Outcome::Succeeded) => "succeeded",
            Some(Outcome::Skipped) => "skipped",
            Some(Outcome::Failed) | None => "failed",
        };
        self.runs.get_or_create(&OutcomeLabels { kind: subject.kind, outcome }).inc();
        if let Some(seconds) = after.last.as_ref().and_then(|last| last.downtime_seconds) {
            self.downtime.get_or_create(&labels).set(seconds as f64);
        }
    }

    /// Notes the end of a reconcile.
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str) {
        self.reconciles.get_or_create(&OutcomeLabels { kind, outcome }).inc();
    }

    /// Notes a sign of life of a watch.
    pub fn watch_event(&self, kind: &'static str) {
        self.watch_last_event.get_or_create(&KindLabels { kind }).set(jiff::Timestamp::now().as_second());
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

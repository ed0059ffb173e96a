//! Metrics for Prometheus. Labels are bounded: names of homeservers and words from explicit lists, never texts of errors.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::api::{
    Synapse, SynapseBackup,
    operation::{OperationStatus, Outcome},
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HomeserverLabels {
    namespace: String,
    synapse: String,
}

/// A homeserver whose replicas are at 0 by the operator's hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    pub namespace: String,
    /// Name of the `Synapse` object.
    pub synapse: String,
    /// A restore has left its database unfinished, so nobody brings the replicas back.
    pub unfinished: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BackupLabels {
    namespace: String,
    backup: String,
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

/// All metrics of the operator.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    quiesced: Family<HomeserverLabels, Gauge>,
    unfinished: Family<HomeserverLabels, Gauge>,
    downtime: Family<HomeserverLabels, Gauge<f64, AtomicU64>>,
    not_served_since: Family<HomeserverLabels, Gauge<i64, AtomicI64>>,
    newest_backup: Family<BackupLabels, Gauge<i64, AtomicI64>>,
    newest_verified: Family<BackupLabels, Gauge<i64, AtomicI64>>,
    runs: Family<OutcomeLabels, Counter>,
    reconciles: Family<OutcomeLabels, Counter>,
    watch_last_event: Family<KindLabels, Gauge<i64, AtomicI64>>,
}

impl Metrics {
    /// Metrics of operations of these kinds.
    pub fn new(kinds: &[&'static str]) -> Self {
        let metrics = Self {
            registry: Arc::default(),
            quiesced: Family::default(),
            unfinished: Family::default(),
            downtime: Family::default(),
            not_served_since: Family::default(),
            newest_backup: Family::default(),
            newest_verified: Family::default(),
            runs: Family::default(),
            reconciles: Family::default(),
            watch_last_event: Family::default(),
        };
        // Prometheus does not see the step from absent to 1: without zeros the first failure would raise no alert.
        for kind in kinds {
            for outcome in ["succeeded", "skipped", "failed"] {
                drop(metrics.runs.get_or_create(&OutcomeLabels { kind, outcome }));
            }
        }
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let mut registry = Registry::with_prefix("synapse_keeper");
        let quiesced = "1 while the homeserver's replicas are at 0 by our hand";
        registry.register("homeserver_quiesced", quiesced, self.quiesced.clone());
        let unfinished =
            "1 while a restore has left the homeserver's database unfinished, and nobody brings its replicas back";
        registry.register("homeserver_database_unfinished", unfinished, self.unfinished.clone());
        let downtime = "Downtime of the last run that had one";
        registry.register_with_unit("homeserver_last_downtime", downtime, Unit::Seconds, self.downtime.clone());
        let since = "Unix time since when no Pod of the homeserver's main process is Ready. Absent while one is";
        let not_served_since = self.not_served_since.clone();
        registry.register_with_unit("homeserver_not_served_since", since, Unit::Seconds, not_served_since);
        let newest = "Unix time of the newest backup of a schedule, of the object's creation where there is none";
        registry.register_with_unit("backup_newest", newest, Unit::Seconds, self.newest_backup.clone());
        let verified = "Unix time of the newest backup that was restored by a drill, where that is wanted";
        registry.register_with_unit("backup_verified", verified, Unit::Seconds, self.newest_verified.clone());
        registry.register("runs", "Finished runs of operations", self.runs.clone());
        registry.register("reconciles", "Reconciles by what came of them", self.reconciles.clone());
        let event = "Unix time of the last event of a watch";
        registry.register_with_unit("watch_last_event", event, Unit::Seconds, self.watch_last_event.clone());
        self.registry = Arc::new(registry);
        self
    }

    /// Notes which homeservers are down. All others are not.
    pub fn homeservers_down(&self, down: impl Iterator<Item = Down>) {
        self.quiesced.clear();
        self.unfinished.clear();
        for Down { namespace, synapse, unfinished } in down {
            let labels = HomeserverLabels { namespace, synapse };
            self.quiesced.get_or_create(&labels).set(1);
            if unfinished {
                self.unfinished.get_or_create(&labels).set(1);
            }
        }
    }

    /// Notes since when homeservers do not serve.
    pub fn synapses<'a>(&self, synapses: impl Iterator<Item = &'a Synapse>) {
        self.not_served_since.clear();
        for synapse in synapses {
            let since = synapse.status.as_ref().and_then(|status| status.not_served_since.as_ref());
            let Some(Time(since)) = since else { continue };
            let labels =
                HomeserverLabels { namespace: synapse.namespace().unwrap_or_default(), synapse: synapse.name_any() };
            self.not_served_since.get_or_create(&labels).set(since.as_second());
        }
    }

    /// Notes how old the newest backups are, and the newest that were verified. Of those that run once nobody expects a
    /// newer one.
    pub fn backups<'a>(&self, backups: impl Iterator<Item = &'a SynapseBackup>) {
        self.newest_backup.clear();
        self.newest_verified.clear();
        for backup in backups.filter(|backup| backup.spec.schedule.is_some()) {
            let (newest, verified) = match &backup.status {
                Some(status) => (status.last_success_at.clone(), status.last_verified_at.clone()),
                None => (None, None),
            };
            let labels = BackupLabels {
                namespace: backup.namespace().unwrap_or_default(),
                backup: backup.name_any(),
                synapse: backup.spec.synapse_ref.name.clone(),
            };
            let note = |family: &Family<BackupLabels, Gauge<i64, AtomicI64>>, moment: Option<Time>| {
                let Some(Time(since)) = moment.or(backup.creation_timestamp()) else { return };
                family.get_or_create(&labels).set(since.as_second());
            };
            note(&self.newest_backup, newest);
            if backup.spec.verify.is_some() {
                note(&self.newest_verified, verified);
            }
        }
    }

    /// Notes the end of a run of an operation on a homeserver. `after` is the status with which it ended.
    pub fn finished(&self, kind: &'static str, namespace: &str, synapse: &str, after: &OperationStatus) {
        let Some(run) = &after.run else { return };
        let outcome = match run.outcome {
            Some(Outcome::Succeeded) => "succeeded",
            Some(Outcome::Skipped) => "skipped",
            Some(Outcome::Failed) | None => "failed",
        };
        self.runs.get_or_create(&OutcomeLabels { kind, outcome }).inc();
        if let Some(seconds) = after.last.as_ref().and_then(|last| last.downtime_seconds) {
            let labels = HomeserverLabels { namespace: namespace.to_owned(), synapse: synapse.to_owned() };
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

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = include_str!("../charts/synapse-keeper/templates/prometheusrule.yaml");
    const DOCUMENTED: &str = include_str!("../docs/install.md");

    fn down(synapse: &str) -> Down {
        Down { namespace: "matrix".to_owned(), synapse: synapse.to_owned(), unfinished: false }
    }

    /// Names with our prefix in a text.
    fn names(text: &str) -> impl Iterator<Item = &str> {
        let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        words.filter(|word| word.starts_with("synapse_keeper_"))
    }

    #[test]
    fn a_homeserver_that_came_back_is_not_down_any_more() {
        let metrics = Metrics::new(&[]);
        let has = |name: &str, synapse: &str| {
            let line = format!("homeserver_{name}{{namespace=\"matrix\",synapse=\"{synapse}\"}} 1");
            metrics.render().contains(&line)
        };
        metrics.homeservers_down([down("one"), Down { unfinished: true, ..down("other") }].into_iter());
        assert!(has("quiesced", "one") && has("quiesced", "other"), "{}", metrics.render());
        assert!(!has("database_unfinished", "one") && has("database_unfinished", "other"), "{}", metrics.render());
        metrics.homeservers_down([down("one")].into_iter());
        assert!(has("quiesced", "one") && !has("quiesced", "other"), "{}", metrics.render());
        assert!(!has("database_unfinished", "other"), "{}", metrics.render());
    }

    fn synapse(not_served_since: Option<&str>) -> Synapse {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "synapse-keeper.dev/v1alpha1", "kind": "Synapse",
            "metadata": {"namespace": "matrix", "name": "example"},
            "spec": {
                "serverName": "example.org", "workloads": {"selector": {"matchLabels": {"app": "synapse"}}},
                "postgres": {"host": "db", "database": "synapse", "credentials": {"secretName": "db"}},
            },
            "status": {"notServedSince": not_served_since},
        }))
        .expect("a homeserver")
    }

    #[test]
    fn a_homeserver_that_nobody_is_served_by_has_the_time_since_when() {
        let metrics = Metrics::new(&[]);
        let line = "synapse_keeper_homeserver_not_served_since_seconds{namespace=\"matrix\",synapse=\"example\"} 60\n";
        metrics.synapses([synapse(Some("1970-01-01T00:01:00Z"))].iter());
        assert!(metrics.render().contains(line), "{}", metrics.render());
        metrics.synapses([synapse(None)].iter());
        assert!(!metrics.render().contains("since_seconds{"), "{}", metrics.render());
    }

    fn backup(schedule: Option<&str>, newest: Option<&str>) -> SynapseBackup {
        let schedule = schedule.map(|cron| serde_json::json!({"cron": cron}));
        serde_json::from_value(serde_json::json!({
            "apiVersion": "synapse-keeper.dev/v1alpha1", "kind": "SynapseBackup",
            "metadata": {"namespace": "matrix", "name": "nightly", "creationTimestamp": "1970-01-01T00:00:07Z"},
            "spec": {
                "synapseRef": {"name": "example"}, "repository": {"secretName": "s3"}, "schedule": schedule,
                "verify": schedule,
            },
            "status": {"lastSuccessAt": newest, "lastVerifiedAt": newest},
        }))
        .expect("a backup")
    }

    #[test]
    fn a_schedule_s_newest_backup_has_its_time_and_before_it_the_schedule_s_own() {
        for (schedule, newest, shown) in [
            (Some("@daily"), Some("1970-01-01T00:01:00Z"), Some(60)),
            (Some("@daily"), None, Some(7)),
            (None, Some("1970-01-01T00:01:00Z"), None),
        ] {
            let metrics = Metrics::new(&[]);
            metrics.backups([backup(schedule, newest)].iter());
            let labels = "{namespace=\"matrix\",backup=\"nightly\",synapse=\"example\"}";
            let text = metrics.render();
            for name in ["newest", "verified"] {
                let line = shown.map(|time| format!("synapse_keeper_backup_{name}_seconds{labels} {time}\n"));
                assert_eq!(line.as_ref().is_some_and(|line| text.contains(line)), line.is_some(), "{text}");
            }
            assert_eq!(text.contains(labels), shown.is_some(), "{text}");
        }
    }

    #[test]
    fn what_the_alerts_and_the_documentation_name_is_there() {
        let metrics = Metrics::new(&["SynapseMaintenance"]);
        metrics.homeservers_down([down("down")].into_iter());
        let labels = HomeserverLabels { namespace: "matrix".to_owned(), synapse: "down".to_owned() };
        metrics.downtime.get_or_create(&labels).set(1.0);
        metrics.unfinished.get_or_create(&labels).set(1);
        metrics.synapses([synapse(Some("1970-01-01T00:01:00Z"))].iter());
        metrics.backups([backup(Some("@daily"), None)].iter());
        metrics.reconciled("Synapse", "ok");
        metrics.watch_event("Synapse");
        let text = metrics.render();
        let alerts: Vec<&str> = RULES.lines().filter(|line| line.contains("expr:")).flat_map(names).collect();
        assert!(alerts.len() >= 3, "{alerts:?}");
        for name in alerts.into_iter().chain(names(DOCUMENTED)) {
            assert!(text.contains(&format!("\n{name}{{")), "{name} is not in:\n{text}");
        }
    }
}

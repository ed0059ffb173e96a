//! The homeserver's Lease: one operation a homeserver, and the counts on record where they outlive everything of ours.
//!
//! It is there while an operation works on the homeserver and is deleted when all is given back. It is named after the
//! `Synapse` object's name, so that a re-created object meets it again. A person who finds it after an accident reads on it
//! what to type. It never expires: a holder is dead when its object is gone, replaced or finished, not when time has passed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Resource, ResourceExt, api::ObjectMeta};
use serde::{Deserialize, Serialize};

use super::observed::Subject;
use crate::{
    api::{
        MANAGER,
        operation::{RecordedWorkload, Role, Run},
        synapse::WorkloadRef,
    },
    metrics::Down,
};

/// Label of everything that we make.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label with the name of the `Synapse` object.
pub const SYNAPSE_LABEL: &str = "synapse-keeper.dev/synapse";
/// Label that tells what a Lease of ours is for, or a Job of the chart's.
pub const PURPOSE_LABEL: &str = "synapse-keeper.dev/purpose";
/// Purpose of a homeserver's Lease.
const PURPOSE_HOMESERVER: &str = "homeserver";
/// Purpose of the chart's pre-delete hook, a Job: bring everything back.
pub const PURPOSE_UNINSTALL: &str = "uninstall";

/// Annotation with the counts, for us.
const COUNTS: &str = "synapse-keeper.dev/counts";
/// Annotation with the counts, for a person.
const BY_HAND: &str = "synapse-keeper.dev/to-bring-it-back-by-hand";

/// Annotation of a homeserver whose database is unfinished: by whom, for people.
const UNFINISHED: &str = "synapse-keeper.dev/database-unfinished";
/// Annotation beside that one when its holder has ended: what to do, for people.
const KEPT_DOWN: &str = "synapse-keeper.dev/kept-down";

/// A count that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    #[serde(flatten)]
    pub workload: WorkloadRef,
    pub role: Role,
    pub replicas: i32,
}

impl From<Count> for RecordedWorkload {
    /// How many were Ready is not known any more.
    fn from(Count { workload, role, replicas }: Count) -> Self {
        Self { workload, role, replicas, ready: 0, stopped: false, returned: false }
    }
}

/// The name of a homeserver's Lease.
pub fn name(synapse: &str) -> String {
    format!("synapse-keeper-{synapse}")
}

/// The label selector of all homeservers' Leases.
pub fn selector() -> String {
    format!("{MANAGED_BY}={MANAGER},{PURPOSE_LABEL}={PURPOSE_HOMESERVER}")
}

/// The Lease that an operation takes. With counts where it takes one that had vanished under it.
pub fn build(subject: &Subject, now: Timestamp) -> Lease {
    let labels =
        [(MANAGED_BY, MANAGER), (PURPOSE_LABEL, PURPOSE_HOMESERVER), (SYNAPSE_LABEL, subject.request.synapse.as_str())];
    let counts = subject.status.active_run().filter(|run| run.counts().is_some());
    Lease {
        metadata: ObjectMeta {
            name: Some(name(&subject.request.synapse)),
            namespace: Some(subject.namespace.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: counts.map(|run| annotations(subject, run)),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(subject.identity()),
            acquire_time: Some(MicroTime(now)),
            ..Default::default()
        }),
    }
}

/// What of a run must outlive its object, as annotations: the counts, and whether the database is unfinished.
fn annotations(subject: &Subject, run: &Run) -> BTreeMap<String, String> {
    let recorded = run.counts().unwrap_or_default().iter();
    let counts: Vec<Count> = recorded
        .map(|recorded| Count { workload: recorded.workload.clone(), role: recorded.role, replicas: recorded.replicas })
        .collect();
    // Last stopped, first started.
    let commands: Vec<String> = counts
        .iter()
        .rev()
        .filter(|count| count.replicas > 0)
        .map(|count| {
            let (plural, name) = (count.workload.kind.plural(), &count.workload.name);
            format!("kubectl -n {} scale {plural}/{name} --replicas={}", subject.namespace, count.replicas)
        })
        .collect();
    let json = serde_json::to_string(&counts).expect("counts are plain data");
    let mut annotations = BTreeMap::from([(COUNTS.to_owned(), json), (BY_HAND.to_owned(), commands.join("\n"))]);
    if run.must_stay_down() {
        annotations.insert(UNFINISHED.to_owned(), format!("{} {}", subject.kind, subject.name));
    }
    annotations
}

/// Brings a Lease in step with its holder's run.
pub fn update(held: &mut Lease, subject: &Subject, run: &Run) {
    let on_lease = held.metadata.annotations.get_or_insert_default();
    on_lease.retain(|key, _| key != UNFINISHED && key != KEPT_DOWN);
    on_lease.extend(annotations(subject, run));
}

/// Writes on a Lease whose holder ends or has ended that the replicas stay at 0, and how to go on.
pub fn keep_down(held: &mut Lease) {
    let message = kept_down_message(held);
    held.metadata.annotations.get_or_insert_default().insert(KEPT_DOWN.to_owned(), message);
}

fn kept_down_message(held: &Lease) -> String {
    let annotation = |key| held.metadata.annotations.as_ref().and_then(|annotations| annotations.get(key));
    let by = annotation(UNFINISHED).map_or("an operation", String::as_str);
    let namespace = held.metadata.namespace.as_deref().unwrap_or_default();
    let name = held.metadata.name.as_deref().unwrap_or_default();
    format!(
        "{by} has left the database unfinished, or out of step with that of the Matrix Authentication Service, so the replicas \
         stay at 0. Make a SynapseRestore under a new name: it goes on, and brings them back \
         when all is whole. To bring them back with the database as it is: kubectl -n {namespace} \
         annotate lease {name} {UNFINISHED}-"
    )
}

/// Whether the database may be unfinished.
pub fn is_unfinished(lease: &Lease) -> bool {
    lease.annotations().contains_key(UNFINISHED)
}

/// Why the replicas stay at 0 though the holder has ended. Who takes the other annotation away wants them back.
pub fn kept_down(lease: &Lease) -> Option<&str> {
    lease.annotations().get(KEPT_DOWN).filter(|_| is_unfinished(lease)).map(String::as_str)
}

/// The counts on a Lease. `None`: none are recorded. What cannot be read is an error: it must not pass for none.
pub fn counts(lease: &Lease) -> Result<Option<Vec<Count>>, serde_json::Error> {
    lease
        .meta()
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(COUNTS))
        .map(|json| serde_json::from_str(json))
        .transpose()
}

/// The homeserver that is down, where this is the Lease of one that is: there are counts on it. So it is whoever took the homeserver down
/// and whoever brings it back, before a restart of the operator and after. Counts that cannot be read are counts.
pub fn down(lease: &Lease) -> Option<Down> {
    if matches!(counts(lease), Ok(None)) {
        return None;
    }
    Some(Down {
        namespace: lease.namespace().unwrap_or_default(),
        synapse: lease.labels().get(SYNAPSE_LABEL).cloned().unwrap_or_default(),
        unfinished: kept_down(lease).is_some(),
    })
}

/// Who holds a Lease.
pub fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The parts of a holder's identity, as [`Subject::identity`] writes it.
pub struct Holder<'a> {
    pub kind: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
}

impl<'a> Holder<'a> {
    pub fn parse(identity: &'a str) -> Option<Self> {
        let mut parts = identity.splitn(3, '/');
        Some(Self { kind: parts.next()?, name: parts.next()?, uid: parts.next()? })
    }
}

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(annotations: &[(&str, &str)]) -> Lease {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let metadata = ObjectMeta {
            namespace: Some("matrix".to_owned()),
            labels: Some([text(&(SYNAPSE_LABEL, "example"))].into()),
            annotations: Some(annotations.iter().map(text).collect()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: None }
    }

    #[test]
    fn a_homeserver_is_down_while_its_lease_has_counts() {
        assert_eq!(down(&lease(&[])), None);
        let is_down =
            |unfinished| Some(Down { namespace: "matrix".to_owned(), synapse: "example".to_owned(), unfinished });
        assert_eq!(down(&lease(&[(COUNTS, "[]")])), is_down(false));
        assert_eq!(down(&lease(&[(COUNTS, "[{")])), is_down(false), "counts that cannot be read are counts");
        assert_eq!(down(&lease(&[(COUNTS, "[]"), (UNFINISHED, "by"), (KEPT_DOWN, "why")])), is_down(true));
    }
}

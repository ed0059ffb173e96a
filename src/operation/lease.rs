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
use kube::{Resource, api::ObjectMeta};
use serde::{Deserialize, Serialize};

use super::observed::Subject;
use crate::api::{
    MANAGER,
    operation::{Role, Window},
    synapse::WorkloadRef,
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

/// A count that is out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    #[serde(flatten)]
    pub workload: WorkloadRef,
    pub role: Role,
    pub replicas: i32,
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
    let window = subject.status.active_run().and_then(|run| run.window.as_ref());
    Lease {
        metadata: ObjectMeta {
            name: Some(name(&subject.request.synapse)),
            namespace: Some(subject.namespace.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            annotations: window.map(|window| annotations(&subject.namespace, window)),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(subject.identity()),
            acquire_time: Some(MicroTime(now)),
            ..Default::default()
        }),
    }
}

/// The recorded counts as annotations.
pub fn annotations(namespace: &str, window: &Window) -> BTreeMap<String, String> {
    let counts: Vec<Count> = window
        .workloads
        .iter()
        .map(|recorded| Count { workload: recorded.workload.clone(), role: recorded.role, replicas: recorded.replicas })
        .collect();
    // Last stopped, first started.
    let commands: Vec<String> = counts
        .iter()
        .rev()
        .filter(|count| count.replicas > 0)
        .map(|count| {
            let (plural, name) = (count.workload.kind.plural(), &count.workload.name);
            format!("kubectl -n {namespace} scale {plural}/{name} --replicas={}", count.replicas)
        })
        .collect();
    let json = serde_json::to_string(&counts).expect("counts are plain data");
    BTreeMap::from([(COUNTS.to_owned(), json), (BY_HAND.to_owned(), commands.join("\n"))])
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

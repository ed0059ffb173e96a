//! What was seen around a `Synapse` object: plain data, from which [`super::plan`] decides.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::serving::{Downtime, Serving};
use crate::{api::synapse::WorkloadRef, contract::DatabaseLeft, operation::observed::ObservedJob, recipes::Refusal};

/// What was seen around the object.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub namespace: String,
    pub generation: i64,
    pub suspended: bool,
    /// `adminApi` is given: Synapse is asked for its version.
    pub asks_synapse: bool,
    /// Who holds the homeserver's Lease, for people.
    pub holder: Option<String>,
    /// An operation has the homeserver down.
    pub is_down: bool,
    /// Its database is unfinished, and its replicas stay at 0: what to do, for people.
    pub kept_down: Option<String>,
    /// When the last operation that changed something ended.
    pub last_operation: Option<Timestamp>,
    /// The moment of its newest backup.
    pub last_backup: Option<Time>,
    /// The moment of its newest backup that was restored by a drill.
    pub last_verified: Option<Time>,
    /// Whether anybody is served. `None`: nobody looked, because an operation has it down, or there is nothing to look at.
    pub serving: Option<Serving>,
    /// The downtime that has not ended with as many Pods Ready as before.
    pub downtime: Option<Downtime>,
    /// The Job of the inspection under way.
    pub job: Option<ObservedJob>,
    /// UIDs of the homeserver's operations that are under way.
    pub at_work: Vec<String>,
    /// The workloads that it names, or why they must not be taken down. `None`: nobody looked.
    pub workloads: Option<Result<Vec<WorkloadRef>, Refusal>>,
}

impl Seen {
    /// Others use the same server of PostgreSQL.
    pub fn may_have_left(&self, left: &DatabaseLeft) -> bool {
        let namespace =
            left.restore.as_ref().and_then(|restore| restore.split_once('/')).map(|(namespace, _)| namespace);
        namespace.is_none_or(|namespace| namespace == self.namespace)
    }
}

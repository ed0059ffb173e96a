//! What a user asked the API server for, from its audit log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;

use crate::stage::control_plane::ControlPlane;

/// One request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    #[serde(rename = "auditID")]
    id: String,
    pub verb: String,
    user: User,
    #[serde(default)]
    pub object_ref: Target,
    #[serde(rename = "requestReceivedTimestamp")]
    pub received: Timestamp,
}

#[derive(Clone, Debug, Deserialize)]
struct User {
    username: String,
}

/// What a request was about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Target {
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

impl Request {
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// `patch statefulsets/scale`
    pub fn kind(&self) -> String {
        let Target { resource, subresource, .. } = &self.object_ref;
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!("{} {resource}{slash}{subresource}", self.verb)
    }

    /// The election's Lease is renewed whatever else happens.
    pub fn is_of_election(&self, lease: &str) -> bool {
        self.object_ref.resource == "leases" && self.object_ref.name == lease
    }
}

/// The requests that a user sent between two times, in their order.
pub async fn requests(control_plane: &ControlPlane, user: &str, from: Timestamp, until: Timestamp) -> Vec<Request> {
    // A request is written when it ends.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut seen = BTreeSet::new();
    let log = std::fs::read_to_string(control_plane.dir.join("audit.log")).unwrap_or_default();
    let mut requests: Vec<Request> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Request>(line).ok())
        .filter(|request| request.user.username == user && request.received >= from && request.received < until)
        // A watch is written twice: when it begins and when it ends.
        .filter(|request| seen.insert(request.id.clone()))
        .collect();
    requests.sort_by_key(|request| request.received);
    requests
}

/// How many of each kind.
pub fn counts<'a>(requests: impl IntoIterator<Item = &'a Request>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(request.kind()).or_default() += 1;
    }
    counts
}

//! The order in which workloads stop, and the order in which a StatefulSet stops its Pods.

use crate::{api::operation::Role, operation::observed::Live};

/// Where a workload stands when things go down: workers, then the main process, then MAS.
pub(super) fn stopping_order(role: Role) -> std::cmp::Reverse<Role> {
    std::cmp::Reverse(role)
}

/// A StatefulSet that waits for its own Pods to be Ready before it deletes the next one, which they never are: and what frees
/// it.
pub(super) fn held_by_its_order(live: &Live, namespace: &str) -> Option<String> {
    let is_held = live.ordered
        && live.replicas == Some(0)
        && live.pods.iter().any(|pod| !pod.ready)
        && !live.pods.iter().any(|pod| pod.terminating);
    if !is_held {
        return None;
    }
    let mut names: Vec<&str> = live.pods.iter().map(|pod| pod.name.as_str()).collect();
    // The highest ordinal first, as its controller would.
    names.sort_unstable_by_key(|name| (name.len(), *name));
    names.reverse();
    Some(format!(
        "{} deletes its Pods one by one, and not while one of them is not Ready (podManagementPolicy OrderedReady). This lets \
         it stop: kubectl -n {namespace} delete pod {}",
        live.workload,
        names.join(" ")
    ))
}

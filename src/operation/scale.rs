//! Replicas, read and written through `/scale` alone: a right to patch Deployments would be a right to run any image.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::{observed::ObservedPod, pod_trouble, resolve::to_selector};
use crate::api::{
    MANAGER,
    synapse::{WorkloadKind, WorkloadRef},
};

/// A change of a workload's replicas, for one that has `from` at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub workload: WorkloadRef,
    pub from: i32,
    pub to: i32,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} from {} to {}", self.workload, self.from, self.to)
    }
}

/// Reads a workload's scale. `None`: the workload is gone.
///
/// # Errors
/// What the API server answers.
async fn read(client: &Client, namespace: &str, workload: &WorkloadRef) -> kube::Result<Option<Scale>> {
    let name = &workload.name;
    let scale = match workload.kind {
        WorkloadKind::Deployment => Api::<Deployment>::namespaced(client.clone(), namespace).get_scale(name).await,
        WorkloadKind::StatefulSet => Api::<StatefulSet>::namespaced(client.clone(), namespace).get_scale(name).await,
    };
    match scale {
        Ok(scale) => Ok(Some(scale)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The replicas that a scale asks for.
fn replicas(scale: &Scale) -> i32 {
    scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

/// Sets replicas, if the workload has `from` at this moment. Another value is somebody's newer will and stays; a workload
/// that is gone is nothing to do.
///
/// It is a merge patch with the `resourceVersion` just read. An apply would be wrong here: one without `replicas` sets 0.
///
/// # Errors
/// What the API server answers; 409 if the workload changed between reading and writing.
pub async fn write(client: &Client, namespace: &str, workload: &WorkloadRef, from: i32, to: i32) -> kube::Result<()> {
    let Some(scale) = read(client, namespace, workload).await? else { return Ok(()) };
    if replicas(&scale) != from {
        return Ok(());
    }
    let patch = Patch::Merge(
        json!({"metadata": {"resourceVersion": scale.metadata.resource_version}, "spec": {"replicas": to}}),
    );
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
    let name = &workload.name;
    match workload.kind {
        WorkloadKind::Deployment => {
            Api::<Deployment>::namespaced(client.clone(), namespace).patch_scale(name, &params, &patch).await?
        }
        WorkloadKind::StatefulSet => {
            Api::<StatefulSet>::namespaced(client.clone(), namespace).patch_scale(name, &params, &patch).await?
        }
    };
    Ok(())
}

/// What a workload has of Pods.
pub struct Pods {
    /// Terminating ones included: they still hold connections and locks. Those that ended are not.
    pub alive: Vec<ObservedPod>,
    /// The first that has ended, and whose finalizers keep its name: why, and what frees it.
    pub kept: Option<String>,
}

/// The Pods of a workload.
///
/// # Errors
/// What the API server answers.
pub async fn pods(client: &Client, namespace: &str, selector: &LabelSelector) -> kube::Result<Pods> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // The API server takes no workload whose selector means nothing; "no Pods" must not come from one.
    let selector = to_selector(selector).expect("a selector that the API server has checked");
    let pods = api.list(&ListParams::default().labels_from(&selector)).await?;
    let (ended, alive): (Vec<&Pod>, Vec<&Pod>) = pods.items.iter().partition(|pod| has_ended(pod));
    Ok(Pods {
        alive: alive.into_iter().map(observe_pod).collect(),
        kept: ended.into_iter().find_map(|pod| kept(pod, namespace)),
    })
}

/// Why a Pod that has ended is still there.
fn kept(pod: &Pod, namespace: &str) -> Option<String> {
    let finalizers = pod.metadata.finalizers.as_ref().filter(|finalizers| !finalizers.is_empty())?;
    pod.metadata.deletion_timestamp.as_ref()?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(format!(
        "Pod {name} has ended, and its finalizers ({}) keep it. When whoever set them does not remove them: kubectl -n {namespace} \
         patch pod {name} --type=merge --patch='{{\"metadata\":{{\"finalizers\":null}}}}'",
        finalizers.join(", ")
    ))
}

/// None of its containers runs any more, nor will.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn observe_pod(pod: &Pod) -> ObservedPod {
    let status = pod.status.clone().unwrap_or_default();
    let ready =
        status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ObservedPod {
        name: pod.metadata.name.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        ready,
        terminating: pod.metadata.deletion_timestamp.is_some(),
        ran: has_run(pod),
        problem: pod_trouble::why(pod),
    }
}

/// A container of it runs or has run. Init containers do not count: they do not serve.
fn has_run(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = statuses.flat_map(|status| [&status.state, &status.last_state]).flatten();
    states.any(|state| state.running.is_some() || state.terminated.is_some())
}

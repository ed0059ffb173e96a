//! Which workloads a `Synapse` object means, and whether they may be taken down.
//!
//! The selector is matched against the labels of the Deployment and StatefulSet objects themselves.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{Pod, PodTemplateSpec, Service},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ManagedFieldsEntry, ObjectMeta},
};
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    core::{Selector, SelectorExt},
};

use crate::{
    api::{
        operation::Role,
        postgres::Postgres,
        synapse::{SynapseSpec, WorkloadKind, WorkloadRef, Workloads},
    },
    recipes::Refusal,
};

/// A workload as it was found, with what decides whether it may be scaled.
#[derive(Clone, Debug)]
pub struct Found {
    pub workload: WorkloadRef,
    pub role: Role,
    pub labels: BTreeMap<String, String>,
    pub template: PodTemplateSpec,
    /// Which Pods are its own.
    pub selector: LabelSelector,
    /// Names of a StatefulSet's claim templates: its claims are `<template>-<name>-<ordinal>`.
    pub claim_templates: Vec<String>,
    /// Scaling it to 0 deletes its claims.
    pub deletes_claims: bool,
    pub managed_fields: Vec<ManagedFieldsEntry>,
    /// Replicas that its spec asks for.
    pub replicas: i32,
    /// How many of its Pods are Ready, as its controller says.
    pub ready: i32,
    /// Its Pods go one by one, each when the one before it is Ready.
    pub ordered: bool,
    /// Why no Pod of it can be made: what a Deployment says of its ReplicaSet.
    pub replica_failure: Option<String>,
}

/// All workloads of a homeserver. Those that do not exist are left out.
///
/// # Errors
/// What the API server answers.
pub async fn find(client: &Client, namespace: &str, spec: &SynapseSpec) -> kube::Result<Vec<Found>> {
    let mut found = find_some(client, namespace, &spec.workloads).await?;
    for one in &mut found {
        one.role = match &spec.workloads.main {
            Some(main) if *main == one.workload => Role::Main,
            _ => Role::Worker,
        };
    }
    if let Some(mas) = &spec.matrix_authentication_service {
        found.extend(find_some(client, namespace, &mas.workloads).await?);
    }
    Ok(found)
}

async fn find_some(client: &Client, namespace: &str, workloads: &Workloads) -> kube::Result<Vec<Found>> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let stateful_sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let mut found = Vec::new();
    if let Some(selector) = workloads.selector.as_ref().and_then(to_selector) {
        let params = ListParams::default().labels_from(&selector);
        found.extend(deployments.list(&params).await?.items.into_iter().map(from_deployment));
        found.extend(stateful_sets.list(&params).await?.items.into_iter().map(from_stateful_set));
    }
    for workload in workloads.refs.iter().flatten() {
        found.extend(find_one(client, namespace, workload).await?);
    }
    Ok(found)
}

/// One workload by name.
///
/// # Errors
/// What the API server answers; a workload that is not there is `None`.
pub async fn find_one(client: &Client, namespace: &str, workload: &WorkloadRef) -> kube::Result<Option<Found>> {
    match workload.kind {
        WorkloadKind::Deployment => {
            let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
            Ok(api.get_opt(&workload.name).await?.map(from_deployment))
        }
        WorkloadKind::StatefulSet => {
            let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            Ok(api.get_opt(&workload.name).await?.map(from_stateful_set))
        }
    }
}

pub(crate) fn from_deployment(deployment: Deployment) -> Found {
    let spec = deployment.spec.unwrap_or_default();
    let status = deployment.status.unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    let failure = conditions.find(|one| one.type_ == "ReplicaFailure" && one.status == "True");
    Found {
        replica_failure: failure.and_then(|failure| failure.message),
        ready: status.ready_replicas.unwrap_or(0),
        ..found(WorkloadKind::Deployment, deployment.metadata, spec.template, spec.selector, spec.replicas)
    }
}

fn from_stateful_set(set: StatefulSet) -> Found {
    let spec = set.spec.unwrap_or_default();
    let policy = spec.persistent_volume_claim_retention_policy.and_then(|policy| policy.when_scaled);
    let deletes_claims = policy.as_deref() == Some("Delete");
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    let templates = spec.volume_claim_templates.into_iter().flatten();
    Found {
        claim_templates: templates.filter_map(|template| template.metadata.name).collect(),
        deletes_claims,
        ordered,
        ready: set.status.and_then(|status| status.ready_replicas).unwrap_or(0),
        ..found(WorkloadKind::StatefulSet, set.metadata, spec.template, spec.selector, spec.replicas)
    }
}

fn found(
    kind: WorkloadKind,
    meta: ObjectMeta,
    template: PodTemplateSpec,
    selector: LabelSelector,
    replicas: Option<i32>,
) -> Found {
    Found {
        workload: WorkloadRef { kind, name: meta.name.unwrap_or_default() },
        role: Role::Authentication,
        labels: meta.labels.unwrap_or_default(),
        template,
        selector,
        claim_templates: Vec::new(),
        deletes_claims: false,
        managed_fields: meta.managed_fields.unwrap_or_default(),
        replicas: replicas.unwrap_or(1),
        ready: 0,
        ordered: false,
        replica_failure: None,
    }
}

/// A selector as the API server's list calls take it. `None`: it means nothing, such as `In` without values. Never
/// everything: that would take down whatever there is.
pub fn to_selector(selector: &LabelSelector) -> Option<Selector> {
    selector.clone().try_into().ok()
}

/// What [`refuse`] needs to know besides the workloads.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub namespace: String,
    /// The hosts of the databases that name a Service of this namespace, with its selector.
    pub postgres_selectors: Vec<(String, BTreeMap<String, String>)>,
    /// Other `Synapse` objects of the namespace.
    pub others: Vec<(String, SynapseSpec)>,
    /// The labels of the operator's own Pod, if it runs in this namespace.
    pub operator_labels: Option<BTreeMap<String, String>>,
    /// Who owns the Pods that match the selector, where no workload does.
    pub pod_owners: Vec<String>,
}

/// Why these workloads must not be taken down, before any was touched.
pub fn refuse(found: &[Found], spec: &SynapseSpec, surroundings: &Surroundings) -> Option<Refusal> {
    let no = |reason, message: String| Some(Refusal { reason, message });
    let mas = spec.matrix_authentication_service.as_ref().map(|mas| &mas.workloads);
    let mut selectors = mas.into_iter().chain([&spec.workloads]).filter_map(|workloads| workloads.selector.as_ref());
    if selectors.any(|selector| to_selector(selector).is_none()) {
        return no(
            "InvalidSelector",
            "a selector of the Synapse object means nothing: In and NotIn need values, Exists and DoesNotExist take none".to_owned(),
        );
    }
    if spec.workloads.selector.is_some() && !has_synapse(found) {
        let hint = match surroundings.pod_owners.is_empty() {
            true => String::new(),
            false => format!(
                ". It does match Pods ({}), but it must match the labels of the Deployment or StatefulSet objects themselves",
                surroundings.pod_owners.join(", ")
            ),
        };
        return no(
            "WorkloadsNotFound",
            format!(
                "spec.workloads.selector of the Synapse object matches no Deployment and no StatefulSet in namespace {}{hint}",
                surroundings.namespace
            ),
        );
    }
    if let Some(missing) = missing(found, spec) {
        let or_selected = match spec.workloads.main == Some(missing.clone()) && spec.workloads.selector.is_some() {
            true => " or does not match spec.workloads.selector",
            false => "",
        };
        return no(
            "WorkloadNotFound",
            format!(
                "{missing} does not exist in namespace {}{or_selected}: correct spec.workloads of the Synapse object",
                surroundings.namespace
            ),
        );
    }
    for one in found {
        let workload = &one.workload;
        if one.deletes_claims {
            return no(
                "ClaimsWouldBeDeleted",
                format!(
                    "{workload} has persistentVolumeClaimRetentionPolicy.whenScaled: Delete. Scaling it to 0 would delete its volumes: set it to Retain"
                ),
            );
        }
        // Workers keep scratch files where the main process keeps data.
        let keeps_data = spec.workloads.main.as_ref().is_none_or(|main| *main == *workload);
        if let Some(path) = data_on_empty_dir(&one.template).filter(|_| keeps_data) {
            return no(
                "DataOnEmptyDir",
                format!(
                    "{workload} keeps data on an emptyDir at {path}. It would be lost when the Pod stops: put it on a PersistentVolumeClaim"
                ),
            );
        }
        let pod_labels = one.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        let selected_by = |selector: &BTreeMap<String, String>| {
            !selector.is_empty() && selector.iter().all(|(key, value)| pod_labels.get(key) == Some(value))
        };
        let behind = surroundings.postgres_selectors.iter().find(|(_, selector)| selected_by(selector));
        let runs = behind.map(|(host, _)| format!("runs the Pods behind postgres.host {host}"));
        let volume = databases(spec).filter_map(|postgres| postgres.data_volume.as_ref());
        let mut volumes = volume.map(|volume| &volume.claim_name);
        let has = volumes.find(|claim| mounts(one, claim)).map(|claim| format!("mounts postgres.dataVolume {claim}"));
        if let Some(does) = runs.or(has) {
            return no(
                "WorkloadIsPostgres",
                format!("{workload} {does}. The selector of the Synapse object matches too much: narrow it"),
            );
        }
        if surroundings.operator_labels.as_ref().is_some_and(|own| {
            !pod_labels.is_empty() && pod_labels.iter().all(|(key, value)| own.get(key) == Some(value))
        }) {
            return no(
                "WorkloadIsOperator",
                format!(
                    "{workload} is this operator itself. The selector of the Synapse object matches too much: narrow it"
                ),
            );
        }
        if let Some((other, _)) = surroundings.others.iter().find(|(_, other)| claims(other, one)) {
            return no(
                "WorkloadClaimedTwice",
                format!("{workload} also belongs to Synapse {other}: a workload can belong to one Synapse object only"),
            );
        }
    }
    None
}

/// Synapse's database, and that of the Matrix Authentication Service where it is named.
fn databases(spec: &SynapseSpec) -> impl Iterator<Item = &Postgres> {
    let service = spec.matrix_authentication_service.as_ref().and_then(|service| service.postgres.as_ref());
    [&spec.postgres].into_iter().chain(service)
}

/// A workload that is named but not there.
fn missing<'a>(found: &[Found], spec: &'a SynapseSpec) -> Option<&'a WorkloadRef> {
    let mas = spec.matrix_authentication_service.iter().flat_map(|mas| mas.workloads.refs.iter().flatten());
    let mut named = spec.workloads.refs.iter().flatten().chain(&spec.workloads.main).chain(mas);
    named.find(|named| !found.iter().any(|one| one.workload == **named))
}

/// Something of Synapse itself was found, not the authentication service alone.
fn has_synapse(found: &[Found]) -> bool {
    found.iter().any(|one| one.role != Role::Authentication)
}

/// Whether another `Synapse` object means this workload too.
fn claims(spec: &SynapseSpec, one: &Found) -> bool {
    let in_set = |workloads: &Workloads| {
        workloads.refs.iter().flatten().any(|named| *named == one.workload)
            || workloads.selector.as_ref().and_then(to_selector).is_some_and(|selector| selector.matches(&one.labels))
    };
    in_set(&spec.workloads) || spec.matrix_authentication_service.as_ref().is_some_and(|mas| in_set(&mas.workloads))
}

/// Whether a workload's Pods mount a claim, by its name or by a template that made it.
fn mounts(one: &Found, claim: &str) -> bool {
    let volumes = one.template.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut named = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    let of_template = |template: &String| {
        let ordinal = claim.strip_prefix(&format!("{template}-{}-", one.workload.name));
        ordinal.is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
    };
    named.any(|volume| volume.claim_name == claim) || one.claim_templates.iter().any(of_template)
}

/// Where a Pod mounts an emptyDir at a path that by convention holds Synapse's data (`/data` in the official image,
/// `/media` in Element's chart, `media_store` by Synapse's default). Scratch space elsewhere is nobody's data.
fn data_on_empty_dir(template: &PodTemplateSpec) -> Option<&str> {
    let spec = template.spec.as_ref()?;
    let empty: Vec<&str> = spec
        .volumes
        .iter()
        .flatten()
        .filter(|volume| volume.empty_dir.is_some())
        .map(|volume| volume.name.as_str())
        .collect();
    let mounts = spec.containers.iter().flat_map(|container| container.volume_mounts.iter().flatten());
    mounts
        .filter(|mount| empty.contains(&mount.name.as_str()))
        .map(|mount| mount.mount_path.trim_end_matches('/'))
        .find(|path| matches!(*path, "/data" | "/media") || path.ends_with("/media_store"))
}

/// Reads what [`refuse`] needs.
///
/// # Errors
/// What the API server answers.
pub async fn surroundings(
    client: &Client,
    namespace: &str,
    name: &str,
    spec: &SynapseSpec,
    found: &[Found],
    operator_pod: Option<(&str, &str)>,
) -> kube::Result<Surroundings> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let synapses: Api<crate::api::Synapse> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut postgres_selectors = Vec::new();
    for Postgres { host, .. } in databases(spec) {
        let Some(service) = service_name(host, namespace) else { continue };
        let service = services.get_opt(service).await?.and_then(|service| service.spec);
        postgres_selectors.extend(service.and_then(|spec| spec.selector).map(|selector| (host.clone(), selector)));
    }
    let others =
        synapses.list(&ListParams::default()).await?.items.into_iter().filter(|other| other.name_any() != name);
    let operator = match operator_pod {
        Some((own_namespace, pod)) if own_namespace == namespace => pods.get_opt(pod).await?,
        _ => None,
    };
    let mut surroundings = Surroundings {
        namespace: namespace.to_owned(),
        postgres_selectors,
        others: others.map(|other| (other.name_any(), other.spec)).collect(),
        operator_labels: operator.map(|pod| pod.labels().clone()),
        pod_owners: Vec::new(),
    };
    if let (false, Some(selector)) = (has_synapse(found), spec.workloads.selector.as_ref().and_then(to_selector)) {
        let matching = pods.list(&ListParams::default().labels_from(&selector).limit(20)).await?;
        let owners = matching.items.iter().filter_map(|pod| pod.owner_references().first());
        surroundings.pod_owners = owners.map(|owner| format!("{}/{}", owner.kind, owner.name)).collect();
        surroundings.pod_owners.dedup();
    }
    Ok(surroundings)
}

/// The Service of this namespace that a host name means: `postgres`, `postgres.matrix`, `postgres.matrix.svc…`, and the
/// same behind the name of a StatefulSet's Pod (`postgres-0.postgres`). An address means none.
fn service_name<'a>(host: &'a str, namespace: &str) -> Option<&'a str> {
    let parts: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    match parts[..] {
        [service] => Some(service),
        [service, there] | [service, there, "svc", ..] if there == namespace => Some(service),
        [_, service] => Some(service),
        [_, service, there] | [_, service, there, "svc", ..] if there == namespace => Some(service),
        _ => None,
    }
    .filter(|service| !service.is_empty())
}

/// Who last set `spec.replicas` after `since`, where the API knows: writes through `/scale` leave no trace.
pub fn scaled_by(managed_fields: &[ManagedFieldsEntry], since: jiff::Timestamp) -> Option<String> {
    managed_fields
        .iter()
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some()))
        // The API server's times have whole seconds.
        .filter(|entry| entry.time.as_ref().is_some_and(|time| time.0.as_second() >= since.as_second()))
        .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))
        .and_then(|entry| entry.manager.clone())
}

#[cfg(test)]
mod tests;

//! Claims that a step's Pod mounts and others hold: where it must run, whether it can, and when it gives way.
//!
//! A ReadWriteOnce claim is on one node at a time: a Job that mounts one that Synapse or PostgreSQL has runs on their node.
//! Where the claim goes elsewhere with its Pod the Job is in the way, and lets it go.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, ObjectList},
};

use super::{job, observed::ObservedClaim, scale};
use crate::{
    api::{
        mounts::{Mount, Source},
        operation::{DatabaseAccess, PinnedClaim, StepStatus},
        postgres::Postgres,
        synapse::SynapseSpec,
    },
    recipes::Refusal,
};

/// The access modes with which a claim can be mounted on several nodes.
const ON_MANY_NODES: [&str; 2] = ["ReadWriteMany", "ReadOnlyMany"];
const ON_ONE_POD: &str = "ReadWriteOncePod";

/// A claim, as a step mounts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted<'a> {
    pub name: &'a str,
    pub writable: bool,
}

/// The claims that a step mounts.
pub fn of_step<'a>(step: &'a StepStatus, spec: &'a SynapseSpec) -> Vec<Mounted<'a>> {
    let of_mount = |mount: &'a Mount| match &mount.source {
        Source::Claim { name, writable } => Some(Mounted { name, writable: *writable }),
        Source::Secret { .. } | Source::SecretKey { .. } | Source::ConfigMap { .. } => None,
    };
    let disk = spec.postgres.data_volume.iter().filter(|_| step.spec.database == DatabaseAccess::WithDisk);
    let disk = disk.map(|volume| Mounted { name: &volume.claim_name, writable: false });
    step.spec.mounts.iter().filter_map(of_mount).chain(disk).collect()
}

/// Reads the claims that a step is about to mount, and which Pods have them.
///
/// # Errors
/// What the API server answers.
pub async fn look(client: &Client, namespace: &str, mounted: &[Mounted<'_>]) -> kube::Result<Vec<ObservedClaim>> {
    if mounted.is_empty() {
        return Ok(Vec::new());
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let pods = others(client, namespace).await?;
    let mut observed = Vec::new();
    for Mounted { name, writable } in mounted {
        let modes = claims.get_opt(name).await?.map(access_modes);
        let mut holders: Vec<&Pod> = pods.iter().filter(|pod| mounts(pod, name) && node(pod).is_some()).collect();
        // One that runs has it; another may wait for it, or be about to go.
        holders.sort_by_key(|pod| (phase(pod) != Some("Running"), pod.metadata.deletion_timestamp.is_some()));
        let node = holders.first().and_then(|pod| node(pod)).map(str::to_owned);
        observed.push(ObservedClaim { name: (*name).to_owned(), writable: *writable, modes, node });
    }
    Ok(observed)
}

/// A Pod of somebody else's that cannot start on its node while a Job on another one has a claim of these.
///
/// # Errors
/// What the API server answers.
pub async fn wanted_by(
    client: &Client,
    namespace: &str,
    claims: &[&PinnedClaim],
    job_node: &str,
) -> kube::Result<Option<String>> {
    let waits = |pod: &&Pod| {
        phase(pod) == Some("Pending")
            && node(pod).is_some_and(|node| node != job_node)
            && claims.iter().any(|claim| mounts(pod, &claim.name))
    };
    Ok(others(client, namespace).await?.iter().find(waits).map(ResourceExt::name_any))
}

/// The fields that name a claim, for people.
fn fields(claim: &ObservedClaim, spec: &SynapseSpec) -> String {
    let named = |volume: Option<&str>, field: &'static str| volume.filter(|name| *name == claim.name).map(|_| field);
    let disk = |postgres: &Postgres| postgres.data_volume.as_ref().map(|volume| volume.claim_name.clone());
    let service = spec.matrix_authentication_service.as_ref().and_then(|service| disk(service.postgres.as_ref()?));
    let of_synapse: Vec<&str> = [
        named(spec.media_store.as_ref().map(|store| store.claim_name.as_str()), "spec.mediaStore.claimName"),
        named(disk(&spec.postgres).as_deref(), "spec.postgres.dataVolume.claimName"),
        named(service.as_deref(), "spec.matrixAuthenticationService.postgres.dataVolume.claimName"),
    ]
    .into_iter()
    .flatten()
    .collect();
    match (of_synapse.is_empty(), claim.writable) {
        (false, _) => format!("{} of the Synapse object", of_synapse.join(" and ")),
        (true, true) => "the claimName of the repository's volume".to_owned(),
        (true, false) => "spec.from.dump.claim.claimName".to_owned(),
    }
}

/// Why a step cannot mount these.
pub fn refuse(claims: &[ObservedClaim], spec: &SynapseSpec) -> Option<Refusal> {
    claims.iter().find_map(|claim| {
        let name = &claim.name;
        let Some(modes) = &claim.modes else {
            return Some(Refusal {
                reason: "ClaimNotFound",
                message: format!("there is no PersistentVolumeClaim {name}: correct {}", fields(claim, spec)),
            });
        };
        // Ours to write to, and nobody has it: then it is in nobody's way.
        let is_ours_alone = claim.writable && claim.node.is_none();
        (modes.iter().any(|mode| mode == ON_ONE_POD) && !is_ours_alone).then(|| Refusal {
            reason: "ClaimOfOnePod",
            message: format!(
                "PersistentVolumeClaim {name} is ReadWriteOncePod: while a Pod of the homeserver has it no Job can mount it, \
                 and a Job that had it would keep that Pod from starting. Make it ReadWriteOnce"
            ),
        })
    })
}

/// Those that are on one node at a time, for the record.
pub fn pin(claims: &[ObservedClaim]) -> Vec<PinnedClaim> {
    let on_many = |modes: &Vec<String>| modes.iter().any(|mode| ON_MANY_NODES.contains(&mode.as_str()));
    let on_one = claims.iter().filter(|claim| !claim.modes.as_ref().is_some_and(on_many));
    on_one.map(|claim| PinnedClaim { name: claim.name.clone(), node: claim.node.clone() }).collect()
}

/// Those of the record that a step mounts.
pub fn pinned_for<'a>(step: &StepStatus, spec: &SynapseSpec, pinned: &'a [PinnedClaim]) -> Vec<&'a PinnedClaim> {
    let mounted = of_step(step, spec);
    pinned.iter().filter(|claim| mounted.iter().any(|mounted| mounted.name == claim.name)).collect()
}

/// The nodes on which a step must run: one, unless its claims are on several, which no node can please.
pub fn nodes<'a>(step: &StepStatus, spec: &SynapseSpec, pinned: &'a [PinnedClaim]) -> Vec<&'a str> {
    let mut nodes: Vec<&str> =
        pinned_for(step, spec, pinned).into_iter().filter_map(|claim| claim.node.as_deref()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// The Pods of a namespace that have not ended, but for those of our Jobs. Who else is managed by somebody is no matter: Helm
/// says so of what it installs.
async fn others(client: &Client, namespace: &str) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ObjectList { items, .. } = api.list(&ListParams::default()).await?;
    let is_other = |pod: &Pod| !pod.labels().contains_key(job::OWNER_UID) && !scale::has_ended(pod);
    Ok(items.into_iter().filter(is_other).collect())
}

fn access_modes(claim: PersistentVolumeClaim) -> Vec<String> {
    let bound = claim.status.and_then(|status| status.access_modes).filter(|modes| !modes.is_empty());
    bound.or_else(|| claim.spec?.access_modes).unwrap_or_default()
}

fn mounts(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref()).any(|volume| volume.claim_name == claim)
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(modes: Option<&[&str]>, writable: bool, node: Option<&str>) -> ObservedClaim {
        ObservedClaim {
            name: "synapse-media".to_owned(),
            writable,
            modes: modes.map(|modes| modes.iter().map(|mode| (*mode).to_owned()).collect()),
            node: node.map(str::to_owned),
        }
    }

    fn homeserver() -> SynapseSpec {
        let spec = "{serverName: example.org, workloads: {refs: [{kind: Deployment, name: synapse}]}, mediaStore: {claimName: media}, \
                     postgres: {host: postgres, database: synapse, credentials: {secretName: postgres}, dataVolume: {claimName: data}}}";
        serde_yaml_ng::from_str(spec).expect("a valid spec")
    }

    #[test]
    fn the_field_of_a_claim_that_is_not_there_is_named() {
        for (name, writable, field) in [
            ("media", false, "spec.mediaStore.claimName of the Synapse object"),
            ("data", false, "spec.postgres.dataVolume.claimName of the Synapse object"),
            ("backups", true, "the claimName of the repository's volume"),
            ("dumps", false, "spec.from.dump.claim.claimName"),
        ] {
            let claim = ObservedClaim { name: name.to_owned(), ..claim(None, writable, None) };
            let message = refuse(&[claim], &homeserver()).expect("it is refused").message;
            assert_eq!(message, format!("there is no PersistentVolumeClaim {name}: correct {field}"));
        }
    }

    #[test]
    fn what_no_job_can_mount_beside_its_owner_is_refused() {
        for (claim, reason) in [
            (claim(Some(&["ReadWriteOnce"]), false, Some("node-1")), None),
            (claim(Some(&["ReadWriteMany"]), false, Some("node-1")), None),
            (claim(Some(&["ReadWriteOncePod"]), false, Some("node-1")), Some("ClaimOfOnePod")),
            // Its owner is down, and would not come up again.
            (claim(Some(&["ReadWriteOncePod"]), false, None), Some("ClaimOfOnePod")),
            // A repository's.
            (claim(Some(&["ReadWriteOncePod"]), true, None), None),
            (claim(None, true, None), Some("ClaimNotFound")),
        ] {
            let refusal = refuse(std::slice::from_ref(&claim), &homeserver());
            assert_eq!(refusal.as_ref().map(|refusal| refusal.reason), reason, "{claim:?}");
            assert!(refusal.is_none_or(|refusal| refusal.message.contains("synapse-media")), "{claim:?}");
        }
    }

    #[test]
    fn only_what_is_on_one_node_at_a_time_says_where() {
        let once = claim(Some(&["ReadWriteOnce"]), false, Some("node-1"));
        let pinned = [PinnedClaim { name: once.name.clone(), node: Some("node-1".to_owned()) }];
        assert_eq!(pin(&[once, claim(Some(&["ReadOnlyMany", "ReadWriteOnce"]), false, Some("node-2"))]), pinned);
    }
}

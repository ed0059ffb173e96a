//! Which image the homeserver's own Synapse runs in: that of its main process, unless the `Synapse` object names another. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{job::synapse::CONTAINER, resolve::Found};
use crate::{
    api::{operation::Role, synapse::SynapseSpec, verification::SynapseImage},
    recipes::Refusal,
};

/// The image, as the workloads that were found have it.
///
/// # Errors
/// `SynapseImageUnknown`: it cannot be told which container is Synapse's.
pub fn of_synapse(spec: &SynapseSpec, found: &[Found]) -> Result<SynapseImage, Refusal> {
    let workloads = match found.iter().any(|one| one.role == Role::Main) {
        true => found.iter().filter(|one| one.role == Role::Main).collect::<Vec<_>>(),
        false => found.iter().filter(|one| one.role == Role::Worker).collect(),
    };
    let pods: Vec<(&Found, &PodSpec)> =
        workloads.iter().filter_map(|one| Some((*one, one.template.spec.as_ref()?))).collect();
    if let Some(image) = &spec.image {
        let image_pull_secrets = pods.iter().flat_map(|(_, pod)| pull_secrets(pod)).collect::<BTreeSet<_>>();
        return Ok(SynapseImage {
            image: image.clone(),
            image_pull_policy: None,
            image_pull_secrets: image_pull_secrets.into_iter().collect(),
        });
    }
    let mut images: Vec<SynapseImage> = Vec::new();
    for (workload, pod) in pods {
        let Some(container) = of_pod(pod) else {
            return Err(unknown(&format!(
                "{} has several containers and none is named {CONTAINER}: {}",
                workload.workload,
                names(&pod.containers)
            )));
        };
        let image = SynapseImage {
            image: container.image.clone().unwrap_or_default(),
            image_pull_policy: container.image_pull_policy.clone(),
            image_pull_secrets: pull_secrets(pod).collect(),
        };
        if !images.iter().any(|other| other.image == image.image) {
            images.push(image);
        }
    }
    match <[SynapseImage; 1]>::try_from(images) {
        Ok([image]) => Ok(image),
        Err(images) if images.is_empty() => Err(unknown("no workload of Synapse was found")),
        Err(images) => {
            let images: Vec<&str> = images.iter().map(|image| image.image.as_str()).collect();
            Err(unknown(&format!(
                "its workloads have several, and spec.workloads.main is not set: {}",
                images.join(", ")
            )))
        }
    }
}

fn of_pod(pod: &PodSpec) -> Option<&Container> {
    match &pod.containers[..] {
        [only] => Some(only),
        several => several.iter().find(|container| container.name == CONTAINER),
    }
}

fn pull_secrets(pod: &PodSpec) -> impl Iterator<Item = String> {
    pod.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone())
}

fn names(containers: &[Container]) -> String {
    containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn unknown(why: &str) -> Refusal {
    Refusal {
        reason: "SynapseImageUnknown",
        message: format!("which image Synapse runs in is not clear: {why}. Set spec.image of the Synapse object"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;

    use super::*;
    use crate::operation::resolve::from_deployment;

    /// A homeserver whose description has this in it, too.
    fn homeserver(more: &str) -> SynapseSpec {
        let spec = "serverName: a.b, workloads: {}, postgres: {host: p, database: s, credentials: {secretName: p}}";
        serde_yaml_ng::from_str(&format!("{{{spec}{more}}}")).unwrap()
    }

    /// A workload with these containers, each a name and an image.
    fn workload(name: &str, role: Role, containers: &[(&str, &str)]) -> Found {
        let containers: Vec<serde_json::Value> =
            containers.iter().map(|(name, image)| serde_json::json!({"name": name, "image": image})).collect();
        let workload: Deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"name": name},
            "spec": {"selector": {}, "template": {"spec": {
                "containers": containers, "imagePullSecrets": [{"name": "of-synapse"}],
            }}},
        }))
        .unwrap();
        Found { role, ..from_deployment(workload) }
    }

    #[test]
    fn it_is_that_of_the_main_process() {
        let main = workload("main", Role::Main, &[("istio", "mesh:1"), ("synapse", "synapse:2")]);
        let worker = workload("worker", Role::Worker, &[("synapse", "synapse:1")]);
        let mas = workload("mas", Role::Authentication, &[("mas", "mas:1")]);
        let found = of_synapse(&homeserver(""), &[worker, main, mas]).unwrap();
        assert_eq!((found.image.as_str(), found.image_pull_secrets), ("synapse:2", vec!["of-synapse".to_owned()]));
    }

    #[test]
    fn without_a_main_process_all_must_agree() {
        let one = workload("one", Role::Worker, &[("matrix", "synapse:1")]);
        let two = workload("two", Role::Worker, &[("matrix", "synapse:1")]);
        assert_eq!(of_synapse(&homeserver(""), &[one.clone(), two]).unwrap().image, "synapse:1");
        let newer = workload("two", Role::Worker, &[("matrix", "synapse:2")]);
        let said = of_synapse(&homeserver(""), &[one, newer]).unwrap_err();
        assert!(said.message.contains("synapse:1, synapse:2") && said.message.contains("spec.image"), "{said:?}");
    }

    #[test]
    fn what_cannot_be_told_is_asked_for() {
        let several = workload("main", Role::Main, &[("app", "synapse:1"), ("proxy", "envoy:1")]);
        let said = of_synapse(&homeserver(""), std::slice::from_ref(&several)).unwrap_err();
        assert_eq!(said.reason, "SynapseImageUnknown");
        assert!(said.message.contains("Deployment/main") && said.message.contains("app, proxy"), "{said:?}");
        assert!(of_synapse(&homeserver(""), &[]).is_err());
        let named = of_synapse(&homeserver(", image: synapse:3"), &[several]).unwrap();
        assert_eq!((named.image.as_str(), named.image_pull_secrets), ("synapse:3", vec!["of-synapse".to_owned()]));
        assert_eq!(of_synapse(&homeserver(", image: synapse:3"), &[]).unwrap().image, "synapse:3");
    }
}

//! Containers that others put into the Pods of our Jobs, as a service mesh does: the end of the task is the end of the step.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodSpec},
    events::v1::Event,
};
use kube::{
    ResourceExt,
    api::{Api, DynamicObject, Patch, PatchParams},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use synapse_keeper::{
    api::{SynapseBackup, operation::Outcome},
    contract::ErrorClass,
};

use super::{backup, restore};
use crate::stage::{
    Stage,
    ledger::Task,
    script::{Fate, Script, failure},
    tests,
    world::{ANALYZE_AND_FULL, FULL, World, outcomes, run},
};

tests![
    a_container_that_lives_on_ends_no_step_late_and_is_told_once,
    an_init_container_that_goes_on_makes_no_difference,
    a_task_that_fails_beside_a_container_that_lives_on_is_tried_again_with_its_own_words,
    every_kind_of_job_ends_beside_a_container_that_lives_on,
];

const ORDINARY: &str = "containers: [Object.spec.containers{name: 'mesh-proxy', image: 'localhost/mesh:1'}]";
const NATIVE: &str = "initContainers: [Object.spec.initContainers{name: 'mesh-proxy', image: 'localhost/mesh:1', restartPolicy: 'Always'}]";

/// From now on each Pod of a task in the world's namespace has this container, too.
async fn inject(world: &World, field: &str) {
    let name = format!("mesh-{}", world.namespace);
    let ours = "has(object.metadata.labels) && 'app.kubernetes.io/name' in object.metadata.labels && \
                object.metadata.labels['app.kubernetes.io/name'] == 'synapse-keeper-task'";
    let policy = json!({
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]},
        "matchConditions": [{"name": "ours", "expression": ours}],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [{
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": format!("Object{{spec: Object.spec{{{field}}}}}")},
        }],
    });
    let here = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}}});
    apply(world, "MutatingAdmissionPolicy", &name, policy).await;
    apply(world, "MutatingAdmissionPolicyBinding", &name, json!({"policyName": name, "matchResources": here})).await;
    // It is in force when a Pod of that name has it.
    let probe = json!({
        "metadata": {"name": "probe", "labels": {"app.kubernetes.io/name": "synapse-keeper-task"}},
        "spec": {"containers": [{"name": "it", "image": "localhost/it:1"}]},
    });
    let containers = |spec: PodSpec| spec.containers.len() + spec.init_containers.unwrap_or_default().len();
    let has_more =
        |answer: Result<Pod, String>| answer.is_ok_and(|pod| pod.spec.is_some_and(|spec| containers(spec) > 1));
    world.until_a_pod("has another container", probe, has_more).await;
}

async fn apply(world: &World, kind: &str, name: &str, spec: Value) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind));
    let api: Api<DynamicObject> = Api::all_with(world.stage.admin.clone(), &resource);
    let object = json!({"apiVersion": resource.api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    api.patch(name, &PatchParams::apply("test"), &Patch::Apply(object)).await.expect("it is taken");
}

/// The notes of the events that tell of it.
async fn told(world: &World) -> Vec<String> {
    let events = world.api::<Event>().list(&Default::default()).await.expect("a list").items;
    let told = events.into_iter().filter(|event| event.reason.as_deref() == Some("ContainerLivesOn"));
    told.filter_map(|event| event.note).collect()
}

/// The Jobs of operations that are there; those of inspections come and go.
async fn jobs(world: &World) -> Vec<String> {
    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let names = jobs.iter().map(ResourceExt::name_any);
    names.filter(|name| !name.starts_with("example-inspect")).collect()
}

async fn a_container_that_lives_on_ends_no_step_late_and_is_told_once(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    inject(&world, ORDINARY).await;
    let _operator = world.operator();
    world.maintain("m", &format!("downtime: {{atMost: 10m}}\n{ANALYZE_AND_FULL}")).await;
    let done = world.until_complete("m").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    for step in &run(&done).expect("a run").steps {
        let by = step.outlived_by.as_ref().expect("each Pod has one");
        assert_eq!((by.containers.as_slice(), by.job_deleted), (["mesh-proxy".to_owned()].as_slice(), true));
        assert_eq!(step.attempt, 1, "{step:?}");
    }
    for job in jobs(&world).await {
        world.until_gone::<Job>(&job).await;
    }
    let told = told(&world).await;
    let [note] = told.as_slice() else { panic!("{told:?}") };
    assert!(note.contains("mesh-proxy goes on") && note.contains("spec.jobs.labels"), "{note}");
    // The homeserver's inspection ends as well.
    world.until_synapse_is_ready().await;
    world.assert_all_is_back().await;
}

async fn an_init_container_that_goes_on_makes_no_difference(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    inject(&world, NATIVE).await;
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let done = world.until_complete("m").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    assert!(run(&done).expect("a run").steps.iter().all(|step| step.outlived_by.is_none()));
    assert_eq!(told(&world).await, [""; 0]);
    world.assert_all_is_back().await;
}

async fn a_task_that_fails_beside_a_container_that_lives_on_is_tried_again_with_its_own_words(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    inject(&world, ORDINARY).await;
    let lost = failure(ErrorClass::Transient, "ConnectionLost", "server closed the connection unexpectedly");
    world.play(Script::default().tasks(move |task: &Task| match (task.is_offline(), task.attempt()) {
        (true, 1) => Some(Fate::RunsOutOfMemory),
        (false, 1) if task.name() == "vacuum" => Some(Fate::Reports(lost.clone())),
        _ => None,
    }));
    let _operator = world.operator();
    world.maintain("m", ANALYZE_AND_FULL).await;
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "OutOfMemory", "{message}");
    let begun = world.place.ledger.begun();
    assert_eq!(begun.iter().filter(|work| work.contains("Analyze")).count(), 2, "{begun:?}");
    for job in jobs(&world).await {
        world.until_gone::<Job>(&job).await;
    }
    world.assert_all_is_back().await;
}

/// Those of a backup with a downtime, of a restore, and of the deletion of a backup's data.
async fn every_kind_of_job_ends_beside_a_container_that_lives_on(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    inject(&world, ORDINARY).await;
    let _operator = world.operator();
    backup::once(&world, "quiesce: true\n  deletionPolicy: Delete").await;
    let ended = restore::once(&world).await;
    assert_eq!(ended.history[0].outcome, Outcome::Succeeded, "{:?}", ended.history);
    world.api::<SynapseBackup>().delete("nightly", &Default::default()).await.expect("it is there");
    world.until_gone::<SynapseBackup>("nightly").await;
    world.assert_homeserver_is_back().await;
}

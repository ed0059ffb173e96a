//! A namespace with a LimitRange, or with a quota that wants amounts: which Pods of ours are made, and what the message says where
//! none is.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use synapse_keeper::api::{SynapseBackup, SynapseMaintenance, conditions::Type};

use super::{
    backup::{backup, until_runs},
    drill::{until_drilled, verified, verify_now},
    rights::quota,
};
use crate::stage::{
    Stage, tests,
    world::{ANALYZE, World},
};

tests![
    the_small_defaults_of_a_limit_range_do_not_reach_our_memory,
    a_limit_range_below_our_amounts_is_named_with_the_field,
    a_limit_range_whose_default_is_below_our_request_is_named_with_the_field,
    a_quota_that_wants_amounts_lets_every_container_in_by_one_field,
];

/// A LimitRange for containers: its `max`, and what else it has. The most CPU shows when the API server knows it.
async fn limit_range(world: &World, max: &str, fields: &str) {
    let limit = format!("{{type: Container, max: {{cpu: \"7\"{max}}}{fields}}}");
    world
        .apply(&format!("apiVersion: v1\nkind: LimitRange\nmetadata: {{name: small}}\nspec: {{limits: [{limit}]}}"))
        .await;
    let probe = json!({
        "metadata": {"name": "probe"},
        "spec": {"containers": [{"name": "it", "image": "localhost/it:1", "resources": {"limits": {"cpu": "8"}}}]},
    });
    let refused = |answer: Result<_, String>| answer.is_err_and(|words| words.contains("maximum cpu"));
    world.until_a_pod("is refused", probe, refused).await;
}

/// Analyzes until the object says that its Pod does not start; the message. Nothing of it is left.
async fn refused(world: &World) -> String {
    // No limit of time: the controller writes its events one after the other, those of all tests.
    world.maintain("m", ANALYZE).await;
    let message = world.until_condition("m", Type::Ready, "False", "PodDoesNotStart").await;
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
    assert!(message.contains("no Pod could be made for its Job"), "{message}");
    assert!(message.contains("Set spec.jobs.resources"), "{message}");
    message
}

/// What the containers of our Jobs have got, as the API server has stored it.
async fn containers(world: &World) -> Vec<Container> {
    let ours = ListParams::default().labels("app.kubernetes.io/name=synapse-keeper-task");
    let pods = world.api::<Pod>().list(&ours).await.expect("a list").items;
    let specs = pods.into_iter().filter_map(|pod| pod.spec);
    specs.flat_map(|spec| spec.init_containers.into_iter().flatten().chain(spec.containers)).collect()
}

fn limit<'a>(resources: &'a Option<ResourceRequirements>, name: &str) -> &'a str {
    let limits = resources.as_ref().and_then(|resources| resources.limits.as_ref()).expect("limits");
    limits.get(name).map_or("", |amount| amount.0.as_str())
}

async fn the_small_defaults_of_a_limit_range_do_not_reach_our_memory(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    limit_range(&world, "", ", default: {cpu: 500m, memory: 32Mi}, defaultRequest: {cpu: 5m, memory: 8Mi}").await;
    world.begin(ANALYZE).await;
    world.until_complete("m").await;
    let containers = containers(&world).await;
    assert!(!containers.is_empty(), "there are Pods of ours");
    for Container { name, resources, .. } in &containers {
        assert_eq!(limit(resources, "memory"), "256Mi", "{name} keeps what it needs");
        assert_eq!(limit(resources, "cpu"), "500m", "{name} has no limit of its own");
    }
}

async fn a_limit_range_below_our_amounts_is_named_with_the_field(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    limit_range(&world, ", memory: 128Mi", "").await;
    let message = refused(&world).await;
    assert!(message.contains("maximum memory usage per Container is 128Mi, but limit is 256Mi"), "{message}");
    world.maintain("n", &format!("{ANALYZE}\njobs: {{resources: {{limits: {{memory: 128Mi}}}}}}")).await;
    world.until_complete("n").await;
    assert_eq!(world.generations().await, [1, 1, 1, 1], "nothing was scaled");
}

async fn a_limit_range_whose_default_is_below_our_request_is_named_with_the_field(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    limit_range(&world, "", ", default: {cpu: 5m}, defaultRequest: {cpu: 5m}").await;
    let message = refused(&world).await;
    assert!(message.contains("must be less than or equal to cpu limit of 5m"), "{message}");
    world.maintain("n", &format!("{ANALYZE}\njobs: {{resources: {{limits: {{cpu: \"1\"}}}}}}")).await;
    world.until_complete("n").await;
}

async fn a_quota_that_wants_amounts_lets_every_container_in_by_one_field(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    quota(&world, "limits.cpu", 100).await;
    let message = refused(&world).await;
    assert!(message.contains("must specify limits.cpu for: task"), "{message}");

    // A drill with Synapse has the most containers.
    let verify = "verify: {cron: '@yearly', image: 'localhost/postgres:15', synapse: true}";
    world.apply(&backup(&format!("jobs: {{resources: {{limits: {{cpu: \"1\"}}}}}}\n  {verify}"))).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    until_runs(&world, 1).await;
    verify_now(&world, "1").await;
    assert_eq!(verified(&until_drilled(&world, "1").await), ("True", "Verified"));
}

//! Somebody else's will during the downtime: noticed within seconds, the Job is stopped first, then all comes back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use synapse_keeper::api::conditions::Type;

use crate::stage::{
    Stage,
    ledger::Entry,
    script::{Fate, Script},
    tests,
    world::{FULL, World, workload},
};

tests![
    a_scale_up_through_the_subresource_stops_the_run,
    a_scale_up_by_a_manager_is_told_by_its_name,
    a_loop_that_applies_the_manifests_again_stops_the_run,
    a_workload_that_appears_stops_the_run,
    a_pod_of_a_workload_at_zero_stops_the_run,
    what_somebody_has_scaled_stays_as_they_wanted_it,
];

async fn a_scale_up_through_the_subresource_stops_the_run(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    let scaled_at = Instant::now();
    world.scale("StatefulSet", "main", 1).await;
    let stopped = |entry: &Entry| matches!(entry, Entry::TaskStopped { .. });
    world.place.ledger.until("the task is stopped", stopped).await;
    // A look without a watch would come after 30 seconds.
    let within = scaled_at.elapsed();
    assert!(within < Duration::from_secs(25), "noticed after {within:?}");
    contested(
        &world,
        &[
            "StatefulSet/main was scaled to 1",
            "through /scale, of which the API does not record who",
            "autoscaling.keda.sh/paused=true",
        ],
    )
    .await;
    world.until_homeserver_is_ready().await;
}

async fn a_scale_up_by_a_manager_is_told_by_its_name(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    let patch = Patch::Merge(json!({"spec": {"replicas": 2}}));
    let params = PatchParams { field_manager: Some("somebodys-autoscaler".to_owned()), ..Default::default() };
    world.api::<Deployment>().patch("worker", &params, &patch).await.expect("it is there");
    contested(&world, &["Deployment/worker was scaled to 2", "by somebodys-autoscaler"]).await;
    world.until_homeserver_is_ready().await;
}

async fn a_loop_that_applies_the_manifests_again_stops_the_run(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    let manifests: Vec<(&str, &str, i32)> =
        vec![("StatefulSet", "main", 1), ("Deployment", "worker", 2), ("Deployment", "mas", 1)];
    let (stateful_sets, deployments) = (world.api::<StatefulSet>(), world.api::<Deployment>());
    // As a GitOps controller heals itself: every field of the manifest, again and again.
    let heals = tokio::spawn(async move {
        let params = PatchParams::apply("argocd-controller").force();
        loop {
            for (kind, name, replicas) in &manifests {
                let manifest: serde_json::Value =
                    serde_yaml_ng::from_str(&workload(kind, name, *replicas)).expect("YAML");
                let _ = match *kind {
                    "StatefulSet" => stateful_sets.patch(name, &params, &Patch::Apply(&manifest)).await.map(drop),
                    _ => deployments.patch(name, &params, &Patch::Apply(&manifest)).await.map(drop),
                };
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    contested(&world, &["was scaled to", "by argocd-controller", "self-heal"]).await;
    world.until_homeserver_is_ready().await;
    heals.abort();
}

async fn a_workload_that_appears_stops_the_run(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    world.apply(&workload("Deployment", "newcomer", 1)).await;
    contested(&world, &["Deployment/newcomer", "was started while the homeserver was down"]).await;
    world.until_homeserver_is_ready().await;
    world.until_workload_is_ready("Deployment", "newcomer", 1).await;
}

async fn a_pod_of_a_workload_at_zero_stops_the_run(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    // Up and down again, faster than one looks: the Pod tells.
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: stray, labels: {part: worker, homeserver: example}}
spec: {containers: [{name: it, image: localhost/it:1}]}";
    world.apply(pod).await;
    // Nothing wakes the operator for a Pod; a change of any workload does.
    world.apply(&workload("Deployment", "elsewhere", 0).replace("app: synapse", "app: else")).await;
    contested(&world, &["Pod stray of Deployment/worker appeared"]).await;
}

async fn what_somebody_has_scaled_stays_as_they_wanted_it(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    world.scale("Deployment", "worker", 1).await;
    contested(&world, &["Deployment/worker was scaled to 1"]).await;
    world.until_workload_is_ready("StatefulSet", "main", 1).await;
    world.until_workload_is_ready("Deployment", "mas", 1).await;
    world.until_workload_is_ready("Deployment", "worker", 1).await;
    world.until_workload_is_ready("Deployment", "idle", 0).await;
}

/// A world whose operator is at work on an offline step that never ends by itself.
async fn in_the_downtime(stage: &Arc<Stage>, test: &str) -> World {
    let mut world = World::with_homeserver(stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.begin(FULL).await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline());
    world.place.ledger.until("the offline task runs", began).await;
    world
}

/// The run fails for it, in these words; its task was stopped before any other Pod came.
async fn contested(world: &World, said: &[&str]) {
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "Contested", "{message}");
    for word in said {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    world.until_condition("m", Type::Stalled, "True", "Contested").await;
    assert!(world.lease().await.is_none(), "the Lease is free");

    let entries = world.place.ledger.entries();
    let stopped =
        entries.iter().position(|entry| matches!(entry, Entry::TaskStopped { .. })).expect("the task was stopped");
    let ours: Vec<_> = entries[..stopped]
        .iter()
        .skip_while(|entry| !matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline()))
        .filter_map(|entry| match entry {
            Entry::PodCame(pod) => Some(pod),
            _ => None,
        })
        .filter(|pod| !message.contains(pod.split('-').next().unwrap_or_default()))
        .collect();
    assert!(
        ours.is_empty() || message.contains("argocd"),
        "{ours:?} came back before the task was stopped: {}",
        world.place.ledger
    );
}

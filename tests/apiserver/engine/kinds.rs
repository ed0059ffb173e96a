//! The CRDs go while an operation has a homeserver down. On a control plane of its own: CRDs belong to all tests.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt, api::DeleteParams, runtime::wait::await_condition};
use synapse_keeper::api::SynapseMaintenance;

use super::endings::strip_finalizers;
use crate::stage::{
    Stage, install_crds,
    ledger::{Entry, Task},
    script::{Fate, Script},
    tests,
    world::{FULL, PATIENCE, World},
};

tests![the_crds_go_and_the_replicas_come_back];

async fn the_crds_go_and_the_replicas_come_back(_: Arc<Stage>, test: &'static str) {
    let stage = Arc::new(Stage::set("crds").await);
    deleted_under_an_operator_that_lives(&stage, test).await;
    deleted_under_an_operator_that_is_dead(&stage, test).await;
}

/// The API server deletes the objects first, and those with our finalizer go the usual way.
async fn deleted_under_an_operator_that_lives(stage: &Arc<Stage>, test: &str) {
    let world = in_the_downtime(stage, test).await;
    delete_crds(stage).await;
    crds_are_gone(stage).await;
    world.assert_homeserver_is_back().await;

    install_crds(&stage.admin, &ours()).await;
    world.play(Script::default());
    world.add_homeserver().await;
    world.maintain("m", FULL).await;
    world.until_complete("m").await;
}

/// Nothing is left but the Lease, which needs no CRD.
async fn deleted_under_an_operator_that_is_dead(stage: &Arc<Stage>, test: &str) {
    let mut world = in_the_downtime(stage, test).await;
    world.kill_operator().await;
    delete_crds(stage).await;
    world.until_maintenance("m", "is being deleted", |object| object.metadata.deletion_timestamp.is_some()).await;
    strip_finalizers::<SynapseMaintenance>(&world, "m").await;
    crds_are_gone(stage).await;
    assert!(world.lease().await.is_some(), "the Lease outlives the CRD");
    let _operator = world.operator();
    world.assert_homeserver_is_back().await;
}

async fn in_the_downtime(stage: &Arc<Stage>, test: &str) -> World {
    let mut world = World::with_homeserver(stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.begin(FULL).await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if Task::is_offline(task));
    world.place.ledger.until("the offline task runs", began).await;
    world
}

async fn delete_crds(stage: &Stage) {
    for crd in ours() {
        crds(stage).delete(&crd.name_any(), &DeleteParams::default()).await.expect("it is there");
    }
}

async fn crds_are_gone(stage: &Stage) {
    for crd in ours() {
        let name = crd.name_any();
        let is_none = |crd: Option<&CustomResourceDefinition>| crd.is_none();
        let gone = await_condition(crds(stage), &name, is_none);
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        gone.unwrap_or_else(|_| panic!("{} does not go", crd.name_any())).expect("an answer");
    }
}

fn crds(stage: &Stage) -> Api<CustomResourceDefinition> {
    Api::all(stage.admin.clone())
}

fn ours() -> Vec<CustomResourceDefinition> {
    synapse_keeper::api::crds::all()
}

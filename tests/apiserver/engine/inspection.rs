//! Inspections: what a Job of somebody else does to them, and what they find wrong.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use synapse_keeper::{
    api::{
        Synapse,
        conditions::{self, Type},
    },
    operation::job,
};

use super::rights::quota;
use crate::stage::{
    Stage, tests,
    world::{SYNAPSE, World},
};

tests![
    an_inspection_leaves_a_job_of_somebody_else_alone,
    a_job_that_the_api_server_refuses_is_told,
    workloads_that_are_not_there_are_told_at_the_apply,
    the_version_goes_with_admin_api,
];

async fn an_inspection_leaves_a_job_of_somebody_else_alone(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let uid = world.api::<Synapse>().get("example").await.expect("it is there").uid().unwrap_or_default();
    let name = job::name("example", &uid, 1, "inspect", 1);
    world.apply_foreign_job(&name).await;
    let _operator = world.operator();
    let taken = world
        .until::<Synapse>("example", "says so", |object| {
            let status = object.and_then(|object| object.status.as_ref());
            let ready = status.and_then(|status| conditions::find(&status.conditions, Type::Ready));
            ready.is_some_and(|ready| ready.reason == "JobNameTaken")
        })
        .await;
    let status = taken.and_then(|object| object.status).expect("it was just seen");
    assert!(conditions::is_true(&status.conditions, Type::Reconciling), "{:?}", status.conditions);
    // The next one has another name.
    world.until_synapse_is_ready().await;
    let left = world.api::<Job>().get(&name).await.expect("it is not ours to delete");
    assert!(left.owner_references().is_empty() && left.metadata.deletion_timestamp.is_none());
}

async fn a_job_that_the_api_server_refuses_is_told(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    quota(&world, "count/jobs.batch", 0).await;
    let _operator = world.operator();
    let told = |object: Option<&Synapse>| {
        let status = object.and_then(|object| object.status.as_ref());
        let ready = status.and_then(|status| conditions::find(&status.conditions, Type::Ready));
        ready.is_some_and(|ready| ready.reason == "ApiRefused" && ready.message.contains("exceeded quota: tight"))
    };
    world.until::<Synapse>("example", "says so", told).await;
}

async fn workloads_that_are_not_there_are_told_at_the_apply(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.until_synapse_is_ready().await;
    for (from, to, reason, named) in [
        ("{matchLabels: {app: synapse}}", "{matchLabels: {app: synaps}}", "WorkloadsNotFound", "no Deployment"),
        ("kind: Deployment, name: mas", "kind: Deployment, name: mass", "WorkloadNotFound", "Deployment/mass"),
    ] {
        let changed = SYNAPSE.replace(from, to);
        assert_ne!(changed, SYNAPSE, "{from} is not in it");
        world.apply(&changed).await;
        let told = |object: Option<&Synapse>| {
            let status = object.and_then(|object| object.status.as_ref());
            let ready = status.and_then(|status| conditions::find(&status.conditions, Type::Ready));
            ready.is_some_and(|ready| ready.reason == reason && ready.message.contains(named))
        };
        world.until::<Synapse>("example", "says so", told).await;
        world.apply(SYNAPSE).await;
        world.until_synapse_is_ready().await;
    }
}

async fn the_version_goes_with_admin_api(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.apply(&SYNAPSE.replace("  serverName", "  adminApi: {url: 'http://synapse:8008'}\n  serverName")).await;
    let _operator = world.operator();
    world.until_synapse_is_ready().await;
    let answers = |object: Option<&Synapse>| {
        let status = object.and_then(|object| object.status.clone()).unwrap_or_default();
        let condition = conditions::find(&status.conditions, Type::SynapseAnswers).is_some();
        (status.synapse_version.is_some(), condition)
    };
    let object = world.api::<Synapse>().get("example").await.expect("it is there");
    assert_eq!(answers(Some(&object)), (true, true));
    world.apply(SYNAPSE).await;
    world.until::<Synapse>("example", "has no version", |object| answers(object) == (false, false)).await;
}

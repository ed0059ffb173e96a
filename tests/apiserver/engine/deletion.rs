//! A backup is deleted with its data, or without them, and neither a Secret nor a namespace that is gone holds it for ever.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{batch::v1::Job, core::v1::Namespace};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{
        ADOPT_ORIGINS, DATA_FINALIZER, Synapse, SynapseBackup,
        conditions::{self, Type},
    },
    contract::ErrorClass,
};

use super::{
    backup::{backup, once, only, until_backup},
    told,
};
use crate::stage::{
    Stage,
    ledger::Entry,
    script::{Fate, Script, failure, success},
    tests,
    world::{PATIENCE, World},
};

tests![
    without_a_policy_the_data_stay_and_the_object_goes_at_once,
    the_data_go_first_also_when_the_homeserver_is_gone,
    a_run_that_is_under_way_ends_before_its_data_go,
    what_keeps_the_data_is_told_and_retain_lets_the_object_go,
    to_keep_the_data_after_all_stops_what_deletes_them,
    a_policy_that_is_changed_before_counts,
    deleted_in_the_foreground_its_job_is_not_deleted_with_it,
    a_namespace_that_is_deleted_is_not_held_up_by_data,
    an_object_that_never_ran_goes_at_once,
    killed_in_the_middle_the_next_operator_goes_on,
];

const DELETE: &str = "deletionPolicy: Delete";

async fn delete(world: &World) {
    world.api::<SynapseBackup>().delete("nightly", &DeleteParams::default()).await.expect("it is there");
}

async fn until_gone(world: &World) {
    world.until_gone::<SynapseBackup>("nightly").await;
}

async fn set_policy(world: &World, policy: &str) {
    let patch = Patch::Merge(json!({"spec": {"deletionPolicy": policy}}));
    world.api::<SynapseBackup>().patch("nightly", &PatchParams::default(), &patch).await.expect("it is there");
}

fn holds(object: &SynapseBackup) -> bool {
    object.finalizers().iter().any(|finalizer| finalizer == DATA_FINALIZER)
}

/// The arguments of the deletion's tasks that have begun.
fn deletions(world: &World) -> Vec<Vec<String>> {
    let entries = world.place.ledger.entries();
    let begun = entries.into_iter().filter_map(|entry| match entry {
        Entry::TaskBegan { task, .. } if task.name() == "delete-backups" => Some(task.args),
        _ => None,
    });
    begun.collect()
}

async fn until_deleting(world: &World) {
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "delete-backups");
    world.place.ledger.until("the data are being deleted", began).await;
}

async fn no_job_is_left(world: &World, uid: &str) {
    let of_it = ListParams::default().labels(&format!("synapse-keeper.dev/owner-uid={uid}"));
    for job in world.api::<Job>().list(&of_it).await.expect("a list").items {
        world.until_gone::<Job>(&job.name_any()).await;
    }
}

async fn without_a_policy_the_data_stay_and_the_object_goes_at_once(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    let done = once(&world, "").await;
    assert!(!holds(&done));
    delete(&world).await;
    until_gone(&world).await;
    assert_eq!(deletions(&world), Vec::<Vec<String>>::new());
}

async fn the_data_go_first_also_when_the_homeserver_is_gone(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    let patch = Patch::Merge(json!({"spec": {"jobs": {"labels": {"mesh": "no"}}}}));
    world.api::<Synapse>().patch("example", &PatchParams::default(), &patch).await.expect("it is there");
    let uid = once(&world, DELETE).await.uid().expect("a UID");
    until_backup(&world, "holds its data", holds).await;
    let adopt = Patch::Merge(json!({"metadata": {"annotations": {ADOPT_ORIGINS: "lost-1"}}}));
    world.api::<SynapseBackup>().patch("nightly", &PatchParams::default(), &adopt).await.expect("it is there");
    world.api::<Synapse>().delete("example", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<Synapse>("example").await;
    world.play(only("delete-backups", |task| Fate::Held(Fate::Reports(success(task)).into())));
    delete(&world).await;
    until_deleting(&world).await;
    let of_it = ListParams::default().labels(&format!("synapse-keeper.dev/owner-uid={uid}"));
    let jobs = world.api::<Job>().list(&of_it).await.expect("a list").items;
    let [job] = &jobs[..] else { panic!("those of the runs are gone: {jobs:?}") };
    assert_eq!(job.owner_references(), []);
    let pod = job.spec.clone().unwrap().template;
    let labels = pod.metadata.unwrap().labels.unwrap();
    assert_eq!(labels.get("mesh").map(String::as_str), Some("no"), "as the Synapse object wanted it");
    let args = pod.spec.unwrap().containers[0].args.clone().unwrap();
    assert_eq!(args[2..], [format!("--origin={uid}"), "--origin=lost-1".to_owned()]);
    assert!(world.api::<SynapseBackup>().get("nightly").await.is_ok(), "it waits");
    world.place.release();
    until_gone(&world).await;
    no_job_is_left(&world, &uid).await;
    assert_eq!(deletions(&world).len(), 1);
}

async fn a_run_that_is_under_way_ends_before_its_data_go(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.play(only("backup", |_| Fate::StopsSlowly(2000)));
    world.apply(&backup(DELETE)).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "backup");
    world.place.ledger.until("the backup runs", began).await;
    until_backup(&world, "holds its data", holds).await;
    delete(&world).await;
    until_gone(&world).await;
    let order: Vec<String> = world
        .place
        .ledger
        .entries()
        .iter()
        .filter_map(|entry| match entry {
            Entry::TaskStopped { task, .. } => Some(format!("{} stopped", task.name())),
            Entry::TaskBegan { task, .. } if task.name() == "delete-backups" => Some("deletion began".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["backup stopped", "deletion began"]);
    world.assert_homeserver_is_back().await;
}

async fn what_keeps_the_data_is_told_and_retain_lets_the_object_go(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    once(&world, DELETE).await;
    until_backup(&world, "holds its data", holds).await;
    world.play(only("delete-backups", |_| {
        Fate::Reports(failure(
            ErrorClass::Terminal,
            "SecretKeyMissing",
            "The Secret of the repository lacks RESTIC_PASSWORD.",
        ))
    }));
    delete(&world).await;
    let waits = until_backup(&world, "says why", |object| {
        let status = object.status.as_ref().expect("it has one");
        let told = conditions::find(&status.operation.conditions, Type::DataDeleted);
        told.is_some_and(|told| told.reason == "SecretKeyMissing")
            && status.deletion.as_ref().is_some_and(|deletion| deletion.attempt > 1)
    })
    .await;
    let told_so = conditions::find(&waits.status.as_ref().unwrap().operation.conditions, Type::DataDeleted).unwrap();
    for words in ["lacks RESTIC_PASSWORD", "kubectl -n", "deletionPolicy", "Retain"] {
        assert!(told_so.message.contains(words), "{told_so:?}");
    }
    let (type_, _) = told(&world, "nightly", "SecretKeyMissing").await;
    assert_eq!(type_, "Warning");
    set_policy(&world, "Retain").await;
    until_gone(&world).await;
    no_job_is_left(&world, &waits.uid().unwrap()).await;
}

async fn to_keep_the_data_after_all_stops_what_deletes_them(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    let uid = once(&world, DELETE).await.uid().unwrap();
    until_backup(&world, "holds its data", holds).await;
    world.play(only("delete-backups", |_| Fate::RunsUntilDeleted));
    delete(&world).await;
    until_deleting(&world).await;
    set_policy(&world, "Retain").await;
    until_gone(&world).await;
    no_job_is_left(&world, &uid).await;
    let stopped = |entry: &Entry| matches!(entry, Entry::TaskStopped { task, .. } if task.name() == "delete-backups");
    assert!(world.place.ledger.entries().iter().any(stopped), "{}", world.place.ledger);
}

async fn a_policy_that_is_changed_before_counts(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    once(&world, DELETE).await;
    until_backup(&world, "holds its data", holds).await;
    set_policy(&world, "Retain").await;
    until_backup(&world, "holds nothing", |object| !holds(object)).await;
    set_policy(&world, "Delete").await;
    until_backup(&world, "holds its data again", holds).await;
    set_policy(&world, "Retain").await;
    delete(&world).await;
    until_gone(&world).await;
    assert_eq!(deletions(&world), Vec::<Vec<String>>::new());
}

async fn deleted_in_the_foreground_its_job_is_not_deleted_with_it(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    once(&world, DELETE).await;
    until_backup(&world, "holds its data", holds).await;
    world.play(only("delete-backups", |task| Fate::Held(Fate::Reports(success(task)).into())));
    world.api::<SynapseBackup>().delete("nightly", &DeleteParams::foreground()).await.expect("it is there");
    until_deleting(&world).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.place.release();
    until_gone(&world).await;
    assert_eq!(deletions(&world).len(), 1, "{}", world.place.ledger);
}

async fn a_namespace_that_is_deleted_is_not_held_up_by_data(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    once(&world, DELETE).await;
    until_backup(&world, "holds its data", holds).await;
    let namespaces: Api<Namespace> = Api::all(stage.admin.clone());
    namespaces.delete(&world.namespace, &DeleteParams::default()).await.expect("it is there");
    let is_gone = |namespace: Option<&Namespace>| namespace.is_none();
    let gone = kube::runtime::wait::await_condition(namespaces, &world.namespace, is_gone);
    tokio::time::timeout(PATIENCE, gone).await.expect("the namespace goes").expect("an answer");
    assert_eq!(deletions(&world), Vec::<Vec<String>>::new());
}

async fn an_object_that_never_ran_goes_at_once(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    let _operator = world.operator();
    world.apply(&backup(DELETE)).await;
    until_backup(&world, "holds its data", holds).await;
    delete(&world).await;
    until_gone(&world).await;
    assert_eq!(deletions(&world), Vec::<Vec<String>>::new());
}

async fn killed_in_the_middle_the_next_operator_goes_on(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let operator = world.operator();
    let uid = once(&world, DELETE).await.uid().unwrap();
    until_backup(&world, "holds its data", holds).await;
    world.play(only("delete-backups", |task| Fate::Held(Fate::Reports(success(task)).into())));
    delete(&world).await;
    until_deleting(&world).await;
    operator.kill().await;
    world.place.release();
    world.play(Script::default());
    let _operator = world.operator();
    until_gone(&world).await;
    no_job_is_left(&world, &uid).await;
    assert_eq!(deletions(&world).len(), 1, "{}", world.place.ledger);
}

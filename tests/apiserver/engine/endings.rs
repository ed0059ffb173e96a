//! The object is deleted at every step; the homeserver's description is deleted; the operator is uninstalled.

use std::sync::Arc;

use k8s_openapi::api::{batch::v1::Job, coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde_json::json;
use synapse_keeper::{
    api::{Synapse, SynapseMaintenance, conditions::Type, operation::Outcome},
    contract::Report,
    recipes::Operation,
};

use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, Trouble},
    tests,
    world::{ANALYZE_AND_FULL, FULL, PATIENCE, World, is, outcomes, run},
};

tests![
    deleted_in_preflight,
    deleted_in_an_online_step,
    deleted_while_the_pods_stop,
    deleted_in_an_offline_step,
    deleted_while_it_waits_for_another_attempt,
    deleted_while_the_pods_come_back,
    deleted_in_the_foreground,
    deleted_with_a_task_on_a_lost_node,
    deleted_with_its_namespace,
    the_homeserver_s_description_is_deleted_in_a_step,
    uninstalling_brings_everything_back_and_begins_nothing,
];

async fn deleted_in_preflight(stage: Arc<Stage>, test: &'static str) {
    let script = Script::default().tasks(|task| (task.name() == "preflight").then_some(Fate::RunsUntilDeleted));
    deleted_when(&stage, test, script, DeleteParams::default(), |entry| {
        began(entry, |task| task.name() == "preflight")
    })
    .await;
}

async fn deleted_in_an_online_step(stage: Arc<Stage>, test: &'static str) {
    let script = Script::default().tasks(|task| (task.name() == "vacuum").then_some(Fate::RunsUntilDeleted));
    deleted_when(&stage, test, script, DeleteParams::default(), |entry| began(entry, |task| task.name() == "vacuum"))
        .await;
}

async fn deleted_while_the_pods_stop(stage: Arc<Stage>, test: &'static str) {
    let script = Script::default().pods(|_| Some(Trouble::StopsSlowly(3000)));
    deleted_when(&stage, test, script, DeleteParams::default(), |entry| {
        began(entry, |task| task.flag("--mode") == Some("Analyze"))
    })
    .await;
}

async fn deleted_in_an_offline_step(stage: Arc<Stage>, test: &'static str) {
    let script = Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted));
    deleted_when(&stage, test, script, DeleteParams::default(), |entry| began(entry, Task::is_offline)).await;
}

async fn deleted_in_the_foreground(stage: Arc<Stage>, test: &'static str) {
    let script = Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted));
    deleted_when(&stage, test, script, DeleteParams::foreground(), |entry| began(entry, Task::is_offline)).await;
}

async fn deleted_while_it_waits_for_another_attempt(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::Evicted)));
    world.begin(FULL).await;
    let waits = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.steps.iter().any(|step| step.retry_at.is_some()))
    };
    world.until_maintenance("m", "waits for another attempt", waits).await;
    delete(&world, DeleteParams::default()).await;
}

async fn deleted_while_the_pods_come_back(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.begin(FULL).await;
    let down = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.window.as_ref().is_some_and(|window| window.stopped_at.is_some()))
    };
    world.until_maintenance("m", "is down", down).await;
    world.play(Script::default().pods(|_| Some(Trouble::NeverReady)));
    let back = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.window.as_ref().is_some_and(|window| window.returned_at.is_some()))
    };
    world.until_maintenance("m", "has returned the replicas", back).await;
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
    world.until_gone::<Lease>("synapse-keeper-example").await;
}

/// A node that is lost never says that a Pod has stopped. The task's statement ends with its connection, so the users do
/// not wait for ever.
async fn deleted_with_a_task_on_a_lost_node(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::OnLostNode)));
    world.begin(FULL).await;
    world.place.ledger.until("the offline task runs", |entry| began(entry, Task::is_offline)).await;
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    let is_gone = |object: Option<&SynapseMaintenance>| object.is_none();
    let gone = await_condition(world.api::<SynapseMaintenance>(), "m", is_gone);
    tokio::time::timeout(PATIENCE, gone).await.expect("the object goes").expect("an answer");
    world.until_homeserver_is_ready().await;
    assert!(world.lease().await.is_none());
}

async fn deleted_with_its_namespace(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.begin(FULL).await;
    world.place.ledger.until("the offline task runs", |entry| began(entry, Task::is_offline)).await;
    let namespaces: Api<Namespace> = Api::all(stage.admin.clone());
    namespaces.delete(&world.namespace, &DeleteParams::default()).await.expect("it is there");
    let gone = kube::runtime::wait::await_condition(namespaces, &world.namespace, |namespace: Option<&Namespace>| {
        namespace.is_none()
    });
    tokio::time::timeout(PATIENCE, gone).await.expect("the namespace goes").expect("an answer");
}

/// A step that runs may come to its end; then the replicas come back from the record.
async fn the_homeserver_s_description_is_deleted_in_a_step(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(
        Script::default().tasks(|task| task.is_offline().then(|| Fate::Held(Fate::Reports(Report::default()).into()))),
    );
    world.begin("steps: [{vacuum: {mode: Full, tables: [a]}}, {vacuum: {mode: Full, tables: [b]}}]").await;
    world.place.ledger.until("the offline task runs", |entry| began(entry, Task::is_offline)).await;
    world.api::<Synapse>().delete("example", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<Synapse>("example").await;
    world.place.release();
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "SynapseDeleted");
    assert!(message.contains("Synapse example"), "{message}");
    let stopped = world
        .place
        .ledger
        .entries()
        .iter()
        .any(|entry| matches!(entry, Entry::TaskStopped { task, .. } if task.is_offline()));
    assert!(!stopped, "the step that ran came to its end: {}", world.place.ledger);
    assert_eq!(
        world.place.ledger.begun().iter().filter(|work| work.contains("Full")).count(),
        1,
        "{}",
        world.place.ledger
    );
    world.assert_all_is_back().await;
}

async fn uninstalling_brings_everything_back_and_begins_nothing(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.begin(FULL).await;
    world.place.ledger.until("the offline task runs", |entry| began(entry, Task::is_offline)).await;
    let hook = "
apiVersion: batch/v1
kind: Job
metadata:
  name: synapse-keeper-uninstall
  labels: {synapse-keeper.dev/purpose: uninstall}
spec:
  suspend: true
  template:
    spec:
      restartPolicy: Never
      containers: [{name: release, image: localhost/synapse-keeper:1}]";
    world.apply(hook).await;
    let (reason, _) = world.until_failed("m").await;
    assert_eq!(reason, "Uninstalling");
    world.assert_all_is_back().await;
    let ran = world.place.ledger.begun().len();

    world.maintain("later", ANALYZE_AND_FULL).await;
    world.until_condition("later", Type::Ready, "False", "Suspended").await;
    assert_eq!(world.place.ledger.begun().len(), ran);
    world.play(Script::default());
    world.api::<Job>().delete("synapse-keeper-uninstall", &DeleteParams::default()).await.expect("it is there");
    let done = world.until_complete("later").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded], "the uninstallation was given up");
    assert!(is(&done, Type::Ready));
}

fn began(entry: &Entry, which: impl Fn(&Task) -> bool) -> bool {
    matches!(entry, Entry::TaskBegan { task, .. } if which(task))
}

/// Runs an operation until this is in the ledger, deletes it, and finds everything as it was.
async fn deleted_when(stage: &Arc<Stage>, test: &str, script: Script, how: DeleteParams, when: fn(&Entry) -> bool) {
    let mut world = World::with_homeserver(stage, test).await;
    world.play(script);
    world.begin(ANALYZE_AND_FULL).await;
    world.place.ledger.until("it is time", when).await;
    delete(&world, how).await;
}

async fn delete(world: &World, how: DeleteParams) {
    world.api::<SynapseMaintenance>().delete("m", &how).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
    world.assert_all_is_back().await;
    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let jobs: Vec<_> =
        jobs.iter().filter_map(|job| job.metadata.name.clone()).filter(|name| name.starts_with("m-")).collect();
    for job in jobs {
        world.until_gone::<Job>(&job).await;
    }
}

/// Takes the finalizer off, as a person does who has lost patience.
pub async fn strip_finalizers<K: Operation>(world: &World, name: &str) {
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.api::<K>().patch(name, &PatchParams::default(), &patch).await.expect("it is there");
}

//! Restores in place: a database that is left unfinished keeps its homeserver down, until another restore makes it whole or a
//! person decides.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{
        Synapse, SynapseMaintenance, SynapseRestore,
        conditions::{self, Type},
        operation::{HistoryEntry, Outcome},
    },
    contract::{ErrorClass, Leaves, Report},
    controller::release,
};

use super::{restore::without_mas, told};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    operator::Operator,
    script::{Fate, Script, failure},
    tests,
    world::{ANALYZE, World},
};

tests![
    a_database_that_is_left_unfinished_keeps_its_homeserver_down_until_the_next_restore,
    a_person_may_have_it_back_as_it_is,
    what_a_task_has_tidied_up_keeps_nobody_down,
    deleted_in_the_middle_it_leaves_no_half_database,
];

const LEASE: &str = "synapse-keeper-example";
const UNFINISHED: &str = "synapse-keeper.dev/database-unfinished";

async fn restore(world: &World, name: &str) {
    let object = format!(
        "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseRestore
metadata: {{name: {name}}}
spec:
  synapseRef: {{name: example}}
  from: {{repository: {{secretName: s3}}}}
  database: {{method: InPlace}}
"
    );
    world.apply(&object).await;
}

async fn ended(world: &World, name: &str) -> HistoryEntry {
    let entry = |object: &SynapseRestore| object.status.as_ref()?.operation.history.first().cloned();
    let ended = world.until(name, "has ended", |object| object.is_some_and(|object| entry(object).is_some())).await;
    entry(&ended.expect("it is there")).expect("it has ended")
}

/// The database is written into and stays so: neither that task nor the next comes to its end.
fn breaks() -> Script {
    let is_broken = |task: &Task| matches!(task.name(), "restore-database" | "clear-database");
    Script::default().tasks(move |task| {
        is_broken(task).then(|| Fate::Reports(failure(ErrorClass::Terminal, "ConnectionLost", "PostgreSQL is gone")))
    })
}

async fn kept_down(stage: &Arc<Stage>, test: &str) -> (World, Operator) {
    let world = without_mas(stage, test).await;
    world.play(breaks());
    let operator = world.operator();
    world.until_synapse_is_ready().await;
    restore(&world, "first").await;
    let entry = ended(&world, "first").await;
    assert_eq!((entry.outcome, entry.reason.as_deref()), (Outcome::Failed, Some("DatabaseUnfinished")), "{entry:?}");
    let message = entry.message.unwrap_or_default();
    for said in ["PostgreSQL is gone", "StatefulSet/main had 1", "under a new name", LEASE] {
        assert!(message.contains(said), "{said:?} is not in {message:?}");
    }
    (world, operator)
}

async fn assert_is_down(world: &World) {
    assert_eq!(world.generations().await, [2, 2, 1, 2], "down, and not up again");
    let lease = world.lease().await.expect("it keeps the counts");
    assert!(lease.annotations().contains_key("synapse-keeper.dev/kept-down"), "{lease:?}");
}

async fn a_database_that_is_left_unfinished_keeps_its_homeserver_down_until_the_next_restore(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let (world, operator) = kept_down(&stage, test).await;
    assert_is_down(&world).await;
    let (kind, note) = told(&world, "first", "DatabaseUnfinished").await;
    assert_eq!(kind, "Warning");
    assert!(note.contains("the replicas stay at 0"), "{note}");
    let says_why = |object: Option<&Synapse>| {
        let status = object.and_then(|object| object.status.as_ref());
        let ready = status.and_then(|status| conditions::find(&status.conditions, Type::Ready));
        ready.is_some_and(|ready| ready.reason == "DatabaseUnfinished" && ready.message.contains("kubectl -n"))
    };
    world.until::<Synapse>("example", "says why it is down", says_why).await;
    let metric = format!("homeserver_database_unfinished{{namespace=\"{}\",synapse=\"example\"}} 1\n", world.namespace);
    assert!(operator.metrics.render().contains(&metric), "{}", operator.metrics.render());

    // Nobody else works on it meanwhile.
    world.maintain("waiting", ANALYZE).await;
    world.until_condition("waiting", Type::Ready, "False", "DatabaseUnfinished").await;
    world.api::<SynapseMaintenance>().delete("waiting", &DeleteParams::default()).await.expect("it is there");

    // Neither does it come up with who goes: the object, the operator, all of it.
    world.api::<SynapseRestore>().delete("first", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseRestore>("first").await;
    operator.kill().await;
    let client = Client::try_from(world.installation.client.clone()).expect("a client");
    let timeout = "60s".parse().expect("a duration");
    let options = release::Options { watch_namespace: world.namespace.clone(), timeout };
    let hook = async { release::run(client, options).await.map_err(|error| error.to_string()) };
    assert_eq!(hook.await, Ok(()), "the chart can be uninstalled");
    assert_is_down(&world).await;

    world.play(Script::default());
    let _operator = world.operator();
    restore(&world, "second").await;
    let entry = ended(&world, "second").await;
    assert_eq!(entry.outcome, Outcome::Succeeded, "{entry:?}");
    world.assert_homeserver_is_back().await;
    assert_eq!(world.generations().await, [3, 3, 1, 3], "up again with what it had");
    world.until_synapse_is_ready().await;
}

async fn a_person_may_have_it_back_as_it_is(stage: Arc<Stage>, test: &'static str) {
    let (world, _operator) = kept_down(&stage, test).await;
    let patch = Patch::Merge(json!({"metadata": {"annotations": {UNFINISHED: null}}}));
    world.api::<Lease>().patch(LEASE, &PatchParams::default(), &patch).await.expect("it is there");
    world.assert_homeserver_is_back().await;
}

async fn what_a_task_has_tidied_up_keeps_nobody_down(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    world.play(Script::default().tasks(|task| {
        let tidied = Report { leaves: Some(Leaves::Empty), ..failure(ErrorClass::Terminal, "RowsDiffer", "not whole") };
        (task.name() == "restore-database").then_some(Fate::Reports(tidied))
    }));
    let _operator = world.operator();
    restore(&world, "first").await;
    assert_eq!(ended(&world, "first").await.reason.as_deref(), Some("RowsDiffer"));
    world.assert_homeserver_is_back().await;
    let clears = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "clear-database");
    assert!(!world.place.ledger.entries().iter().any(clears), "there was nothing to clear");
}

async fn deleted_in_the_middle_it_leaves_no_half_database(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    world.play(Script::default().tasks(|task| (task.name() == "restore-database").then_some(Fate::RunsUntilDeleted)));
    let mut operator = world.operator();
    restore(&world, "first").await;
    let began =
        |name: &'static str| move |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == name);
    world.place.ledger.until("the database is being filled", began("restore-database")).await;
    let lease = world.lease().await.expect("it is held");
    assert!(lease.annotations().contains_key(UNFINISHED), "the Lease knows it before the Job begins: {lease:?}");
    operator.kill().await;
    operator = world.operator();
    world.api::<SynapseRestore>().delete("first", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseRestore>("first").await;
    assert!(world.place.ledger.entries().iter().any(began("clear-database")), "{}", world.place.ledger);
    world.assert_homeserver_is_back().await;
    operator.kill().await;
}

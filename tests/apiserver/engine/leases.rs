//! One operation a homeserver, and counts that outlive everything.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{apps::v1::StatefulSet, coordination::v1::Lease};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{SynapseMaintenance, conditions::Type, operation::Outcome},
    controller::release,
    operation::orphans,
};

use super::{endings::strip_finalizers, told};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    operator::Operator,
    script::{Fate, Script},
    tests,
    world::{ANALYZE_AND_FULL, FULL, PATIENCE, World, outcomes, run},
};

tests![
    two_operations_run_one_after_the_other,
    two_operators_at_once_do_no_harm,
    a_lease_that_somebody_deletes_is_made_again_with_its_counts,
    a_lease_that_another_has_taken_ends_the_run,
    counts_of_an_object_that_is_gone_come_back,
    counts_of_an_object_that_was_made_anew_come_back_before_it_begins,
    counts_of_a_run_that_is_over_come_back,
    a_lease_that_cannot_be_read_is_left_to_a_person,
    a_lease_says_what_to_type,
    the_uninstall_hook_brings_back_what_a_dead_operator_left,
    the_metrics_say_who_is_down_after_a_restart_until_the_lease_is_gone,
    an_old_copy_of_a_lease_does_no_harm,
];

const LEASE: &str = "synapse-keeper-example";

async fn two_operations_run_one_after_the_other(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then(|| Fate::Held(Fate::RunsOutOfMemory.into()))));
    world.begin(FULL).await;
    world.place.ledger.until("the offline task runs", offline_began).await;
    world.play(Script::default());
    world.maintain("n", ANALYZE_AND_FULL).await;
    let message = world.until_condition("n", Type::Ready, "False", "HomeserverBusy").await;
    assert!(message.contains("SynapseMaintenance m"), "{message}");
    assert_eq!(told(&world, "n", "HomeserverBusy").await, ("Normal".to_owned(), message));
    world.place.release();
    world.until_failed("m").await;
    world.until_complete("n").await;
    world.assert_all_is_back().await;

    let owners: Vec<String> =
        world.place.ledger.begun().iter().map(|work| work.split(' ').next().unwrap_or_default().to_owned()).collect();
    let changes = owners.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 1, "they took turns: {}", world.place.ledger);
}

async fn two_operators_at_once_do_no_harm(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let (_one, _other) = (world.operator(), world.operator());
    world.maintain("m", ANALYZE_AND_FULL).await;
    world.maintain("n", ANALYZE_AND_FULL).await;
    for name in ["m", "n"] {
        let done = world.until_complete(name).await;
        assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    }
    world.assert_all_is_back().await;
    let mut works = world.place.ledger.begun();
    let all = works.len();
    works.sort();
    works.dedup();
    assert_eq!((all, works.len()), (6, 6), "nothing ran twice: {}", world.place.ledger);
}

async fn a_lease_that_somebody_deletes_is_made_again_with_its_counts(stage: Arc<Stage>, test: &'static str) {
    let world = in_the_downtime(&stage, test).await;
    let before = world.lease().await.expect("it is held");
    world.api::<Lease>().delete(LEASE, &DeleteParams::default()).await.expect("it is there");
    let uid = before.uid();
    let again =
        world.until::<Lease>(LEASE, "is there again", move |lease| lease.is_some_and(|lease| lease.uid() != uid)).await;
    assert_eq!(again.expect("it is there").annotations(), before.annotations());
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
    world.assert_all_is_back().await;
}

async fn a_lease_that_another_has_taken_ends_the_run(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.play(Script::default());
    world.maintain("n", FULL).await;
    let other = world.until_maintenance("n", "waits", |object| run(object).is_some()).await.uid().expect("a UID");
    world.kill_operator().await;
    // As if somebody had deleted it and the other operation had been faster than this one.
    let holder = format!("SynapseMaintenance/n/{other}");
    let taken = json!({"spec": {"holderIdentity": holder}, "metadata": {"annotations": null}});
    let patch = Patch::Merge(taken);
    world.api::<Lease>().patch(LEASE, &PatchParams::default(), &patch).await.expect("it is there");
    let _operator = world.operator();
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "LeaseLost");
    assert!(message.contains("SynapseMaintenance n"), "{message}");
    // It has recorded no zeros: either it came after the replicas had returned, or it refused.
    world.until_maintenance("n", "has ended", |object| outcomes(object).len() == 1).await;
    world.until_homeserver_is_ready().await;
    world.until_gone::<Lease>(LEASE).await;
    assert_eq!(world.place.ledger.offline_beside_pods(), [], "{}", world.place.ledger);
}

async fn counts_of_an_object_that_is_gone_come_back(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    strip_finalizers::<SynapseMaintenance>(&world, "m").await;
    world.until_gone::<SynapseMaintenance>("m").await;
    assert!(world.lease().await.is_some(), "the Lease outlives its holder");
    let _operator = world.operator();
    world.assert_all_is_back().await;
}

async fn counts_of_an_object_that_was_made_anew_come_back_before_it_begins(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    strip_finalizers::<SynapseMaintenance>(&world, "m").await;
    world.until_gone::<SynapseMaintenance>("m").await;
    world.play(Script::default());
    world.maintain("m", FULL).await;
    let _operator = world.operator();
    let done = world.until_complete("m").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    world.assert_all_is_back().await;
}

async fn counts_of_a_run_that_is_over_come_back(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    let status = json!({"status": {"run": {"outcome": "Failed", "finishedAt": "2026-11-22T03:00:00Z"}}});
    world
        .api::<SynapseMaintenance>()
        .patch_status("m", &PatchParams::default(), &Patch::Merge(status))
        .await
        .expect("it is there");
    let _operator = world.operator();
    world.assert_all_is_back().await;
}

async fn a_lease_that_cannot_be_read_is_left_to_a_person(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    let garbled = json!({"metadata": {"annotations": {"synapse-keeper.dev/counts": "[{]"}}});
    world.api::<Lease>().patch(LEASE, &PatchParams::default(), &Patch::Merge(garbled)).await.expect("it is there");
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    strip_finalizers::<SynapseMaintenance>(&world, "m").await;
    world.until_gone::<SynapseMaintenance>("m").await;
    world.play(Script::default());
    world.maintain("n", FULL).await;
    let _operator = world.operator();
    world.until_condition("n", Type::Ready, "False", "HomeserverBusy").await;
    assert!(world.lease().await.is_some(), "nobody threw it away");
    world.scale("StatefulSet", "main", 1).await;
    world.scale("Deployment", "worker", 2).await;
    world.scale("Deployment", "mas", 1).await;
    world.api::<Lease>().delete(LEASE, &DeleteParams::default()).await.expect("it is there");
    world.until_complete("n").await;
}

/// A watch may lag: what it shows is a Lease of an operation that is over, while the next has the homeserver down.
async fn an_old_copy_of_a_lease_does_no_harm(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    let old = world.lease().await.expect("it is held");
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
    world.assert_all_is_back().await;
    world.kill_operator().await;
    world.begin(FULL).await;
    let down = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.steps.last().is_some_and(|step| step.job_uid.is_some()))
    };
    world.until_maintenance("m", "is down", down).await;

    let outcome = orphans::tend(&world.installation.context(), &old, false).await.expect("an answer");
    assert_eq!(outcome, orphans::Outcome::Alive);
    let scale = world.api::<StatefulSet>().get_scale("main").await.expect("it is there");
    assert_eq!(scale.spec.unwrap().replicas.unwrap_or(0), 0);
}

async fn a_lease_says_what_to_type(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    let lease = world.lease().await.expect("it is held");
    let text = lease.annotations().get("synapse-keeper.dev/to-bring-it-back-by-hand").expect("it says what to do");
    let lines: Vec<&str> = text.lines().collect();
    let namespace = &world.namespace;
    let expected =
        ["deployments/mas --replicas=1", "statefulsets/main --replicas=1", "deployments/worker --replicas=2"];
    assert_eq!(lines, expected.map(|what| format!("kubectl -n {namespace} scale {what}")));
    for line in lines {
        let words: Vec<&str> = line.split(' ').collect();
        let typed = world.stage.control_plane.program(words[0]).args(&words[1..]).output().expect("kubectl");
        assert!(typed.status.success(), "{line}: {}", String::from_utf8_lossy(&typed.stderr));
    }
    world.until_homeserver_is_ready().await;
}

async fn the_uninstall_hook_brings_back_what_a_dead_operator_left(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    let client = Client::try_from(world.installation.client.clone()).expect("a client");
    let timeout = "30s".parse().expect("a duration");
    let options = release::Options { watch_namespace: world.namespace.clone(), timeout };
    let ended = async { release::run(client, options).await.map_err(|error| error.to_string()) };
    assert_eq!(ended.await, Ok(()));
    assert!(world.lease().await.is_none(), "it ended before the homeserver was back");
    world.assert_homeserver_is_back().await;
}

async fn the_metrics_say_who_is_down_after_a_restart_until_the_lease_is_gone(stage: Arc<Stage>, test: &'static str) {
    let mut world = in_the_downtime(&stage, test).await;
    world.kill_operator().await;
    let operator = world.operator();
    until_metrics_say(&world, &operator, true).await;

    // Nobody is left to write a status when the counts come back.
    operator.kill().await;
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    strip_finalizers::<SynapseMaintenance>(&world, "m").await;
    world.until_gone::<SynapseMaintenance>("m").await;
    let operator = world.operator();
    until_metrics_say(&world, &operator, true).await;
    world.until_gone::<Lease>(LEASE).await;
    until_metrics_say(&world, &operator, false).await;
    world.assert_homeserver_is_back().await;
}

/// Waits until a scrape says that the homeserver is down, or is not.
async fn until_metrics_say(world: &World, operator: &Operator, down: bool) {
    let line = format!("homeserver_quiesced{{namespace=\"{}\",synapse=\"example\"}} 1\n", world.namespace);
    let seen = async {
        while operator.metrics.render().contains(&line) != down {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    assert!(seen.is_ok(), "down should be {down}:\n{}", operator.metrics.render());
}

async fn in_the_downtime(stage: &Arc<Stage>, test: &str) -> World {
    let mut world = World::with_homeserver(stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.begin(FULL).await;
    world.place.ledger.until("the offline task runs", offline_began).await;
    world
}

fn offline_began(entry: &Entry) -> bool {
    matches!(entry, Entry::TaskBegan { task, .. } if Task::is_offline(task))
}

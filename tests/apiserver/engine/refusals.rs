//! What is refused before a replica is touched, and how it is said.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{SynapseMaintenance, conditions::Type},
    contract::ErrorClass,
    operation::job,
};

use super::told;
use crate::stage::{
    Stage,
    ledger::Entry,
    operator::Operator,
    script::{Fate, Script, failure, success},
    tests,
    world::{FULL, SYNAPSE, World, outcomes, workload},
};

tests![
    a_synapse_that_does_not_exist_is_waited_for,
    a_suspended_synapse_is_waited_for,
    a_selector_that_matches_nothing,
    a_selector_that_matches_pods_instead_of_workloads,
    a_selector_that_matches_the_database,
    a_workload_that_two_homeservers_claim,
    a_workload_that_does_not_exist,
    a_stateful_set_that_would_delete_its_claims,
    data_on_an_empty_dir,
    a_preflight_that_finds_a_wrong_password,
    an_image_that_cannot_be_pulled,
    a_pod_that_no_node_takes,
    a_job_s_name_that_is_taken,
    counts_that_another_maintenance_has_not_given_back,
];

async fn a_synapse_that_does_not_exist_is_waited_for(stage: Arc<Stage>, test: &'static str) {
    let world = World::empty(&stage, test).await;
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let message = world.until_condition("m", Type::Ready, "False", "SynapseNotFound").await;
    for word in ["example", &world.namespace, "spec.synapseRef.name"] {
        assert!(message.contains(word), "{message}");
    }
    world.until_condition("m", Type::Reconciling, "True", "SynapseNotFound").await;
    assert_eq!(told(&world, "m", "SynapseNotFound").await, ("Warning".to_owned(), message));
    world.add_homeserver().await;
    world.until_complete("m").await;
    world.assert_all_is_back().await;
}

async fn a_suspended_synapse_is_waited_for(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let suspended = SYNAPSE.replace("  serverName", "  suspend: true\n  serverName");
    world.apply(&suspended).await;
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let message = world.until_condition("m", Type::Ready, "False", "SynapseSuspended").await;
    assert!(message.contains("spec.suspend"), "{message}");
    assert_eq!(told(&world, "m", "SynapseSuspended").await, ("Normal".to_owned(), message));
    assert!(world.lease().await.is_none());
    world.apply(&suspended.replace("suspend: true", "suspend: false")).await;
    world.until_complete("m").await;
}

async fn a_selector_that_matches_nothing(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let synapse =
        SYNAPSE.replace("app: synapse", "app: synaps").replace("    main: {kind: StatefulSet, name: main}\n", "");
    world.apply(&synapse).await;
    refused(
        &world,
        "WorkloadsNotFound",
        &["spec.workloads.selector", "no Deployment and no StatefulSet", &world.namespace],
    )
    .await;
}

async fn a_selector_that_matches_pods_instead_of_workloads(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.apply(&SYNAPSE.replace("app: synapse", "homeserver: example")).await;
    refused(
        &world,
        "WorkloadsNotFound",
        &["ReplicaSet/worker", "StatefulSet/main", "labels of the Deployment or StatefulSet objects"],
    )
    .await;
}

async fn a_selector_that_matches_the_database(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.apply(&workload("StatefulSet", "postgres", 1)).await;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: postgres}\nspec: {selector: {part: postgres}, ports: [{port: 5432}]}";
    world.apply(service).await;
    for host in ["postgres".to_owned(), format!("postgres.{}.svc.cluster.local", world.namespace)] {
        world.apply(&SYNAPSE.replace("host: postgres", &format!("host: {host}"))).await;
        refused(&world, "WorkloadIsPostgres", &["StatefulSet/postgres", &host, "narrow"]).await;
    }
}

async fn a_workload_that_two_homeservers_claim(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let other = SYNAPSE.replace("name: example}", "name: other}").replace(
        "selector: {matchLabels: {app: synapse}}\n    main: {kind: StatefulSet, name: main}",
        "refs: [{kind: Deployment, name: worker}]",
    );
    world.apply(&other).await;
    refused(&world, "WorkloadClaimedTwice", &["Deployment/worker", "Synapse other"]).await;
}

async fn a_workload_that_does_not_exist(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.apply(&SYNAPSE.replace("kind: StatefulSet, name: main", "kind: Deployment, name: main")).await;
    refused(&world, "WorkloadNotFound", &["Deployment/main", "spec.workloads"]).await;
    world.apply(&SYNAPSE.replace("kind: Deployment, name: mas", "kind: Deployment, name: mass")).await;
    refused(&world, "WorkloadNotFound", &["Deployment/mass"]).await;
}

async fn a_stateful_set_that_would_delete_its_claims(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let policy = "  persistentVolumeClaimRetentionPolicy: {whenScaled: Delete, whenDeleted: Retain}\n  template:";
    world.apply(&workload("StatefulSet", "main", 1).replace("  template:", policy)).await;
    refused_after(&world, 2, "ClaimsWouldBeDeleted", &["StatefulSet/main", "whenScaled: Delete", "Retain"]).await;
}

async fn data_on_an_empty_dir(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let volume =
        "        volumeMounts: [{name: data, mountPath: /data}]\n      volumes: [{name: data, emptyDir: {}}]\n";
    world
        .apply(&format!(
            "{}{volume}",
            workload("StatefulSet", "main", 1).trim_end_matches([' ', '\n']).to_owned() + "\n"
        ))
        .await;
    refused_after(&world, 2, "DataOnEmptyDir", &["StatefulSet/main", "/data", "PersistentVolumeClaim"]).await;
}

async fn a_preflight_that_finds_a_wrong_password(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let words = "PostgreSQL says: password authentication failed for user \"synapse\". Correct Secret synapse-postgres";
    let refusal = failure(ErrorClass::Terminal, "PasswordRefused", words);
    world.play(
        Script::default().tasks(move |task| (task.name() == "preflight").then(|| Fate::Reports(refusal.clone()))),
    );
    refused(&world, "PasswordRefused", &["step preflight", words]).await;
    assert_eq!(world.place.ledger.begun().len(), 1, "a terminal error is not tried again");
}

async fn an_image_that_cannot_be_pulled(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| (task.name() == "preflight").then_some(Fate::NoImage)));
    world.apply(&SYNAPSE.replace("  serverName", "  jobs: {startWithin: 20s}\n  serverName")).await;
    refused(&world, "PodDoesNotStart", &["step preflight", "ImagePullBackOff", "not found"]).await;
}

async fn a_pod_that_no_node_takes(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| (task.name() == "preflight").then_some(Fate::Unschedulable)));
    world.apply(&SYNAPSE.replace("  serverName", "  jobs: {startWithin: 20s}\n  serverName")).await;
    refused(&world, "PodDoesNotStart", &["Unschedulable", "Insufficient memory"]).await;
}

async fn a_job_s_name_that_is_taken(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.maintain("m", FULL).await;
    let uid = world.until_maintenance("m", "is there", |_| true).await.uid().expect("a UID");
    let name = job::name("m", &uid, 1, "preflight", 1);
    world.apply_foreign_job(&name).await;
    let _operator = world.operator();
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "JobNameTaken");
    assert!(message.contains("delete that Job"), "{message}");
    let left = world.api::<Job>().get(&name).await.expect("it is not ours to delete");
    assert_eq!(left.metadata.deletion_timestamp, None);
    world.assert_all_is_back().await;
}

async fn counts_that_another_maintenance_has_not_given_back(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| {
        let held = || Fate::Held(Fate::Reports(success(task)).into());
        (task.name() == "preflight").then(held)
    }));
    world.begin(FULL).await;
    world.place.ledger.until("preflight runs", |entry| matches!(entry, Entry::TaskBegan { .. })).await;
    // As if somebody had deleted the Lease of one whose operator was away: its counts are in its status alone.
    world.maintain("other", &format!("dryRun: true\n{FULL}")).await;
    world.until_condition("other", Type::Ready, "False", "HomeserverBusy").await;
    let worker = json!({"kind": "Deployment", "name": "worker", "role": "Worker", "replicas": 2, "ready": 2});
    let window = json!({"workloads": [worker], "recordedAt": jiff::Timestamp::now()});
    let patch = Patch::Merge(json!({"status": {"run": {"window": window}}}));
    world.api::<SynapseMaintenance>().patch_status("other", &PatchParams::default(), &patch).await.expect("a status");
    world.play(Script::default());
    world.place.release();
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "CountsHeldElsewhere", "{message}");
    assert!(message.contains("SynapseMaintenance other") && message.contains("wait for it"), "{message}");
    assert_eq!(world.generations().await, [1, 1, 1, 1], "no replica was touched");
    world.until_maintenance("other", "has ended", |object| !outcomes(object).is_empty()).await;
    world.assert_all_is_back().await;
}

/// A full vacuum fails for this reason, in these words, and no replica was touched.
async fn refused(world: &World, reason: &str, said: &[&str]) {
    refused_after(world, 1, reason, said).await;
}

/// The same where the test itself has changed the main process `main - 1` times.
async fn refused_after(world: &World, main: i64, reason: &str, said: &[&str]) {
    let operator: Operator = world.operator();
    world.maintain("m", FULL).await;
    let (found, message) = world.until_failed("m").await;
    assert_eq!(found, reason, "{message}");
    for word in said {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    world.until_condition("m", Type::Stalled, "True", reason).await;
    assert_eq!(world.generations().await, [main, 1, 1, 1], "no replica was touched");
    assert!(!world.place.ledger.begun().iter().any(|work| work.contains("vacuum")), "no step ran");
    world.assert_all_is_back().await;
    drop(operator);
    world.api::<SynapseMaintenance>().delete("m", &Default::default()).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
}

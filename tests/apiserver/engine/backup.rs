//! Backups are operations like the others: the same engine, another recipe, a status of its own.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::{ResourceExt, api::DeleteParams};
use synapse_keeper::{
    api::{
        SynapseBackup, SynapseMaintenance,
        conditions::{self, Type},
        operation::Outcome,
    },
    contract::ErrorClass,
};

use super::endings::strip_finalizers;
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, failure, success},
    tests,
    world::{FULL, World},
};

tests![
    a_backup_says_what_there_is,
    a_quiesced_backup_takes_the_homeserver_down_and_brings_it_back,
    a_backup_and_a_maintenance_take_turns,
    a_dead_backup_s_replicas_come_back,
    old_backups_go_when_the_homeserver_is_free_again,
    old_backups_that_do_not_go_are_told_and_are_no_failure,
    a_backup_that_fails_takes_nothing_away,
];

/// On a schedule that does not come up while the test runs.
pub fn backup(fields: &str) -> String {
    format!(
        "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseBackup
metadata: {{name: nightly}}
spec:
  synapseRef: {{name: example}}
  repository: {{secretName: s3}}
  schedule: {{cron: '@yearly'}}
  {fields}
"
    )
}

pub async fn until_backup(world: &World, what: &str, wanted: impl Fn(&SynapseBackup) -> bool) -> SynapseBackup {
    let wanted = move |object: Option<&SynapseBackup>| object.is_some_and(&wanted);
    world.until("nightly", what, wanted).await.expect("it is there")
}

/// How its runs ended, newest first.
pub fn outcomes(object: &SynapseBackup) -> Vec<Outcome> {
    let history = object.status.iter().flat_map(|status| &status.operation.history);
    history.map(|entry| entry.outcome).collect()
}

pub async fn until_runs(world: &World, runs: usize) -> SynapseBackup {
    until_backup(world, &format!("has run {runs} times"), |object| {
        let conditions = object.status.as_ref().map(|status| status.operation.conditions.as_slice());
        outcomes(object).len() == runs && conditions::is_true(conditions.unwrap_or_default(), Type::Ready)
    })
    .await
}

async fn a_backup_says_what_there_is(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let operator = world.operator();
    let first = once(&world, "").await;
    world.run_now::<SynapseBackup>("nightly", "2").await;
    let second = until_runs(&world, 2).await;
    assert_eq!(outcomes(&second), [Outcome::Succeeded; 2]);
    let status = second.status.clone().unwrap();
    let ids: Vec<&str> = status.snapshots.iter().map(|snapshot| snapshot.id.as_str()).collect();
    assert_eq!((ids, status.snapshot_count), (vec!["snapshot-2", "snapshot-1"], Some(2)));
    assert_eq!(
        (status.snapshots[0].size.as_str(), status.last_success_at),
        ("2.0 GiB", status.snapshots[0].taken_at.clone())
    );
    assert_eq!(world.generations().await, [1, 1, 1, 1], "nothing was scaled");

    // The operator before may have been killed, and its memory with it: all that counts is on record.
    operator.kill().await;
    let _operator = world.operator();
    world.run_now::<SynapseBackup>("nightly", "3").await;
    assert_eq!(until_runs(&world, 3).await.status.unwrap().snapshot_count, Some(3));

    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let of_last =
        jobs.iter().filter(|job| job.owner_references().iter().any(|owner| owner.uid == first.uid().unwrap()));
    for job in of_last {
        let pod = job.spec.clone().unwrap().template.spec.unwrap();
        let secrets: Vec<_> = pod.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref()).collect();
        assert!(secrets.iter().any(|secret| secret.secret_name.as_deref() == Some("s3")), "{}", job.name_any());
        let args = pod.containers[0].args.clone().unwrap().join(" ");
        assert!(!args.contains("--init") && !args.contains(r#""init":true"#), "it had a backup before: {args}");
        assert!(args.contains("example.org") && args.contains(&first.uid().unwrap()), "{args}");
    }
}

/// A backup with these fields, to its end.
pub async fn once(world: &World, fields: &str) -> SynapseBackup {
    world.apply(&backup(fields)).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    until_runs(world, 1).await
}

async fn a_quiesced_backup_takes_the_homeserver_down_and_brings_it_back(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    let done = once(&world, "quiesce: true").await;
    let last = done.status.unwrap().operation.last.unwrap();
    assert!(last.downtime_seconds.is_some(), "{last:?}");
    world.assert_homeserver_is_back().await;
    assert_eq!(world.generations().await, [3, 3, 1, 3], "down once and up once");
    assert!(
        world
            .place
            .ledger
            .entries()
            .iter()
            .any(|entry| matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline()))
    );
}

/// Holds the Lease of the homeserver with a backup whose task does not end.
async fn held(world: &World, fields: &str) {
    world.play(
        Script::default()
            .tasks(|task: &Task| (task.name() == "backup").then(|| Fate::Held(Fate::Reports(success(task)).into()))),
    );
    world.apply(&backup(fields)).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "backup");
    world.place.ledger.until("the backup runs", began).await;
}

async fn a_backup_and_a_maintenance_take_turns(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    held(&world, "").await;
    world.maintain("m", FULL).await;
    let message = world.until_condition("m", Type::Ready, "False", "HomeserverBusy").await;
    assert!(message.contains("SynapseBackup nightly"), "{message}");
    world.place.release();
    world.until_complete("m").await;
    until_runs(&world, 1).await;
    world.assert_all_is_back().await;
}

async fn a_dead_backup_s_replicas_come_back(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let operator = world.operator();
    held(&world, "quiesce: true").await;
    // Its Lease is an orphan's only once it is gone: a second operator leaves a live one alone.
    operator.kill().await;
    let operator = world.operator();
    world.maintain("m", FULL).await;
    world.until_condition("m", Type::Ready, "False", "HomeserverBusy").await;
    assert!(world.lease().await.is_some());
    operator.kill().await;

    world.api::<SynapseBackup>().delete("nightly", &DeleteParams::default()).await.expect("it is there");
    strip_finalizers::<SynapseBackup>(&world, "nightly").await;
    world.until_gone::<SynapseBackup>("nightly").await;
    let _operator = world.operator();
    world.until_complete("m").await;
    world.assert_all_is_back().await;
    let done = world.api::<SynapseMaintenance>().get("m").await.expect("it is there");
    assert!(done.finalizers().is_empty());
}

/// What becomes of a task with this name.
pub fn only(name: &'static str, fate: impl Fn(&Task) -> Fate + Send + Sync + 'static) -> Script {
    Script::default().tasks(move |task| (task.name() == name).then(|| fate(task)))
}

async fn old_backups_go_when_the_homeserver_is_free_again(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let operator = world.operator();
    world.play(only("retain", |task| Fate::Held(Fate::Reports(success(task)).into())));
    world.apply(&backup("retention: {keepDaily: 7}")).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "retain");
    world.place.ledger.until("the retention runs", began).await;
    // It may take hours: nobody waits for it.
    world.maintain("m", FULL).await;
    world.until_complete("m").await;
    assert_eq!(outcomes(&world.api::<SynapseBackup>().get("nightly").await.expect("it is there")), []);
    operator.kill().await;
    let _operator = world.operator();
    world.place.release();
    until_runs(&world, 1).await;
    assert_eq!(world.place.ledger.begun().iter().filter(|work| work.contains("retain")).count(), 1);
    world.assert_homeserver_is_back().await;
}

async fn old_backups_that_do_not_go_are_told_and_are_no_failure(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.play(only("retain", |_| {
        Fate::Reports(failure(ErrorClass::Terminal, "RepositoryFull", "the storage is full"))
    }));
    let done = once(&world, "retention: {keepDaily: 7}").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    let status = done.status.unwrap();
    let told = conditions::find(&status.operation.conditions, Type::RetentionFailed).expect("it is told");
    assert!(told.status == "True" && told.reason == "RepositoryFull", "{told:?}");
    assert!(told.message.contains("the storage is full"), "{told:?}");
    assert_eq!(status.snapshot_count, Some(1), "the backup is there");
    let (type_, note) = super::told(&world, "nightly", "StepFailed").await;
    assert_eq!(type_, "Warning");
    assert!(note.contains("the storage is full"), "{note}");

    world.play(Script::default());
    world.run_now::<SynapseBackup>("nightly", "2").await;
    let status = until_runs(&world, 2).await.status.unwrap();
    assert_eq!(conditions::find(&status.operation.conditions, Type::RetentionFailed), None);
}

async fn a_backup_that_fails_takes_nothing_away(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.play(only("backup", |_| Fate::Reports(failure(ErrorClass::Terminal, "DumpFailed", "pg_dump: error"))));
    world.apply(&backup("retention: {keepLast: 1}")).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    let failed = until_backup(&world, "has failed", |object| outcomes(object) == [Outcome::Failed]).await;
    assert_eq!(failed.status.unwrap().operation.history[0].reason.as_deref(), Some("DumpFailed"));
    assert!(!world.place.ledger.begun().iter().any(|work| work.contains("retain")), "{}", world.place.ledger);
}

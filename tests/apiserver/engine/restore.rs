//! Restores: another recipe on the same engine, which waits for a backup object, and takes back what Synapse does not start
//! with.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use k8s_openapi::api::{batch::v1::Job, core::v1::PodSpec};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::api::{
    Synapse, SynapseBackup, SynapseRestore,
    operation::{OperationStatus, Outcome},
};

use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, Trouble, success},
    tests,
    world::World,
};

tests![
    a_restore_of_half_a_homeserver_is_refused,
    a_restore_has_both_databases_and_the_service_stops_and_starts_with_synapse,
    a_restore_waits_for_the_backup_that_it_names,
    what_no_pod_is_ready_with_is_taken_back_whoever_is_killed,
    a_synapse_that_did_not_run_before_must_run_afterwards,
];

pub fn restore(fields: &str) -> String {
    format!(
        "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseRestore
metadata: {{name: after-the-fire}}
spec:
  synapseRef: {{name: example}}
  {fields}
"
    )
}

/// The service's database is in no backup: here the workload is one like the others.
pub async fn without_mas(stage: &Arc<Stage>, test: &str) -> World {
    let world = World::with_homeserver(stage, test).await;
    take_mas_for_a_workload(&world).await;
    world
}

async fn take_mas_for_a_workload(world: &World) {
    let workload = |kind, name| json!({"kind": kind, "name": name});
    let deployments = ["worker", "idle", "mas"].map(|name| workload("Deployment", name));
    let refs = [&[workload("StatefulSet", "main")], &deployments[..]].concat();
    let spec = json!({"matrixAuthenticationService": null, "workloads": {"selector": null, "refs": refs}});
    let patch = Patch::Merge(json!({"spec": spec}));
    world.api::<Synapse>().patch("example", &PatchParams::default(), &patch).await.expect("it is there");
}

fn status(object: &SynapseRestore) -> OperationStatus {
    object.status.as_ref().map(|status| status.operation.clone()).unwrap_or_default()
}

async fn until(world: &World, what: &str, wanted: impl Fn(&OperationStatus) -> bool) -> OperationStatus {
    let wanted = move |object: Option<&SynapseRestore>| object.is_some_and(|object| wanted(&status(object)));
    status(&world.until("after-the-fire", what, wanted).await.expect("it is there"))
}

pub async fn until_ended(world: &World) -> OperationStatus {
    until(world, "has ended", |status| !status.history.is_empty()).await
}

/// A restore from the newest backup of `nightly`, to its end.
pub async fn once(world: &World) -> OperationStatus {
    take_mas_for_a_workload(world).await;
    world.apply(&restore("from: {backupRef: {name: nightly}}")).await;
    until_ended(world).await
}

async fn a_restore_waits_for_the_backup_that_it_names(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    let _operator = world.operator();
    world.apply(&restore("from: {backupRef: {name: nightly}}")).await;
    let reason = |status: &OperationStatus| status.conditions.iter().any(|one| one.reason == "BackupNotFound");
    let waits = until(&world, "says what it waits for", reason).await;
    assert!(waits.conditions.iter().any(|one| one.message.contains("no SynapseBackup nightly")), "{waits:?}");
    assert!(world.lease().await.is_none(), "nobody is kept from the homeserver meanwhile");

    world
        .apply(
            "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseBackup
metadata: {name: nightly}
spec:
  synapseRef: {name: example}
  repository: {secretName: of-nightly}
  schedule: {cron: '@yearly'}
",
        )
        .await;
    let ended = until_ended(&world).await;
    assert_eq!(ended.history[0].outcome, Outcome::Succeeded, "{:?}", ended.history);
    world.assert_homeserver_is_back().await;
    let uid = world.api::<SynapseBackup>().get("nightly").await.expect("it is there").uid().unwrap();
    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let pods = jobs.into_iter().map(|job| job.spec.unwrap().template.spec.unwrap());
    let pods: Vec<PodSpec> = pods.collect();
    let of_task = |task: &str| {
        let is_it = |pod: &&PodSpec| pod.containers[0].args.as_ref().is_some_and(|args| args[0] == task);
        pods.iter().find(is_it).expect("a Job of the restore").clone()
    };
    // Synapse is asked before anything begins.
    let preflight = of_task("preflight");
    let own: Vec<_> = preflight.init_containers.iter().flatten().map(|own| (&own.image, &own.args)).collect();
    let file = "/var/run/synapse-keeper/synapse/schema.json".to_owned();
    assert_eq!(own, [(&Some("localhost/it:1".to_owned()), &Some(vec![file.clone()]))]);
    assert!(preflight.containers[0].args.as_ref().unwrap().contains(&format!("--synapse-schema-file={file}")));
    let pod = of_task("restore-database");
    let args = pod.containers[0].args.clone().unwrap();
    assert!(args.contains(&format!("--origin={uid}")), "{args:?}");
    assert!(pod.init_containers.is_none(), "{pod:?}");
    let secrets: Vec<String> =
        pod.volumes.unwrap().into_iter().filter_map(|volume| volume.secret?.secret_name).collect();
    assert!(secrets.contains(&"of-nightly".to_owned()), "{secrets:?}");
}

/// Pods are Ready but while the homeserver has what `swap-database` gave it.
fn picky() -> Script {
    let swapped = Arc::new(AtomicBool::new(false));
    let sees = swapped.clone();
    Script::default()
        .tasks(move |task: &Task| {
            if task.name() == "swap-database" {
                swapped.store(!task.args.contains(&"--back".to_owned()), Ordering::SeqCst);
            }
            None
        })
        .pods(move |_| sees.load(Ordering::SeqCst).then_some(Trouble::NeverReady))
}

async fn what_no_pod_is_ready_with_is_taken_back_whoever_is_killed(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    world.play(picky());
    let mut operator = world.operator();
    world.apply(&restore("from: {repository: {secretName: s3}}\n  downtime: {readyWithin: 3s}")).await;
    let undoing = |status: &OperationStatus| status.run.as_ref().is_some_and(|run| run.undo.is_some());
    until(&world, "takes it back", undoing).await;
    operator.kill().await;
    operator = world.operator();
    let back =
        |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.args.contains(&"--back".to_owned()));
    world.place.ledger.until("the swap back runs", back).await;
    operator.kill().await;
    let _operator = world.operator();

    let ended = until_ended(&world).await;
    let last = &ended.history[0];
    assert_eq!((last.outcome, last.reason.as_deref()), (Outcome::Failed, Some("NotReadyAgain")), "{last:?}");
    assert!(last.message.as_ref().is_some_and(|message| message.contains("it was rolled back")), "{last:?}");
    world.assert_homeserver_is_back().await;
    assert_eq!(world.generations().await, [5, 5, 1, 5], "down and up, and once more");
    assert_eq!(world.place.ledger.entries().iter().filter(|entry| back(entry)).count(), 1);
    assert!(world.place.ledger.offline_beside_pods().is_empty());
}

/// Who restores because nothing runs any more wants more than what there was before.
async fn a_synapse_that_did_not_run_before_must_run_afterwards(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    // Ill from the beginning, until the database is there.
    let swapped = Arc::new(AtomicBool::new(false));
    let sees = swapped.clone();
    world.play(
        Script::default()
            .tasks(move |task: &Task| {
                let is_swap = task.name() == "swap-database";
                swapped.fetch_or(is_swap, Ordering::SeqCst);
                is_swap.then(|| Fate::Reports(success(task)))
            })
            .pods(move |_| (!sees.load(Ordering::SeqCst)).then_some(Trouble::NeverReady)),
    );
    for replicas in [0, 1] {
        world.scale("StatefulSet", "main", replicas).await;
    }
    let _operator = world.operator();
    world.apply(&restore("from: {repository: {secretName: s3}}")).await;
    let ended = until_ended(&world).await;
    assert_eq!(ended.history[0].outcome, Outcome::Succeeded, "{:?}", ended.history);
    world.assert_homeserver_is_back().await;
}

async fn a_restore_of_half_a_homeserver_is_refused(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.apply(&restore("from: {repository: {secretName: s3}}")).await;
    let ended = until_ended(&world).await;
    assert_eq!(ended.history[0].reason.as_deref(), Some("AuthenticationNotNamed"), "{:?}", ended.history);
    world.assert_homeserver_is_back().await;
    assert_eq!(world.generations().await, [1, 1, 1, 1], "nothing was touched");
}

async fn a_restore_has_both_databases_and_the_service_stops_and_starts_with_synapse(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    let postgres = json!({
        "host": "mas-db", "database": "mas", "credentials": {"secretName": "of-mas"},
        "adminCredentials": {"secretName": "admin-of-mas"},
    });
    let patch = Patch::Merge(json!({"spec": {"matrixAuthenticationService": {"postgres": postgres}}}));
    world.api::<Synapse>().patch("example", &PatchParams::default(), &patch).await.expect("it is there");
    let _operator = world.operator();
    let spec = "apiVersion: synapse-keeper.dev/v1alpha1\nkind: SynapseBackup\nmetadata: {name: before}\n\
                spec: {synapseRef: {name: example}, repository: {secretName: s3}}";
    world.apply(spec).await;
    let over = |object: Option<&SynapseBackup>| {
        object.and_then(|object| object.status.as_ref()).is_some_and(|status| !status.operation.history.is_empty())
    };
    world.until("before", "has ended", over).await;
    world.apply(&restore("from: {repository: {secretName: s3}}")).await;
    let ended = until_ended(&world).await;
    assert_eq!(ended.history[0].outcome, Outcome::Succeeded, "{:?}", ended.history);
    world.assert_homeserver_is_back().await;
    assert_eq!(world.generations().await, [3, 3, 1, 3], "the service was down as well");

    for job in world.api::<Job>().list(&kube::api::ListParams::default()).await.expect("Jobs").items {
        let pod = job.spec.and_then(|spec| spec.template.spec).expect("a Pod");
        let args = pod.containers[0].args.clone().unwrap_or_default();
        let volumes = pod.volumes.unwrap_or_default().into_iter();
        let secrets: Vec<String> = volumes.filter_map(|volume| volume.secret?.secret_name).collect();
        let has = |secret: &str| secrets.contains(&secret.to_owned());
        let is_told = args.contains(&"--mas-database=mas".to_owned()) || args[0] == "preflight";
        match args[0].as_str() {
            "backup" => assert!(is_told && has("of-mas") && !has("admin-of-mas"), "{args:?} {secrets:?}"),
            "restore-database" | "swap-database" => {
                assert!(is_told && has("of-mas") && has("admin-of-mas"), "{args:?} {secrets:?}");
            }
            "preflight" => assert!(has("of-mas"), "{args:?} {secrets:?}"),
            _ => assert!(!has("of-mas") && !has("admin-of-mas"), "{args:?} needs none of it: {secrets:?}"),
        }
    }
}

//! Media in a backup: when their step runs, what its failure means, and on which node.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodSpec},
};
use kube::{ResourceExt, api::DeleteParams};
use synapse_keeper::{
    api::{SynapseBackup, operation::Outcome},
    contract::ErrorClass,
};

use super::backup::{backup, once, only, outcomes, until_backup, until_runs};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, Trouble, failure, success},
    tests,
    world::{FULL, SYNAPSE, World},
};

tests![
    media_are_uploaded_while_the_homeserver_is_free_and_without_them_there_is_no_backup,
    media_that_are_not_stored_are_no_backup_and_nothing_old_goes,
    media_are_read_on_the_node_of_the_pod_that_has_them,
    who_needs_the_media_on_another_node_goes_first,
    a_claim_that_no_job_can_have_is_refused_before_anything_begins,
    what_is_listed_and_not_named_is_refused,
];

/// The homeserver has media on a claim.
async fn with_media(stage: &Arc<Stage>, test: &'static str, access_mode: &str) -> World {
    let world = World::with_homeserver(stage, test).await;
    world
        .apply(&format!(
            "
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: synapse-media}}
spec: {{accessModes: [{access_mode}], resources: {{requests: {{storage: 1Gi}}}}}}"
        ))
        .await;
    world.apply(&format!("{SYNAPSE}  mediaStore: {{claimName: synapse-media}}\n")).await;
    world
}

/// A Pod of somebody's that has the media on a node.
async fn pod_with_media(world: &World, name: &str, node: &str) {
    let pod = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app.kubernetes.io/managed-by: Helm}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 1
  containers: [{{name: it, image: localhost/it:1}}]
  volumes: [{{name: media, persistentVolumeClaim: {{claimName: synapse-media}}}}]"
    );
    world.apply(&pod).await;
}

async fn until_runs_on_its_node(world: &World, name: &str) {
    world
        .until::<Pod>(name, "runs", |pod| {
            let status = pod.and_then(|pod| pod.status.as_ref());
            status.is_some_and(|status| status.phase.as_deref() == Some("Running"))
        })
        .await;
}

/// The Jobs of a step, in the order in which they were made.
async fn pods_of(world: &World, step: &str) -> Vec<PodSpec> {
    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let mut jobs: Vec<Job> =
        jobs.into_iter().filter(|job| job.name_any().starts_with(&format!("nightly-{step}-"))).collect();
    jobs.sort_by_key(|job| job.creation_timestamp().map(|time| time.0));
    jobs.into_iter().map(|job| job.spec.unwrap().template.spec.unwrap()).collect()
}

/// The nodes to which a Pod is bound by its affinity.
fn nodes(pod: &PodSpec) -> Vec<String> {
    let affinity = pod.affinity.iter().filter_map(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.filter_map(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let fields =
        required.flat_map(|required| &required.node_selector_terms).flat_map(|term| term.match_fields.iter().flatten());
    fields.flat_map(|field| field.values.clone().unwrap_or_default()).collect()
}

fn began(task: &str) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::TaskBegan { task: began, .. } if began.name() == task)
}

fn held(task: &Task) -> Fate {
    Fate::Held(Fate::Reports(success(task)).into())
}

async fn media_are_uploaded_while_the_homeserver_is_free_and_without_them_there_is_no_backup(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = with_media(&stage, test, "ReadWriteMany").await;
    let operator = world.operator();
    world.play(only("backup-media", held));
    world.apply(&backup("retention: {keepDaily: 7}")).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    world.place.ledger.until("the media are uploaded", began("backup-media")).await;
    // A first upload of terabytes takes days: nobody waits for it.
    world.maintain("m", FULL).await;
    world.until_complete("m").await;
    let status = world.api::<SynapseBackup>().get("nightly").await.expect("it is there").status.unwrap();
    assert_eq!((status.snapshot_count, status.last_success_at), (None, None), "there is no backup yet");
    assert!(!world.place.ledger.begun().iter().any(|work| work.contains("retain")), "{}", world.place.ledger);

    operator.kill().await;
    let _operator = world.operator();
    world.place.release();
    let done = until_runs(&world, 1).await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    assert_eq!(done.status.unwrap().snapshot_count, Some(1));
    let begun = world.place.ledger.begun();
    for task in ["backup-media", "retain"] {
        assert_eq!(begun.iter().filter(|work| work.contains(task)).count(), 1, "{}", world.place.ledger);
    }
    assert_eq!(nodes(&pods_of(&world, "media").await[0]), [""; 0], "all nodes can have it at once");
    world.assert_homeserver_is_back().await;
}

async fn media_that_are_not_stored_are_no_backup_and_nothing_old_goes(stage: Arc<Stage>, test: &'static str) {
    let world = with_media(&stage, test, "ReadWriteOnce").await;
    let _operator = world.operator();
    world.play(only("backup-media", |_| {
        Fate::Reports(failure(ErrorClass::Terminal, "MediaUnreadable", "User 65532 may not read the media"))
    }));
    world.apply(&backup("quiesce: true\n  retention: {keepLast: 1}")).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    let failed = until_backup(&world, "has failed", |object| outcomes(object) == [Outcome::Failed]).await;
    let status = failed.status.unwrap();
    assert_eq!(status.operation.history[0].reason.as_deref(), Some("MediaUnreadable"));
    assert_eq!((status.snapshot_count, status.last_success_at), (None, None));
    assert!(!world.place.ledger.begun().iter().any(|work| work.contains("retain")), "{}", world.place.ledger);
    world.assert_homeserver_is_back().await;

    // The next one finds it mended.
    world.play(Script::default());
    world.run_now::<SynapseBackup>("nightly", "2").await;
    let done = until_runs(&world, 2).await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded, Outcome::Failed]);
}

async fn media_are_read_on_the_node_of_the_pod_that_has_them(stage: Arc<Stage>, test: &'static str) {
    let world = with_media(&stage, test, "ReadWriteOnce").await;
    pod_with_media(&world, "synapse-0", "node-7").await;
    until_runs_on_its_node(&world, "synapse-0").await;
    let _operator = world.operator();
    once(&world, "remoteMedia: true").await;
    for step in ["preflight", "media"] {
        let pod = &pods_of(&world, step).await[0];
        assert_eq!(nodes(pod), ["node-7"], "{step}");
        let volume = pod.volumes.iter().flatten().find(|volume| volume.persistent_volume_claim.is_some()).unwrap();
        let claim = volume.persistent_volume_claim.as_ref().unwrap();
        assert_eq!((claim.claim_name.as_str(), claim.read_only), ("synapse-media", Some(true)));
    }
    for step in ["database", "retention"] {
        assert_eq!(nodes(&pods_of(&world, step).await[0]), [""; 0], "{step} needs no media");
    }
    let args = pods_of(&world, "media").await[0].containers[0].args.clone().unwrap();
    assert!(args.contains(&"--remote-media".to_owned()), "{args:?}");
    assert!(!args.iter().any(|arg| arg.contains("credentials")), "it needs no database: {args:?}");
}

async fn who_needs_the_media_on_another_node_goes_first(stage: Arc<Stage>, test: &'static str) {
    let world = with_media(&stage, test, "ReadWriteOnce").await;
    pod_with_media(&world, "synapse-0", "node-7").await;
    until_runs_on_its_node(&world, "synapse-0").await;
    let operator = world.operator();
    let first = |task: &Task| (task.name() == "backup-media").then_some(Fate::RunsUntilDeleted);
    let volume_elsewhere = |pod: &str| (pod == "synapse-1").then_some(Trouble::NeverStarts);
    world.play(Script::default().tasks(first).pods(volume_elsewhere));
    world.apply(&backup("")).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    world.place.ledger.until("the media are uploaded", began("backup-media")).await;

    // The node is drained: Synapse's Pod comes elsewhere, and its volume does not.
    world.api::<Pod>().delete("synapse-0", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<Pod>("synapse-0").await;
    pod_with_media(&world, "synapse-1", "node-8").await;
    operator.kill().await;
    world.play(Script::default().pods(volume_elsewhere));
    let _operator = world.operator();
    let stopped = |entry: &Entry| matches!(entry, Entry::TaskStopped { task, .. } if task.name() == "backup-media");
    world.place.ledger.until("the Job gives way", stopped).await;
    let done = until_runs(&world, 1).await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    let last = pods_of(&world, "media").await.pop().unwrap();
    assert_eq!(nodes(&last), ["node-8"]);
    let (type_, note) = super::told(&world, "nightly", "StepRetried").await;
    assert!(type_ == "Warning" && note.contains("Pod synapse-1"), "{note}");
}

async fn a_claim_that_no_job_can_have_is_refused_before_anything_begins(stage: Arc<Stage>, test: &'static str) {
    let world = with_media(&stage, test, "ReadWriteOncePod").await;
    let _operator = world.operator();
    refused(&world, "1", "ClaimOfOnePod", "ReadWriteOncePod").await;
    world.apply(&format!("{SYNAPSE}  mediaStore: {{claimName: nowhere}}\n")).await;
    refused(&world, "2", "ClaimNotFound", "nowhere").await;
}

async fn what_is_listed_and_not_named_is_refused(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.apply(&backup("contents: [Database, Media]")).await;
    refused(&world, "1", "ContentsNotNamed", "spec.mediaStore").await;
}

/// A run fails for this reason, and no Job was made.
async fn refused(world: &World, run: &str, reason: &str, said: &str) {
    if run == "1" && world.api::<SynapseBackup>().get_opt("nightly").await.expect("an answer").is_none() {
        world.apply(&backup("")).await;
    }
    world.run_now::<SynapseBackup>("nightly", run).await;
    let runs: usize = run.parse().expect("a number");
    let failed = until_backup(world, "has failed", |object| outcomes(object) == vec![Outcome::Failed; runs]).await;
    let entry = &failed.status.unwrap().operation.history[0];
    assert_eq!(entry.reason.as_deref(), Some(reason), "{entry:?}");
    assert!(entry.message.as_ref().unwrap().contains(said), "{entry:?}");
    assert_eq!(world.place.ledger.begun(), [""; 0]);
    world.assert_homeserver_is_back().await;
}

//! The whole life of an operation, as a user sees it.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::Value;
use synapse_keeper::api::{conditions::Type, operation::Outcome};

use super::rights::{config_of, install};
use crate::stage::{
    Stage,
    ledger::Entry,
    script::{Fate, Script, success},
    tests,
    world::{ANALYZE_AND_FULL, FULL, SYNAPSE, World, is, outcomes, run},
};

tests![
    a_full_vacuum_takes_the_homeserver_down_and_brings_it_back,
    mas_stops_last_and_starts_first,
    what_is_edited_meanwhile_waits_for_the_next_run,
];

async fn a_full_vacuum_takes_the_homeserver_down_and_brings_it_back(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.maintain("m", ANALYZE_AND_FULL).await;
    let done = world.until_complete("m").await;

    world.assert_all_is_back().await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    assert!(is(&done, Type::Ready) && !is(&done, Type::Reconciling) && !is(&done, Type::Stalled));
    let status = done.status.unwrap();
    let last = status.last.unwrap();
    assert_eq!(last.freed_bytes, Some(2_000_000));
    assert!(last.downtime_seconds.is_some(), "{last:?}");
    assert_eq!(world.place.ledger.begun().len(), 3, "{}", world.place.ledger);
    assert_eq!(world.generations().await, [3, 3, 1, 3], "down once and up once; what had 0 was never touched");
}

async fn mas_stops_last_and_starts_first(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    // Of accounts alone there is an audit log.
    let account = install(&world).await;
    world.installation.client = config_of(&world, &account).await;
    world.begin(FULL).await;
    world.until_complete("m").await;
    let log = stage.control_plane.audit_log();
    assert_eq!(scaled(&log, &world.namespace), ["worker", "main", "mas", "mas", "main", "worker"]);
}

/// The workloads whose scale was written, in that order.
fn scaled(log: &str, namespace: &str) -> Vec<String> {
    let entries = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    entries
        .filter_map(|entry| {
            let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
            let is_ours = text("/objectRef/namespace") == namespace
                && text("/objectRef/subresource") == "scale"
                && text("/verb") == "patch";
            is_ours.then(|| text("/objectRef/name"))
        })
        .collect()
}

async fn what_is_edited_meanwhile_waits_for_the_next_run(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| {
        let held = || Fate::Held(Fate::Reports(success(task)).into());
        (task.name() == "preflight").then(held)
    }));
    world.begin(ANALYZE_AND_FULL).await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "preflight");
    world.place.ledger.until("preflight runs", began).await;
    let edited = SYNAPSE
        .replace("host: postgres", "host: elsewhere")
        .replace("  serverName", "  jobs: {image: 'localhost/newer:2'}\n  serverName");
    world.apply(&edited).await;
    world.place.release();
    let done = world.until_complete("m").await;
    let uid = done.uid().expect("a UID");
    assert_eq!(run(&done).unwrap().synapse.as_ref().unwrap().spec.postgres.host, "postgres");
    assert_eq!(made_of(&world, &uid).await, vec![("localhost/tools:1".to_owned(), true); 4]);

    world.play(Script::default());
    world.maintain("n", FULL).await;
    let uid = world.until_complete("n").await.uid().expect("a UID");
    assert_eq!(made_of(&world, &uid).await, vec![("localhost/newer:2".to_owned(), false); 3]);
    world.assert_all_is_back().await;
}

/// Of each Job of a maintenance: its image, and whether it goes to the first host.
async fn made_of(world: &World, uid: &str) -> Vec<(String, bool)> {
    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let ours = jobs.into_iter().filter(|job| job.owner_references().iter().any(|owner| owner.uid == uid));
    ours.map(|job| {
        let container = job.spec.expect("a spec").template.spec.expect("a Pod").containers.remove(0);
        let first = container.args.unwrap_or_default().contains(&"--host=postgres".to_owned());
        (container.image.unwrap_or_default(), first)
    })
    .collect()
}

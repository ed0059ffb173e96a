//! Drills: backups are restored beside whatever else goes on, and nothing of it is left.

use std::sync::Arc;

use http::Method;
use k8s_openapi::{
    api::{apps::v1::StatefulSet, batch::v1::Job, coordination::v1::Lease},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{
        Synapse, SynapseBackup, VERIFY_NOW,
        backup::BackupStatus,
        conditions::{self, Type},
        operation::{OperationStatus, Outcome},
    },
    contract::{ErrorClass, Report},
    operation::job::LANE,
};

use super::{
    backup::{backup, outcomes, until_backup, until_runs},
    crash::{series, two_lives},
    told,
};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, failure, success, verdict},
    tests,
    world::{FULL, World},
};

tests![
    a_drill_restores_the_newest_backup_and_leaves_nothing,
    a_drill_and_a_backup_run_beside_each_other,
    a_drill_runs_while_the_homeserver_is_down_for_another,
    a_damaged_backup_is_told_and_the_next_backup_is_made,
    a_drill_that_cannot_start_is_no_verdict,
    a_drill_that_cannot_run_is_told_at_once,
    a_backup_that_was_verified_costs_nothing,
    a_drill_with_synapse_runs_the_image_of_the_main_process,
    killed_at_every_request_of_a_drill,
];

/// Drills on a schedule that does not come up while the test runs.
const VERIFY: &str = "verify: {cron: '@yearly', image: 'localhost/postgres:15'}";

pub(super) async fn verify_now(world: &World, value: &str) {
    let patch = Patch::Merge(json!({"metadata": {"annotations": {VERIFY_NOW: value}}}));
    world.api::<SynapseBackup>().patch("nightly", &PatchParams::default(), &patch).await.expect("it is there");
}

fn drills(object: &SynapseBackup) -> Option<&OperationStatus> {
    object.status.as_ref()?.verification.as_deref()
}

/// Waits until the drill that this annotation has asked for is over.
pub(super) async fn until_drilled(world: &World, value: &str) -> BackupStatus {
    let what = format!("was drilled for {value}");
    let drilled = until_backup(world, &what, |object| {
        let answered = drills(object).filter(|drills| drills.run_now_answered.as_deref() == Some(value));
        answered.is_some_and(|drills| drills.run.as_ref().is_some_and(|run| run.is_finished()))
    });
    drilled.await.status.expect("it has one")
}

/// A backup, once, of an object that also wants drills.
async fn backed_up(world: &World) {
    world.apply(&backup(VERIFY)).await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    until_runs(world, 1).await;
}

pub(super) fn verified(status: &BackupStatus) -> (&str, &str) {
    let condition = conditions::find(&status.operation.conditions, Type::Verified).expect("it is told");
    (condition.status.as_str(), condition.reason.as_str())
}

async fn jobs_of_drills(world: &World) -> Vec<Job> {
    world.api::<Job>().list(&ListParams::default().labels(LANE)).await.expect("a list").items
}

/// The drill's task goes on until the test lets it end.
fn held() -> Script {
    only("verify", |task| Fate::Held(Fate::Reports(success(task)).into()))
}

fn only(name: &'static str, fate: impl Fn(&Task) -> Fate + Send + Sync + 'static) -> Script {
    Script::default().tasks(move |task| (task.name() == name).then(|| fate(task)))
}

async fn until_restoring(world: &World) {
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.name() == "verify");
    world.place.ledger.until("the drill restores", began).await;
}

async fn a_drill_restores_the_newest_backup_and_leaves_nothing(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    world.play(held());
    world.apply(&backup(VERIFY)).await;
    // There is nothing to verify yet: it waits.
    verify_now(&world, "early").await;
    world.run_now::<SynapseBackup>("nightly", "1").await;
    let own = until_runs(&world, 1).await;
    until_restoring(&world).await;
    let [job] = &jobs_of_drills(&world).await[..] else { panic!("one Job") };
    let pod = job.spec.clone().unwrap().template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap();
    assert!(args.contains(&"--snapshot=snapshot-1".to_owned()), "{args:?}");
    let server = &pod.init_containers.unwrap()[0];
    assert_eq!(
        (server.image.as_deref(), server.restart_policy.as_deref()),
        (Some("localhost/postgres:15"), Some("Always"))
    );
    let secrets = pod.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref()?.secret_name.clone());
    assert_eq!(secrets.collect::<Vec<_>>(), ["s3"], "what it needs not it has not");
    assert!(world.lease().await.is_none(), "it holds nobody up");

    world.place.release();
    let status = until_drilled(&world, "early").await;
    assert_eq!(verified(&status), ("True", "Verified"));
    assert!(status.last_verified_at.is_some() && status.last_verified_at == status.last_success_at, "{status:?}");
    assert!(status.snapshots[0].verified_at.is_some());
    assert_eq!(jobs_of_drills(&world).await, []);
    let before = own.status.unwrap().operation;
    assert_eq!((status.operation.run, status.operation.history), (before.run, before.history), "the backup's own part");
    // Those of the backup itself stay for their logs.
    let left =
        world.api::<Job>().list(&ListParams::default().labels("synapse-keeper.dev/run=1")).await.expect("a list");
    assert!(left.items.iter().any(|job| job.name_any().contains("database")), "{:?}", left.items);
    let last_verified = status.last_verified_at.clone();
    world
        .until::<Synapse>("example", "was told", |synapse| {
            synapse.and_then(|synapse| synapse.status.as_ref()?.last_verified.clone()) == last_verified
        })
        .await;
    assert_eq!(world.generations().await, [1, 1, 1, 1], "nothing was scaled");
}

async fn a_drill_and_a_backup_run_beside_each_other(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let operator = world.operator();
    backed_up(&world).await;
    world.play(held());
    verify_now(&world, "1").await;
    until_restoring(&world).await;
    world.run_now::<SynapseBackup>("nightly", "2").await;
    let second = until_runs(&world, 2).await;
    assert_eq!(outcomes(&second), [Outcome::Succeeded; 2]);
    assert!(drills(&second).and_then(OperationStatus::active_run).is_some(), "it still restores");
    // The operator before may have been killed, and its memory with it.
    operator.kill().await;
    let _operator = world.operator();
    world.place.release();
    let status = until_drilled(&world, "1").await;
    assert_eq!(verified(&status), ("True", "Verified"));
    let seen: Vec<_> =
        status.snapshots.iter().map(|snapshot| (snapshot.id.as_str(), snapshot.verified_at.is_some())).collect();
    assert_eq!(seen, [("snapshot-2", false), ("snapshot-1", true)]);
    assert!(status.last_verified_at < status.last_success_at, "{status:?}");
    assert_eq!(begun(&world), 1);
}

/// How often a drill's task was begun.
fn begun(world: &World) -> usize {
    world.place.ledger.begun().iter().filter(|work| work.contains(" verify")).count()
}

async fn a_drill_runs_while_the_homeserver_is_down_for_another(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    backed_up(&world).await;
    world.play(
        Script::default().tasks(|task| task.is_offline().then(|| Fate::Held(Fate::Reports(success(task)).into()))),
    );
    world.maintain("m", FULL).await;
    let offline = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline());
    world.place.ledger.until("the homeserver is down", offline).await;
    let holder = world.lease().await.and_then(|lease: Lease| lease.spec?.holder_identity);
    verify_now(&world, "1").await;
    assert_eq!(verified(&until_drilled(&world, "1").await), ("True", "Verified"));
    assert_eq!(world.lease().await.and_then(|lease| lease.spec?.holder_identity), holder, "the Lease is where it was");
    world.place.release();
    world.until_complete("m").await;
    world.assert_all_is_back().await;
}

async fn a_damaged_backup_is_told_and_the_next_backup_is_made(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    backed_up(&world).await;
    world.play(only("verify", |task| {
        let refused = failure(ErrorClass::Terminal, "RowsDiffer", "events has 1 row of 2");
        Fate::Reports(Report { result: Some(verdict(task, false)), ..refused })
    }));
    verify_now(&world, "1").await;
    let status = until_drilled(&world, "1").await;
    assert_eq!(verified(&status), ("False", "RowsDiffer"));
    assert!(conditions::is_true(&status.operation.conditions, Type::Ready), "the backup's own runs are well");
    assert_eq!((status.last_verified_at, status.snapshots[0].verified_at.clone()), (None::<Time>, None));
    assert_eq!(jobs_of_drills(&world).await, []);
    let (type_, note) = told(&world, "nightly", "RowsDiffer").await;
    assert_eq!(type_, "Warning");
    assert!(note.starts_with("drill: ") && note.contains("events has 1 row of 2"), "{note}");

    world.run_now::<SynapseBackup>("nightly", "2").await;
    let second = until_runs(&world, 2).await.status.unwrap();
    assert_eq!(verified(&second), ("False", "RowsDiffer"), "until a drill finds one whole");
    world.play(Script::default());
    verify_now(&world, "2").await;
    assert_eq!(verified(&until_drilled(&world, "2").await), ("True", "Verified"));
}

async fn a_drill_that_cannot_start_is_no_verdict(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    backed_up(&world).await;
    world.play(only("verify", |_| Fate::NoImage));
    world.apply(&backup(&format!("jobs: {{startWithin: 2s}}\n  {VERIFY}"))).await;
    verify_now(&world, "1").await;
    let status = until_drilled(&world, "1").await;
    assert_eq!(verified(&status), ("Unknown", "PodDoesNotStart"));
    assert_eq!(jobs_of_drills(&world).await, []);
    assert_eq!(status.last_verified_at, None);
}

async fn a_drill_that_cannot_run_is_told_at_once(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    let until = |reason: &'static str| {
        until_backup(&world, reason, move |object| {
            let status = object.status.as_ref();
            let told = status.and_then(|status| conditions::find(&status.operation.conditions, Type::Verified));
            told.is_some_and(|told| (told.status.as_str(), told.reason.as_str()) == ("Unknown", reason))
        })
    };
    world.apply(&backup("verify: {cron: '0 25 * * *'}")).await;
    until("InvalidCron").await;
    world.apply(&backup("verify: {cron: '@daily', timeZone: Europe/Berln}")).await;
    until("UnknownTimeZone").await;
    backed_up(&world).await;
    // It would be waited for for five minutes.
    world.play(only("verify", |_| Fate::NoImage));
    verify_now(&world, "1").await;
    let object = until("PodDoesNotStart").await;
    assert!(drills(&object).and_then(OperationStatus::active_run).is_some(), "it is not given up yet");
}

async fn a_backup_that_was_verified_costs_nothing(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let busy = world.operator();
    backed_up(&world).await;
    verify_now(&world, "1").await;
    let status = until_drilled(&world, "1").await;
    let last = status.last_verified_at.clone();
    world
        .until::<Synapse>("example", "was told", |synapse| {
            synapse.and_then(|synapse| synapse.status.as_ref()?.last_verified.clone()) == last
        })
        .await;
    busy.kill().await;
    let idle = world.operator();
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let sent = idle.wire.sent();
    let of_it = |(_, method, path): &&(usize, Method, String)| *method != Method::GET || path.ends_with("/nightly");
    assert_eq!(sent.iter().find(of_it), None, "{sent:?}");
    assert!(idle.wire.count() > 10, "it is alive");
    // Nor does it forget what it has not in its cache.
    assert_eq!(world.api::<SynapseBackup>().get("nightly").await.expect("it is there").status, Some(status));
}

async fn a_drill_with_synapse_runs_the_image_of_the_main_process(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let _operator = world.operator();
    backed_up(&world).await;
    world.apply(&backup(&VERIFY.replace('}', ", synapse: true, media: All}"))).await;
    world.play(held());
    verify_now(&world, "1").await;
    until_restoring(&world).await;
    let [job] = &jobs_of_drills(&world).await[..] else { panic!("one Job") };
    let pod = job.spec.clone().unwrap().template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap();
    let told = |arg: &str| args.iter().any(|told| told == arg);
    assert!(told("--synapse-place=/var/run/synapse-keeper/synapse") && told("--media=all"), "{args:?}");
    let beside = pod.init_containers.unwrap();
    let beside: Vec<_> =
        beside.iter().map(|one| (one.name.as_str(), one.image.as_deref().unwrap_or_default())).collect();
    assert_eq!(beside, [("postgres", "localhost/postgres:15"), ("synapse", "localhost/it:1")]);
    world.place.release();
    assert_eq!(verified(&until_drilled(&world, "1").await), ("True", "Verified"));

    // Which of two is Synapse cannot be told: nothing is restored for that.
    let containers =
        json!([{"name": "it", "image": "localhost/it:1"}, {"name": "proxy", "image": "localhost/proxy:1"}]);
    let patch =
        Patch::Merge(json!({"spec": {"template": {"spec": {"securityContext": null, "containers": containers}}}}));
    world.api::<StatefulSet>().patch("main", &PatchParams::default(), &patch).await.expect("it is there");
    verify_now(&world, "2").await;
    let status = until_drilled(&world, "2").await;
    assert_eq!(verified(&status), ("Unknown", "SynapseImageUnknown"));
    let message = &conditions::find(&status.operation.conditions, Type::Verified).unwrap().message;
    assert!(message.contains("StatefulSet/main") && message.contains("it, proxy"), "{message}");
    assert!(message.contains("spec.image of the Synapse object"), "{message}");

    let patch = Patch::Merge(json!({"spec": {"image": "localhost/synapse:2"}}));
    world.api::<Synapse>().patch("example", &PatchParams::default(), &patch).await.expect("it is there");
    world.play(Script::default());
    verify_now(&world, "3").await;
    let status = until_drilled(&world, "3").await;
    assert_eq!(verified(&status), ("True", "Verified"));
    let run = status.verification.unwrap().run.unwrap();
    assert_eq!(run.steps[0].spec.own_synapse.as_ref().map(|own| own.image.image.as_str()), Some("localhost/synapse:2"));
}

async fn killed_at_every_request_of_a_drill(stage: Arc<Stage>, test: &'static str) {
    series(&stage, test, Script::default, |world, name, n, cut| {
        Box::pin(async move {
            if world.api::<SynapseBackup>().get_opt("nightly").await.expect("an answer").is_none() {
                let operator = world.operator();
                backed_up(world).await;
                operator.kill().await;
            }
            let own = world.api::<SynapseBackup>().get("nightly").await.expect("it is there").status.unwrap().operation;
            let before = begun(world);
            verify_now(world, name).await;
            let reached = two_lives(world, n, cut, until_drilled(world, name)).await;

            let status = until_drilled(world, name).await;
            let point = format!("{cut:?} request {n} in {}:\n{}", world.namespace, world.place.ledger);
            assert_eq!(verified(&status), ("True", "Verified"), "{point}");
            assert_eq!(jobs_of_drills(world).await, [], "{point}");
            assert_eq!(begun(world), before + 1, "{point}");
            assert_eq!((status.operation.run, status.operation.history), (own.run, own.history), "{point}");
            reached
        })
    })
    .await;
}

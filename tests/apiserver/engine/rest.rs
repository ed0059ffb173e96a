//! An operator that has nothing to do does nothing, and its conditions say so as kstatus reads them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::Method;
use k8s_openapi::{api::batch::v1::Job, apimachinery::pkg::apis::meta::v1::Condition};
use kube::ResourceExt;
use synapse_keeper::api::{
    Synapse, SynapseMaintenance,
    conditions::{self, Type},
};

use crate::stage::{
    Stage,
    script::{Fate, Script},
    tests,
    world::{ANALYZE, FULL, World, maintenance, run},
};

tests![every_write_bears_our_name, an_idle_operator_writes_nothing, conditions_are_read_as_meant_from_beginning_to_end];

async fn every_write_bears_our_name(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.begin(FULL).await;
    let works = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.steps.last().is_some_and(|step| step.job_uid.is_some()))
    };
    let object = world.until_maintenance("m", "is at work", works).await;
    let jobs = world.api::<Job>().list(&Default::default()).await.expect("a list").items;
    let metas = jobs.into_iter().map(|job| job.metadata);
    let metas = metas.chain([object.metadata, world.lease().await.expect("it is held").metadata]);
    let managers = metas.flat_map(|meta| meta.managed_fields.unwrap_or_default()).filter_map(|entry| entry.manager);
    let others: BTreeSet<String> = managers.collect();
    let known = ["kube-controller-manager", "kubectl", "synapse-keeper"].map(str::to_owned);
    assert_eq!(others, BTreeSet::from(known));
}

async fn an_idle_operator_writes_nothing(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let busy = world.operator();
    world.maintain("done", FULL).await;
    let ended = run(&world.until_complete("done").await).and_then(|run| run.finished_at.clone());
    world.maintain("weekly", &format!("schedule: {{cron: '@weekly'}}\n{ANALYZE}")).await;
    world.until_condition("weekly", Type::Ready, "True", "Scheduled").await;
    world.maintain("suspended", &format!("suspend: true\n{ANALYZE}")).await;
    world.until_condition("suspended", Type::Ready, "False", "Suspended").await;
    world.maintain("stalled", &format!("schedule: {{cron: '@weekly', timeZone: Nowhere}}\n{ANALYZE}")).await;
    world.until_condition("stalled", Type::Stalled, "True", "UnknownTimeZone").await;
    world.apply(&maintenance("homeless", ANALYZE).replace("name: example", "name: nobody")).await;
    world.until_condition("homeless", Type::Ready, "False", "SynapseNotFound").await;
    // What the run has changed is looked at once more.
    world
        .until::<Synapse>("example", "was inspected after the run", |object| {
            let inspection = object.and_then(|object| object.status.as_ref()?.inspection.clone());
            inspection.is_some_and(|inspection| inspection.finished_at.is_some() && Some(inspection.started_at) > ended)
        })
        .await;
    busy.kill().await;
    let before = versions(&world).await;

    // A new operator looks at everything once and finds nothing to do.
    let idle = world.operator();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let sent = idle.wire.sent();
    let writes: Vec<_> = sent.iter().filter(|(_, method, _)| *method != Method::GET).collect();
    assert!(writes.is_empty(), "{writes:?}");
    assert!(idle.wire.count() > 10, "it is alive");
    assert_eq!(versions(&world).await, before, "no object changed");
    // Of those at rest none costs a request of its own; only what waits for something is looked at.
    for name in ["done", "weekly", "suspended", "stalled"] {
        assert!(
            !sent.iter().any(|(_, _, path)| path.ends_with(&format!("/synapsemaintenances/{name}"))),
            "{name}: {sent:?}"
        );
    }
}

async fn versions(world: &World) -> Vec<(String, Option<String>)> {
    let objects = world.api::<SynapseMaintenance>().list(&Default::default()).await.expect("a list").items;
    objects.iter().map(|object| (object.name_any(), object.resource_version())).collect()
}

async fn conditions_are_read_as_meant_from_beginning_to_end(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| task.is_offline().then(|| Fate::Held(Fate::RunsOutOfMemory.into()))));
    world.begin(FULL).await;
    let works = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.steps.last().is_some_and(|step| step.job_uid.is_some()))
    };
    let at_work = world.until_maintenance("m", "is at work", works).await;
    assert_eq!(kstatus(&at_work), "InProgress");
    assert!(conditions::is_true(&conditions_of(&at_work), Type::Quiesced));
    let counts = conditions::find(&conditions_of(&at_work), Type::Quiesced).unwrap().message.clone();
    for count in ["StatefulSet/main had 1", "Deployment/worker had 2", "Deployment/idle had 0", "Deployment/mas had 1"]
    {
        assert!(counts.contains(count), "{counts}");
    }
    world.place.release();
    world.until_failed("m").await;
    let failed = world.api::<SynapseMaintenance>().get("m").await.expect("it is there");
    assert_eq!(kstatus(&failed), "Failed");

    world.play(Script::default());
    world.maintain("n", FULL).await;
    assert_eq!(kstatus(&world.until_complete("n").await), "Current");
    world.maintain("w", &format!("schedule: {{cron: '@weekly'}}\n{ANALYZE}")).await;
    world.until_condition("w", Type::Ready, "True", "Scheduled").await;
    assert_eq!(kstatus(&world.api::<SynapseMaintenance>().get("w").await.expect("it is there")), "Current");
}

fn conditions_of(object: &SynapseMaintenance) -> Vec<Condition> {
    object.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
}

/// As kstatus computes it: the generation first, then what is abnormal, then Ready.
fn kstatus(object: &SynapseMaintenance) -> &'static str {
    let status = object.status.clone().unwrap_or_default();
    let list = conditions_of(object);
    assert!(list.iter().all(|condition| condition.observed_generation == object.metadata.generation), "{list:?}");
    if status.observed_generation != object.metadata.generation {
        return "InProgress";
    }
    if conditions::is_true(&list, Type::Stalled) {
        return "Failed";
    }
    if conditions::is_true(&list, Type::Reconciling) || !conditions::is_true(&list, Type::Ready) {
        return "InProgress";
    }
    "Current"
}

//! Pods that cannot be made, placed or stopped: what is said, and what is taken back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{
        Synapse,
        conditions::{self, Type},
        operation::Outcome,
    },
    contract::ErrorClass,
    words::moment,
};

use super::{
    restore::{restore, until_ended, without_mas},
    rights::quota,
    told, type_it,
};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, Trouble, failure, success},
    tests,
    world::{FULL, World, is, outcomes, run, workload},
};

tests![
    a_step_that_fails_and_a_homeserver_that_does_not_come_back_are_both_told,
    a_swap_that_nobody_could_try_for_a_quota_stays,
    pods_that_go_in_order_and_are_not_ready_are_freed_by_what_the_message_says,
    a_pod_of_the_main_process_on_a_lost_node_is_freed_by_what_the_message_says,
    a_pod_that_its_finalizers_keep_is_freed_by_what_the_message_says,
];

async fn a_step_that_fails_and_a_homeserver_that_does_not_come_back_are_both_told(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    let is_broken = Arc::new(AtomicBool::new(false));
    let sees = is_broken.clone();
    let refused = failure(ErrorClass::Terminal, "TableNotFound", "there is no table evnts");
    let script = Script::default().tasks(move |task: &Task| {
        is_broken.fetch_or(task.is_offline(), Ordering::SeqCst);
        task.is_offline().then(|| Fate::Reports(refused.clone()))
    });
    world.play(script.pods(move |_| sees.load(Ordering::SeqCst).then_some(Trouble::NeverReady)));
    let _operator = world.operator();
    world.until_synapse_is_ready().await;
    world.maintain("m", &format!("{FULL}\ndowntime: {{readyWithin: 3s}}")).await;
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "TableNotFound", "{message}");
    for word in ["evnts", "and the homeserver is not Ready again", "StatefulSet/main has 0 of 1 Pods Ready"] {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    let (type_, note) = told(&world, "m", "NotReadyAgain").await;
    assert!(type_ == "Warning" && note.contains("StatefulSet/main has 0 of 1"), "{type_} {note}");
    let (_, end) = told(&world, "m", "Failed").await;
    assert!(end.contains("the homeserver is not Ready"), "{end}");
    assert!(world.lease().await.is_none(), "it does not wait for ever");
    let object = world.until::<Synapse>("example", "is not served", not_served).await.expect("it is there");
    let status = object.status.expect("it was just seen");
    let ready = conditions::find(&status.conditions, Type::Ready).expect("it is always there");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "NoPodReady"), "{}", ready.message);
    let failed = world.until_maintenance("m", "is Failed", |object| is(object, Type::Failed)).await;
    let run = run(&failed).expect("it was just seen");
    let ended = run.finished_at.clone().expect("it is over");
    let took = ready.last_transition_time.0.duration_since(ended.0);
    // What looks like a restart is no news for a minute.
    assert!(took < SignedDuration::from_secs(50), "Healthy for {took:#} after the run");
    // The run's figure stands still, and this one counts on.
    let began = run.window.as_ref().expect("it had a downtime").recorded_at.clone();
    assert_eq!(status.not_served_since, Some(began.clone()), "{}", ready.message);
    let since = format!("nobody has been served since {}: StatefulSet/main has 0 of 1 Pods Ready", moment(began.0));
    assert!(ready.message.starts_with(&since), "{}", ready.message);
}

/// The Synapse object says that nobody is served.
fn not_served(object: Option<&Synapse>) -> bool {
    let status = object.and_then(|object| object.status.as_ref());
    status.is_some_and(|status| conditions::is_false(&status.conditions, Type::Serving))
}

async fn a_swap_that_nobody_could_try_for_a_quota_stays(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    let swaps = |task: &Task| task.name() == "swap-database";
    world.play(
        Script::default().tasks(move |task| swaps(task).then(|| Fate::Held(Fate::Reports(success(task)).into()))),
    );
    let _operator = world.operator();
    // Long, for the controllers write their events one after the other, those of all tests: half a minute late was seen.
    world.apply(&restore("from: {repository: {secretName: s3}}\n  downtime: {readyWithin: 2m}")).await;
    let began = move |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if swaps(task));
    world.place.ledger.until("it is being swapped", began).await;
    quota(&world, "pods", 0).await;
    world.place.release();
    let ended = until_ended(&world).await.history.swap_remove(0);
    let message = ended.message.unwrap_or_default();
    assert_eq!((ended.outcome, ended.reason.as_deref()), (Outcome::Failed, Some("NotReadyAgain")), "{message}");
    for word in ["exceeded quota: tight", "stays: swap-database done", "describe"] {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    let swapped = world.place.ledger.entries().iter().filter(|entry| began(entry)).count();
    assert_eq!(swapped, 1, "nobody has tried it: {}", world.place.ledger);
    assert_eq!(world.generations().await, [3, 3, 1, 3], "down once, and up once");
    world.api::<ResourceQuota>().delete("tight", &DeleteParams::default()).await.expect("it is there");
    world.assert_homeserver_is_back().await;
}

async fn pods_that_go_in_order_and_are_not_ready_are_freed_by_what_the_message_says(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    world.apply(&workload("StatefulSet", "ordered", 2).replace("Parallel", "OrderedReady")).await;
    world.until_workload_is_ready("StatefulSet", "ordered", 2).await;
    let pods = world.api::<Pod>();
    for name in ["ordered-0", "ordered-1"] {
        let ill = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(ill)).await.expect("it is there");
    }
    let _operator = world.operator();
    world.maintain("m", &format!("{FULL}\ndowntime: {{stopWithin: 100s}}")).await;
    let free = format!("kubectl -n {} delete pod ordered-1 ordered-0", world.namespace);
    world
        .until_maintenance("m", "says what frees it", |object| {
            let conditions = object.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let ready = conditions::find(conditions, Type::Ready);
            ready.is_some_and(|ready| ready.message.contains(&free) && ready.message.contains("OrderedReady"))
        })
        .await;
    type_it(&world, &free).await;
    let done = world.until_complete("m").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    world.until_workload_is_ready("StatefulSet", "ordered", 2).await;
}

/// A StatefulSet makes no second Pod of a name: while the old one is there, nobody is served.
async fn a_pod_of_the_main_process_on_a_lost_node_is_freed_by_what_the_message_says(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().pods(|pod| (pod == "main-0").then_some(Trouble::NeverStops)));
    let _operator = world.operator();
    world.maintain("m", &format!("downtime: {{stopWithin: 3s, readyWithin: 3s}}\n{FULL}")).await;
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "PodsDoNotStop", "{message}");
    let free = format!("kubectl -n {} delete pod main-0 --force", world.namespace);
    for word in
        ["Pod main-0 of StatefulSet/main on node node-1", "spec.downtime.stopWithin", "describe pod main-0", &free]
    {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    let words = "the homeserver is not Ready again: StatefulSet/main has 0 of 1 Pods Ready: Pod main-0 is Terminating";
    assert!(message.contains(words), "{message}");
    let offline = world.place.ledger.begun().into_iter().filter(|work| work.contains("vacuum")).count();
    assert_eq!(offline, 0, "{}", world.place.ledger);
    // The others are back, and wait for nobody.
    world.until_workload_is_ready("Deployment", "worker", 2).await;
    type_it(&world, &free).await;
    world.assert_all_is_back().await;
}

async fn a_pod_that_its_finalizers_keep_is_freed_by_what_the_message_says(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let pods = world.api::<Pod>();
    let worker = pods.list(&ListParams::default().labels("part=worker")).await.expect("a list").items[0].name_any();
    for name in ["main-0", &worker] {
        let kept = json!({"metadata": {"finalizers": ["example.org/accounting"]}});
        pods.patch(name, &PatchParams::default(), &Patch::Merge(kept)).await.expect("it is there");
    }
    let _operator = world.operator();
    world.maintain("m", &format!("{FULL}\ndowntime: {{readyWithin: 3s}}")).await;
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "NotReadyAgain", "{message}");
    let free = |pod: &str| {
        let namespace = &world.namespace;
        format!(r#"kubectl -n {namespace} patch pod {pod} --type=merge --patch='{{"metadata":{{"finalizers":null}}}}'"#)
    };
    for word in ["Pod main-0 has ended, and its finalizers (example.org/accounting) keep it", &free("main-0")] {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    // Its work is done, and a Deployment makes a Pod of another name.
    let vacuumed = world.place.ledger.successes().into_iter().filter(|work| work.contains("vacuum")).count();
    assert_eq!(vacuumed, 1, "{}", world.place.ledger);
    assert!(!message.contains(&worker), "{message}");
    type_it(&world, &free("main-0")).await;
    type_it(&world, &free(&worker)).await;
    world.assert_all_is_back().await;
}

//! Pods and Jobs that do not go well while an operation runs: what is tried again, what is not, what is said.

use std::sync::Arc;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use synapse_keeper::{
    api::{SynapseMaintenance, conditions::Type, operation::Outcome},
    contract::{ErrorClass, Report, StepResult},
};

use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, Trouble, failure},
    tests,
    world::{ANALYZE, ANALYZE_AND_FULL, FULL, PATIENCE, World, is, outcomes, run},
};

tests![
    a_transient_error_is_tried_again_after_a_pause,
    a_transient_error_that_stays_fails_the_run,
    a_terminal_error_is_not_tried_again,
    an_evicted_pod_is_replaced,
    pods_that_are_evicted_again_and_again_fail_the_run,
    a_task_that_runs_out_of_memory_says_what_to_raise,
    an_offline_image_that_cannot_be_pulled_does_not_keep_users_out,
    a_job_that_somebody_deletes_is_made_again,
    the_pod_of_a_job_that_somebody_deletes_is_waited_for_before_the_replicas_return,
    a_task_on_a_lost_node_is_given_up_and_its_pod_is_named,
    a_pod_that_ignores_sigterm_brings_the_others_back,
    a_report_that_is_too_long_is_read_from_the_log,
    a_workload_that_is_deleted_in_the_downtime_is_let_go,
    replicas_that_an_autoscaler_had_chosen_come_back,
];

fn only(which: fn(&Task) -> bool, fate: Fate) -> Script {
    Script::default().tasks(move |task| which(task).then(|| fate.clone()))
}

fn transient() -> Fate {
    Fate::Reports(failure(ErrorClass::Transient, "ConnectionLost", "server closed the connection unexpectedly"))
}

async fn a_transient_error_is_tried_again_after_a_pause(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(|task| task.is_offline() && task.attempt() == 1, transient()));
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let waits = world.until_maintenance("m", "waits before it tries again", |object| {
        run(object).is_some_and(|run| run.steps.iter().any(|step| step.retry_at.is_some()))
    });
    let step = run(&waits.await).unwrap().steps[2].clone();
    assert!(step.message.unwrap().contains("server closed the connection"));

    let done = world.until_complete("m").await;
    let second = run(&done).unwrap().steps[2].clone();
    assert_eq!(second.attempt, 2);
    assert!(second.started_at >= step.retry_at, "it did not wait");
    assert_eq!(world.place.ledger.begun().len(), 3, "{}", world.place.ledger);
    world.assert_all_is_back().await;
}

async fn a_transient_error_that_stays_fails_the_run(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(Task::is_offline, transient()));
    fails(&world, FULL, "ConnectionLost", &["step vacuum-1", "server closed the connection"]).await;
    assert_eq!(world.place.ledger.begun().len(), 4, "preflight and three attempts: {}", world.place.ledger);
}

async fn a_terminal_error_is_not_tried_again(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let refused = failure(ErrorClass::Terminal, "TableNotFound", "there is no table evnts in schema public");
    world.play(only(|task| task.name() == "vacuum", Fate::Reports(refused)));
    fails(&world, ANALYZE_AND_FULL, "TableNotFound", &["step vacuum-1", "evnts"]).await;
    assert_eq!(world.generations().await, [1, 1, 1, 1], "an online step failed: nobody was locked out");
}

async fn an_evicted_pod_is_replaced(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(|task| task.is_offline() && task.attempt() == 1, Fate::Evicted));
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let done = world.until_complete("m").await;
    assert_eq!(run(&done).unwrap().steps[2].attempt, 2);
    world.assert_all_is_back().await;
}

async fn pods_that_are_evicted_again_and_again_fail_the_run(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(Task::is_offline, Fate::Evicted));
    fails(&world, FULL, "JobFailed", &["step vacuum-1", "low on resource: memory"]).await;
}

async fn a_task_that_runs_out_of_memory_says_what_to_raise(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(Task::is_offline, Fate::RunsOutOfMemory));
    fails(&world, FULL, "OutOfMemory", &["step vacuum-1", "killed for memory", "spec.jobs.resources.limits.memory"])
        .await;
    assert_eq!(world.place.ledger.begun().len(), 2, "the same limit would kill it again: {}", world.place.ledger);
}

async fn an_offline_image_that_cannot_be_pulled_does_not_keep_users_out(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(Task::is_offline, Fate::NoImage));
    let fields = format!("{FULL}\njobs: {{startWithin: 30s}}");
    fails(&world, &fields, "PodDoesNotStart", &["step vacuum-1", "ImagePullBackOff", "not found"]).await;
}

async fn a_job_that_somebody_deletes_is_made_again(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    // Its Pod outlives the Job, and the pause before the next attempt: until it is gone it may write.
    world.play(only(|task| task.is_offline() && task.attempt() == 1, Fate::StopsSlowly(8000)));
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let job = offline_job(&world).await;
    world.api::<Job>().delete(&job, &DeleteParams::background()).await.expect("it is there");
    let done = world.until_complete("m").await;
    assert_eq!(run(&done).unwrap().steps[2].attempt, 2);
    assert_eq!(world.place.ledger.successes().len(), 2);
    world.assert_all_is_back().await;
}

async fn the_pod_of_a_job_that_somebody_deletes_is_waited_for_before_the_replicas_return(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(Task::is_offline, Fate::StopsSlowly(6000)));
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let job = offline_job(&world).await;
    world.api::<Job>().delete(&job, &DeleteParams::background()).await.expect("it is there");
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    world.until_gone::<SynapseMaintenance>("m").await;
    world.assert_all_is_back().await;
}

/// A drained node that never answers again. Two minutes after the end of the grace period the task is given up.
async fn a_task_on_a_lost_node_is_given_up_and_its_pod_is_named(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(|task| task.is_offline() && task.attempt() == 1, Fate::OnLostNode));
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    let job = offline_job(&world).await;
    let pods = world.api::<Pod>();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
    let pod = pods.list(&of_job).await.expect("a list").items[0].name_any();
    pods.delete(&pod, &DeleteParams::default().grace_period(1)).await.expect("it is there");
    let says = |object: Option<&SynapseMaintenance>| {
        let step = object.and_then(run).and_then(|run| run.steps.last());
        step.is_some_and(|step| step.retry_at.is_some())
    };
    let waits = kube::runtime::wait::await_condition(world.api::<SynapseMaintenance>(), "m", says);
    let object = tokio::time::timeout(PATIENCE, waits).await.expect("it is given up").expect("an answer").expect("it");
    let message = run(&object).and_then(|run| run.steps.last()?.message.clone()).unwrap_or_default();
    let kubectl = format!("kubectl -n {} delete", world.namespace);
    let free = format!("{kubectl} job {job}; {kubectl} pod {pod} --force");
    for word in [&format!("Pod {pod} on node node-1 does not stop"), &free] {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    for command in free.split("; ") {
        super::type_it(&world, command).await;
    }
    world.until_gone::<Pod>(&pod).await;
    world.until_complete("m").await;
    world.until_homeserver_is_ready().await;
    assert!(world.lease().await.is_none());
}

async fn a_pod_that_ignores_sigterm_brings_the_others_back(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let workers = world.api::<Pod>().list(&ListParams::default().labels("part=worker")).await.expect("a list").items;
    let stubborn = workers[0].name_any();
    let name = stubborn.clone();
    world.play(Script::default().pods(move |pod| (pod == name).then_some(Trouble::NeverStops)));
    let _operator = world.operator();
    world.maintain("m", &format!("downtime: {{stopWithin: 3s}}\n{FULL}")).await;
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "PodsDoNotStop");
    for word in [stubborn.as_str(), "node-1", "Deployment/worker", "spec.downtime.stopWithin", "kubectl"] {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    assert!(!world.place.ledger.begun().iter().any(|work| work.contains("vacuum")), "{}", world.place.ledger);
    world.assert_all_is_back().await;
    world.api::<Pod>().delete(&stubborn, &DeleteParams::default().grace_period(0)).await.expect("it is there");
}

async fn a_report_that_is_too_long_is_read_from_the_log(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let tables = (0..60).map(|n| format!("a_table_with_a_rather_long_name_{n}: it would give back 1 MiB")).collect();
    let result = StepResult { summary: "60 tables left alone".to_owned(), skipped: tables, ..Default::default() };
    let report = Report { result: Some(result.clone()), ..Report::default() };
    world.play(only(|task| task.name() == "vacuum", Fate::ReportsInLog(report)));
    let _operator = world.operator();
    world.maintain("m", ANALYZE).await;
    let done = world.until_complete("m").await;
    assert_eq!(run(&done).unwrap().steps[1].result.as_ref(), Some(&result));
}

async fn a_workload_that_is_deleted_in_the_downtime_is_let_go(stage: Arc<Stage>, test: &'static str) {
    use k8s_openapi::api::apps::v1::Deployment;
    let world = World::with_homeserver(&stage, test).await;
    world.play(only(Task::is_offline, Fate::Held(Fate::Reports(Report::default()).into())));
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    offline_job(&world).await;
    world.api::<Deployment>().delete("mas", &DeleteParams::background()).await.expect("it is there");
    world.until_gone::<Deployment>("mas").await;
    world.place.release();
    let done = world.until_complete("m").await;
    assert_eq!(outcomes(&done), [Outcome::Succeeded]);
    world.until_workload_is_ready("StatefulSet", "main", 1).await;
    world.until_workload_is_ready("Deployment", "worker", 2).await;
    assert!(world.lease().await.is_none());
}

async fn replicas_that_an_autoscaler_had_chosen_come_back(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.scale("Deployment", "worker", 3).await;
    world.until_workload_is_ready("Deployment", "worker", 3).await;
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    world.until_complete("m").await;
    world.until_workload_is_ready("Deployment", "worker", 3).await;
    world.until_workload_is_ready("Deployment", "idle", 0).await;
}

/// The operation fails for this reason, in these words, and all is back.
async fn fails(world: &World, fields: &str, reason: &str, said: &[&str]) {
    let _operator = world.operator();
    world.maintain("m", fields).await;
    let (found, message) = world.until_failed("m").await;
    assert_eq!(found, reason, "{message}");
    for word in said {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
    world.until_condition("m", Type::Stalled, "True", reason).await;
    world.assert_all_is_back().await;
    let object = world.until_maintenance("m", "is not Quiesced", |object| !is(object, Type::Quiesced)).await;
    assert_eq!(outcomes(&object), [Outcome::Failed]);
}

/// Waits until the offline task runs; gives the name of its Job.
async fn offline_job(world: &World) -> String {
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline());
    world.place.ledger.until("the offline task runs", began).await;
    let seen = |object: &_| run(object).is_some_and(|run| run.steps.last().is_some_and(|step| step.job_uid.is_some()));
    let uid = run(&world.until_maintenance("m", "has seen its offline Job", seen).await)
        .unwrap()
        .steps
        .last()
        .unwrap()
        .job_uid
        .clone();
    let jobs = world.api::<Job>().list(&ListParams::default()).await.expect("a list").items;
    jobs.into_iter().find(|job| job.uid() == uid).expect("the Job is there").name_any()
}

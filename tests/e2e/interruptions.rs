//! What comes between: people, other controllers, crashes. Every time the replicas come back.

use std::time::Duration;

use crate::{
    homeserver::{hurry, patch_replicas, slow_table, vacuum_full, world},
    world::{condition, text},
};

#[test]
fn a_killed_operator_is_followed_by_one_that_goes_on() {
    let world = world("killed-operator");
    slow_table(&world, 8);
    world.apply(&vacuum_full("full", "slow_table", ""));
    world.wait_phase("full", "Offline");
    world.kubectl(&["delete", "pod", "-l", "app.kubernetes.io/name=synapse-keeper", "--force", "--grace-period=0"]);
    let done = world.wait_phase("full", "Succeeded");
    world.assert_untouched_or_restored();
    assert_eq!(done["status"]["run"]["steps"][2]["attempt"], 1, "the Job was not run a second time");
    assert_eq!(world.sql("SELECT count(*) FROM slow_table"), "160");
}

#[test]
fn a_deleted_object_brings_the_replicas_back() {
    let world = world("deleted");
    slow_table(&world, 60);
    world.apply(&vacuum_full("full", "slow_table", ""));
    world.wait_phase("full", "Offline");
    wait_for_statement(&world);
    world.kubectl(&["delete", "synmt", "full", "--timeout=2m"]);
    world.assert_untouched_or_restored();
    assert_no_statement(&world);
}

#[test]
fn an_uninstalled_chart_brings_the_replicas_back() {
    let world = world("uninstalled");
    slow_table(&world, 60);
    world.apply(&vacuum_full("full", "slow_table", ""));
    world.wait_phase("full", "Offline");
    let (success, said) = world.helm(&["uninstall", "keeper", "--wait"]);
    assert!(success, "{said}");
    world.assert_untouched_or_restored();
    assert_no_statement(&world);
    let object = world.get("synmt/full");
    assert_eq!(object["status"]["run"]["failure"]["reason"], "Uninstalling", "{object:#}");
}

#[test]
fn a_git_ops_controller_that_scales_up_is_noticed_and_named_and_loses_nothing() {
    let world = world("contested");
    slow_table(&world, 60);
    world.apply(&vacuum_full("full", "slow_table", ""));
    world.wait_phase("full", "Offline");
    wait_for_statement(&world);
    // As a self-heal does: again and again.
    let mut phase = String::new();
    for _ in 0..120 {
        patch_replicas(&world, "synapse-main", 1);
        phase = text(&world.get("synmt/full")["status"]["phase"]);
        if phase == "Failed" {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let (reason, message) = world.wait_failed("full");
    assert_eq!((phase.as_str(), reason.as_str()), ("Failed", "Contested"), "{message}");
    assert!(message.contains("Deployment/synapse-main was scaled to 1"), "{message}");
    assert!(message.contains("by argocd-controller"), "{message}");
    world.assert_untouched_or_restored();
    assert_no_statement(&world);
    assert_eq!(world.sql("SELECT count(*) FROM slow_table"), "1200");
}

#[test]
fn a_postgres_that_goes_away_in_the_middle_is_waited_for() {
    let world = world("postgres-killed");
    slow_table(&world, 15);
    world.apply(&vacuum_full("full", "slow_table", ""));
    world.wait_phase("full", "Offline");
    wait_for_statement(&world);
    world.kubectl(&["delete", "pod", "postgres-0", "--force", "--grace-period=0"]);
    let done = world.wait_phase("full", "Succeeded");
    world.assert_untouched_or_restored();
    assert!(done["status"]["run"]["steps"][2]["attempt"].as_i64() > Some(1), "{:#}", done["status"]["run"]);
    assert_eq!(world.sql("SELECT count(*) FROM slow_table"), "300");
}

#[test]
fn a_pod_that_does_not_stop_is_named_and_everything_comes_back() {
    let world = world("stubborn");
    let stubborn = crate::homeserver::workload("synapse-worker", 2, "trap '' TERM; while :; do sleep 1; done")
        .replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 120");
    world.apply(&stubborn);
    world.kubectl(&["rollout", "status", "deployment/synapse-worker", "--timeout=4m"]);
    world.apply(&vacuum_full("full", "events", "  downtime: {stopWithin: 5s}"));
    let (reason, message) = world.wait_failed("full");
    assert_eq!(reason, "PodsDoNotStop", "{message}");
    assert!(message.contains("Pod synapse-worker-") && message.contains("on node "), "{message}");
    world.assert_untouched_or_restored();
}

#[test]
fn a_pod_that_the_kubelet_evicts_is_followed_by_another() {
    let world = world("evicted");
    slow_table(&world, 300);
    let jobs = "  jobs: {resources: {limits: {ephemeral-storage: 4Mi}}}";
    world.apply(&vacuum_full("full", "slow_table", jobs));
    world.wait_phase("full", "Offline");
    wait_for_statement(&world);
    let pod = running_task(&world);
    world.kubectl(&["exec", &pod, "--", "sh", "-c", "head -c 64M /dev/zero > /tmp/too-much"]);
    // The kubelet looks at what a Pod has written every ten seconds or more.
    world.wait(&pod, "evicted", |pod| pod["status"]["reason"] == "Evicted");
    hurry(&world);
    let done = world.wait_phase("full", "Succeeded");
    assert_eq!(done["status"]["run"]["steps"][2]["attempt"], 2, "{:#}", done["status"]["run"]);
    let told =
        world.kubectl(&["get", "events", "--field-selector=reason=StepRetried", "-o", "jsonpath={..note}{..message}"]);
    assert!(told.contains("Evicted") && told.contains("ephemeral"), "{told}");
    world.assert_untouched_or_restored();
    assert_eq!(world.sql("SELECT count(*) FROM slow_table"), "6000");
}

#[test]
fn a_pod_that_the_kernel_kills_for_memory_says_what_to_raise() {
    let world = world("out-of-memory");
    slow_table(&world, 60);
    let jobs = "  jobs: {resources: {requests: {memory: 16Mi}, limits: {memory: 16Mi}}}";
    world.apply(&vacuum_full("full", "slow_table", jobs));
    world.wait_phase("full", "Offline");
    wait_for_statement(&world);
    let pod = running_task(&world);
    // tail keeps its last line, which has no end here. The kernel takes the larger one, which is the task.
    world.try_kubectl(&["exec", &pod, "--", "sh", "-c", "head -c 64M /dev/zero | tail"]);
    let (reason, message) = world.wait_failed("full");
    assert_eq!(reason, "OutOfMemory", "{message}");
    assert!(message.contains("spec.jobs.resources.limits.memory"), "{message}");
    world.assert_untouched_or_restored();
    assert_no_statement(&world);
}

#[test]
fn two_operations_at_once_take_turns() {
    let world = world("two");
    slow_table(&world, 6);
    world.apply(&vacuum_full("first", "slow_table", ""));
    world.wait_phase("first", "Offline");
    world.apply(&vacuum_full("second", "events", ""));
    let waiting =
        world.wait("synmt/second", "waiting", |object| condition(object, "Ready")["reason"] == "HomeserverBusy");
    let message = text(&condition(&waiting, "Ready")["message"]);
    assert!(message.contains("SynapseMaintenance first"), "{message}");
    world.wait_phase("first", "Succeeded");
    world.wait_phase("second", "Succeeded");
    world.assert_untouched_or_restored();
}

/// Waits until the VACUUM FULL itself runs.
fn wait_for_statement(world: &crate::world::World) {
    world.sql(&format!(
        "DO $$ BEGIN FOR i IN 1..800 LOOP PERFORM pg_stat_clear_snapshot(); \
         IF ({STATEMENTS}) > 0 THEN RETURN; END IF; PERFORM pg_sleep(0.1); END LOOP; \
         RAISE 'no VACUUM began'; END $$"
    ));
}

/// The Pod of the Job that runs.
fn running_task(world: &crate::world::World) -> String {
    let tasks = ["get", "pods", "--selector=app.kubernetes.io/name=synapse-keeper-task", "-o", "name"];
    world.kubectl(&[&tasks[..], &["--field-selector=status.phase=Running"]].concat()).trim().to_owned()
}

/// The statement ended with its Job: nothing of it holds a lock while Synapse serves.
fn assert_no_statement(world: &crate::world::World) {
    assert_eq!(world.sql(STATEMENTS), "0");
}

const STATEMENTS: &str = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'VACUUM%' AND state = 'active'";

//! One operator for the whole cluster, in two replicas.

use super::{Alone, NAMESPACE, in_release, install, uninstall};
use crate::{
    audit,
    homeserver::{self, slow_table, vacuum_full},
    kubectl::kubectl,
    world::{World, condition},
};

#[test]
#[ignore = "needs the cluster to itself"]
fn of_two_replicas_one_works_and_the_other_goes_on_where_it_died() {
    let _alone = Alone::new();
    install("wide", "replicas=2,image.tag=dev,toolsImage.tag=dev");
    let world = World::without_operator("wide");
    homeserver::set_up(&world);
    let healthy = |synapse: &serde_json::Value| condition(synapse, "DatabaseReachable")["status"] == "True";
    world.wait("synapse/example", "inspected", healthy);
    slow_table(&world, 20);
    world.apply(&vacuum_full("full", "slow_table", ""));
    world.wait_phase("full", "Offline");

    let first = leader();
    in_release(&["delete", "pod", &first, "--force", "--grace-period=0"]);
    let done = world.wait_phase("full", "Succeeded");
    assert_eq!(done["status"]["run"]["steps"][2]["attempt"], 1, "the Job was not run a second time");
    world.assert_untouched_or_restored();
    assert_ne!(leader(), first);
    // All that it asks for is in the ClusterRole.
    audit::assert_nothing_was_denied(&format!("{NAMESPACE}:wide-synapse-keeper"));

    // The homeserver of another namespace is brought back before the operator goes.
    world.sql("DELETE FROM slow_table WHERE n <= 100");
    world.apply(&vacuum_full("second", "slow_table", ""));
    world.wait_phase("second", "Offline");
    uninstall("wide");
    world.assert_untouched_or_restored();
    let left = kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]);
    assert!(!left.contains("synapse-keeper"), "{left}");
}

/// The Pod that works.
fn leader() -> String {
    in_release(&["get", "lease", "wide-synapse-keeper-leader", "-o", "jsonpath={.spec.holderIdentity}"])
}

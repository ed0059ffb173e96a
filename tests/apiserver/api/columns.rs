//! What `kubectl get` shows.

use std::sync::Arc;

use crate::stage::{
    Stage, tests,
    world::{ANALYZE, FULL, SYNAPSE, World},
};

tests![get_synapse_lists_homeservers_alone, the_columns_tell_what_an_admin_wants_to_know];

async fn get_synapse_lists_homeservers_alone(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    world.maintain("m", &format!("suspend: true\n{ANALYZE}")).await;
    for kind in ["syn", "synapse", "synapses"] {
        assert_eq!(get(&world, &[kind, "-o", "name"]), "synapse.synapse-keeper.dev/example\n", "kubectl get {kind}");
    }
    for kind in ["synmt", "synapsemaintenance", "synapsemaintenances"] {
        assert_eq!(
            get(&world, &[kind, "-o", "name"]),
            "synapsemaintenance.synapse-keeper.dev/m\n",
            "kubectl get {kind}"
        );
    }
    assert_eq!(get(&world, &["synapse-keeper", "-o", "name"]).lines().count(), 2, "the category has all kinds");
}

async fn the_columns_tell_what_an_admin_wants_to_know(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    // Without adminApi nobody asks for the version.
    world.apply(&SYNAPSE.replace("  serverName", "  adminApi: {url: 'http://synapse:8008'}\n  serverName")).await;
    let _operator = world.operator();
    world.maintain("m", FULL).await;
    world.until_complete("m").await;
    world.until_synapse_is_ready().await;

    let table = get(&world, &["synmt"]);
    let row = table.lines().last().unwrap_or_default();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[..3], ["m", "example", "Succeeded"], "{table}");
    assert!(table.contains("DOWNTIME") && table.contains("FREED"), "{table}");
    let wide = get(&world, &["synapse", "-o", "wide"]);
    for cell in ["example.org", "True", "Healthy", "1.163.2", "17.6", "MiB", "all that was looked at is well"] {
        assert!(wide.contains(cell), "{cell} is not in\n{wide}");
    }
}

fn get(world: &World, arguments: &[&str]) -> String {
    let mut kubectl = world.stage.control_plane.program("kubectl");
    let output = kubectl.args(["get", "--namespace", &world.namespace]).args(arguments).output().expect("kubectl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

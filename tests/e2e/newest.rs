//! The demo's homeserver on the newest PostgreSQL that is supported: inspected, vacuumed, backed up, drilled and restored.

use crate::{
    drill::drill_on,
    homeserver::vacuum_full,
    person::Person,
    world::{World, condition, text},
};

const IMAGE: &str = "localhost/postgres:18";

#[test]
fn a_homeserver_on_postgresql_18_lives_through_it_all() {
    let world = World::new("newest");
    for manifest in ["secrets", "redis", "synapse-config", "synapse"] {
        world.apply_file(&format!("tests/homeserver/manifests/{manifest}.yaml"));
    }
    let postgres = include_str!("../homeserver/manifests/postgres.yaml");
    assert!(postgres.contains("localhost/postgres:15"));
    world.apply(&postgres.replace("localhost/postgres:15", IMAGE));
    world.kubectl(&["rollout", "status", "statefulset/synapse-main", "deployment/synapse-worker", "--timeout=4m"]);
    let alice = Person::sign_up(&world, "alice");
    alice.says("before the backup");

    world.apply_file("examples/synapse.yaml");
    let synapse = world.wait("synapse/example", "Healthy", |synapse| condition(synapse, "Ready")["status"] == "True");
    let version = text(&synapse["status"]["postgresVersion"]);
    assert!(version.starts_with("18."), "{version}");

    world.apply(&vacuum_full("full", "events", ""));
    world.wait_phase("full", "Succeeded");

    world.apply_file("examples/backup-volume.yaml");
    world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    let verified = condition(&drill_on(IMAGE, &world, "before-the-upgrade", 1), "Verified");
    assert_eq!(verified["status"], "True", "{verified:#}");
    alice.says("after the backup");

    world.apply_file("examples/restore-beside.yaml");
    let done = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Succeeded");
    assert!(text(&done["status"]["restored"]["kept"]).starts_with("synapse_before_"), "{:#}", done["status"]);
    assert_eq!(alice.looks().expect("the token of before").0, ["before the backup"]);
    alice.says("after the restore");
}

//! A homeserver that comes back: with people who notice, and with a Synapse that does not start.

use serde_json::Value;

use crate::{
    audit, homeserver,
    person::Person,
    world::{World, condition, text},
};

/// From the repository alone, as when the cluster is gone.
const AFTER_THE_FIRE: &str = "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseRestore
metadata: {name: after-the-fire}
spec:
  synapseRef: {name: example}
  from:
    repository:
      volume: {claimName: backups}
      passwordSecret: {name: backup-password, key: password}
  jobs: {fsGroup: 65532}
";

#[test]
fn people_find_what_the_backup_has_and_wait_for_a_swap_alone() {
    let world = World::new("restore");
    world.apply_file("tests/homeserver/manifests");
    serves(&world);
    let alice = Person::sign_up(&world, "alice");
    alice.says("before the backup");
    world.apply_file("examples/synapse.yaml");
    world.apply_file("examples/backup-volume.yaml");
    world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    alice.says("after the backup");
    let bob = Person::sign_up(&world, "bob");
    let newest = "SELECT max(stream_ordering) FROM events";
    let before: i64 = world.sql(newest).parse().unwrap();

    world.apply_file("examples/restore-in-place.yaml");
    let done = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Succeeded");
    let status = &done["status"];
    let downtime = status["last"]["downtimeSeconds"].as_i64().unwrap();
    assert!((1..=20).contains(&downtime), "{downtime} s");
    let snapshot = &world.get("synbk/before-the-upgrade")["status"]["snapshots"][0];
    assert_eq!(status["restored"]["snapshot"], snapshot["id"]);
    let kept = text(&status["restored"]["kept"]);
    assert!(kept.starts_with("synapse_before_"), "{status:#}");

    let (messages, one_time_keys) = alice.looks().expect("the token of before");
    assert_eq!(messages, ["before the backup"]);
    assert_eq!(one_time_keys, 0);
    assert_eq!(alice.uploads_keys(7), 7);
    let refused = bob.looks().unwrap_err();
    assert!(refused.contains("401"), "{refused}");
    alice.says("after the restore");
    assert!(world.sql(newest).parse::<i64>().unwrap() > before + 1_000_000, "positions were handed out twice");
    let shown = world.kubectl(&["get", "synrs", "-o", "wide"]);
    assert!(shown.contains("Succeeded") && shown.contains(&kept), "{shown}");

    the_same_name_restores_nothing_a_second_time(&world);
    what_is_lost_comes_back_from_the_repository_alone(&world);
    assert_eq!(alice.looks().expect("the token of before"), (vec!["before the backup".to_owned()], 0));
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}

/// As Argo CD makes what somebody has deleted.
fn the_same_name_restores_nothing_a_second_time(world: &World) {
    world.kubectl(&["delete", "synrs", "back-to-before-the-upgrade"]);
    world.apply_file("examples/restore-in-place.yaml");
    let refused = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Failed");
    let ready = condition(&refused, "Ready");
    assert_eq!(ready["reason"], "AlreadyRestored", "{ready:#}");
    assert!(text(&ready["message"]).contains("take a new name"), "{ready:#}");
    assert!(refused["status"]["run"]["window"].is_null(), "a refusal touches no replica");
}

fn what_is_lost_comes_back_from_the_repository_alone(world: &World) {
    world.kubectl(&["exec", "postgres-0", "--", "psql", "-U", "postgres", "-c", "DROP DATABASE synapse WITH (FORCE)"]);
    world.apply(AFTER_THE_FIRE);
    let done = world.wait_phase_of("synrs/after-the-fire", "Succeeded");
    assert_eq!(done["status"]["restored"]["kept"], Value::Null);
    serves(world);
}

fn serves(world: &World) {
    world.kubectl(&["rollout", "status", "statefulset/synapse-main", "deployment/synapse-worker", "--timeout=4m"]);
}

/// A main process that is Ready only while its database has a certain table.
const PICKY: &str = "\
import os, time, psycopg2
while True:
    try:
        database = psycopg2.connect(host='postgres', dbname='synapse', user='synapse', password='demo-synapse')
        database.cursor().execute('SELECT FROM made_after_the_backup')
        open('/tmp/ready', 'w').close()
        database.close()
    except psycopg2.Error as error:
        print(error, flush=True)
    time.sleep(1)
";

#[test]
fn what_synapse_does_not_start_with_is_taken_back() {
    let world = homeserver::world("restore-back");
    let admin = r#"{"spec":{"postgres":{"adminCredentials":{"secretName":"postgres-admin"}}}}"#;
    world.kubectl(&["patch", "synapse", "example", "--type=merge", "-p", admin]);
    world.apply_file("examples/backup-volume.yaml");
    world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    world.sql("SET ROLE synapse; CREATE TABLE made_after_the_backup (a int)");
    for main in ["synapse-main", "synapse-worker"] {
        let probe = serde_json::json!({"spec": {"template": {"spec": {
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [{
                "name": "synapse", "command": ["python3", "-B", "-c", PICKY],
                "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }],
        }}}});
        world.kubectl(&["patch", "deployment", main, "-p", &probe.to_string()]);
        world.kubectl(&["rollout", "status", &format!("deployment/{main}"), "--timeout=4m"]);
    }
    let oid = "SELECT oid FROM pg_database WHERE datname = 'synapse'";
    let before = world.sql(oid);

    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/restore-in-place.yaml"));
    world.apply(&format!("{}  downtime: {{readyWithin: 15s}}\n", example.unwrap()));
    let failed = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Failed");
    let ready = condition(&failed, "Ready");
    assert_eq!(ready["reason"], "NotReadyAgain", "{ready:#}");
    let message = text(&ready["message"]);
    for said in ["synapse-main has 0 of 1 Pods Ready", "it was taken back: synapse is the old database again"] {
        assert!(message.contains(said), "{said:?} is not in {message}");
    }
    assert_eq!(failed["status"]["restored"], Value::Null);
    assert_eq!(world.sql(oid), before, "it is the old one again");
    world.assert_untouched_or_restored();
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}

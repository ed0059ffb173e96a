//! A homeserver that comes back: with people who notice, and with a Synapse that does not start.

use serde_json::Value;

use crate::{
    audit, authentication, homeserver,
    kubectl::run,
    person::Person,
    s3,
    world::{World, condition, text},
};

/// Into the bucket of another namespace.
const BACKUP: &str = "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseBackup
metadata: {name: before-the-upgrade}
spec:
  synapseRef: {name: example}
  repository: {secretName: repository}
";

/// `task restore-config` by hand, and what it wrote.
/// The Secrets and ConfigMaps of the newest backup, by what docs/restore.md has an admin type.
fn configuration(world: &World, program: &str, more: &[&str]) -> String {
    world.apply_file(program);
    world.kubectl(&["wait", "--for=condition=Ready", "pod/keeper", "--timeout=5m"]);
    let exec = ["exec", "keeper", "--"];
    let task = ["synapse-keeper", "task", "restore-config", "--server-name", "example.org"];
    let places = ["--repository-dir", "/repository", "--output", "/tmp/config.yaml"];
    world.kubectl(&[&exec[..], &task, &places, more].concat());
    let configuration = world.kubectl(&[&exec[..], &["cat", "/tmp/config.yaml"]].concat());
    world.kubectl(&["delete", "pod", "keeper", "--grace-period=1"]);
    configuration
}

#[test]
fn people_find_what_the_backup_has_and_wait_for_a_swap_alone() {
    let vault = World::without_operator("vault");
    s3::start(&vault);
    let world = World::new("restore");
    s3::tell(&vault, &world);
    world.apply_file("tests/homeserver/manifests");
    serves(&world);
    let alice = Person::sign_up(&world, "alice");
    alice.says("before the backup");
    let cat = alice.shares("a photo of the cat");
    world.apply_file("examples/synapse.yaml");
    authentication::stands_beside(&world);
    authentication::is_used(&world);
    world.apply(BACKUP);
    let backup = world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    let stored = &backup["status"]["snapshots"][0];
    assert!(stored["mediaBytes"].as_i64() > Some(0), "{stored:#}");
    assert!(stored["authenticationApartSeconds"].as_f64() < Some(60.0), "{stored:#}");
    let told = text(&backup["status"]["history"][0]["message"]);
    assert!(told.contains("backed up 1 file of media"), "{told}");
    assert!(backup["status"]["run"]["window"].is_null(), "the homeserver was taken down for a backup");
    alice.says("after the backup");
    let dog = alice.shares("a photo of the dog");
    let lost = file_of(&cat);
    world.kubectl(&["exec", "synapse-main-0", "--", "rm", &lost]);
    let bob = Person::sign_up(&world, "bob");
    authentication::somebody_signs_in(&world, "bob");
    let newest = "SELECT max(stream_ordering) FROM events";
    let before: i64 = world.sql(newest).parse().unwrap();

    world.apply_file("examples/restore-beside.yaml");
    let done = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Succeeded");
    let status = &done["status"];
    assert!(status["last"]["downtimeSeconds"].as_i64() > Some(0), "{status:#}");
    let snapshot = &world.get("synbk/before-the-upgrade")["status"]["snapshots"][0];
    assert_eq!(status["restored"]["snapshot"], snapshot["id"]);
    let plan = text(&status["plan"][0]["summary"]);
    assert!(plan.contains("Synapse 1.163.2"), "{plan}");
    let kept = text(&status["restored"]["kept"]);
    assert!(kept.starts_with("synapse_before_"), "{status:#}");

    let (messages, one_time_keys) = alice.looks().expect("the token of before");
    assert_eq!(messages, ["before the backup"]);
    assert_eq!(one_time_keys, 0);
    assert_eq!(alice.uploads_keys(7), 7);
    assert_eq!(alice.sees(&cat).expect("it is back"), "a photo of the cat");
    assert!(alice.sees(&dog).is_err(), "the database of before does not know it");
    world.kubectl(&["exec", "synapse-main-0", "--", "test", "-e", &file_of(&dog)]);
    let refused = bob.looks().unwrap_err();
    assert!(refused.contains("401"), "{refused}");
    assert!(!authentication::knows(&world, "bob") && authentication::knows(&world, "user1"), "both or neither");
    authentication::serves(&world);
    alice.says("after the restore");
    assert!(world.sql(newest).parse::<i64>().unwrap() > before + 1_000_000, "positions were handed out twice");
    let shown = world.kubectl(&["get", "synrs", "-o", "wide"]);
    assert!(shown.contains("Succeeded") && shown.contains(&kept), "{shown}");

    the_same_name_restores_nothing_a_second_time(&world);
    a_dropped_database_and_an_emptied_claim_come_back(&world, &alice, &cat);
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));

    // Everything but the bucket burns.
    let (client, namespace) = (alice.client(), world.namespace.clone());
    drop(world);
    run("kubectl", &["wait", "--for=delete", &format!("namespace/{namespace}"), "--timeout=4m"], "");
    let world = World::new("restore");
    s3::tell(&vault, &world);
    what_is_lost_comes_back_from_the_repository_alone(&world, &Person::with(&world, client), &cat);
}

/// Where Synapse keeps what somebody has uploaded.
fn file_of(media_id: &str) -> String {
    format!("/data/media_store/local_content/{}/{}/{}", &media_id[..2], &media_id[2..4], &media_id[4..])
}

/// As Argo CD makes what somebody has deleted.
fn the_same_name_restores_nothing_a_second_time(world: &World) {
    world.kubectl(&["delete", "synrs", "back-to-before-the-upgrade"]);
    world.apply_file("examples/restore-beside.yaml");
    let refused = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Failed");
    let ready = condition(&refused, "Ready");
    assert_eq!(ready["reason"], "AlreadyRestored", "{ready:#}");
    assert!(text(&ready["message"]).contains("take a new name"), "{ready:#}");
    assert!(refused["status"]["run"]["window"].is_null(), "a refusal touches no replica");
}

/// While Synapse runs on, with nothing under it.
fn a_dropped_database_and_an_emptied_claim_come_back(world: &World, alice: &Person<'_>, cat: &str) {
    world.sql_in("postgres", "DROP DATABASE synapse WITH (FORCE)");
    world.kubectl(&["exec", "synapse-main-0", "--", "sh", "-c", "rm -rf /data/media_store/*"]);
    let example = include_str!("../../examples/restore-beside.yaml");
    world.apply(&example.replace("name: back-to-before-the-upgrade", "name: after-the-drop"));
    let done = world.wait_phase_of("synrs/after-the-drop", "Succeeded");
    let restored = &done["status"]["restored"];
    assert!(restored["kept"].is_null(), "there was nothing to keep: {restored:#}");

    assert_eq!(alice.looks().expect("the token of before"), (vec!["before the backup".to_owned()], 0));
    assert_eq!(alice.sees(cat).expect("it is back"), "a photo of the cat");
    alice.says("after the drop");
}

/// As docs/restore.md walks through it.
fn what_is_lost_comes_back_from_the_repository_alone(world: &World, alice: &Person<'_>, cat: &str) {
    for file in ["secrets", "postgres", "redis", "synapse"] {
        world.apply_file(&format!("tests/homeserver/manifests/{file}.yaml"));
    }
    // These are in nobody's Git.
    world.kubectl(&["delete", "secret", "synapse-signing-key", "synapse-registration"]);
    world.apply(&configuration(world, "examples/program.yaml", &[]));
    // It starts, and makes tables of its own.
    serves(world);
    world.apply_file("examples/synapse.yaml");
    authentication::stands_beside(world);
    let example = include_str!("../../examples/restore-disaster.yaml");
    world.apply(example.rsplit("---").next().unwrap());
    let done = world.wait_phase_of("synrs/after-the-fire", "Succeeded");
    assert!(text(&done["status"]["restored"]["kept"]).starts_with("synapse_before_"), "{:#}", done["status"]);

    assert_eq!(alice.looks().expect("the token of before"), (vec!["before the backup".to_owned()], 0));
    assert_eq!(alice.sees(cat).expect("it is back"), "a photo of the cat");
    alice.says("after the fire");
    assert!(authentication::knows(world, "user1") && !authentication::knows(world, "bob"), "both or neither");
    let keys = "SELECT DISTINCT jsonb_object_keys(json::jsonb -> 'signatures' -> 'example.org') FROM event_json";
    assert_eq!(world.sql(keys), "ed25519:a_demo", "another key would make it another homeserver");
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
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

const NO_ADMINISTRATOR: &str = r#"[{"op": "remove", "path": "/spec/postgres/adminCredentials"}]"#;

#[test]
fn what_synapse_does_not_start_with_is_taken_back() {
    let world = homeserver::world("restore-back");
    let admin = r#"{"spec":{"postgres":{"adminCredentials":{"secretName":"postgres-admin"}}}}"#;
    world.kubectl(&["patch", "synapse", "example", "--type=merge", "-p", admin]);
    world.apply_file("examples/backup-volume.yaml");
    world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    let configuration = configuration(&world, "examples/program-volume.yaml", &["--repository", "/backups/restic"]);
    assert!(configuration.contains("name: synapse-signing-key"), "{configuration}");
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

    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/restore-beside.yaml"));
    world.apply(&format!("{}  downtime: {{readyWithin: 15s}}\n", example.unwrap()));
    let failed = world.wait_phase_of("synrs/back-to-before-the-upgrade", "Failed");
    let ready = condition(&failed, "Ready");
    assert_eq!(ready["reason"], "NotReadyAgain", "{ready:#}");
    let message = text(&ready["message"]);
    for said in ["synapse-main has 0 of 1 Pods Ready", "it was rolled back: synapse is the old database again"] {
        assert!(message.contains(said), "{said:?} is not in {message}");
    }
    assert_eq!(failed["status"]["restored"], Value::Null);
    assert_eq!(world.sql(oid), before, "it is the old one again");
    world.assert_untouched_or_restored();

    for main in ["synapse-main", "synapse-worker"] {
        world.kubectl(&["rollout", "undo", &format!("deployment/{main}")]);
        world.kubectl(&["rollout", "status", &format!("deployment/{main}"), "--timeout=4m"]);
    }
    where_no_role_may_make_a_database_it_comes_back_into_the_empty_one(&world);
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}

fn where_no_role_may_make_a_database_it_comes_back_into_the_empty_one(world: &World) {
    let users = "SELECT string_agg(name, ' ' ORDER BY name) FROM users";
    let (before, oid) = (world.sql(users), "SELECT oid FROM pg_database WHERE datname = 'synapse'");
    world.kubectl(&["patch", "synapse", "example", "--type=json", "-p", NO_ADMINISTRATOR]);
    let example = include_str!("../../examples/restore-without-createdb.yaml");
    let restore = example.replace("name: nightly", "name: before-the-upgrade");
    world.apply(&restore.replace("name: after-the-move", "name: too-early"));
    let refused = world.wait_phase_of("synrs/too-early", "Failed");
    assert_eq!(condition(&refused, "Ready")["reason"], "DatabaseInUse", "{:#}", refused["status"]);
    assert!(refused["status"]["run"]["window"].is_null(), "a refusal touches no replica");
    assert_eq!(world.sql(users), before);

    world.sql_in("postgres", "DROP DATABASE synapse WITH (FORCE)");
    world.sql_in("postgres", "CREATE DATABASE synapse OWNER synapse TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    let empty = world.sql(oid);
    world.apply(&restore);
    let done = world.wait_phase_of("synrs/after-the-move", "Succeeded");
    assert_eq!(done["status"]["restored"]["kept"], Value::Null, "{:#}", done["status"]);
    assert_eq!(world.sql(oid), empty, "into that one, and no other");
    assert_eq!(world.sql(users), before);
    assert_eq!(world.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    world.sql("SET ROLE synapse; CREATE TABLE may_write (a int)");
    world.assert_untouched_or_restored();
}

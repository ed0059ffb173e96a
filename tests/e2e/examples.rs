//! The examples, applied to a Synapse that serves, with people, rooms and messages made through its own API.

use crate::{
    audit,
    world::{World, condition, text},
};

#[test]
fn the_examples_keep_a_real_homeserver_well() {
    let world = World::new("real");
    world.apply_file("tests/homeserver/manifests");
    world.kubectl(&["rollout", "status", "statefulset/synapse-main", "deployment/synapse-worker", "--timeout=4m"]);
    seed(&world);
    world.apply_file("examples/synapse.yaml");
    let synapse = world.wait("synapse/example", "Healthy", |synapse| condition(synapse, "Ready")["status"] == "True");
    let status = &synapse["status"];
    assert_eq!(status["synapseVersion"], "1.163.2");
    assert_eq!(status["schemaVersion"], 94);
    assert_eq!(status["locale"], serde_json::json!({"encoding": "UTF8", "collate": "C", "ctype": "C"}));
    assert_eq!(status["largestTables"].as_array().map(Vec::len), Some(10));

    let messages = messages(&world);
    assert!(messages > 100, "{messages}");

    world.apply_file("examples/maintenance-analyze.yaml");
    let analyze = world.wait_phase("analyze", "Succeeded");
    assert!(analyze["status"]["run"]["window"].is_null(), "an online step took Synapse down");

    bloat(&world);
    let nodes =
        "SELECT md5(string_agg(relname || relfilenode, ',' ORDER BY relname)) FROM pg_class WHERE relkind = 'r'";
    let before = world.sql(nodes);
    world.apply_file("examples/maintenance-dry-run.yaml");
    let dry_run = world.wait_phase("dry-run", "Succeeded");
    assert!(
        dry_run["status"]["plan"][0]["expectedGainBytes"].as_i64() > Some(1 << 20),
        "{:#}",
        dry_run["status"]["plan"]
    );
    assert_eq!(world.sql(nodes), before, "a dry run wrote tables");
    assert!(dry_run["status"]["run"]["window"].is_null(), "a dry run took Synapse down");

    vacuum_full_frees_and_tells(&world);
    assert_eq!(self::messages(&world), messages, "messages were lost");

    world.apply_file("examples/maintenance-nightly.yaml");
    let nightly = world.wait_phase("nightly", "Scheduled");
    assert!(!text(&nightly["status"]["nextRunAt"]).is_empty());
    world.kubectl(&["annotate", "synmt", "nightly", "synapse-keeper.dev/run-now=please"]);
    let ran =
        world.wait("synmt/nightly", "run once", |object| object["status"]["history"][0]["outcome"] == "Succeeded");
    assert_eq!(ran["status"]["history"][0]["trigger"], "Annotation");
    world.kubectl(&["rollout", "status", "statefulset/synapse-main", "deployment/synapse-worker", "--timeout=4m"]);
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}

fn vacuum_full_frees_and_tells(world: &World) {
    let client = format!("{}/tests/demo/client.py", env!("CARGO_MANIFEST_DIR"));
    world.kubectl(&["create", "configmap", "demo-client", &format!("--from-file={client}")]);
    world.apply_file("tests/demo/client.yaml");
    world.kubectl(&["wait", "--for=condition=Ready", "pod/demo-client", "--timeout=2m"]);
    world.apply_file("examples/maintenance-vacuum-full.yaml");
    let full = world.wait_phase("vacuum-full", "Succeeded");
    world.kubectl(&["exec", "demo-client", "--", "sh", "-c", "kill 1"]);
    world.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/demo-client", "--timeout=1m"]);
    let seen: f64 = world.kubectl(&["logs", "demo-client", "--tail=1"]).split(' ').next().unwrap().parse().unwrap();

    let last = &full["status"]["last"];
    assert!(last["freedBytes"].as_i64() > Some(1 << 20), "{last}");
    // What the operator says of the downtime is what a client saw, and never less (it waits for all Pods).
    let told = last["downtimeSeconds"].as_f64().unwrap();
    assert!(seen > 0.0 && seen <= told + 2.0, "the client saw {seen} s, the status says {told} s");
    let tables = full["status"]["run"]["steps"][2]["result"]["tables"].as_array().cloned().unwrap_or_default();
    assert!(tables.iter().any(|table| table["name"] == "event_json"), "{tables:?}");
    for column in ["Succeeded", "MiB"] {
        let shown = world.kubectl(&["get", "synmt", "vacuum-full"]);
        assert!(shown.contains(column), "{shown}");
    }
    let events = world.kubectl(&[
        "get",
        "events",
        "--field-selector=involvedObject.name=vacuum-full",
        "-o",
        "jsonpath={.items[*].reason}",
    ]);
    for reason in ["Started", "Quiescing", "Quiesced", "StepSucceeded", "ReplicasReturned", "Resumed", "Succeeded"] {
        assert!(events.split(' ').any(|word| word == reason), "{reason} is not among {events}");
    }
}

/// People, rooms and messages through Synapse's own API.
fn seed(world: &World) {
    let script = format!("{}/tests/homeserver/seed.py", env!("CARGO_MANIFEST_DIR"));
    world.kubectl(&["create", "configmap", "homeserver-seed", &format!("--from-file={script}")]);
    let size = ["--from-literal=USERS=6", "--from-literal=ROOMS=8", "--from-literal=MESSAGES=150"];
    world.kubectl(&[&["create", "configmap", "homeserver-seed-size"], &size[..]].concat());
    world.apply_file("tests/homeserver/seed-job.yaml");
    world.wait("job/homeserver-seed", "complete", |job| job["status"]["succeeded"] == 1);
}

/// Leaves space behind in the tables, as deleting does. So few real rows lie behind it that autovacuum would give all of it
/// back by itself.
fn bloat(world: &World) {
    world.sql("ALTER TABLE event_json SET (autovacuum_enabled = false)");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/homeserver/bloat.sql");
    let arguments = [
        "exec",
        "-i",
        "postgres-0",
        "--",
        "psql",
        "-X",
        "-q",
        "-U",
        "postgres",
        "-d",
        "synapse",
        "-v",
        "percent=5000",
        "-f",
        "-",
    ];
    let (success, said) = crate::kubectl::run(
        "kubectl",
        &[&["--namespace", world.namespace.as_str()], &arguments[..]].concat(),
        &std::fs::read_to_string(script).unwrap(),
    );
    assert!(success, "{said}");
}

/// How many messages there are.
fn messages(world: &World) -> i64 {
    world.sql("SELECT count(*) FROM events WHERE type = 'm.room.message'").parse().unwrap()
}

//! What people get wrong, and what answers: a clear message that says what to do, and a homeserver that nobody touched.

use crate::{
    homeserver::{vacuum_full, world},
    world::{World, condition, text},
};

fn analyze(name: &str, synapse: &str) -> String {
    format!(
        "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseMaintenance
metadata: {{name: {name}}}
spec: {{synapseRef: {{name: {synapse}}}, steps: [{{vacuum: {{mode: Analyze}}}}]}}
"
    )
}

fn patch_synapse(world: &World, patch: &str) {
    world.kubectl(&["patch", "synapse", "example", "--type=merge", "-p", patch]);
}

/// Fails with these words, and nothing was touched.
fn assert_refused(world: &World, maintenance: &str, reason: &str, words: &[&str]) {
    let (found, message) = world.wait_failed(maintenance);
    assert_eq!(found, reason, "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
    assert!(world.get(&format!("synmt/{maintenance}"))["status"]["run"]["window"].is_null(), "replicas were touched");
    world.assert_untouched_or_restored();
}

#[test]
fn each_mistake_about_postgres_has_an_answer_of_its_own() {
    let world = world("postgres-mistakes");
    let cases: [(&str, &str, &[&str]); 5] = [
        ("wrong-password", r#"{"credentials":{"secretName":"wrong-password"}}"#, &["password", "synapse"]),
        ("no-secret", r#"{"credentials":{"secretName":"not-there"}}"#, &["username"]),
        ("no-key", r#"{"credentials":{"secretName":"no-key"}}"#, &["password"]),
        ("no-database", r#"{"database":"synapsee"}"#, &["synapsee"]),
        ("no-host", r#"{"host":"postgress"}"#, &["postgress"]),
    ];
    world.kubectl(&[
        "create",
        "secret",
        "generic",
        "wrong-password",
        "--from-literal=username=synapse",
        "--from-literal=password=no",
    ]);
    world.kubectl(&["create", "secret", "generic", "no-key", "--from-literal=username=synapse"]);
    for (name, postgres, words) in cases {
        patch_synapse(&world, &format!(r#"{{"spec":{{"postgres":{postgres}}}}}"#));
        world.apply(&vacuum_full(name, "events", ""));
        let (reason, message) = world.wait_failed(name);
        for word in words {
            assert!(message.contains(word), "{name}: {word:?} is not in: {reason}: {message}");
        }
        assert!(
            world.get(&format!("synmt/{name}"))["status"]["run"]["window"].is_null(),
            "{name}: replicas were touched"
        );
        patch_synapse(
            &world,
            r#"{"spec":{"postgres":{"host":"postgres","database":"synapse","credentials":{"secretName":"synapse-postgres"}}}}"#,
        );
    }
    world.assert_untouched_or_restored();
    // The Synapse object's own inspection heals as well.
    world.wait("synapse/example", "Healthy", |synapse| condition(synapse, "Ready")["status"] == "True");
}

#[test]
fn each_mistake_about_pods_has_an_answer_of_its_own() {
    let world = world("pod-mistakes");
    let quick = "  jobs: {startWithin: 5s, ";
    world.apply(&vacuum_full("no-image", "events", &format!("{quick}image: 'localhost/not-there:1'}}")));
    assert_refused(&world, "no-image", "PodDoesNotStart", &["localhost/not-there:1"]);
    world.apply(&vacuum_full("full-node", "events", &format!("{quick}resources: {{requests: {{cpu: '200'}}}}}}")));
    assert_refused(&world, "full-node", "PodDoesNotStart", &["Insufficient cpu"]);
    patch_synapse(&world, r#"{"spec":{"postgres":{"dataVolume":null}}}"#);
    world.apply(&vacuum_full("unknown-disk", "events", ""));
    assert_refused(&world, "unknown-disk", "FreeSpaceUnknown", &["postgres.dataVolume", "freeSpace"]);
    let stated = vacuum_full("full-disk", "events", "").replace("minimumGain: '0'", "minimumGain: '0', freeSpace: '1'");
    world.apply(&stated);
    assert_refused(&world, "full-disk", "DiskTooSmall", &["1 B"]);
}

#[test]
fn a_synapse_that_is_not_there_is_waited_for() {
    let world = world("no-synapse");
    world.apply(&analyze("early", "later"));
    let waiting =
        world.wait("synmt/early", "waiting", |object| condition(object, "Ready")["reason"] == "SynapseNotFound");
    assert!(text(&condition(&waiting, "Ready")["message"]).contains("no Synapse object later in namespace"));
    let synapse = world.kubectl(&["get", "synapse", "example", "-o", "json"]);
    let mut synapse: serde_json::Value = serde_json::from_str(&synapse).unwrap();
    synapse["metadata"] = serde_json::json!({"name": "later"});
    world.kubectl(&["delete", "synapse", "example"]);
    world.apply(&synapse.to_string());
    world.wait_phase("early", "Succeeded");
}

#[test]
fn a_typo_is_refused_by_apply_with_the_name_of_the_field() {
    let world = World::new("typos");
    let good = analyze("typo", "example");
    let cases = [
        (good.replace("spec: {", "spec: {schedule: {cron: every night}, "), "spec.schedule.cron"),
        (good.replace("spec: {", "spec: {downtime: {atMost: 1 hour}, "), "spec.downtime.atMost"),
        (good.replace("spec: {", "spec: {downtme: {atMost: 1h}, "), "spec.downtme"),
        (good.replace("mode: Analyze", "mode: analyze"), "spec.steps[0].vacuum.mode"),
    ];
    for (yaml, field) in cases {
        let arguments = ["--namespace", world.namespace.as_str(), "apply", "-f", "-"];
        let (success, said) = crate::kubectl::run("kubectl", &arguments, &yaml);
        assert!(!success && said.contains(field), "{field} is not in: {said}");
    }
}

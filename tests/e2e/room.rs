//! What else is in the cluster: a mesh that adds containers to our Pods, a quota that others use up, a node that takes no more
//! Pods.

use serde_json::Value;

use crate::{
    homeserver::{slow_table, vacuum_full, world},
    kubectl::{kubectl, run},
    world::{World, condition, text},
};

/// An admission policy that adds a container to each Pod of a task in one namespace. It goes with the value.
struct Mesh(String);

impl Mesh {
    fn in_namespace_of(world: &World) -> Self {
        let name = format!("mesh-{}", world.namespace);
        let security = "securityContext{allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 65532, \
                        capabilities: Object.spec.containers.securityContext.capabilities{drop: ['ALL']}}";
        let container = format!(
            "Object.spec.containers{{name: 'mesh-proxy', image: 'localhost/pause:1', securityContext: Object.spec.containers.{security}}}"
        );
        // A merge may not write into lists such as `capabilities.drop`.
        let yaml = format!(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  matchConstraints:
    resourceRules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [pods]}}]
  matchConditions:
    - name: ours
      expression: >
        has(object.metadata.labels) && 'app.kubernetes.io/name' in object.metadata.labels &&
        object.metadata.labels['app.kubernetes.io/name'] == 'synapse-keeper-task'
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
    - patchType: JSONPatch
      jsonPatch:
        expression: >
          [JSONPatch{{op: 'add', path: '/spec/containers/-', value: {container}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {name}}}
spec:
  policyName: {name}
  matchResources: {{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {namespace}}}}}}}
",
            namespace = world.namespace
        );
        let mesh = Self(name);
        let (success, said) = run("kubectl", &["apply", "-f", "-"], &yaml);
        assert!(success, "{said}\n{yaml}");
        mesh
    }

    /// The policy is in force when a Pod of a task has the container.
    fn wait(&self, world: &World) {
        let probe = "apiVersion: v1\nkind: Pod\nmetadata: {name: probe, labels: {app.kubernetes.io/name: synapse-keeper-task}}\n\
                     spec:\n  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}\n\
                     \x20 containers:\n  - {name: it, image: 'localhost/pause:1', securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}\n";
        for _ in 0..100 {
            let arguments = ["--namespace", &world.namespace, "create", "--dry-run=server", "-o", "yaml", "-f", "-"];
            let (success, said) = run("kubectl", &arguments, probe);
            assert!(success, "{said}");
            if said.contains("mesh-proxy") {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(300));
        }
        panic!("the policy does not come into force");
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for kind in ["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"] {
            run("kubectl", &["delete", kind, &self.0, "--ignore-not-found"], "");
        }
    }
}

fn told(world: &World, reason: &str) -> String {
    world.kubectl(&[
        "get",
        "events",
        &format!("--field-selector=reason={reason}"),
        "-o",
        "jsonpath={..note}{..message}",
    ])
}

#[test]
fn a_container_of_a_mesh_ends_no_step_late() {
    let world = world("mesh");
    let mesh = Mesh::in_namespace_of(&world);
    mesh.wait(&world);
    slow_table(&world, 2);
    world.apply(&vacuum_full("full", "slow_table", "  downtime: {atMost: 10m}"));
    let done = world.wait_phase("full", "Succeeded");
    let downtime = done["status"]["last"]["downtimeSeconds"].as_i64();
    assert!(downtime < Some(90), "{downtime:?}: the budget was waited for");
    let told = told(&world, "ContainerLivesOn");
    assert_eq!(told.matches("mesh-proxy goes on").count(), 1, "{told}");
    world.assert_untouched_or_restored();
}

#[test]
fn a_quota_that_others_use_up_in_the_downtime_is_named_until_it_has_room() {
    let world = world("quota");
    slow_table(&world, 15);
    world.apply(&vacuum_full("full", "slow_table", "  downtime: {readyWithin: 25s}"));
    world.wait_phase("full", "Offline");
    world.apply("apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: tight}\nspec: {hard: {pods: '0'}}");
    let (reason, message) = world.wait_failed("full");
    assert_eq!(reason, "NotReadyAgain", "{message}");
    assert!(message.contains("exceeded quota: tight"), "{message}");
    let end = told(&world, "Failed");
    assert!(end.contains("the homeserver is not Ready"), "{end}");
    let serves = |status: &'static str| move |object: &Value| condition(object, "Serving")["status"] == status;
    let down = world.wait("synapse/example", "not served", serves("False"));
    let ready = condition(&down, "Ready");
    assert_eq!(
        (text(&ready["status"]), text(&ready["reason"])),
        ("False".to_owned(), "NoPodReady".to_owned()),
        "{ready}"
    );
    world.kubectl(&["delete", "resourcequota", "tight"]);
    world.assert_untouched_or_restored();
    world.wait("synapse/example", "served", serves("True"));
}

/// The cluster's node takes Pods again when the value goes.
struct Cordon(String);

impl Cordon {
    fn new() -> Self {
        let node = kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]).trim().to_owned();
        kubectl(&["cordon", &node]);
        Self(node)
    }
}

impl Drop for Cordon {
    fn drop(&mut self) {
        run("kubectl", &["uncordon", &self.0], "");
    }
}

#[test]
#[ignore = "no other test can have a Pod meanwhile"]
fn a_node_that_is_cordoned_in_preflight_takes_nobody_down() {
    let world = world("cordon");
    slow_table(&world, 1);
    world.apply(&vacuum_full("full", "slow_table", "  jobs: {startWithin: 15s}"));
    world.wait_phase("full", "Preflight");
    let _cordon = Cordon::new();
    let (reason, message) = world.wait_failed("full");
    assert_eq!(reason, "PodDoesNotStart", "{message}");
    assert!(message.contains("unschedulable"), "{message}");
    let object = world.get("synmt/full");
    assert!(object["status"]["run"]["window"].is_null(), "the homeserver was taken down: {object:#}");
    world.assert_untouched_or_restored();
}

#[test]
#[ignore = "no other test can have a Pod meanwhile"]
fn a_node_that_is_cordoned_in_the_downtime_leaves_no_doubt_that_nobody_is_served() {
    let world = world("cordon-offline");
    slow_table(&world, 8);
    world.apply(&vacuum_full("full", "slow_table", "  downtime: {readyWithin: 15s}"));
    world.wait_phase("full", "Offline");
    let cordon = Cordon::new();
    let (reason, message) = world.wait_failed("full");
    assert_eq!(reason, "NotReadyAgain", "{message}");
    assert!(
        message.contains("Deployment/synapse-main has 0 of 1 Pods Ready") && message.contains("unschedulable"),
        "{message}"
    );
    let downtime = text(&world.get("synmt/full")["status"]["last"]["downtime"]);
    assert!(downtime.starts_with("> "), "{downtime}");
    world.wait("synapse/example", "not served", |object| condition(object, "Ready")["reason"] == "NoPodReady");
    drop(cordon);
    world.assert_untouched_or_restored();
    world.wait("synapse/example", "served", |object| condition(object, "Serving")["status"] == "True");
}

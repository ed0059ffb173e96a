//! The chart, rendered by the real Helm. No cluster need be up; `HELM` names another binary.

mod helm;
#[path = "../support/setup.rs"]
mod setup;

use helm::{CHART, Manifests, kind, lint, names, refusal, render, text};
use serde::Deserialize;
use serde_yaml_ng::Value;

/// Sets of values that every general rule is held against.
const VALUES: [&[&str]; 4] = [
    &[],
    &["namespaced=true"],
    &["watchNamespace=matrix", "crds.install=false", "rbac.aggregateToView=true"],
    &[
        "replicas=2",
        "podDisruptionBudget.enabled=true",
        "networkPolicy.enabled=true",
        "metrics.serviceMonitor.enabled=true",
        "metrics.prometheusRule.enabled=true",
        "imagePullSecrets[0].name=pull",
        "priorityClassName=high",
        "nodeSelector.disk=ssd",
    ],
];

fn pods(manifests: &Manifests) -> Vec<(&str, &Value)> {
    let templates = manifests.iter().filter(|object| object["spec"]["template"]["spec"].is_mapping());
    templates.map(|object| (kind(object), &object["spec"]["template"]["spec"])).collect()
}

fn env<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let vars = pod["containers"][0]["env"].as_sequence().unwrap();
    vars.iter().find(|var| var["name"] == name).map(|var| &var["value"]).unwrap_or(&Value::Null)
}

fn list(value: &Value) -> Vec<&str> {
    value.as_sequence().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect()
}

#[test]
fn lints() {
    for values in VALUES {
        lint(values);
    }
}

#[test]
fn version_is_the_crates() {
    let chart: Value =
        serde_yaml_ng::from_str(&std::fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap()).unwrap();
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_pod_is_restricted() {
    for values in VALUES {
        let manifests = render(values);
        let pods = pods(&manifests);
        assert_eq!(pods.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["Deployment", "Job"]);
        for (_, pod) in pods {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(pod["enableServiceLinks"], false);
            for field in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"] {
                assert!(pod.get(field).is_none(), "{field}");
            }
            for container in pod["containers"].as_sequence().unwrap() {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false);
                assert_eq!(security["readOnlyRootFilesystem"], true);
                assert_eq!(list(&security["capabilities"]["drop"]), ["ALL"]);
                assert!(security["capabilities"].get("add").is_none());
                assert!(!container["resources"]["limits"]["memory"].is_null());
            }
        }
    }
}

#[test]
fn user_id_can_be_left_to_the_cluster() {
    let manifests = render(&["podSecurityContext.runAsUser=null", "podSecurityContext.runAsGroup=null"]);
    for (_, pod) in pods(&manifests) {
        assert!(pod["securityContext"].get("runAsUser").is_none());
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    }
}

#[test]
fn rights_end_where_secrets_begin() {
    for values in VALUES {
        for role in render(values).iter().filter(|object| kind(object).ends_with("Role")) {
            for rule in role["rules"].as_sequence().unwrap() {
                for word in
                    list(&rule["resources"]).iter().chain(&list(&rule["verbs"])).chain(&list(&rule["apiGroups"]))
                {
                    assert!(!word.contains('*'), "{rule:?}");
                    assert!(
                        !["secrets", "configmaps", "pods/exec", "nodes", "impersonate", "bind"].contains(word),
                        "{rule:?}"
                    );
                }
                // Who may write a workload may run any image with any account.
                if list(&rule["resources"])
                    .iter()
                    .any(|resource| ["deployments", "statefulsets", "pods"].contains(resource))
                {
                    for verb in list(&rule["verbs"]) {
                        assert!(["get", "list", "watch"].contains(&verb), "{rule:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_right_has_its_reason() {
    let text = text(&[], &["--show-only", "templates/rbac.yaml"]);
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let rules: Vec<_> = (0..lines.len()).filter(|&line| lines[line].starts_with("- apiGroups:")).collect();
    assert!(rules.len() >= 11);
    for line in rules {
        assert!(lines[line - 1].starts_with("# "), "{}", lines[line + 1]);
    }
}

#[test]
fn sees_the_whole_cluster_by_default() {
    let manifests = render(&[]);
    assert_eq!(names(&manifests, "ClusterRole"), ["keeper-synapse-keeper"]);
    assert_eq!(names(&manifests, "ClusterRoleBinding"), ["keeper-synapse-keeper"]);
    assert_eq!(names(&manifests, "Role"), ["keeper-synapse-keeper-own"]);
    for (_, pod) in pods(&manifests) {
        assert_eq!(*env(pod, "WATCH_NAMESPACE"), "");
    }
}

#[test]
fn namespaced_needs_no_right_on_the_cluster() {
    for (values, namespace) in [("namespaced=true", "home"), ("watchNamespace=matrix", "matrix")] {
        let manifests = render(&[values]);
        assert!(manifests.iter().all(|object| !kind(object).starts_with("ClusterRole")));
        for binding in ["Role", "RoleBinding"] {
            let found = manifests
                .iter()
                .find(|object| kind(object) == binding && object["metadata"]["name"] == "keeper-synapse-keeper");
            assert_eq!(found.unwrap()["metadata"]["namespace"], namespace);
        }
        for (_, pod) in pods(&manifests) {
            assert_eq!(*env(pod, "WATCH_NAMESPACE"), namespace);
        }
    }
}

#[test]
fn nothing_is_aggregated_to_edit() {
    for values in VALUES {
        for object in render(values) {
            let labels = serde_yaml_ng::to_string(&object["metadata"]["labels"]).unwrap();
            assert!(!labels.contains("aggregate-to-edit") && !labels.contains("aggregate-to-admin"), "{labels}");
        }
    }
    let manifests = render(&["rbac.aggregateToView=true"]);
    let role = manifests.iter().find(|object| object["metadata"]["name"] == "keeper-synapse-keeper-view").unwrap();
    assert_eq!(list(&role["rules"][0]["verbs"]), ["get", "list", "watch"]);
}

#[test]
fn crds_are_the_generated_ones_and_are_kept() {
    let manifests = render(&[]);
    let crds: Vec<_> = manifests.iter().filter(|object| kind(object) == "CustomResourceDefinition").collect();
    assert_eq!(crds.len(), synapse_keeper::api::crds::all().len());
    for (crd, made) in crds.iter().zip(sorted_crds()) {
        assert_eq!(crd["metadata"]["name"], made["metadata"]["name"]);
        assert_eq!(without_floats(&crd["spec"]), without_floats(&made["spec"]));
        assert_eq!(crd["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    }
    let manifests = render(&["crds.install=false"]);
    assert!(manifests.iter().all(|object| kind(object) != "CustomResourceDefinition"));
}

fn sorted_crds() -> Vec<Value> {
    let mut crds: Vec<_> = synapse_keeper::api::crds::all();
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds.iter().map(|crd| serde_yaml_ng::to_value(crd).unwrap()).collect()
}

/// Helm writes the number 1.0 as 1.
fn without_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => Value::from(number.as_f64().unwrap()),
        Value::Sequence(entries) => entries.iter().map(without_floats).collect(),
        Value::Mapping(fields) => {
            Value::Mapping(fields.iter().map(|(name, field)| (name.clone(), without_floats(field))).collect())
        }
        other => other.clone(),
    }
}

#[test]
fn braces_in_a_description_do_not_break_the_chart() {
    let copy = helm::copy_of_chart();
    let path = copy.path().join("files/crds/synapses.yaml");
    let crd = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, crd.replacen("description: ", "description: '{{ fail \"x\" }} ' # ", 1)).unwrap();
    let manifests = helm::render_at(copy.path(), &[]);
    assert!(serde_yaml_ng::to_string(&manifests).unwrap().contains("{{ fail \"x\" }}"));
}

#[test]
fn uninstall_first_brings_every_homeserver_back() {
    let manifests = render(&["uninstall.timeout=90s"]);
    let hooks: Vec<_> =
        manifests.iter().filter(|object| !object["metadata"]["annotations"]["helm.sh/hook"].is_null()).collect();
    let [job] = hooks[..] else { panic!("{hooks:?}") };
    assert_eq!(kind(job), "Job");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook"], "pre-delete");
    assert_eq!(job["metadata"]["annotations"]["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
    assert_eq!(job["metadata"]["name"], "keeper-synapse-keeper-uninstall");
    // By this the operator knows it.
    assert_eq!(job["metadata"]["labels"]["synapse-keeper.dev/purpose"], "uninstall");
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(list(&pod["containers"][0]["args"]), ["release", "--timeout", "90s"]);
    assert_eq!(pod["serviceAccountName"], "keeper-synapse-keeper");
    assert_eq!(pod["restartPolicy"], "Never");
}

#[test]
fn more_replicas_need_an_election() {
    let manifests = render(&["replicas=2"]);
    assert_eq!(*env(pods(&manifests)[0].1, "LEADER_ELECTION_LEASE"), "keeper-synapse-keeper-leader");
    let manifests = render(&["leaderElection.enabled=false"]);
    assert_eq!(*env(pods(&manifests)[0].1, "LEADER_ELECTION_LEASE"), "");
    let deployment = manifests.iter().find(|object| kind(object) == "Deployment").unwrap();
    assert_eq!(deployment["spec"]["strategy"], serde_yaml_ng::from_str::<Value>("{type: Recreate}").unwrap());
    assert!(refusal(&["leaderElection.enabled=false", "replicas=2"]).contains("/replicas"));
}

#[test]
fn images_are_named_by_tag_or_digest() {
    let image = |values: &[&str]| {
        let manifests = render(values);
        let pod = pods(&manifests)[0].1;
        (pod["containers"][0]["image"].clone(), env(pod, "TOOLS_IMAGE").clone())
    };
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        image(&[]),
        (
            format!("localhost/synapse-keeper:{version}").into(),
            format!("localhost/synapse-keeper-tools:{version}").into(),
        )
    );
    let digest = format!("sha256:{}", "0".repeat(64));
    let (operator, tools) =
        image(&["image.tag=dev", "toolsImage.repository=example.org/tools", &format!("toolsImage.digest={digest}")]);
    assert_eq!(operator, "localhost/synapse-keeper:dev");
    assert_eq!(tools, format!("example.org/tools@{digest}"));
}

#[test]
fn a_typo_is_refused_by_name() {
    for (values, named) in [
        ("imagee.tag=x", "imagee"),
        ("metrics.serviceMonitor.enable=true", "enable"),
        ("replicas=many", "/replicas"),
        ("log.format=xml", "/log/format"),
        ("uninstall.timeout=5 minutes", "/uninstall/timeout"),
        ("image.digest=latest", "/image/digest"),
        ("watchNamespace=Matrix", "/watchNamespace"),
    ] {
        let message = refusal(&[values]);
        assert!(message.contains(named), "{values}: {message}");
    }
}

#[test]
fn the_values_of_the_gitops_examples_are_taken() {
    type Values = fn(&Value) -> &Value;
    let examples: [(&str, Values); 2] = [
        ("argocd", |application| &application["spec"]["source"]["helm"]["valuesObject"]),
        ("flux", |release| &release["spec"]["values"]),
    ];
    for (tool, values) in examples {
        let path = format!("{}/examples/gitops/{tool}/operator.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let objects = serde_yaml_ng::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap());
        let values = values(&objects.last().unwrap()).clone();
        let file = tempfile::NamedTempFile::new().unwrap();
        serde_yaml_ng::to_writer(&file, &values).unwrap();
        let text = helm::text(&[], &["--values", file.path().to_str().unwrap()]);
        for image in ["image", "toolsImage"] {
            assert!(text.contains(values[image]["repository"].as_str().unwrap()), "{tool}");
        }
    }
}

#[test]
fn a_monitor_needs_its_service() {
    assert!(
        refusal(&["metrics.serviceMonitor.enabled=true", "metrics.service.enabled=false"])
            .contains("/metrics/service/enabled")
    );
}

#[test]
fn switches_bring_their_objects_and_nothing_is_on_by_itself() {
    for (switch, object) in [
        ("podDisruptionBudget.enabled", "PodDisruptionBudget"),
        ("networkPolicy.enabled", "NetworkPolicy"),
        ("metrics.serviceMonitor.enabled", "ServiceMonitor"),
        ("metrics.prometheusRule.enabled", "PrometheusRule"),
    ] {
        assert!(names(&render(&[]), object).is_empty(), "{object}");
        assert_eq!(names(&render(&[&format!("{switch}=true")]), object), ["keeper-synapse-keeper"]);
    }
}

#[test]
fn selectors_match_what_they_are_meant_for() {
    let manifests = render(VALUES[3]);
    let get = |wanted: &str| manifests.iter().find(|object| kind(object) == wanted).unwrap();
    let operator = get("Deployment")["spec"]["template"]["metadata"]["labels"].as_mapping().unwrap();
    let hook = get("Job")["spec"]["template"]["metadata"]["labels"].as_mapping().unwrap();
    let matches = |selector: &Value, labels: &serde_yaml_ng::Mapping| {
        selector.as_mapping().unwrap().iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    for (kind, path) in [("Deployment", "matchLabels"), ("PodDisruptionBudget", "matchLabels")] {
        let selector = &get(kind)["spec"]["selector"][path];
        assert!(matches(selector, operator) && !matches(selector, hook), "{kind}");
    }
    let service = &get("Service")["spec"]["selector"];
    assert!(matches(service, operator) && !matches(service, hook));
    let policy = &get("NetworkPolicy")["spec"]["podSelector"]["matchLabels"];
    assert!(matches(policy, operator) && matches(policy, hook), "the hook must reach the API server as well");
}

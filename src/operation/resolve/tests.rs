use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodSpec, Volume};
use serde_json::json;

use super::*;

fn spec() -> SynapseSpec {
    serde_json::from_value(json!({
        "serverName": "example.org",
        "workloads": {"selector": {"matchLabels": {"app": "synapse"}}},
        "postgres": {
            "host": "postgres", "database": "synapse", "credentials": {"secretName": "s"},
            "dataVolume": {"claimName": "data-postgres-0"},
        },
    }))
    .unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A workload of Synapse whose Pods have these labels.
fn workload(pod_labels: &[(&str, &str)]) -> Found {
    let meta = ObjectMeta { name: Some("main".to_owned()), ..Default::default() };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels(pod_labels)), ..Default::default() }),
        spec: Some(PodSpec::default()),
    };
    let found = found(WorkloadKind::StatefulSet, meta, template, LabelSelector::default(), Some(1));
    Found { role: Role::Main, ..found }
}

fn reason(found: Found, surroundings: &Surroundings) -> Option<&'static str> {
    refuse(&[found], &spec(), surroundings).map(|refusal| refusal.reason)
}

#[test]
fn a_selector_that_means_nothing_is_not_everything() {
    let mut spec = spec();
    let expression =
        json!({"matchLabels": {"app": "synapse"}, "matchExpressions": [{"key": "tier", "operator": "In"}]});
    spec.workloads.selector = serde_json::from_value(expression).unwrap();
    assert!(to_selector(spec.workloads.selector.as_ref().unwrap()).is_none());
    let refusal = refuse(&[workload(&[])], &spec, &Surroundings::default()).unwrap();
    assert_eq!(refusal.reason, "InvalidSelector", "{}", refusal.message);
}

#[test]
fn an_ordinary_workload_may_be_taken_down() {
    assert_eq!(reason(workload(&[("app", "synapse")]), &Surroundings::default()), None);
}

#[test]
fn the_operator_does_not_take_itself_down() {
    let own = labels(&[("app", "synapse"), ("pod-template-hash", "1")]);
    let surroundings = Surroundings { operator_labels: Some(own), ..Surroundings::default() };
    assert_eq!(reason(workload(&[("app", "synapse")]), &surroundings), Some("WorkloadIsOperator"));
    assert_eq!(reason(workload(&[("app", "synapse"), ("part", "main")]), &surroundings), None);
}

#[test]
fn what_holds_the_database_s_volume_is_the_database() {
    let surroundings = Surroundings::default();
    let mut by_template = workload(&[]);
    by_template.workload.name = "postgres".to_owned();
    by_template.claim_templates = vec!["data".to_owned()];
    assert_eq!(reason(by_template, &surroundings), Some("WorkloadIsPostgres"));

    let mut by_name = workload(&[]);
    let claim_name = "data-postgres-0".to_owned();
    let claim = Some(PersistentVolumeClaimVolumeSource { claim_name, read_only: None });
    let volume = Volume { name: "v".to_owned(), persistent_volume_claim: claim, ..Default::default() };
    by_name.template.spec = Some(PodSpec { volumes: Some(vec![volume]), ..Default::default() });
    assert_eq!(reason(by_name, &surroundings), Some("WorkloadIsPostgres"));

    let mut another = workload(&[]);
    another.claim_templates = vec!["data".to_owned()];
    assert_eq!(reason(another, &surroundings), None, "data-main-0 is another claim");
}

#[test]
fn the_database_of_the_authentication_service_is_not_taken_down_either() {
    let service = json!({
        "workloads": {"selector": {"matchLabels": {"app": "mas"}}},
        "postgres": {
            "host": "mas-db", "database": "mas", "credentials": {"secretName": "m"}, "dataVolume": {"claimName": "data-mas-db-0"},
        },
    });
    let spec = SynapseSpec { matrix_authentication_service: serde_json::from_value(service).unwrap(), ..spec() };
    let reason = |found: Found, surroundings: &Surroundings| {
        refuse(&[found], &spec, surroundings).map(|refusal| (refusal.reason, refusal.message))
    };
    let behind = [("mas-db".to_owned(), labels(&[("app", "mas-db")]))];
    let surroundings = Surroundings { postgres_selectors: behind.to_vec(), ..Surroundings::default() };
    let (refused, message) = reason(workload(&[("app", "mas-db")]), &surroundings).expect("it is refused");
    assert!(refused == "WorkloadIsPostgres" && message.contains("behind postgres.host mas-db"), "{message}");
    let mut of_volume = workload(&[]);
    of_volume.workload.name = "mas-db".to_owned();
    of_volume.claim_templates = vec!["data".to_owned()];
    let refused = reason(of_volume, &Surroundings::default()).expect("it is refused");
    assert!(refused.1.contains("mounts postgres.dataVolume data-mas-db-0"), "{refused:?}");
}

#[test]
fn a_host_names_a_service_of_the_namespace_or_none() {
    for host in ["postgres", "postgres.matrix", "postgres.matrix.svc", "postgres.matrix.svc.cluster.local."] {
        assert_eq!(service_name(host, "matrix"), Some("postgres"), "{host}");
        let pod = format!("postgres-0.{host}");
        assert_eq!(service_name(&pod, "matrix"), Some("postgres"), "{pod}");
    }
    for host in ["postgres.other.svc", "10.0.0.7", "db.example.org", ""] {
        assert_eq!(service_name(host, "matrix"), None, "{host}");
    }
}

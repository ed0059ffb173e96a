//! The CustomResourceDefinitions, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{Synapse, SynapseBackup, SynapseMaintenance, SynapseRestore};

/// Every CRD, in the order in which the docs name them.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![Synapse::crd(), SynapseMaintenance::crd(), SynapseBackup::crd(), SynapseRestore::crd()]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Paths of strings and lists without an upper bound.
    fn unbounded(schema: &Value, path: &str, found: &mut Vec<String>) {
        let has = |key: &str| schema.get(key).is_some();
        match schema["type"].as_str() {
            Some("string") if !["maxLength", "enum", "format"].into_iter().any(has) => found.push(path.to_owned()),
            Some("array") if !has("maxItems") => found.push(path.to_owned()),
            _ => {}
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            unbounded(property, &format!("{path}.{name}"), found);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                unbounded(&schema[inner], &format!("{path}[]"), found);
            }
        }
    }

    #[test]
    fn every_string_and_every_list_of_a_spec_has_an_upper_bound() {
        for crd in all() {
            let schema = crd.spec.versions[0].schema.clone().and_then(|schema| schema.open_api_v3_schema).unwrap();
            let spec = &serde_json::to_value(schema).unwrap()["properties"]["spec"];
            assert!(spec["properties"]["jobs"]["properties"]["tolerations"].is_object(), "the walk begins at a spec");
            let mut found = Vec::new();
            unbounded(spec, "spec", &mut found);
            assert_eq!(found, Vec::<String>::new(), "{}", crd.spec.names.kind);
        }
    }
}

//! The CustomResourceDefinitions, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{Synapse, kinds::operation_kinds};

/// Every CRD, in the order in which the docs name them.
pub fn all() -> Vec<CustomResourceDefinition> {
    macro_rules! crds {
        ($($field:ident: $kind:ty,)*) => { [Synapse::crd(), $(<$kind>::crd()),*] };
    }
    operation_kinds!(crds).into_iter().map(with_known_formats).collect()
}

/// What the API server calls the kinds in a path, such as `synapsebackups`.
pub fn plurals() -> Vec<String> {
    all().into_iter().map(|crd| crd.spec.names.plural).collect()
}

/// Formats that the types have and that Kubernetes does not know. It warns of each at every apply.
const UNKNOWN_FORMATS: [&str; 3] = ["uint", "uint8", "uint16"];

fn with_known_formats(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("plain data");
    remove_unknown_formats(&mut value);
    serde_json::from_value(value).expect("what it was made of")
}

fn remove_unknown_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|key, value| {
                key != "format" || !value.as_str().is_some_and(|it| UNKNOWN_FORMATS.contains(&it))
            });
            fields.values_mut().for_each(remove_unknown_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_unknown_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
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

    /// The values of `format` anywhere below.
    fn formats<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("format").and_then(Value::as_str));
                fields.values().for_each(|inner| formats(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| formats(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_format_is_one_that_kubernetes_knows() {
        for crd in all() {
            let crd = serde_json::to_value(crd).unwrap();
            let mut found = Vec::new();
            formats(&crd, &mut found);
            assert!(!found.is_empty(), "the walk finds some");
            for format in found {
                let known = ["int32", "int64", "uint32", "uint64", "double", "date-time", "duration"];
                assert!(known.contains(&format), "{format} in {}", crd["spec"]["names"]["kind"]);
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

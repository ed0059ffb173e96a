//! How the Pods of our Jobs look, for clusters with quotas, taints, service meshes or private registries.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Settings of the Jobs' Pods. An operation's own settings go before those of its `Synapse`, field by field.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSettings {
    /// Image of the tools, instead of the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// CPU and memory, as in a container's `resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels of the Pods, for instance to opt out of a service mesh.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = at_most(63)))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = at_most(8192)))]
    pub annotations: BTreeMap<String, String>,
    /// Nodes that the Pods may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = at_most(63)))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the Pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "tolerations")]
    pub tolerations: Vec<Toleration>,
    /// Secrets of a private registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 253)))]
    pub image_pull_secrets: Vec<String>,
    /// Priority class of the Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// User id of the containers. Without it: the image's own (65532).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run_as_user: Option<i64>,
    /// How long a Pod may take until its container runs, image included; 5m by default. After it the run fails, with the
    /// reason that the kubelet or the scheduler gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_within: Option<Duration>,
    /// How long a step may take that no budget of a downtime bounds: 2d by default, and 14d for what comes when the homeserver
    /// is free again, such as the upload of media. After it the Job is ended and the run fails. Preflight has 45m. The deletion of a backup's data
    /// has 1d by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Duration>,
    /// Group of the mounted volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub fs_group: Option<i64>,
}

/// A string with an upper bound.
fn at_most(length: u32) -> serde_json::Value {
    serde_json::json!({"type": "string", "maxLength": length})
}

/// `Toleration` with bounds, which Kubernetes' own schema lacks.
fn tolerations(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 32,
        "items": {
            "type": "object",
            "properties": {
                "key": {"type": "string", "maxLength": 317},
                "operator": {"type": "string", "enum": ["", "Exists", "Equal", "Lt", "Gt"]},
                "value": {"type": "string", "maxLength": 63},
                "effect": {"type": "string", "enum": ["", "NoSchedule", "PreferNoSchedule", "NoExecute"]},
                "tolerationSeconds": {"type": "integer", "format": "int64"},
            },
        },
    })
}

/// A container's requests and limits, by resource name, in Kubernetes' quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the scheduler reserves.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = at_most(63)))]
    pub requests: BTreeMap<String, String>,
    /// What the container may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8, "additionalProperties" = at_most(63)))]
    pub limits: BTreeMap<String, String>,
}

impl Resources {
    /// These amounts, and those of `base` for the resources that these do not name.
    #[must_use]
    pub fn or(self, base: &Self) -> Self {
        let amounts = |own, base: &BTreeMap<String, String>| base.clone().into_iter().chain(own).collect();
        Self { requests: amounts(self.requests, &base.requests), limits: amounts(self.limits, &base.limits) }
    }
}

impl JobSettings {
    /// These settings where they say something, `base` where they do not.
    pub fn or(self, base: &Self) -> Self {
        fn map(own: BTreeMap<String, String>, base: &BTreeMap<String, String>) -> BTreeMap<String, String> {
            base.clone().into_iter().chain(own).collect()
        }
        fn list<T: Clone>(own: Vec<T>, base: &[T]) -> Vec<T> {
            if own.is_empty() { base.to_vec() } else { own }
        }
        Self {
            image: self.image.or_else(|| base.image.clone()),
            resources: self.resources.or_else(|| base.resources.clone()),
            labels: map(self.labels, &base.labels),
            annotations: map(self.annotations, &base.annotations),
            node_selector: map(self.node_selector, &base.node_selector),
            tolerations: list(self.tolerations, &base.tolerations),
            image_pull_secrets: list(self.image_pull_secrets, &base.image_pull_secrets),
            priority_class_name: self.priority_class_name.or_else(|| base.priority_class_name.clone()),
            run_as_user: self.run_as_user.or(base.run_as_user),
            start_within: self.start_within.or_else(|| base.start_within.clone()),
            deadline: self.deadline.or_else(|| base.deadline.clone()),
            fs_group: self.fs_group.or(base.fs_group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings as JSON, every field with one of two values.
    fn settings(value: &str, number: i64) -> serde_json::Value {
        serde_json::json!({
            "image": value,
            "resources": {"limits": {"memory": value}},
            "labels": {"key": value},
            "annotations": {"key": value},
            "nodeSelector": {"key": value},
            "tolerations": [{"key": value}],
            "imagePullSecrets": [value],
            "priorityClassName": value,
            "runAsUser": number,
            "startWithin": format!("{number}s"),
            "deadline": format!("{number}h"),
            "fsGroup": number,
        })
    }

    fn read(json: serde_json::Value) -> JobSettings {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn each_field_may_be_overridden_alone() {
        let (base, own) = (settings("base", 1), settings("own", 2));
        for (field, value) in own.as_object().unwrap() {
            let mut expected = base.clone();
            expected[field] = value.clone();
            let only = read(serde_json::json!({field: value}));
            assert_eq!(serde_json::to_value(only.or(&read(base.clone()))).unwrap(), expected, "{field}");
        }
        assert_eq!(read(own.clone()).or(&JobSettings::default()), read(own), "nothing is lost without a base");
    }

    #[test]
    fn maps_are_merged_key_by_key() {
        let base = read(serde_json::json!({"labels": {"a": "1", "b": "1"}}));
        let own = read(serde_json::json!({"labels": {"b": "2", "c": "2"}}));
        assert_eq!(own.or(&base), read(serde_json::json!({"labels": {"a": "1", "b": "2", "c": "2"}})));
    }
}

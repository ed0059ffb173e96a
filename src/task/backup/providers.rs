//! Media that lie elsewhere: Synapse's `media_storage_providers`, such as a bucket.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::Deserialize;
use serde_yaml_ng::{Deserializer, Value};

/// What a homeserver's configuration says of media that no backup of ours has, for people. `manifests`: as
/// [`ConfigObjects`](super::ConfigObjects) has them.
pub fn warnings(manifests: &[u8]) -> Vec<String> {
    let mut warnings = Vec::new();
    for document in Deserializer::from_slice(manifests).filter_map(|document| Value::deserialize(document).ok()) {
        let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = document.get("metadata").and_then(|metadata| metadata.get("name")?.as_str()).unwrap_or_default();
        let name = format!("{kind} {name}");
        for (key, text) in texts(&kind, document) {
            let modules = modules(&text);
            if !modules.is_empty() {
                warnings.push(format!(
                    "{key} of {name} names media_storage_providers ({}): media that lie there alone, such as in a bucket, are \
                     not in this backup. Back that storage up as well",
                    modules.join(", ")
                ));
            }
        }
    }
    warnings
}

/// The keys of a Secret or ConfigMap with the text of each.
fn texts(kind: &str, document: Value) -> Vec<(String, String)> {
    if kind == "Secret" {
        let secret: Secret = serde_yaml_ng::from_value(document).unwrap_or_default();
        let data = secret.data.unwrap_or_default().into_iter();
        return data.filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?))).collect();
    }
    let config_map: ConfigMap = serde_yaml_ng::from_value(document).unwrap_or_default();
    config_map.data.unwrap_or_default().into_iter().collect()
}

/// The modules of the providers that a configuration of Synapse names. What is no YAML is none.
fn modules(text: &str) -> Vec<String> {
    let config: Value = serde_yaml_ng::from_str(text).unwrap_or_default();
    let providers = config.get("media_storage_providers").and_then(Value::as_sequence);
    let module = |provider: &Value| provider.get("module").and_then(Value::as_str).unwrap_or("of no name").to_owned();
    providers.into_iter().flatten().map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S3: &str = "media_storage_providers:\n- module: s3_storage_provider.S3StorageProviderBackend\n  config: {bucket: b, secret_access_key: geheim}\n";

    fn manifests(secret: &str, config_map: &str) -> Vec<u8> {
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "synapse-config"},
            "data": {"homeserver.yaml": k8s_openapi::ByteString(secret.into()), "noise": k8s_openapi::ByteString(vec![255])},
        });
        let config_map = serde_json::json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "more"}, "data": {"media.yaml": config_map},
        });
        let documents = [secret, config_map].map(|object| serde_yaml_ng::to_string(&object).unwrap());
        format!("---\n{}---\n{}", documents[0], documents[1]).into_bytes()
    }

    #[test]
    fn a_bucket_is_told_of_wherever_the_configuration_names_it() {
        for (text, place) in [
            (manifests(S3, "a: b"), "homeserver.yaml of Secret synapse-config"),
            (manifests("a: b", S3), "media.yaml of ConfigMap more"),
        ] {
            let [warning] = &warnings(&text)[..] else { panic!("{:?}", warnings(&text)) };
            assert!(warning.starts_with(place) && warning.contains("S3StorageProviderBackend"), "{warning}");
            assert!(!warning.contains("geheim"), "{warning}");
        }
    }

    #[test]
    fn without_one_nothing_is_said() {
        for text in [
            "media_storage_providers: []",
            "media_storage_providers:",
            "server_name: a",
            "{{ template }}",
            "ed25519 a b",
        ] {
            assert_eq!(warnings(&manifests(text, text)), Vec::<String>::new(), "{text}");
        }
    }
}

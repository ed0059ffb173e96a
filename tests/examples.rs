//! Every file in `examples/` says what it shows, and holds nothing that the kinds do not know.
//! The API server's tier applies them all, the cluster's tier has most of them carried out; here a mistake is found in a second.

use std::{fs, path::PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_yaml_ng::Value;
use synapse_keeper::api::{Synapse, SynapseBackup, SynapseMaintenance, SynapseRestore};

fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(folder);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

fn objects(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// Where `given` has something that `read`, the same object after a round trip through its type, has lost.
fn lost(given: &Value, read: &Value, path: &str) -> Vec<String> {
    match (given, read) {
        (Value::Mapping(given), Value::Mapping(read)) => {
            let field = |name: &Value| format!("{path}.{}", name.as_str().unwrap());
            let compare = |(name, value)| {
                read.get(name).map_or_else(|| vec![field(name)], |read| lost(value, read, &field(name)))
            };
            given.iter().flat_map(compare).collect()
        }
        (Value::Sequence(given), Value::Sequence(read)) if given.len() == read.len() => {
            given.iter().zip(read).flat_map(|(given, read)| lost(given, read, &format!("{path}[]"))).collect()
        }
        _ if given == read => vec![],
        _ => vec![path.to_owned()],
    }
}

/// An object after a round trip through its type.
fn read_as<K: DeserializeOwned + Serialize>(object: &Value) -> Value {
    serde_yaml_ng::to_value(serde_yaml_ng::from_value::<K>(object.clone()).unwrap()).unwrap()
}

#[test]
fn every_file_begins_with_what_it_shows() {
    for (path, text) in ["", "gitops/argocd", "gitops/flux"].into_iter().flat_map(files) {
        assert!(text.starts_with("# "), "{}", path.display());
    }
}

#[test]
fn plain_examples_are_known_to_the_kinds_and_name_no_namespace() {
    let files = files("");
    assert!(files.len() >= 6);
    for (path, text) in files {
        for object in objects(&text) {
            assert!(object["metadata"].get("namespace").is_none(), "{}", path.display());
            let read = match object["kind"].as_str().unwrap() {
                "Synapse" => read_as::<Synapse>(&object),
                "SynapseMaintenance" => read_as::<SynapseMaintenance>(&object),
                "SynapseBackup" => read_as::<SynapseBackup>(&object),
                "SynapseRestore" => read_as::<SynapseRestore>(&object),
                "Secret" => read_as::<Secret>(&object),
                "Pod" => read_as::<Pod>(&object),
                "PersistentVolumeClaim" => read_as::<PersistentVolumeClaim>(&object),
                other => panic!("{}: {other}", path.display()),
            };
            assert_eq!(lost(&object, &read, ""), Vec::<String>::new(), "{}", path.display());
        }
    }
}

#[test]
fn operations_refer_to_the_example() {
    for (path, text) in files("") {
        for object in objects(&text).iter().filter(|object| !object["spec"]["synapseRef"].is_null()) {
            assert_eq!(object["spec"]["synapseRef"]["name"], "example", "{}", path.display());
        }
    }
}

//! The examples for Argo CD and Flux, against the CRDs of Argo CD and Flux.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::stage::{Stage, install_crds, setup, tests, world::World};

tests![every_example_is_taken_and_a_misspelt_field_is_not];

async fn every_example_is_taken_and_a_misspelt_field_is_not(stage: Arc<Stage>, test: &'static str) {
    install_crds(&stage.admin, &crds().await).await;
    let world = World::empty(&stage, test).await;
    let examples: Vec<PathBuf> = ["argocd", "flux"].into_iter().flat_map(examples).collect();
    assert!(examples.len() >= 4, "{examples:?}");
    for path in examples {
        let text = fs::read_to_string(&path).expect("an example");
        for mut object in documents::<Value>(&text) {
            object["metadata"]["namespace"] = world.namespace.as_str().into();
            let taken = world.try_apply(&object.to_string()).await;
            taken.unwrap_or_else(|error| panic!("{}: {error}", path.display()));

            for (parent, name) in fields(&object["spec"], "/spec") {
                let mut misspelt = object.clone();
                let parent = misspelt.pointer_mut(&parent).and_then(Value::as_object_mut).expect("it was just there");
                let value = parent.remove(&name).expect("it was just there");
                parent.insert(format!("{name}Tyop"), value);
                let refused = world.try_apply(&misspelt.to_string()).await.expect_err(&name);
                assert!(refused.contains(&format!("{name}Tyop")), "{}: {refused}", path.display());
            }
        }
    }
}

/// Where each field is: its parent, as a JSON pointer, and its name.
fn fields(value: &Value, path: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    match value {
        Value::Object(fields_here) => {
            for (name, value) in fields_here {
                found.push((path.to_owned(), name.clone()));
                // What the chart is given is the chart's to refuse: see tests/chart.
                if name != "values" && name != "valuesObject" {
                    found.extend(fields(value, &format!("{path}/{name}")));
                }
            }
        }
        Value::Array(items) => {
            let of_item = |(index, item)| fields(item, &format!("{path}/{index}"));
            found.extend(items.iter().enumerate().flat_map(of_item));
        }
        _ => {}
    }
    found
}

/// The CRDs of the kinds that the examples have.
async fn crds() -> Vec<CustomResourceDefinition> {
    let printed = tokio::task::spawn_blocking(|| setup::output("tests/gitops/crds", &[]));
    documents(&printed.await.expect("the CRDs"))
}

fn examples(tool: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gitops").join(tool);
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("a file").path()).collect()
}

fn documents<T: DeserializeOwned>(yaml: &str) -> Vec<T> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    documents.map(|document| T::deserialize(document).expect("an object")).collect()
}

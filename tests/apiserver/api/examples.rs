//! Each plain example is taken as it stands. `tests/examples.rs` reads them; those of `gitops/` are with their own CRDs.

use std::{fs, path::Path, sync::Arc};

use serde::Deserialize;

use crate::stage::{Stage, tests, world::World};

tests![every_plain_example_is_taken];

async fn every_plain_example_is_taken(stage: Arc<Stage>, test: &'static str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut taken = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a file").path();
        if !path.is_file() {
            continue;
        }
        // Two of them describe a homeserver of the same name.
        let name = path.file_stem().expect("a name").to_string_lossy();
        let world = World::empty(&stage, &format!("{test}-{name}").replace('_', "-")).await;
        let text = fs::read_to_string(&path).expect("an example");
        if text.contains("kind: Pod\n") {
            world.admits_pods_as_restricted().await;
        }
        for object in documents(&text) {
            let applied = world.try_apply(&object.to_string()).await;
            applied.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            taken += 1;
        }
    }
    assert!(taken >= 6, "{taken} objects");
}

fn documents(yaml: &str) -> Vec<serde_json::Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    documents.map(|document| Deserialize::deserialize(document).expect("an object")).collect()
}

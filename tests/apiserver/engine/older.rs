//! Objects of an older release, in the middle of a run with the homeserver down: this one does what is left, and brings the homeserver
//! back. `older/` has one of each kind, as the releases until 2026-11-29 write them; the operator was killed when it had written that
//! the offline step runs, and before it had made the step's Job.

use std::sync::Arc;

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use synapse_keeper::{
    api::{Synapse, SynapseBackup, SynapseMaintenance, SynapseRestore, operation::Outcome},
    recipes::Operation,
};

use super::restore::without_mas;
use crate::stage::{
    Stage, tests,
    world::{REPLICAS, World},
};

tests![a_maintenance_is_finished, a_backup_is_finished, a_restore_is_finished];

async fn a_maintenance_is_finished(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    is_finished::<SynapseMaintenance>(&world, include_str!("older/maintenance.yaml"), &["vacuum"]).await;
}

async fn a_backup_is_finished(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    is_finished::<SynapseBackup>(&world, include_str!("older/backup.yaml"), &["backup", "retain"]).await;
}

async fn a_restore_is_finished(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    is_finished::<SynapseRestore>(&world, include_str!("older/restore.yaml"), &["swap-database"]).await;
}

/// `left`: the tasks that were not done yet.
async fn is_finished<K: Operation>(world: &World, recorded: &str, left: &[&str]) {
    for (kind, name, _) in REPLICAS {
        world.scale(kind, name, 0).await;
        world.until_workload_is_ready(kind, name, 0).await;
    }
    let synapse = world.api::<Synapse>().get("example").await.expect("it is there").uid().expect("a UID");
    let recorded = recorded.replace("UID-OF-SYNAPSE", &synapse).replace("NAMESPACE", &world.namespace);
    let mut object: Value = serde_yaml_ng::from_str(&recorded).expect("YAML");
    let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
    let status = object.as_object_mut().and_then(|object| object.remove("status")).expect("a status");
    world.apply(&object.to_string()).await;
    let api = world.api::<K>();
    let uid = api.get(&name).await.expect("it is there").uid().expect("a UID");
    let mut status: Value =
        serde_json::from_str(&status.to_string().replace("UID-OF-THIS", &uid)).expect("what it was made of");
    happens_now(&mut status);
    let patch = Patch::Merge(json!({"status": status}));
    let kept = api.patch_status(&name, &PatchParams::default(), &patch).await.expect("a status");
    let kept = serde_json::to_value(&kept).expect("plain data");
    assert_eq!(kept["status"], status, "neither the CRD nor the type loses a field");

    let _operator = world.operator();
    let has_ended = |object: Option<&K>| {
        let run = object.and_then(|object| object.status()).and_then(|status| status.run.as_ref());
        run.is_some_and(|run| run.is_finished())
    };
    let ended = world.until::<K>(&name, "has ended", has_ended).await.expect("it is there");
    let run = ended.status().and_then(|status| status.run.as_ref()).expect("a run");
    assert_eq!(run.outcome, Some(Outcome::Succeeded), "{run:?}");
    world.assert_homeserver_is_back().await;
    let of_object = |work: &String| work.starts_with(&uid);
    let begun: Vec<String> = world.place.ledger.begun().into_iter().filter(of_object).collect();
    assert_eq!(begun.len(), left.len(), "{begun:?}");
    assert!(left.iter().all(|task| begun.iter().any(|work| work.contains(task))), "{begun:?}");
}

/// Its moments are those of the recording, and the budget of a downtime would be over.
fn happens_now(value: &mut Value) {
    match value {
        Value::String(text) if text.parse::<jiff::Timestamp>().is_ok() => {
            *text = jiff::Timestamp::now().round(jiff::Unit::Second).expect("a moment").to_string();
        }
        Value::Array(items) => items.iter_mut().for_each(happens_now),
        Value::Object(fields) => fields.values_mut().for_each(happens_now),
        _ => {}
    }
}

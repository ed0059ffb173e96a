//! Many objects: the operator's own, finished or scheduled, and others'.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams},
    runtime::watcher,
};
use serde_json::json;
use synapse_keeper::api::{SynapseMaintenance, maintenance::SynapseMaintenanceSpec};

use crate::{
    audit,
    round::{ELECTION, Operator, account},
    stage::world::World,
    table::Table,
};

/// How many requests are under way at once.
const AT_ONCE: usize = 8;
/// What an object of others holds.
const BYTES: usize = 4000;
const SETTLE: &str = "To settle scheduled objects, applied while it works";

/// Objects that have run, each with the status of one that really has.
pub async fn create_finished(world: &World, finished: &SynapseMaintenance, count: usize) {
    let api = world.api::<SynapseMaintenance>();
    at_once(count, async |number| {
        let mut object = SynapseMaintenance::new(&format!("finished-{number:04}"), finished.spec.clone());
        object.status = finished.status.clone();
        let made = api.create(&PostParams::default(), &object).await.expect("an object");
        // The status of a creation is dropped.
        object.metadata = made.metadata;
        api.replace_status(&object.name_any(), &PostParams::default(), &object).await.expect("a status");
    })
    .await;
}

/// Creates objects that run once a year, and waits until the operator has looked at each.
pub async fn settle(operator: &Operator, world: &World, count: usize, table: &mut Table) {
    let api = world.api::<SynapseMaintenance>();
    let settled = tokio::spawn(until_settled(api.clone(), count));
    let spec = scheduled();
    let (from, began, cpu) = (Timestamp::now(), Instant::now(), operator.process.cpu());
    at_once(count, async |number| {
        let mut object = SynapseMaintenance::new(&format!("scheduled-{number:04}"), spec.clone());
        object.labels_mut().insert("bench".to_owned(), "scheduled".to_owned());
        api.create(&PostParams::default(), &object).await.expect("an object");
    })
    .await;
    let created = began.elapsed();
    settled.await.expect("they settle");
    let took = began.elapsed();
    // What it still does when all are settled counts as well.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let requests = operator.requests(from, Timestamp::now()).await;
    let requests: Vec<_> = requests.iter().filter(|request| !request.is_of_election(ELECTION)).collect();

    table.note(SETTLE, format!("their creation, {count} by {AT_ONCE} clients"), "s", created.as_secs_f64());
    table.add(SETTLE, "the first creation to the last settled", "s", "≤ 10", took.as_secs_f64());
    table.note(SETTLE, "CPU time of the operator", "s", (operator.process.cpu() - cpu).as_secs_f64());
    let writes = requests.iter().filter(|request| request.is_write()).count();
    table.add(SETTLE, "writes an object", "", "≤ 2", writes as f64 / count as f64);
    for (kind, times) in audit::counts(requests.iter().copied()) {
        table.note(SETTLE, kind, "", times as f64);
    }
}

/// Waits until so many scheduled objects have their status.
async fn until_settled(api: Api<SynapseMaintenance>, count: usize) {
    let mut settled = std::collections::HashSet::new();
    let mut events = Box::pin(watcher(api, watcher::Config::default().labels("bench=scheduled")));
    while let Some(event) = events.next().await {
        if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event
            && object.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Scheduled"))
            && settled.insert(object.uid())
            && settled.len() == count
        {
            return;
        }
    }
}

/// Once a year, on yesterday's date.
fn scheduled() -> SynapseMaintenanceSpec {
    let yesterday = Timestamp::now() - SignedDuration::from_hours(24);
    serde_json::from_value(json!({
        "synapseRef": {"name": "example"},
        "schedule": {"cron": yesterday.strftime("0 3 %-d %-m *").to_string()},
        "steps": [{"vacuum": {"mode": "Analyze"}}],
    }))
    .expect("a spec")
}

/// Secrets and ConfigMaps of others, half of each.
pub async fn create_foreign(admin: &Client, count: usize) {
    account(admin, "others").await;
    let text = "x".repeat(BYTES);
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "others");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "others");
    at_once(count, async |number| {
        let metadata = ObjectMeta { name: Some(format!("other-{number:05}")), ..Default::default() };
        let data = Some([("data".to_owned(), text.clone())].into());
        let params = PostParams::default();
        if number % 2 == 0 {
            let secret = Secret { metadata, string_data: data, ..Default::default() };
            secrets.create(&params, &secret).await.map(drop).expect("a Secret");
        } else {
            let map = ConfigMap { metadata, data, ..Default::default() };
            maps.create(&params, &map).await.map(drop).expect("a ConfigMap");
        }
    })
    .await;
}

/// Does something for each number.
pub async fn at_once(count: usize, each: impl AsyncFn(usize)) {
    stream::iter(0..count).for_each_concurrent(AT_ONCE, |number| each(number)).await;
}

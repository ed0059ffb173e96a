//! What the operator may do, what it does, and what becomes of it where it may not.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
};

use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{Namespace, ResourceQuota, ServiceAccount},
    rbac::v1::Role,
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
};
use serde::Deserialize;
use serde_json::{Value, json};
use synapse_keeper::{
    api::{SynapseMaintenance, conditions::Type},
    controller::{self, Options},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{backup, restore};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, success},
    tests,
    world::{ANALYZE, ANALYZE_AND_FULL, FULL, SYNAPSE, World},
};

tests![
    the_chart_grants_what_is_used_and_nothing_else,
    a_quota_on_jobs_brings_the_homeserver_back,
    a_quota_on_pods_is_named_before_a_replica_is_touched,
    a_restricted_namespace_takes_the_jobs,
];

/// Group and resource, verb.
type Right = (String, String);

async fn the_chart_grants_what_is_used_and_nothing_else(stage: Arc<Stage>, test: &'static str) {
    let world = World::with_homeserver(&stage, test).await;
    let account = install(&world).await;
    let shutdown = CancellationToken::new();
    let operator = run_as(&world, &account, shutdown.clone()).await;
    use_everything(&world).await;
    shutdown.cancel();
    operator.join().expect("it ends").expect("without an error");

    let (used, denied) = audited(&stage.control_plane.audit_log(), &world.namespace);
    assert_eq!(denied, BTreeSet::new(), "denied");
    let granted = granted(&world).await;
    let unused: BTreeSet<_> = granted.difference(&used).collect();
    assert_eq!(unused, BTreeSet::new(), "granted but never used");
    let secrets = |(resource, _): &Right| resource.contains("secrets") || resource.contains("configmaps");
    assert!(!granted.iter().any(secrets), "it reads no Secret");
}

/// Applies what the chart renders of RBAC for this namespace; gives the ServiceAccount's name.
pub(super) async fn install(world: &World) -> String {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/synapse-keeper");
    let mut helm = world.stage.control_plane.program("helm");
    helm.args([
        "template",
        "keeper",
        chart,
        "--kube-version=1.34.0",
        "--set=namespaced=true",
        "--namespace",
        &world.namespace,
    ]);
    let rendered = helm.output().expect("helm");
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let text = String::from_utf8(rendered.stdout).expect("text");
    let documents =
        serde_yaml_ng::Deserializer::from_str(&text).map(|document| Value::deserialize(document).expect("YAML"));
    let of_rbac = documents.filter(|object| {
        let is_hook = object.pointer("/metadata/annotations/helm.sh~1hook").is_some();
        !is_hook && matches!(object["kind"].as_str(), Some("Role" | "RoleBinding" | "ServiceAccount"))
    });
    let objects: Vec<Value> = of_rbac.collect();
    for object in &objects {
        world.apply(&serde_yaml_ng::to_string(object).expect("YAML")).await;
    }
    // Where the operator runs: what it must never take down.
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: operator-0, labels: {app: keeper}}\nspec: {containers: [{name: it, image: localhost/it:1}]}";
    world.apply(pod).await;
    let account =
        objects.iter().find(|object| object["kind"] == "ServiceAccount").expect("the chart has a ServiceAccount");
    account["metadata"]["name"].as_str().expect("a name").to_owned()
}

/// The operator as its Deployment runs it, with the rights of that account, on a thread of its own.
async fn run_as(world: &World, account: &str, shutdown: CancellationToken) -> JoinHandle<Result<(), String>> {
    let client = Client::try_from(config_of(world, account).await).expect("a client");
    let options = Options {
        tools_image: "localhost/tools:1".to_owned(),
        tools_image_pull_policy: "IfNotPresent".to_owned(),
        watch_namespace: world.namespace.clone(),
        leader_election_lease: "keeper-leader".to_owned(),
        pod_namespace: Some(world.namespace.clone()),
        pod_name: Some("operator-0".to_owned()),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
    };
    let runtime = Handle::current();
    std::thread::spawn(move || {
        runtime.block_on(controller::run(client, options, shutdown)).map_err(|error| error.to_string())
    })
}

/// How a client with the rights of that account reaches the API server.
pub(super) async fn config_of(world: &World, account: &str) -> Config {
    let accounts: Api<ServiceAccount> = world.api();
    let request = TokenRequest { spec: Default::default(), ..Default::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await.expect("a token");
    world.stage.control_plane.config_for(&answer.status.expect("a token").token).await
}

/// All that an operator ever does.
async fn use_everything(world: &World) {
    // A report from a log; an event that comes twice; Jobs of an earlier run that are swept.
    world.play(Script::default().tasks(|task| (task.name() == "vacuum").then(|| Fate::ReportsInLog(success(task)))));
    world.maintain("weekly", &format!("schedule: {{cron: '@yearly'}}\n{ANALYZE}")).await;
    for (value, runs) in [("1", 1), ("2", 2)] {
        world.run_now::<SynapseMaintenance>("weekly", value).await;
        let ran =
            |object: &SynapseMaintenance| object.status.as_ref().is_some_and(|status| status.history.len() == runs);
        world.until_maintenance("weekly", "has run", ran).await;
    }
    // Workloads by name, a downtime, somebody who scales up in it.
    let refs = "refs: [{kind: StatefulSet, name: main}, {kind: Deployment, name: worker}]";
    world.apply(&SYNAPSE.replace("selector: {matchLabels: {app: synapse}}", refs)).await;
    world.play(Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted)));
    world.maintain("m", FULL).await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if Task::is_offline(task));
    world.place.ledger.until("the offline task runs", began).await;
    world.scale("StatefulSet", "main", 1).await;
    world.until_failed("m").await;
    // And one by its labels, with a volume.
    world.apply("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}").await;
    world
        .apply(
            &SYNAPSE.replace(
                "secretName: synapse-postgres}",
                "secretName: synapse-postgres}, dataVolume: {claimName: data}",
            ),
        )
        .await;
    world.play(Script::default());
    world.maintain("n", ANALYZE_AND_FULL).await;
    world.until_complete("n").await;
    // A Pod that cannot be made.
    quota(world, "pods", 0).await;
    world.maintain("o", &format!("{ANALYZE}\njobs: {{startWithin: 30s}}")).await;
    world.until_failed("o").await;
    world.api::<ResourceQuota>().delete("tight", &Default::default()).await.expect("it is there");
    backup::once(world, "quiesce: true").await;
    restore::once(world).await;
    world.until_synapse_is_ready().await;
}

async fn granted(world: &World) -> BTreeSet<Right> {
    let roles = world.api::<Role>().list(&Default::default()).await.expect("a list").items;
    let rules = roles.into_iter().flat_map(|role| role.rules.unwrap_or_default());
    rules
        .flat_map(|rule| {
            let (groups, resources) = (rule.api_groups.unwrap_or_default(), rule.resources.unwrap_or_default());
            let resources: Vec<String> = groups
                .iter()
                .flat_map(|group| resources.iter().map(move |resource| format!("{group}/{resource}")))
                .collect();
            resources.into_iter().flat_map(move |resource| {
                rule.verbs.clone().into_iter().map(move |verb| (resource.clone(), verb)).collect::<Vec<_>>()
            })
        })
        .collect()
}

/// What accounts of a namespace have used, and what they were denied.
fn audited(log: &str, namespace: &str) -> (BTreeSet<Right>, BTreeSet<Right>) {
    let (mut used, mut denied) = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        let text = |path: &str| entry.pointer(path).and_then(Value::as_str).unwrap_or_default();
        if !text("/user/username").starts_with(&format!("system:serviceaccount:{namespace}:")) {
            continue;
        }
        let subresource = text("/objectRef/subresource");
        let slash = if subresource.is_empty() { "" } else { "/" };
        let resource = format!("{}/{}{slash}{subresource}", text("/objectRef/apiGroup"), text("/objectRef/resource"));
        let is_denied = entry.pointer("/responseStatus/code").and_then(Value::as_i64) == Some(403);
        let set = if is_denied { &mut denied } else { &mut used };
        set.insert((resource, text("/verb").to_owned()));
    }
    (used, denied)
}

async fn a_quota_on_jobs_brings_the_homeserver_back(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| {
        let held = || Fate::Held(Fate::Reports(success(task)).into());
        task.is_offline().then(held)
    }));
    world.begin("steps: [{vacuum: {mode: Full, tables: [a]}}, {vacuum: {mode: Full, tables: [b]}}]").await;
    let began = |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline());
    world.place.ledger.until("the first offline task runs", began).await;
    quota(&world, "count/jobs.batch", 0).await;
    world.place.release();
    let (reason, message) = world.until_failed("m").await;
    assert_eq!(reason, "ApiRefused");
    assert!(message.contains("to create a Job") && message.contains("exceeded quota: tight"), "{message}");
    world.assert_all_is_back().await;
    assert_eq!(world.generations().await, [3, 3, 1, 3]);
}

async fn a_quota_on_pods_is_named_before_a_replica_is_touched(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    quota(&world, "pods", 4).await;
    // No limit of time: the controller writes its events one after the other, those of all tests. Half a minute late was seen.
    world.begin(FULL).await;
    let message = world.until_condition("m", Type::Ready, "False", "PodDoesNotStart").await;
    assert!(
        message.contains("no Pod could be made for its Job") && message.contains("exceeded quota: tight"),
        "{message}"
    );
    assert_eq!(world.generations().await, [1, 1, 1, 1]);
    world.api::<ResourceQuota>().delete("tight", &Default::default()).await.expect("it is there");
    world.until_complete("m").await;
}

async fn a_restricted_namespace_takes_the_jobs(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let namespaces: Api<Namespace> = Api::all(stage.admin.clone());
    namespaces.patch(&world.namespace, &PatchParams::default(), &Patch::Merge(label)).await.expect("it is there");
    let bad = json!({"metadata": {"name": "bad"}, "spec": {"containers": [{"name": "it", "image": "localhost/it:1"}]}});
    let refused = |answer: Result<_, String>| answer.is_err_and(|words| words.contains("restricted"));
    world.until_a_pod("is refused", bad, refused).await;
    world.begin(FULL).await;
    world.until_complete("m").await;
    world.until_synapse_is_ready().await;
    world.until_condition("m", Type::Ready, "True", "Succeeded").await;
}

/// Makes a quota and waits until it is counted.
pub(super) async fn quota(world: &World, what: &str, hard: i64) {
    world
        .apply(&format!(
            "apiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: tight}}\nspec: {{hard: {{{what}: {hard}}}}}"
        ))
        .await;
    world
        .until::<ResourceQuota>("tight", "is counted", |quota| {
            quota.is_some_and(|quota| quota.status.as_ref().is_some_and(|status| status.used.is_some()))
        })
        .await;
}

//! Plays scheduler and kubelet for every namespace: binds Pods, runs and stops them, and writes down what it saw.
//!
//! Each Pod has a task of its own that lives as long as the Pod. What is written to the API server is what a kubelet would
//! write, in its order: a Job's Pod that is told to stop first ends (`Failed`, exit code 143) and then goes.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::{Value, json};
use synapse_keeper::contract::{EXIT_TERMINAL, EXIT_TRANSIENT, ErrorClass, Report};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Entry, Ledger, Task},
    script::{Fate, Script, Trouble},
};

/// The node that Pods run on that do not want another.
pub const NODE: &str = "node-1";
/// How long a task works and a Pod takes to stop.
const MOMENT: Duration = Duration::from_millis(20);

/// What the kubelet keeps for one namespace.
pub struct Place {
    script: Mutex<Arc<Script>>,
    pub ledger: Ledger,
    /// As many tasks as there are permits may end that are held.
    held: Semaphore,
    /// What `kubectl logs` of a Pod would print.
    logs: Mutex<HashMap<String, String>>,
}

impl Default for Place {
    fn default() -> Self {
        Self { script: Mutex::default(), ledger: Ledger::default(), held: Semaphore::new(0), logs: Mutex::default() }
    }
}

impl Place {
    pub fn play(&self, script: Script) {
        *lock(&self.script) = Arc::new(script);
    }

    /// Lets one task end that is held, now or later.
    pub fn release(&self) {
        self.held.add_permits(1);
    }

    pub fn log(&self, pod: &str) -> Option<String> {
        lock(&self.logs).get(pod).cloned()
    }

    fn script(&self) -> Arc<Script> {
        lock(&self.script).clone()
    }
}

/// Scheduler and kubelet.
pub struct Kubelet {
    client: Client,
    places: Mutex<HashMap<String, Arc<Place>>>,
}

impl Kubelet {
    /// Begins to play, until `end`.
    pub fn start(client: Client, end: CancellationToken) -> Arc<Self> {
        let this = Arc::new(Self { client, places: Mutex::default() });
        tokio::spawn(end.run_until_cancelled_owned(this.clone().watch()));
        this
    }

    /// What is kept for a namespace.
    pub fn place(&self, namespace: &str) -> Arc<Place> {
        lock(&self.places).entry(namespace.to_owned()).or_default().clone()
    }

    async fn watch(self: Arc<Self>) {
        let mut alive: HashMap<String, watch::Sender<Pod>> = HashMap::new();
        let mut events =
            pin!(watcher(Api::<Pod>::all(self.client.clone()), watcher::Config::default()).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                    let uid = pod.uid().unwrap_or_default();
                    match alive.get(&uid) {
                        Some(life) => drop(life.send_replace(pod)),
                        None => {
                            let (life, seen) = watch::channel(pod.clone());
                            alive.insert(uid, life);
                            tokio::spawn(self.clone().live(pod, seen));
                        }
                    }
                }
                Ok(watcher::Event::Delete(pod)) => drop(alive.remove(&pod.uid().unwrap_or_default())),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                Err(error) => eprintln!("the kubelet's watch: {error}"),
            }
        }
    }

    /// A Pod's whole life. `seen` closes when the Pod is gone.
    async fn live(self: Arc<Self>, pod: Pod, mut seen: watch::Receiver<Pod>) {
        let namespace = pod.namespace().unwrap_or_default();
        let life = Life {
            place: self.place(&namespace),
            api: Api::namespaced(self.client.clone(), &namespace),
            name: pod.name_any(),
            node: wanted_node(&pod).unwrap_or(NODE).to_owned(),
            began: Timestamp::now(),
        };
        match task_of(&pod) {
            Some(task) => life.of_task(&pod, &task, &mut seen).await,
            None if is_homeserver(&pod) => {
                life.place.ledger.write(Entry::PodCame(life.name.clone()));
                life.of_workload(&mut seen).await;
                life.place.ledger.write(Entry::PodWent(life.name.clone()));
                life.leave().await;
                gone(&mut seen).await;
            }
            None => {
                life.of_workload(&mut seen).await;
                life.leave().await;
            }
        }
    }
}

/// A Pod and the hands to move it.
struct Life {
    place: Arc<Place>,
    api: Api<Pod>,
    name: String,
    node: String,
    began: Timestamp,
}

impl Life {
    /// A homeserver's Pod: runs until it is told to stop.
    async fn of_workload(&self, seen: &mut watch::Receiver<Pod>) {
        let trouble = self.place.script().trouble(&self.name);
        self.bind().await;
        if trouble != Some(Trouble::NeverStarts) {
            self.run(trouble != Some(Trouble::NeverReady)).await;
        }
        told_to_stop(seen).await;
        match self.place.script().trouble(&self.name) {
            Some(Trouble::NeverStops) => return gone(seen).await,
            Some(Trouble::StopsSlowly(millis)) => tokio::time::sleep(Duration::from_millis(millis)).await,
            _ => tokio::time::sleep(MOMENT).await,
        }
    }

    /// It has ended. Where finalizers keep it, that is seen.
    async fn leave(&self) {
        self.status(json!({"phase": "Succeeded"})).await;
        self.remove().await;
    }

    /// A Job's Pod: what the script says becomes of it, unless it is told to stop first.
    async fn of_task(&self, pod: &Pod, task: &Task, seen: &mut watch::Receiver<Pod>) {
        let fate = self.place.script().fate(task);
        let mut stopped = seen.clone();
        tokio::select! {
            () = self.meet(pod, task, fate.clone()) => {
                told_to_stop(seen).await;
                if !others(pod).is_empty() {
                    // What others have put there ends as it is told to.
                    self.status(json!({"phase": "Failed"})).await;
                }
                self.remove().await;
            }
            () = told_to_stop(&mut stopped) => {
                if matches!(fate, Fate::OnLostNode) {
                    return gone(seen).await;
                }
                let millis = if let Fate::StopsSlowly(millis) = fate { millis } else { 20 };
                tokio::time::sleep(Duration::from_millis(millis)).await;
                self.end(pod, 143, "Error", None, None).await;
                self.place.ledger.write(Entry::TaskStopped { pod: self.name.clone(), task: task.clone() });
                self.remove().await;
            }
        }
    }

    async fn meet(&self, pod: &Pod, task: &Task, fate: Fate) {
        match &fate {
            Fate::Unschedulable => {
                let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient memory."});
                return self.status(json!({"phase": "Pending", "conditions": [condition]})).await;
            }
            Fate::NoImage => {
                self.bind().await;
                let waiting = json!({"reason": "ImagePullBackOff",
                    "message": "Back-off pulling image \"localhost/nothing:1\": not found"});
                return self.status(json!({"phase": "Pending", "containerStatuses": [container(json!({"waiting": waiting}), false)]})).await;
            }
            _ => {}
        }
        self.bind().await;
        let beside = self.homeserver_pods().await;
        self.place.ledger.write(Entry::TaskBegan { pod: self.name.clone(), task: task.clone(), beside });
        self.run_task(pod).await;
        tokio::time::sleep(MOMENT).await;
        self.finish(pod, task, fate).await;
    }

    async fn finish(&self, pod: &Pod, task: &Task, mut fate: Fate) {
        while let Fate::Held(then) = fate {
            self.place.held.acquire().await.expect("it is never closed").forget();
            fate = *then;
        }
        let mut success = false;
        match fate {
            Fate::Reports(report) => {
                success = report.error.is_none();
                let message = serde_json::to_string(&report).expect("plain data");
                self.end(pod, exit_code(&report), "Completed", Some(message), None).await;
            }
            Fate::ReportsInLog(report) => {
                success = report.error.is_none();
                let log = serde_json::to_string(&report).expect("plain data");
                lock(&self.place.logs).insert(self.name.clone(), format!("{{\"progress\":1}}\n{log}\n"));
                let short = Report { details_in_log: true, result: None, findings: None, ..report.clone() };
                let message = serde_json::to_string(&short).expect("plain data");
                self.end(pod, exit_code(&report), "Completed", Some(message), None).await;
            }
            Fate::RunsOutOfMemory => self.end(pod, 137, "OOMKilled", None, None).await,
            Fate::Evicted => {
                self.end(pod, 137, "Error", None, Some(("Evicted", "The node was low on resource: memory."))).await
            }
            Fate::RunsUntilDeleted | Fate::StopsSlowly(_) | Fate::OnLostNode => std::future::pending().await,
            Fate::NoImage | Fate::Unschedulable | Fate::Held(_) => {
                unreachable!("{} of {}: met before", task.name(), pod.name_any())
            }
        }
        self.place.ledger.write(Entry::TaskEnded { pod: self.name.clone(), task: task.clone(), success });
        let ordinary = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        if ordinary == 1 && !others(pod).is_empty() {
            tokio::time::sleep(MOMENT * 25).await;
            self.status(json!({"phase": if success { "Succeeded" } else { "Failed" }})).await;
        }
    }

    /// The homeserver's Pods that have not ended, as the API server has them at this moment.
    async fn homeserver_pods(&self) -> Vec<String> {
        let pods = self.api.list(&ListParams::default().labels("homeserver")).await;
        let has_ended =
            |pod: &&Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Succeeded"));
        let names = |pods: Vec<Pod>| pods.iter().filter(|pod| !has_ended(pod)).map(ResourceExt::name_any).collect();
        pods.map(|pods| names(pods.items)).unwrap_or_default()
    }

    async fn bind(&self) {
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": self.name}, "target": {"kind": "Node", "name": self.node}});
        // A Pod that is gone again needs no node.
        let _: kube::Result<Value> =
            self.api.create_subresource("binding", &self.name, &PostParams::default(), &binding).await;
    }

    async fn run(&self, ready: bool) {
        let state = json!({"running": {"startedAt": now()}});
        let condition =
            |type_| json!({"type": type_, "status": if ready { "True" } else { "False" }, "lastTransitionTime": now()});
        self.status(json!({
            "phase": "Running", "startTime": now(), "podIP": "10.1.0.1", "hostIP": "127.0.0.1",
            "conditions": [condition("Ready"), condition("ContainersReady")],
            "containerStatuses": [container(state, ready)],
        }))
        .await;
    }

    /// A task's Pod, with what others have put into it.
    async fn run_task(&self, pod: &Pod) {
        let condition = |type_| json!({"type": type_, "status": "True", "lastTransitionTime": now()});
        self.status(json!({
            "phase": "Running", "startTime": now(), "podIP": "10.1.0.1", "hostIP": "127.0.0.1",
            "conditions": [condition("Ready"), condition("ContainersReady")],
            "containerStatuses": with_others(pod, container(json!({"running": {"startedAt": now()}}), true)),
        }))
        .await;
    }

    /// The task's container ends; the Pod with it, unless others have put containers into it.
    async fn end(&self, of: &Pod, code: i32, reason: &str, message: Option<String>, pod: Option<(&str, &str)>) {
        let reason = if code == 0 || reason == "OOMKilled" { reason } else { "Error" };
        let mut terminated = json!({"exitCode": code, "reason": reason, "startedAt": self.began, "finishedAt": now()});
        if let Some(message) = message {
            terminated["message"] = message.into();
        }
        let phase = match code {
            _ if !others(of).is_empty() && pod.is_none() => "Running",
            0 => "Succeeded",
            _ => "Failed",
        };
        let mut status = json!({
            "phase": phase,
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now()}],
            "containerStatuses": with_others(of, container(json!({"terminated": terminated}), false)),
        });
        if let Some((reason, message)) = pod {
            status["reason"] = reason.into();
            status["message"] = message.into();
        }
        self.status(status).await;
    }

    async fn status(&self, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        match self.api.patch_status(&self.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => eprintln!("the kubelet could not write the status of {}: {error}", self.name),
            Ok(_) => {}
        }
    }

    /// The last act of a kubelet.
    async fn remove(&self) {
        let _ = self.api.delete(&self.name, &DeleteParams::default().grace_period(0)).await;
    }
}

/// The task of a Job's Pod of the operator.
fn task_of(pod: &Pod) -> Option<Task> {
    pod.labels().get("batch.kubernetes.io/job-name")?;
    let args = pod.spec.as_ref()?.containers.first()?.args.clone().unwrap_or_default();
    Some(Task { owner: pod.labels().get("synapse-keeper.dev/owner-uid")?.clone(), args })
}

/// The containers of a task's Pod that others have put there: ordinary ones, and init containers that go on running, which a
/// kubelet ends some time after the task.
fn others(pod: &Pod) -> Vec<&str> {
    let spec = pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    spec.map(|container| container.name.as_str()).filter(|name| name.starts_with("mesh")).collect()
}

/// The statuses of the ordinary ones, behind that of the task.
fn with_others(pod: &Pod, task: Value) -> Vec<Value> {
    let ordinary = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| container.name.as_str());
    let beside = ordinary.filter(|name| others(pod).contains(name)).map(|name| {
        let mut status = container(json!({"running": {"startedAt": now()}}), true);
        status["name"] = name.into();
        status
    });
    [task].into_iter().chain(beside).collect()
}

/// The node that a Pod's affinity names.
fn wanted_node(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &node.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let field = terms.first()?.match_fields.as_ref()?.first()?;
    field.values.as_ref()?.first().map(String::as_str)
}

/// The tests put this label on the Pods of a homeserver.
fn is_homeserver(pod: &Pod) -> bool {
    pod.labels().contains_key("homeserver")
}

async fn told_to_stop(seen: &mut watch::Receiver<Pod>) {
    // An error says that the Pod is gone.
    let _ = seen.wait_for(|pod| pod.metadata.deletion_timestamp.is_some()).await;
}

async fn gone(seen: &mut watch::Receiver<Pod>) {
    while seen.changed().await.is_ok() {}
}

fn container(state: Value, ready: bool) -> Value {
    json!({"name": "task", "image": "i", "imageID": "", "ready": ready, "started": ready, "restartCount": 0, "state": state})
}

fn exit_code(report: &Report) -> i32 {
    match report.error.as_ref().map(|error| error.class) {
        None => 0,
        Some(ErrorClass::Terminal) => EXIT_TERMINAL.into(),
        Some(ErrorClass::Transient) => EXIT_TRANSIENT.into(),
    }
}

fn now() -> Timestamp {
    // The API server's times have whole seconds.
    Timestamp::from_second(Timestamp::now().as_second()).expect("now")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

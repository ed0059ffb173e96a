//! A namespace of its own with a homeserver in it, and what a user does and sees there.

use std::{fmt::Debug, sync::Arc, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        coordination::v1::Lease,
        core::v1::{Namespace, Pod, ServiceAccount},
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use synapse_keeper::{
    api::{
        RUN_NOW, Synapse, SynapseMaintenance,
        conditions::{self, Type},
        operation::{HistoryEntry, Outcome, Run},
    },
    recipes::Operation,
};

use super::{
    Stage,
    kubelet::Place,
    label,
    operator::{Installation, Operator},
    script::Script,
};

/// Longer than anything takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// One test's namespace.
pub struct World {
    pub stage: Arc<Stage>,
    pub namespace: String,
    pub place: Arc<Place>,
    pub installation: Installation,
    /// The operator that the world keeps alive.
    operator: Option<Operator>,
}

/// What the homeserver's workloads have before anybody touches them.
pub const REPLICAS: [(&str, &str, i32); 4] =
    [("StatefulSet", "main", 1), ("Deployment", "worker", 2), ("Deployment", "idle", 0), ("Deployment", "mas", 1)];

impl World {
    /// An empty namespace.
    pub async fn empty(stage: &Arc<Stage>, test: &str) -> Self {
        let namespace = stage.next_namespace();
        let metadata = json!({"name": namespace, "labels": {"test": label(test)}});
        let object: Namespace = serde_json::from_value(json!({"metadata": metadata})).expect("a namespace");
        Api::<Namespace>::all(stage.admin.clone()).create(&PostParams::default(), &object).await.expect("a namespace");
        let installation = Installation::new(stage.control_plane.admin_config().await, &namespace);
        Self { place: stage.kubelet.place(&namespace), stage: stage.clone(), namespace, installation, operator: None }
    }

    /// A namespace with a homeserver: a main process, two workers, a worker that is scaled to 0, and MAS.
    pub async fn with_homeserver(stage: &Arc<Stage>, test: &str) -> Self {
        let world = Self::empty(stage, test).await;
        world.add_homeserver().await;
        world
    }

    /// From now on a Pod must keep to the Pod Security Standard `restricted`, and there is an account for it to run under.
    pub async fn admits_pods_as_restricted(&self) {
        let label = Patch::Merge(json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}));
        let namespaces = Api::<Namespace>::all(self.stage.admin.clone());
        namespaces.patch(&self.namespace, &PatchParams::default(), &label).await.expect("a namespace");
        self.until::<ServiceAccount>("default", "is there", |account| account.is_some()).await;
    }

    pub async fn add_homeserver(&self) {
        for (kind, name, replicas) in REPLICAS {
            self.apply(&workload(kind, name, replicas)).await;
        }
        self.apply(SYNAPSE).await;
        self.until_homeserver_is_ready().await;
    }

    pub fn play(&self, script: Script) -> &Self {
        self.place.play(script);
        self
    }

    /// Starts an operator and a maintenance `m` with these fields.
    pub async fn begin(&mut self, fields: &str) {
        self.operator = Some(self.operator());
        self.maintain("m", fields).await;
    }

    /// SIGKILL for the operator that [`World::begin`] started.
    pub async fn kill_operator(&mut self) {
        self.operator.take().expect("it was begun").kill().await;
    }

    pub fn operator(&self) -> Operator {
        Operator::start(&self.installation)
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.stage.admin.clone(), &self.namespace)
    }

    /// `kubectl apply --server-side --validate=strict` of one or more documents.
    pub async fn apply(&self, yaml: &str) {
        self.try_apply(yaml).await.unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    }

    /// The same; the API server's words where it refuses.
    pub async fn try_apply(&self, yaml: &str) -> Result<(), String> {
        for document in yaml.split("\n---\n") {
            let object: serde_json::Value = serde_yaml_ng::from_str(document).expect("YAML");
            let text =
                |path: &str| object.pointer(path).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
            let (api_version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
            let gvk =
                kube::core::GroupVersionKind::try_from(kube::core::TypeMeta { api_version, kind }).expect("a kind");
            let resource = kube::core::ApiResource::from_gvk(&gvk);
            let api: Api<kube::core::DynamicObject> =
                Api::namespaced_with(self.stage.admin.clone(), &self.namespace, &resource);
            let params = PatchParams::apply("kubectl").validation_strict();
            match api.patch(&name, &params, &Patch::Apply(&object)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) => return Err(status.message.clone()),
                Err(error) => panic!("{error}"),
            }
        }
        Ok(())
    }

    /// Waits until the API server answers so to this Pod, which is not made. It hears of its own objects (a quota, a label, a policy)
    /// a moment after they are made.
    pub async fn until_a_pod(&self, what: &str, pod: Value, wanted: impl Fn(Result<Pod, String>) -> bool) {
        let pod: Pod = serde_json::from_value(pod).expect("a Pod");
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        let asked = async {
            loop {
                let answer = self.api::<Pod>().create(&dry_run, &pod).await;
                if wanted(answer.map_err(|error| error.to_string())) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("waited in vain until a Pod {what}"));
    }

    /// Applies a maintenance with these fields beside `synapseRef`.
    pub async fn maintain(&self, name: &str, fields: &str) {
        self.apply(&maintenance(name, fields)).await;
    }

    /// `kubectl annotate`: asks a scheduled operation for a run now.
    pub async fn run_now<K: Operation>(&self, name: &str, value: &str) {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {RUN_NOW: value}}}));
        self.api::<K>().patch(name, &PatchParams::default(), &patch).await.expect("it is there");
    }

    /// Applies a Job that is none of ours and never runs.
    pub async fn apply_foreign_job(&self, name: &str) {
        let job = format!(
            "
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  suspend: true
  template: {{spec: {{restartPolicy: Never, containers: [{{name: it, image: localhost/it:1}}]}}}}"
        );
        self.apply(&job).await;
    }

    /// Waits until an object is as `wanted`; `None` is an object that is not there.
    pub async fn until<K>(&self, name: &str, what: &str, wanted: impl Fn(Option<&K>) -> bool) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize
            + Send
            + 'static,
    {
        let waited = await_condition(self.api::<K>(), name, move |object: Option<&K>| wanted(object));
        match tokio::time::timeout(PATIENCE, waited).await {
            Ok(found) => found.unwrap_or_else(|error| panic!("{name}: {error}")),
            Err(_) => {
                let last = self.api::<K>().get_opt(name).await;
                let last = last.map(|object| serde_yaml_ng::to_string(&object).unwrap_or_default());
                panic!(
                    "waited in vain until {} {name} {what}:\n{}",
                    K::kind(&()),
                    last.unwrap_or_else(|error| error.to_string())
                );
            }
        }
    }

    /// Waits until a maintenance is as `wanted`.
    pub async fn until_maintenance(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&SynapseMaintenance) -> bool,
    ) -> SynapseMaintenance {
        let wanted = move |object: Option<&SynapseMaintenance>| object.is_some_and(&wanted);
        self.until(name, what, wanted).await.expect("it is there")
    }

    /// Waits for a condition with this status and reason; gives its message.
    pub async fn until_condition(&self, name: &str, type_: Type, status: &str, reason: &str) -> String {
        let what = format!("has {type_:?}={status} with reason {reason}");
        let (wanted_status, wanted_reason) = (status.to_owned(), reason.to_owned());
        let object = self
            .until_maintenance(name, &what, move |object| {
                let condition = object.status.as_ref().and_then(|status| conditions::find(&status.conditions, type_));
                condition.is_some_and(|found| found.status == wanted_status && found.reason == wanted_reason)
            })
            .await;
        let status = object.status.unwrap_or_default();
        conditions::find(&status.conditions, type_).map(|condition| condition.message.clone()).unwrap_or_default()
    }

    /// Waits until a one-shot has succeeded.
    pub async fn until_complete(&self, name: &str) -> SynapseMaintenance {
        self.until_maintenance(name, "is Complete", |object| is(object, Type::Complete)).await
    }

    /// Waits until a one-shot has failed; gives the reason and the message.
    pub async fn until_failed(&self, name: &str) -> (String, String) {
        let object = self.until_maintenance(name, "is Failed", |object| is(object, Type::Failed)).await;
        let status = object.status.unwrap_or_default();
        let failed = conditions::find(&status.conditions, Type::Failed).expect("it was just seen");
        (failed.reason.clone(), failed.message.clone())
    }

    /// Waits until an inspection has found the homeserver well.
    pub async fn until_synapse_is_ready(&self) {
        self.until::<Synapse>("example", "is Ready", |object| {
            let status = object.and_then(|object| object.status.as_ref());
            status.is_some_and(|status| conditions::is_true(&status.conditions, Type::Ready))
        })
        .await;
    }

    /// Waits until an object is gone.
    pub async fn until_gone<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Serialize
            + Send
            + 'static,
    {
        self.until::<K>(name, "is gone", |object| object.is_none()).await;
    }

    /// Waits until every workload has as many Pods Ready as it wants, and wants what it had in the beginning.
    pub async fn until_homeserver_is_ready(&self) {
        for (kind, name, replicas) in REPLICAS {
            self.until_workload_is_ready(kind, name, replicas).await;
        }
    }

    pub async fn until_workload_is_ready(&self, kind: &str, name: &str, replicas: i32) {
        let what = format!("wants {replicas} and has them Ready");
        if kind == "StatefulSet" {
            self.until::<StatefulSet>(name, &what, move |set| {
                let Some(set) = set else { return false };
                let wants = set.spec.as_ref().and_then(|spec| spec.replicas);
                let status = set.status.clone().unwrap_or_default();
                wants == Some(replicas) && status.ready_replicas.unwrap_or(0) == replicas && status.replicas == replicas
            })
            .await;
        } else {
            self.until::<Deployment>(name, &what, move |deployment| {
                let Some(deployment) = deployment else { return false };
                let wants = deployment.spec.as_ref().and_then(|spec| spec.replicas);
                let status = deployment.status.clone().unwrap_or_default();
                wants == Some(replicas)
                    && status.ready_replicas.unwrap_or(0) == replicas
                    && status.replicas.unwrap_or(0) == replicas
            })
            .await;
        }
    }

    /// `kubectl scale`: through the subresource, as an autoscaler does it.
    pub async fn scale(&self, kind: &str, name: &str, replicas: i32) {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        let params = PatchParams::default();
        if kind == "StatefulSet" {
            self.api::<StatefulSet>().patch_scale(name, &params, &patch).await.map(drop)
        } else {
            self.api::<Deployment>().patch_scale(name, &params, &patch).await.map(drop)
        }
        .unwrap_or_else(|error| panic!("{kind}/{name}: {error}"));
    }

    /// How often the spec of each workload has been changed: 1 is never since its creation.
    pub async fn generations(&self) -> Vec<i64> {
        let mut generations = Vec::new();
        for (kind, name, _) in REPLICAS {
            let meta = match kind {
                "StatefulSet" => self.api::<StatefulSet>().get(name).await.map(|set| set.metadata),
                _ => self.api::<Deployment>().get(name).await.map(|deployment| deployment.metadata),
            };
            generations.push(meta.expect("the workload is there").generation.unwrap_or_default());
        }
        generations
    }

    pub async fn lease(&self) -> Option<Lease> {
        self.api::<Lease>().get_opt("synapse-keeper-example").await.expect("an answer")
    }

    /// What must be true after every operation, however it went: nothing of it is left but its object.
    pub async fn assert_all_is_back(&self) {
        self.assert_homeserver_is_back().await;
        for object in self.api::<SynapseMaintenance>().list(&Default::default()).await.expect("a list").items {
            assert!(object.finalizers().is_empty(), "{} still has {:?}", object.name_any(), object.finalizers());
        }
    }

    /// The same, without a look at the objects.
    pub async fn assert_homeserver_is_back(&self) {
        self.until_homeserver_is_ready().await;
        self.until_gone::<Lease>("synapse-keeper-example").await;
        let ledger = &self.place.ledger;
        assert_eq!(ledger.offline_beside_pods(), [], "{ledger}");
        assert_eq!(ledger.pods_beside_offline(), [""; 0], "{ledger}");
        assert_eq!(ledger.tasks_beside_tasks(), [""; 0], "{ledger}");
    }
}

/// Whether a condition is true.
pub fn is(object: &SynapseMaintenance, type_: Type) -> bool {
    object.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, type_))
}

/// The run under way or the last one.
pub fn run(object: &SynapseMaintenance) -> Option<&Run> {
    object.status.as_ref()?.run.as_deref()
}

/// The finished runs, newest first.
pub fn outcomes(object: &SynapseMaintenance) -> Vec<Outcome> {
    let history = object.status.as_ref().map(|status| status.history.as_slice()).unwrap_or_default();
    history.iter().map(|entry: &HistoryEntry| entry.outcome).collect()
}

/// The homeserver's description.
pub const SYNAPSE: &str = "
apiVersion: synapse-keeper.dev/v1alpha1
kind: Synapse
metadata: {name: example}
spec:
  serverName: example.org
  workloads:
    selector: {matchLabels: {app: synapse}}
    main: {kind: StatefulSet, name: main}
  matrixAuthenticationService:
    workloads: {refs: [{kind: Deployment, name: mas}]}
  postgres: {host: postgres, database: synapse, credentials: {secretName: synapse-postgres}}
";

/// A maintenance of it.
pub fn maintenance(name: &str, fields: &str) -> String {
    format!(
        "apiVersion: synapse-keeper.dev/v1alpha1\nkind: SynapseMaintenance\nmetadata: {{name: {name}}}\nspec:\n  synapseRef: {{name: example}}\n  {}",
        fields.trim().replace('\n', "\n  ")
    )
}

/// A step beside the serving homeserver and one that wants it down.
pub const ANALYZE_AND_FULL: &str = "steps: [{vacuum: {mode: Analyze}}, {vacuum: {mode: Full}}]";
/// A step that wants it down.
pub const FULL: &str = "steps: [{vacuum: {mode: Full}}]";
/// A step beside it.
pub const ANALYZE: &str = "steps: [{vacuum: {mode: Analyze}}]";

/// A Deployment or StatefulSet of the homeserver. MAS has labels of its own.
pub fn workload(kind: &str, name: &str, replicas: i32) -> String {
    let app = if name == "mas" { "mas" } else { "synapse" };
    let service = if kind == "StatefulSet" {
        format!("serviceName: {name}\n  podManagementPolicy: Parallel")
    } else {
        String::new()
    };
    format!(
        "
apiVersion: apps/v1
kind: {kind}
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{part: {name}}}}}
  {service}
  template:
    metadata: {{labels: {{part: {name}, homeserver: example}}}}
    spec:
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: it
        image: localhost/it:1
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    )
}

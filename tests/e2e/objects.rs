//! Reading objects, and waiting for them, by the API itself. Six tests that asked kubectl three times a second had both
//! processors busy with that.

use std::{sync::LazyLock, time::Duration};

use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    config::Kubeconfig,
    runtime::wait::await_condition,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::setup;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

static CLIENT: LazyLock<Client> = LazyLock::new(|| {
    let path = setup::path("tests/cluster/kubeconfig", &[]);
    RUNTIME.block_on(async {
        let kubeconfig = Kubeconfig::read_from(path).expect("a kubeconfig: make cluster-up");
        let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.expect("a configuration");
        Client::try_from(config).expect("a client")
    })
});

/// The objects of a namespace, named as for kubectl: `synmt/full`.
pub struct Objects {
    namespace: String,
}

impl Objects {
    pub fn in_namespace(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// An object; `Null` if there is none.
    pub fn get(&self, what: &str) -> Value {
        let (api, name) = self.api(what);
        to_value(RUNTIME.block_on(api.get_opt(name)).unwrap_or_else(|error| panic!("{what}: {error}")).as_ref())
    }

    /// Waits until an object is as wanted, and returns it; after so long, what it is instead.
    pub fn wait(&self, what: &str, at_most: Duration, is_so: impl Fn(&Value) -> bool + Send) -> Result<Value, Value> {
        let (api, name) = self.api(what);
        let wanted = |object: Option<&DynamicObject>| is_so(&to_value(object));
        let waiting = async { tokio::time::timeout(at_most, await_condition(api, name, wanted)).await };
        match RUNTIME.block_on(waiting) {
            Ok(found) => Ok(to_value(found.unwrap_or_else(|error| panic!("{what}: {error}")).as_ref())),
            Err(_) => Err(self.get(what)),
        }
    }

    fn api<'a>(&self, what: &'a str) -> (Api<DynamicObject>, &'a str) {
        let (kind, name) = what.split_once('/').expect("<kind>/<name>");
        let (group, version, kind) = match kind {
            "synapse" => ("synapse-keeper.dev", "v1alpha1", "Synapse"),
            "synmt" => ("synapse-keeper.dev", "v1alpha1", "SynapseMaintenance"),
            "synrs" => ("synapse-keeper.dev", "v1alpha1", "SynapseRestore"),
            "synbk" => ("synapse-keeper.dev", "v1alpha1", "SynapseBackup"),
            "deployment" => ("apps", "v1", "Deployment"),
            "statefulset" => ("apps", "v1", "StatefulSet"),
            "job" => ("batch", "v1", "Job"),
            "lease" => ("coordination.k8s.io", "v1", "Lease"),
            "pod" => ("", "v1", "Pod"),
            kind => panic!("{kind} is not in this list"),
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        (Api::namespaced_with(CLIENT.clone(), &self.namespace, &resource), name)
    }
}

fn to_value(object: Option<&DynamicObject>) -> Value {
    object.map_or(Value::Null, |object| serde_json::to_value(object).expect("plain data"))
}

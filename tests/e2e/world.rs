//! A namespace with an operator in it, and how to talk to it.

use std::{sync::Once, time::Duration};

use serde_json::Value;

use crate::{
    kubectl::{kubectl, run},
    objects::Objects,
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Long enough for a machine that does many things at once. A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(240);

/// A namespace of a test; its end is the end of all that is in it.
pub struct World {
    pub namespace: String,
    api: Objects,
}

impl World {
    /// Makes the namespace, with Pod Security `restricted`, and installs the operator by its chart.
    pub fn new(name: &str) -> Self {
        static CRDS: Once = Once::new();
        CRDS.call_once(|| {
            kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &format!("{ROOT}/crds")]);
            kubectl(&["wait", "--for=condition=Established", "-f", &format!("{ROOT}/crds"), "--timeout=1m"]);
        });
        let world = Self::without_operator(name);
        world.install_operator();
        world
    }

    /// The same without an operator in it.
    pub fn without_operator(name: &str) -> Self {
        let namespace = format!("e2e-{name}");
        run("kubectl", &["delete", "namespace", &namespace, "--ignore-not-found"], "");
        kubectl(&["create", "namespace", &namespace]);
        kubectl(&["label", "namespace", &namespace, "pod-security.kubernetes.io/enforce=restricted"]);
        let api = Objects::in_namespace(&namespace);
        Self { namespace, api }
    }

    pub fn install_operator(&self) {
        let values = "namespaced=true,crds.install=false,image.tag=dev,toolsImage.tag=dev,log.level=info\\,kube=warn";
        let chart = format!("{ROOT}/charts/synapse-keeper");
        let (success, said) = self.helm(&["upgrade", "--install", "keeper", &chart, "--set", values, "--wait"]);
        assert!(success, "{said}");
    }

    pub fn helm(&self, arguments: &[&str]) -> (bool, String) {
        run("helm", &[arguments, &["--namespace", &self.namespace, "--timeout", "4m"]].concat(), "")
    }

    /// kubectl in the namespace; it must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        kubectl(&[&["--namespace", self.namespace.as_str()], arguments].concat())
    }

    /// kubectl in the namespace: whether it succeeded, and what it said.
    pub fn try_kubectl(&self, arguments: &[&str]) -> (bool, String) {
        run("kubectl", &[&["--namespace", self.namespace.as_str()], arguments].concat(), "")
    }

    pub fn apply(&self, yaml: &str) {
        let (success, said) = run("kubectl", &["--namespace", &self.namespace, "apply", "-f", "-"], yaml);
        assert!(success, "{said}\n{yaml}");
    }

    /// Applies a file of the repository.
    pub fn apply_file(&self, path: &str) {
        self.kubectl(&["apply", "-f", &format!("{ROOT}/{path}")]);
    }

    /// An object; `Null` if there is none.
    pub fn get(&self, what: &str) -> Value {
        self.api.get(what)
    }

    /// Waits until an object is as wanted, and returns it.
    pub fn wait(&self, what: &str, wanted: &str, is_so: impl Fn(&Value) -> bool + Send) -> Value {
        let found = self.api.wait(what, PATIENCE, is_so);
        found.unwrap_or_else(|object| panic!("{what} did not become {wanted}: {object:#}\n{}", self.dump()))
    }

    /// Waits until a maintenance is in a phase; panics where it ends in another one.
    pub fn wait_phase(&self, maintenance: &str, phase: &str) -> Value {
        self.wait_phase_of(&format!("synmt/{maintenance}"), phase)
    }

    /// The same for an operation of any kind, such as `synbk/nightly`.
    pub fn wait_phase_of(&self, operation: &str, phase: &str) -> Value {
        let object = self.wait(operation, phase, |object| {
            let now = &object["status"]["phase"];
            now == phase || now == "Succeeded" || now == "Failed"
        });
        assert_eq!(object["status"]["phase"], phase, "{:#}\n{}", object["status"], self.dump());
        object
    }

    /// The `Ready` condition's reason and message, once the maintenance has failed.
    pub fn wait_failed(&self, maintenance: &str) -> (String, String) {
        let object = self.wait_phase(maintenance, "Failed");
        let condition = condition(&object, "Ready");
        (text(&condition["reason"]), text(&condition["message"]))
    }

    /// Nothing of an operation is on the homeserver any more, and its replicas and Pods are as they were.
    pub fn assert_untouched_or_restored(&self) {
        self.wait("deployment/synapse-main", "Ready with one replica", |main| {
            main["spec"]["replicas"] == 1 && main["status"]["readyReplicas"] == 1
        });
        self.wait("deployment/synapse-worker", "Ready with two replicas", |worker| {
            worker["spec"]["replicas"] == 2 && worker["status"]["readyReplicas"] == 2
        });
        self.wait("deployment/synapse-off", "off", |off| off["spec"]["replicas"] == 0);
        self.wait("lease/synapse-keeper-example", "gone", Value::is_null);
    }

    /// SQL as the superuser, in Synapse's database.
    pub fn sql(&self, sql: &str) -> String {
        self.sql_in("synapse", sql)
    }

    /// The same in another one.
    pub fn sql_in(&self, database: &str, sql: &str) -> String {
        let psql = ["exec", "postgres-0", "--", "psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-U", "postgres"];
        self.kubectl(&[&psql[..], &["-d", database, "-c", sql]].concat()).trim().to_owned()
    }

    /// What a person would look at first.
    fn dump(&self) -> String {
        let looks: [&[&str]; 4] = [
            &["get", "synapse,synmt,synbk,synrs,leases,jobs,pods,deployments,statefulsets", "-o", "wide"],
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
            &["logs", "deployment/keeper-synapse-keeper", "--tail=40"],
            &["get", "synmt,synbk,synrs", "-o", "jsonpath={range .items[*]}{.metadata.name}: {.status}{\"\\n\"}{end}"],
        ];
        looks.iter().map(|look| self.try_kubectl(look).1).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: {}", self.namespace, self.dump());
            if std::env::var_os("KEEP_NAMESPACES").is_some() {
                return;
            }
        }
        run("kubectl", &["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

/// A condition of an object.
pub fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or(Value::Null)
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

//! What every test stands on: a control plane, somebody who plays the kubelet, and the CRDs.

pub mod control_plane;
pub mod kubelet;
pub mod ledger;
pub mod logs;
pub mod operator;
pub mod script;
#[path = "../../support/setup.rs"]
pub mod setup;
pub mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::PostParams,
    runtime::wait::{await_condition, conditions},
};
use libtest_mimic::{Failed, Trial};
use synapse_keeper::api;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::{control_plane::ControlPlane, kubelet::Kubelet};

/// Shared by tests; nothing in it belongs to one of them.
pub struct Stage {
    /// Ends the kubelet, before the control plane is gone under it.
    _end: DropGuard,
    pub control_plane: ControlPlane,
    pub admin: Client,
    pub kubelet: Arc<Kubelet>,
    worlds: AtomicUsize,
}

impl Stage {
    /// Sets the stage. Like [`ControlPlane::start`], to be called on a thread that outlives it.
    pub async fn set(name: &str) -> Self {
        let mut control_plane = ControlPlane::start(name).await;
        let admin = control_plane.admin().await;
        install_crds(&admin, &api::crds::all()).await;
        control_plane.start_controllers();
        let end = CancellationToken::new();
        let kubelet = Kubelet::start(control_plane.admin().await, end.clone());
        logs::serve(&admin, kubelet.clone()).await;
        Self { control_plane, admin, kubelet, worlds: AtomicUsize::new(1), _end: end.drop_guard() }
    }

    /// A name for a namespace that nobody has had.
    fn next_namespace(&self) -> String {
        format!("w{}", self.worlds.fetch_add(1, Ordering::SeqCst))
    }

    /// What a person would look at first, in a file.
    fn dump(&self, test: &str) {
        let namespaces = self
            .control_plane
            .program("kubectl")
            .args(["get", "namespaces", "-o", "name", "-l"])
            .arg(format!("test={}", label(test)))
            .output();
        let names = namespaces.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for namespace in names.lines().filter_map(|line| line.strip_prefix("namespace/")) {
            let kinds = format!("{},leases,deployments,statefulsets,jobs,pods,events", api::crds::plurals().join(","));
            let objects = self
                .control_plane
                .program("kubectl")
                .args(["get", kinds.as_str(), "-o", "yaml", "-n", namespace])
                .output();
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("failed-{namespace}.yaml"));
            let ledger = self.kubelet.place(namespace).ledger.to_string();
            let text = objects.map(|output| output.stdout).unwrap_or_default();
            let text = format!("{}\n# the kubelet saw:\n{}", String::from_utf8_lossy(&text), comment(&ledger));
            let _ = std::fs::write(&path, text);
            eprintln!("{test}: namespace {namespace} as it was: {}", path.display());
        }
    }
}

/// Creates CRDs and waits until they are served.
pub async fn install_crds(client: &Client, crds: &[CustomResourceDefinition]) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds {
        api.create(&PostParams::default(), crd).await.unwrap_or_else(|error| panic!("{}: {error}", crd.name_any()));
    }
    for crd in crds {
        await_condition(api.clone(), &crd.name_any(), conditions::is_crd_established()).await.expect("it is served");
    }
}

/// A test of this tier: an async function that is given the stage and its own name.
pub type Play = fn(Arc<Stage>, &'static str) -> futures::future::BoxFuture<'static, ()>;

/// Makes the trials of a module: the names of its async functions.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub fn tests() -> Vec<(&'static str, $crate::stage::Play)> {
            vec![$((concat!(module_path!(), "::", stringify!($name)), |stage, name| Box::pin($name(stage, name)))),*]
        }
    };
}
pub(crate) use tests;

/// Runs a test; where it fails, says what its namespaces looked like.
pub fn trial(
    (name, play): (&'static str, Play),
    stage: &Arc<std::sync::OnceLock<Arc<Stage>>>,
    runtime: &Handle,
) -> Trial {
    let (stage, runtime) = (stage.clone(), runtime.clone());
    let name = name.strip_prefix("apiserver::").unwrap_or(name);
    Trial::test(name, move || {
        let stage = stage.get().expect("the stage is set before the first test").clone();
        let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(stage.clone(), name))));
        played.map_err(|panic| {
            stage.dump(name);
            let text = panic.downcast_ref::<String>().cloned();
            Failed::from(text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default())
        })
    })
}

/// A test's name as a label's value.
fn label(test: &str) -> String {
    let text = test.replace("::", ".");
    text[text.len().saturating_sub(63)..].trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn comment(text: &str) -> String {
    text.lines().map(|line| format!("# {line}\n")).collect()
}

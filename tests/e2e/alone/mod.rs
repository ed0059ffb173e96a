//! What concerns the whole cluster: the CRDs, and an operator that looks after every namespace. These tests need the
//! cluster to themselves, and one after the other: `cargo test --test e2e -- --ignored --test-threads=1`.

mod install;
mod wide;

use kube::ResourceExt;

use crate::kubectl::{kubectl, run};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/synapse-keeper");
/// Where the chart is installed.
const NAMESPACE: &str = "install-test";

/// The names of our CRDs, by the types.
fn crds() -> Vec<String> {
    synapse_keeper::api::crds::all().iter().map(ResourceExt::name_any).collect()
}

/// A cluster without our CRDs. What a test brings into it goes with the value, however the test ends.
struct Alone;

impl Alone {
    fn new() -> Self {
        let (in_use, _) = run("kubectl", &["get", "crd", &crds()[0]], "");
        assert!(!in_use, "the cluster has the CRDs already, and this test would delete them with all objects");
        Self
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        run("kubectl", &["delete", "namespace", NAMESPACE, "--ignore-not-found"], "");
        for kind in ["clusterrolebinding", "clusterrole"] {
            run("kubectl", &["delete", kind, "-l", "app.kubernetes.io/name=synapse-keeper"], "");
        }
        let crds = crds();
        let names = crds.iter().map(String::as_str);
        run("kubectl", &["delete", "crd"].into_iter().chain(names).collect::<Vec<_>>(), "");
    }
}

fn helm(arguments: &[&str]) -> (bool, String) {
    run("helm", &[arguments, &["--namespace", NAMESPACE, "--timeout", "3m"]].concat(), "")
}

fn install(release: &str, values: &str) {
    let (success, said) = helm(&["install", release, CHART, "--set", values, "--create-namespace", "--wait"]);
    assert!(success, "{said}");
}

fn uninstall(release: &str) {
    let (success, said) = helm(&["uninstall", release, "--wait"]);
    assert!(success, "{said}");
}

/// kubectl in the chart's namespace.
fn in_release(arguments: &[&str]) -> String {
    kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
}

//! Installing, uninstalling and installing again under another name, by Helm on a real cluster.
//!
//! The CRDs outlive their release. This test makes and deletes them, so it needs a cluster in which nobody uses them.

use std::{fs, path::Path, process::Command};

#[path = "support/kubectl.rs"]
mod kubectl;

use kubectl::{kubectl, run};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/synapse-keeper");
const NAMESPACE: &str = "install-test";
const CRDS: [&str; 2] = ["synapses.synapse-keeper.dev", "synapsemaintenances.synapse-keeper.dev"];

fn helm(arguments: &[&str]) -> (bool, String) {
    run("helm", &[arguments, &["--namespace", NAMESPACE, "--timeout", "3m"]].concat(), "")
}

/// Without an operator: it is not needed here, and uninstalling must work where it is dead.
fn install(release: &str) {
    let (success, said) =
        helm(&["install", release, CHART, "--set", "replicas=0,image.tag=dev", "--create-namespace", "--wait"]);
    assert!(success, "{said}");
}

fn uninstall(release: &str) {
    let (success, said) = helm(&["uninstall", release, "--wait"]);
    assert!(success, "{said}");
}

/// The chart as a later version would be: another version, and a changed description in a CRD.
fn later_chart(folder: &Path) {
    assert!(
        Command::new("cp").args(["-r", &format!("{CHART}/."), folder.to_str().unwrap()]).status().unwrap().success()
    );
    let edit = |file: &str, from: &str, to: &str| {
        let path = folder.join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{file}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    edit("Chart.yaml", &format!("version: {}", env!("CARGO_PKG_VERSION")), "version: 99.0.0");
    edit(
        "files/crds/synapses.yaml",
        "description: 'A Matrix Synapse homeserver:",
        "description: 'Later: a homeserver:",
    );
}

/// Takes away what the test has made, however it ends.
struct Cleanup;

impl Drop for Cleanup {
    fn drop(&mut self) {
        run("kubectl", &["delete", "namespace", NAMESPACE, "--ignore-not-found"], "");
        run(
            "kubectl",
            &["delete", "clusterrole,clusterrolebinding", "first-synapse-keeper", "second-synapse-keeper"],
            "",
        );
        run("kubectl", &[&["delete", "crd"], &CRDS[..]].concat(), "");
    }
}

#[test]
fn crds_outlive_their_release_and_serve_the_next() {
    let (in_use, _) = run("kubectl", &["get", "crd", CRDS[0]], "");
    assert!(!in_use, "the cluster has the CRDs already, and this test would delete them with all objects");
    let _cleanup = Cleanup;

    install("first");
    kubectl(&["wait", "--for=condition=Established", "crd", CRDS[0], CRDS[1], "--timeout=1m"]);
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/synapse.yaml");
    kubectl(&["--namespace", NAMESPACE, "apply", "-f", example]);

    uninstall("first");
    kubectl(&["--namespace", NAMESPACE, "get", "synapse", "example"]);
    assert!(
        kubectl(&["--namespace", NAMESPACE, "get", "leases,jobs", "-o", "name"]).trim().is_empty(),
        "hooks are left"
    );

    // Helm alone would refuse: the CRDs carry the name of the first release.
    install("second");

    let later = tempfile::tempdir().unwrap();
    later_chart(later.path());
    let upgrade = ["upgrade", "second", later.path().to_str().unwrap(), "--reuse-values", "--wait"];
    let (success, refused) = helm(&upgrade);
    assert!(!success, "CRDs of another release and another version were passed over in silence");
    let commands: Vec<_> = refused.lines().filter_map(|line| line.trim().strip_prefix("kubectl ")).collect();
    assert_eq!(commands.len(), 2, "{refused}");
    for command in commands {
        kubectl(&command.split_whitespace().collect::<Vec<_>>());
    }
    let (success, said) = helm(&upgrade);
    assert!(success, "{said}");
    assert!(kubectl(&["get", "crd", CRDS[0], "-o", "yaml"]).contains("Later: a homeserver"));
    kubectl(&["--namespace", NAMESPACE, "get", "synapse", "example"]);

    uninstall("second");
}

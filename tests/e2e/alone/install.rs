//! Installing, uninstalling and installing again under another name, by Helm.

use std::{fs, path::Path, process::Command};

use super::{Alone, CHART, crds, helm, in_release, install, uninstall};
use crate::kubectl::kubectl;

/// Without an operator: it is not needed here, and uninstalling must work where it is dead.
const VALUES: &str = "replicas=0,image.tag=dev";

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

#[test]
#[ignore = "needs the cluster to itself"]
fn crds_outlive_their_release_and_serve_the_next() {
    let _alone = Alone::new();

    install("first", VALUES);
    let crds = crds();
    let names = crds.iter().map(String::as_str);
    kubectl(
        &["wait", "--for=condition=Established", "--timeout=1m", "crd"].into_iter().chain(names).collect::<Vec<_>>(),
    );
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/synapse.yaml");
    in_release(&["apply", "-f", example]);

    uninstall("first");
    in_release(&["get", "synapse", "example"]);
    assert!(in_release(&["get", "leases,jobs", "-o", "name"]).trim().is_empty(), "hooks are left");

    // Helm alone would refuse: the CRDs carry the name of the first release.
    install("second", VALUES);

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
    assert!(kubectl(&["get", "crd", &crds[0], "-o", "yaml"]).contains("Later: a homeserver"));
    in_release(&["get", "synapse", "example"]);

    uninstall("second");
}

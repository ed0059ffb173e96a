//! Calls Helm and reads what it renders.

use std::{path::Path, process::Command, sync::LazyLock};

use serde::Deserialize;
use serde_yaml_ng::Value;

use crate::setup;

pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/synapse-keeper");
/// The release `keeper` in the namespace `home`: neither name is the chart's, so that a mix-up shows.
const RELEASE: [&str; 4] = ["keeper", "--namespace", "home", "--kube-version=1.34.0"];

pub type Manifests = Vec<Value>;

fn helm(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(&*BINARY).args(arguments).output().unwrap_or_else(|error| panic!("{}: {error}", *BINARY));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

/// `HELM`, or the one that belongs to the tests' cluster, which need not be up.
static BINARY: LazyLock<String> = LazyLock::new(|| {
    std::env::var("HELM")
        .unwrap_or_else(|_| setup::path("tests/cluster/bin-dir", &[]).join("helm").display().to_string())
});

fn template(chart: &str, values: &[&str], more: &[&str]) -> (bool, String, String) {
    let mut arguments = vec!["template", RELEASE[0], chart];
    arguments.extend(&RELEASE[1..]);
    for value in values {
        arguments.extend(["--set", value]);
    }
    arguments.extend(more);
    helm(&arguments)
}

/// The text that Helm renders with `values`.
pub fn text(values: &[&str], more: &[&str]) -> String {
    let (success, text, error) = template(CHART, values, more);
    assert!(success, "{values:?}: {error}");
    text
}

/// Every object that Helm renders with `values`, hooks as well.
pub fn render(values: &[&str]) -> Manifests {
    render_at(Path::new(CHART), values)
}

/// As [`render`], of a chart elsewhere.
pub fn render_at(chart: &Path, values: &[&str]) -> Manifests {
    let (success, text, error) = template(chart.to_str().unwrap(), values, &[]);
    assert!(success, "{values:?}: {error}");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).unwrap()).filter(|object| !object.is_null()).collect()
}

/// What Helm says when it refuses `values`.
pub fn refusal(values: &[&str]) -> String {
    let (success, _, error) = template(CHART, values, &[]);
    assert!(!success, "{values:?} was accepted");
    error
}

pub fn lint(values: &[&str]) {
    let mut arguments = vec!["lint", "--strict", "--quiet", CHART];
    for value in values {
        arguments.extend(["--set", value]);
    }
    let (success, text, error) = helm(&arguments);
    assert!(success, "{values:?}: {text}{error}");
}

pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

/// Names of all objects of a kind.
pub fn names(manifests: &Manifests, wanted: &str) -> Vec<String> {
    let found = manifests.iter().filter(|object| kind(object) == wanted);
    found.map(|object| object["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

pub fn copy_of_chart() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new("cp").args(["-r", &format!("{CHART}/."), folder.path().to_str().unwrap()]).status();
    assert!(status.unwrap().success());
    folder
}

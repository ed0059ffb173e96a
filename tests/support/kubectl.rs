//! kubectl and helm as a user types them, against the cluster of `tests/cluster`.

use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Runs `tests/cluster/helm` or `tests/cluster/kubectl` (or what `HELM` and `KUBECTL` name): whether it succeeded, and
/// all that it said.
pub fn run(program: &str, arguments: &[&str], input: &str) -> (bool, String) {
    let path = std::env::var(program.to_uppercase());
    let path = path.unwrap_or_else(|_| format!("{}/tests/cluster/{program}", env!("CARGO_MANIFEST_DIR")));
    let mut command = Command::new(&path);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run {path}: {error}"));
    // A program that does not read its input closes it: that is no error of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// kubectl, which must succeed.
pub fn kubectl(arguments: &[&str]) -> String {
    let (success, said) = run("kubectl", arguments, "");
    assert!(success, "kubectl {arguments:?}: {said}");
    said
}

//! What tests do not bring themselves: programs and data that a script of the repository installs, builds or makes first.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Runs a script of the repository; all that it prints. Its progress goes to where the tests' own goes.
///
/// # Panics
/// If it fails.
pub fn output(script: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = Command::new(&path).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    assert!(output.status.success(), "{script} {arguments:?} failed");
    String::from_utf8(output.stdout).expect("text")
}

/// The path that a script prints as its last line, when what lies there is whole.
#[allow(dead_code, reason = "each test program includes this file and needs a part of it")]
pub fn path(script: &str, arguments: &[&str]) -> PathBuf {
    let printed = output(script, arguments);
    printed.lines().last().unwrap_or_else(|| panic!("{script} printed no path")).trim().into()
}

/// A program by its path. Where it is missing, the Debian package that has it is installed.
#[allow(dead_code, reason = "each test program includes this file and needs a part of it")]
pub fn installed(program: &'static str, package: &str) -> &'static str {
    output("hack/need", &[program, package]);
    program
}

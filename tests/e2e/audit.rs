//! The API server's audit log: what an operator has asked for.

use std::fs;

use serde_json::Value;

use crate::setup;

/// Of what the operator with this ServiceAccount (`namespace:name`) has asked for nothing was denied, and no Secret was
/// among it.
pub fn assert_nothing_was_denied(account: &str) {
    let log = fs::read_to_string(setup::path("tests/cluster/audit-log", &[])).unwrap();
    let user = format!("system:serviceaccount:{account}");
    let lines = log.lines().filter(|line| line.contains(&user));
    // The last line may be half written.
    let entries = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut used = 0;
    for entry in entries.filter(|entry| entry["user"]["username"] == user.as_str()) {
        used += 1;
        // Not by the code: a namespace that ends answers 403 as well.
        let decision = &entry["annotations"]["authorization.k8s.io/decision"];
        assert_eq!(decision, "allow", "the operator lacks a right: {entry:#}");
        assert_ne!(entry["objectRef"]["resource"], "secrets", "the operator read a Secret: {entry:#}");
    }
    assert!(used > 50, "the audit log has only {used} requests of {user}");
}

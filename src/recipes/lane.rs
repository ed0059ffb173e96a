//! What of an object the engine drives: the object's own runs, or others beside them.

use crate::api::{RUN_NOW, VERIFY_NOW};

/// A series of runs of an object, one at a time. Another lane's runs go on beside them.
#[derive(Debug, PartialEq, Eq)]
pub struct Lane {
    /// Label of its Jobs; `None`: the object's own runs.
    pub label: Option<&'static str>,
    /// The field with its schedule.
    pub schedule: &'static str,
    /// The annotation that asks for a run now.
    pub run_now: &'static str,
    /// It works on the homeserver: under its Lease, after a preflight, and its finalizer is there while counts are out.
    pub holds_homeserver: bool,
    /// Its Jobs stay until the next run, for their logs.
    pub keeps_jobs: bool,
}

/// What an object is there for.
pub const OWN: Lane =
    Lane { label: None, schedule: "spec.schedule", run_now: RUN_NOW, holds_homeserver: true, keeps_jobs: true };

/// Drills: restores of backups into a PostgreSQL that is thrown away. They cost the homeserver nothing, and leave nothing behind: what
/// they restore is somebody's messages.
pub const DRILL: Lane = Lane {
    label: Some("drill"),
    schedule: "spec.verify",
    run_now: VERIFY_NOW,
    holds_homeserver: false,
    keeps_jobs: false,
};

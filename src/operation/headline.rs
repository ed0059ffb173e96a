//! How an operation stands, in one line: what [`super::plan`](mod@super::plan) decides and [`super::report`] writes.

/// How it stands, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Headline {
    pub phase: Phase,
    pub reason: String,
    pub message: String,
}

/// The phases. They are for people; conditions are made from them in [`super::report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for something outside.
    Pending,
    Preflight,
    /// A step runs while Synapse serves.
    Running,
    /// The workloads are going down.
    Stopping,
    /// A step runs while Synapse is down.
    Offline,
    /// The workloads are coming back.
    Resuming,
    /// It waits for its next run.
    Scheduled,
    Suspended,
    Succeeded,
    Failed,
    /// It cannot go on until a person changes it.
    Stalled,
}

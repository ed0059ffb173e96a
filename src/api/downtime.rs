//! How long users may be locked out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// The budget of users' patience.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Downtime {
    /// Whether the homeserver may be taken down.
    #[serde(default = "yes")]
    pub allowed: bool,
    /// From the first scale-down until Synapse is Ready again. Work that would not fit is left for a later run.
    #[serde(default = "default_at_most")]
    pub at_most: Duration,
    /// How long to wait for the Pods to go. After it the workloads are brought back and the run fails.
    #[serde(default = "default_stop_within")]
    pub stop_within: Duration,
    /// How long the Pods may take to be Ready again. After it the run fails; they stay up. A restore takes back what it did, if
    /// none was Ready at any time.
    #[serde(default = "default_ready_within")]
    pub ready_within: Duration,
}

impl Default for Downtime {
    fn default() -> Self {
        Self {
            allowed: yes(),
            at_most: default_at_most(),
            stop_within: default_stop_within(),
            ready_within: default_ready_within(),
        }
    }
}

fn yes() -> bool {
    true
}

fn default_at_most() -> Duration {
    "1h".parse().expect("a constant duration")
}

fn default_ready_within() -> Duration {
    "15m".parse().expect("a constant duration")
}

fn default_stop_within() -> Duration {
    "5m".parse().expect("a constant duration")
}

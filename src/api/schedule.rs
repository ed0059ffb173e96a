//! When a scheduled operation runs.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// A schedule. Missed runs are never replayed: only the latest due run counts, and only within `startWithin`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Five fields: minute, hour, day of month, month, day of week; or a nickname such as `@weekly`.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = Rule::new("self.matches('^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[0-9A-Za-z*,/?#-]+( +[0-9A-Za-z*,/?#-]+){4})$')").message("write five fields (minute, hour, day of month, month, day of week) such as \"0 3 * * 0\", or one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly, @annually"))]
    pub cron: String,
    /// Time zone of `cron`, by its name in the IANA database. Without it: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$')").message("write a name of the IANA time zone database, such as Europe/Berlin; without timeZone it is UTC"))]
    pub time_zone: Option<String>,
    /// A run that could not start within this time is skipped, with a reason: a run that waited for another operation
    /// must not take the server down in the middle of the morning.
    #[serde(default = "default_start_within")]
    pub start_within: Duration,
    /// Upper bound of a delay that is added to each run, so that many homeservers do not start in one minute. The delay is
    /// the same for every run of an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
}

fn default_start_within() -> Duration {
    "1h".parse().expect("a constant duration")
}

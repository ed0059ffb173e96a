//! What a step did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Coverage, DatabaseLeft, ListedBackups, MediaSample, Restored, Verdict};

/// What a step did. Every count was read back, none is assumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StepResult {
    /// What was done, for people.
    pub summary: String,
    /// Size of the database before, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_before: Option<i64>,
    /// Size of the database after, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_after: Option<i64>,
    /// How long the work took, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// The tables that were worked on; the rest is left out behind the first fifty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableResult>,
    /// How many tables were left alone, and why, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// What was done but came out otherwise than expected, for people.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The backups that there are, as the repository had them afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backups: Option<ListedBackups>,
    /// What was found of a backup that was restored by a drill. Beside an error: that it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What a drill found of the media that the restored database names, in the backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaSample>,
    /// The database that came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// The database that was made, or is kept, beside the homeserver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<DatabaseLeft>,
    /// What a restore of the backup that was made will not bring back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// Where to go on, where the budget ended before the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl StepResult {
    /// This result, with what an earlier attempt of the step had done.
    #[must_use]
    pub fn after(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        Self {
            bytes_before: earlier.bytes_before.or(self.bytes_before),
            tables: earlier.tables.into_iter().chain(self.tables).collect(),
            warnings: earlier.warnings.into_iter().chain(self.warnings).collect(),
            ..self
        }
    }
}

/// What was done to a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TableResult {
    pub name: String,
    /// With indexes and TOAST, in bytes.
    pub bytes_before: i64,
    pub bytes_after: i64,
    /// Live rows, as PostgreSQL counted them.
    pub rows: i64,
    pub seconds: f64,
}

//! What becomes of backups when the object that made them is deleted.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::operation::StepState;

/// What becomes of the data in the repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It goes first, and the object after it.
    Delete,
}

/// How far the deletion of the data has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// Running: there may be a Job. Failed: another attempt follows at `retryAt`.
    pub state: StepState,
    /// Counts from 1; part of the Job's name.
    pub attempt: i32,
    pub started_at: Time,
    /// UID of this attempt's Job, once it was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// No new attempt before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
}

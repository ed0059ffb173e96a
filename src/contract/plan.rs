//! What a step would do, and what preflight found besides.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Coverage, MediaSample};

/// What a run of a step would do and cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StepPlan {
    /// The step's name.
    pub step: String,
    /// What it would do, for people.
    pub summary: String,
    /// Whether the homeserver would be down.
    pub offline: bool,
    /// Bytes that would be given back to the disk, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_gain_bytes: Option<i64>,
    /// How long the step would take, in seconds, estimated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_seconds: Option<i64>,
    /// Free disk that the step needs at its peak, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needed_bytes: Option<i64>,
    /// Free disk, in bytes, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<i64>,
    /// The tables, in the order in which they would be done; the rest is left out behind the first fifty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TablePlan>,
    /// What was found of the media that the database names, until it is a condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<MediaSample>,
}

/// What would be done to a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TablePlan {
    pub name: String,
    /// With indexes and TOAST, in bytes.
    pub bytes: i64,
    pub dead_rows: i64,
    /// Bytes that would be given back to the disk, estimated.
    pub expected_gain_bytes: i64,
    pub expected_seconds: i64,
    /// Why it would be left alone; absent: it would be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// What `task preflight` found: the steps can be done, at this price.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightFindings {
    /// One entry for each step.
    pub plan: Vec<StepPlan>,
    /// What steps are told besides, by their names, now that it is known: so that they do what was looked at.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Vec<String>>,
    /// Sessions in the database that are not Synapse's and do not matter, for people.
    pub other_sessions: Vec<String>,
    /// What is allowed but worth a look, for people.
    pub warnings: Vec<String>,
    /// What a restore of the backup that is to be made does not bring back. The warnings have it, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
}

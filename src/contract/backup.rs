//! What a repository holds, what a backup covers, and what a test restore found of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{bytes, words::moment};

/// A status lists at most this many backups, and at most this many other origins.
pub const LISTED: usize = 20;

/// A backup that is whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupSnapshot {
    /// restic's id of the snapshot that holds the manifest: the backup's name.
    pub id: String,
    /// The moment that it shows, by PostgreSQL's clock.
    pub taken_at: Option<Time>,
    /// For people, such as `1.2 GiB`: what a restore would read.
    pub size: String,
    /// The same in bytes.
    pub bytes: i64,
    /// Bytes that came new into the repository with it.
    pub added_bytes: i64,
    /// How many of `bytes` are media; absent: it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_bytes: Option<i64>,
    /// The database of the Matrix Authentication Service is in it, and no more than so many seconds lie between its moment and
    /// that of Synapse's; absent: it is not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_apart_seconds: Option<f64>,
    /// PostgreSQL's major at that moment; the newer one, where there are two servers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_major: Option<i32>,
    /// When it was last restored by a drill and found whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,
}

/// The backups of an object in its repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ListedBackups {
    pub count: i64,
    /// The moment of the newest that was verified, also where it is not among those below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<Time>,
    /// The newest first, at most twenty.
    #[schemars(length(max = 20))]
    pub newest: Vec<BackupSnapshot>,
    /// Backups of the same homeserver that other objects made, at most twenty of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub others: Vec<OtherOrigin>,
}

impl ListedBackups {
    /// Of all that are whole, the newest first.
    pub fn new(mut all: Vec<BackupSnapshot>) -> Self {
        let count = i64::try_from(all.len()).unwrap_or(i64::MAX);
        let verified = all.iter().find(|backup| backup.verified_at.is_some());
        let verified = verified.and_then(|backup| backup.taken_at.clone());
        all.truncate(LISTED);
        Self { count, verified, newest: all, others: Vec::new() }
    }
}

impl BackupSnapshot {
    pub fn new(id: String, taken_at: Option<Time>, bytes: i64, added_bytes: i64) -> Self {
        Self { id, taken_at, size: bytes::human(bytes), bytes, added_bytes, ..Self::default() }
    }
}

/// Backups of the same homeserver that another object has made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OtherOrigin {
    /// UID of that object.
    pub uid: String,
    /// How many there are.
    pub count: i64,
    /// The moment of the newest, by PostgreSQL's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Time>,
}

impl std::fmt::Display for OtherOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.count, self.uid)?;
        self.newest.iter().try_for_each(|newest| write!(f, " (the newest of {})", moment(newest.0)))
    }
}

/// What a restore of a backup will not bring back, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Coverage {
    /// What is left out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_restored: Vec<String>,
    /// Why a restore is refused until a superuser has been there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub superuser_needed: Vec<String>,
}

impl Coverage {
    /// Of two databases.
    #[must_use]
    pub fn and(mut self, more: Self) -> Self {
        self.not_restored.extend(more.not_restored);
        self.superuser_needed.extend(more.superuser_needed);
        self
    }

    /// All of it, as warnings of a step.
    pub fn warnings(&self) -> Vec<String> {
        let left_out = self.not_restored.iter().map(|line| format!("a restore does not bring back {line}"));
        self.superuser_needed.iter().cloned().chain(left_out).collect()
    }
}

/// What a drill found of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The backup's name.
    pub snapshot: String,
    /// The moment that it shows, by PostgreSQL's clock, where that could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Time>,
    /// It was restored, and all that was compared agrees.
    pub is_whole: bool,
}

/// What `task backup` stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupFindings {
    /// restic's id of the snapshot that holds the manifest: the backup's name.
    pub snapshot: String,
    /// The moment that was backed up, by PostgreSQL's clock.
    pub taken_at: Time,
    /// Bytes that were read, not compressed.
    pub bytes: u64,
    /// Bytes that came new into the repository.
    pub added: u64,
    /// Rows in all tables of Synapse's database.
    pub rows: u64,
    /// The database of the Matrix Authentication Service is in it, and no more than so many seconds lie between its moment and
    /// that of Synapse's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart_seconds: Option<f64>,
}

/// Some files that were looked for, and those that are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MediaSample {
    /// How many files were looked for; others each time.
    pub looked_for: i64,
    /// How many of them are missing.
    pub missing: i64,
    /// One that is missing, as Synapse's `media_store_path` has it.
    pub example: String,
}

//! What a task tells the operator: the contract between a Job's Pod and the engine.
//!
//! A task prints JSON lines: progress while it works, the [`Report`] as the last line. The report is also its container's
//! termination message. That holds at most 4096 bytes, so a longer report goes there without its details and with
//! [`Report::details_in_log`], and the operator reads the last line of the log.
//!
//! The exit code says the same in short: 0 success, [`EXIT_TERMINAL`] or [`EXIT_TRANSIENT`]. Anything else means that the
//! task was killed and what it did is unknown.

use std::{collections::BTreeMap, process::ExitCode};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    backup::ListedBackups,
    media::MediaSample,
    restore::{DatabaseLeft, Restored},
};

/// Another try cannot help until a person has changed something.
pub const EXIT_TERMINAL: u8 = 10;
/// Another try may help.
pub const EXIT_TRANSIENT: u8 = 11;

/// How a task ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Absent: success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<TaskError>,
    /// What was done. Beside an error: what had been done before it, and stays done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<StepResult>,
    /// What an inspection or a preflight found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Findings>,
    /// Beside an error of a task that fills the homeserver's own database, or gives it to another one: what is left there.
    /// Absent: nobody knows, or half of what it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<Leaves>,
    /// The whole report is the last line of the log.
    #[serde(default)]
    pub details_in_log: bool,
}

/// What a task that did not come to its end has left of the homeserver's own database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Leaves {
    /// What was there before this attempt.
    AsItWas,
    /// Nothing, as before the first attempt: Synapse may start with it.
    Empty,
    /// Databases that are in step, with nothing to take back or nothing that can be: Synapse may start with them if it could
    /// before the first attempt.
    InStep,
}

impl Report {
    /// The task's exit code.
    pub fn exit_code(&self) -> ExitCode {
        match self.error.as_ref().map(|error| error.class) {
            None => ExitCode::SUCCESS,
            Some(ErrorClass::Terminal) => EXIT_TERMINAL.into(),
            Some(ErrorClass::Transient) => EXIT_TRANSIENT.into(),
        }
    }
}

impl From<Result<Self>> for Report {
    fn from(done: Result<Self>) -> Self {
        done.unwrap_or_else(|error| Self { error: Some(error), ..Self::default() })
    }
}

impl From<Result<StepResult>> for Report {
    fn from(done: Result<StepResult>) -> Self {
        done.map(|result| Self { result: Some(result), ..Self::default() }).into()
    }
}

/// What everything in a task returns: an error is already in the words in which a person will read it.
pub type Result<T> = std::result::Result<T, TaskError>;

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskError {
    pub class: ErrorClass,
    /// One word for programs, such as `PasswordRefused`.
    pub reason: String,
    /// What happened, in the words of whoever refused, and what to do.
    pub message: String,
}

impl TaskError {
    /// An error that another try cannot mend.
    pub fn terminal(reason: &str, message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Terminal, reason: reason.to_owned(), message: message.into() }
    }

    /// The temporary directory cannot be written to.
    pub fn no_scratch_space(error: &std::io::Error) -> Self {
        Self::transient("NoScratchSpace", format!("The temporary directory cannot be written to: {error}."))
    }

    /// An error that may be gone at the next try.
    pub fn transient(reason: &str, message: impl Into<String>) -> Self {
        Self { class: ErrorClass::Transient, reason: reason.to_owned(), message: message.into() }
    }
}

impl std::fmt::Display for TaskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for TaskError {}

/// Whether another try can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ErrorClass {
    /// A connection that broke, a lock that was not granted: another try may help.
    Transient,
    /// A wrong password, a missing table: a person must change something first.
    Terminal,
}

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

/// What a reading task found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Findings {
    Inspection(Box<InspectionFindings>),
    Preflight(PreflightFindings),
    Backup(BackupFindings),
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

/// What `task preflight` found: the steps can be done, at this price.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightFindings {
    /// One entry for each step.
    pub plan: Vec<crate::api::operation::StepPlan>,
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

/// What `task inspect` found. See [`crate::api::synapse::SynapseStatus`] for the meaning of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InspectionFindings {
    /// By PostgreSQL's clock.
    pub inspected_at: Option<Time>,
    pub postgres_version: String,
    /// `server_version_num`.
    pub postgres_version_num: i32,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub database_bytes: i64,
    pub dead_rows: i64,
    pub largest_tables: Vec<crate::api::synapse::TableFacts>,
    pub schema_version: Option<i32>,
    pub schema_compat_version: Option<i32>,
    /// Tables that every whole homeserver has, and that are not there.
    pub missing_tables: Vec<String>,
    pub synapse_version: Option<String>,
    /// Why the version of Synapse is not known.
    pub synapse_version_error: Option<String>,
    pub pending_background_updates: Vec<String>,
    /// Such as `events_stream_seq is at 10, stream_positions is at 42`.
    pub inconsistent_sequences: Vec<String>,
    pub unused_rooms: Option<i64>,
    pub uncensored_redactions: Option<i64>,
    /// The users are of another homeserver than the stated one: of which.
    pub foreign_server: Option<String>,
    /// Tables that belong to a role whose rights ours does not have, for people.
    pub foreign_tables: Option<String>,
    /// The database is a standby.
    pub in_recovery: bool,
    /// Databases of the same owner that restores have made and not swapped in.
    pub left_databases: Vec<DatabaseLeft>,
    /// What PostgreSQL's role lacks to see everything, for people.
    pub warnings: Vec<String>,
}

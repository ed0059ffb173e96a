//! How a task ended.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use super::{
    BackupFindings, EXIT_TERMINAL, EXIT_TRANSIENT, ErrorClass, InspectionFindings, PreflightFindings, Result,
    StepResult, TaskError,
};

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

/// What a reading task found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Findings {
    Inspection(Box<InspectionFindings>),
    Preflight(PreflightFindings),
    Backup(BackupFindings),
}

//! The contract between a task, which runs in a Job's Pod, and the operator, which reads what it reports.
//!
//! A task prints JSON lines: progress while it works, the [`Report`] as the last line. The report is also its container's
//! termination message. That holds at most 4096 bytes, so a longer report goes there without its details and with
//! [`Report::details_in_log`], and the operator reads the last line of the log.
//!
//! The exit code is the short form of the report: 0 for success, [`EXIT_TERMINAL`] or [`EXIT_TRANSIENT`]. With any other code the task
//! was killed, and its outcome is unknown.
//!
//! Most of these types are also part of a status, so their JSON is that of the CRDs. What knows the kinds, PostgreSQL,
//! restic or Synapse uses this module, and this module uses none of them.

mod backup;
mod error;
mod inspection;
pub mod mounted;
pub mod output;
mod plan;
pub mod pod;
mod report;
mod restored;
mod result;

pub use self::{
    backup::{BackupFindings, BackupSnapshot, Coverage, LISTED, ListedBackups, MediaSample, OtherOrigin, Verdict},
    error::{EXIT_TERMINAL, EXIT_TRANSIENT, ErrorClass, Result, TaskError},
    inspection::{InspectionFindings, TableFacts},
    plan::{PreflightFindings, StepPlan, TablePlan},
    report::{Findings, Leaves, Report},
    restored::{DatabaseLeft, Restored, RestoredAuthentication, RestoredDump},
    result::{StepResult, TableResult},
};

//! Why a task failed, and whether another try can help.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Another try cannot help until a person has changed something.
pub const EXIT_TERMINAL: u8 = 10;

/// Another try may help.
pub const EXIT_TRANSIENT: u8 = 11;

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

//! Media that this process may not read.

use crate::contract::TaskError;

/// The error of media that this user may not read.
pub fn unreadable(what: &str) -> TaskError {
    TaskError::terminal(
        "MediaUnreadable",
        format!(
            "User {} may not read the media: {what}. Set jobs.runAsUser of the Synapse object to the user of Synapse's Pods, \
             or jobs.fsGroup to a group that may read them.",
            user()
        ),
    )
}

/// The user id of this process.
pub fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

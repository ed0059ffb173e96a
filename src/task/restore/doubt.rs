//! Errors of a swap whose outcome is not what the databases show.

use crate::contract::TaskError;

/// The names were swapped, and the server does not say so.
pub(super) fn unknown() -> TaskError {
    TaskError::transient("SwapUnknown", "The names were swapped, and the server does not say so: looks again.")
}

/// Somebody has dropped or renamed what was restored.
pub(super) fn gone() -> TaskError {
    TaskError::terminal(
        "RestoredDatabaseGone",
        "The database that this restore has made beside the old one is not there any more. Nothing was replaced: make a new \
         SynapseRestore.",
    )
}

//! Whether a server is one on which a task may work.

use super::{Result, Session, connect::OLDEST_POSTGRES, lock, relations};
use crate::contract::TaskError;

/// What every task that writes needs of the server: new enough, not a standby, and no pooler in between.
///
/// # Errors
/// Terminal: `PostgresTooOld`, `Standby`, `Pooler`.
pub async fn check_server(first: &mut Session, second: &mut Session) -> Result<()> {
    if first.version < OLDEST_POSTGRES {
        return Err(TaskError::terminal(
            "PostgresTooOld",
            format!("This is PostgreSQL {}; Synapse and synapse-keeper need 14 or newer.", first.version / 10_000),
        ));
    }
    if relations::in_recovery(first).await? {
        return Err(TaskError::terminal(
            "Standby",
            "The server is a standby, which cannot be written to: point postgres.host at the primary.",
        ));
    }
    lock::check_it_survives(first, second).await
}

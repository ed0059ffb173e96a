//! Whether the homeserver's own database may be restored in place.

use super::existing::Present;
use crate::{
    contract::{Result, TaskError},
    postgres::{Locale, Session},
    quote,
    synapse::database,
    task::arguments::Connection,
};

/// Whether a backup may come back into it.
///
/// # Errors
/// Terminal: `DatabaseInUse`; `LocaleNotC`. Those of PostgreSQL.
pub(super) async fn accepts(session: &mut Session, connection: &Connection, present: Present) -> Result<()> {
    let name = &connection.database;
    let advice = "In place a backup comes back only where nobody has been: name a role that may make databases in \
                  postgres.adminCredentials, and create a new SynapseRestore with spec.database: {method: Beside}.";
    present.is_unused(name, advice)?;
    let (encoding, collate, ctype) = Locale::read(session).await?.sorts();
    if database::accepts(&encoding, &collate, &ctype) {
        return Ok(());
    }
    let owner = connection.target()?.credentials.username;
    let (drop, creation) = (quote::ident(name), database::creation(name, Some(&owner), session.version));
    Err(TaskError::terminal(
        "LocaleNotC",
        format!(
            "Database {name} is {encoding}, {collate}, {ctype}; Synapse wants UTF8, C, C. Nothing was changed. Nobody has used it: \
             with Synapse down, make it anew: DROP DATABASE {drop}; {creation};"
        ),
    ))
}

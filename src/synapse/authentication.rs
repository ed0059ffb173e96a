//! What the database of the Matrix Authentication Service says of it.

use super::database::Tables;
use crate::postgres::{Explain, Result, Session};

/// Where the service's migrations stand (`crates/storage-pg` of the service, by `sqlx`).
const MIGRATIONS: &str = "_sqlx_migrations";
/// Tables that every version of it has, and that Synapse has not.
const OWN: [&str; 3] = ["oauth2_clients", "compat_sessions", "user_sessions"];

/// Whether these are the service's tables.
pub fn is_it(tables: &Tables<'_>) -> bool {
    tables.contains(MIGRATIONS) && OWN.iter().all(|table| tables.contains(table))
}

/// The version of the newest migration that was made; a service that does not know it does not start. `None`: this is
/// not a database of the service, or one that is still empty.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn newest_migration(session: &mut Session, tables: &Tables<'_>) -> Result<Option<i64>> {
    if !is_it(tables) {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
        .fetch_one(&mut session.connection)
        .await
        .explain("reading the migrations of the Matrix Authentication Service")
}

//! What Synapse's database says of the homeserver.

use std::collections::HashSet;

use crate::postgres::{Explain, Locale, Result, Session};

/// The schema's versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchemaVersion {
    /// What the database has.
    pub version: i32,
    /// The oldest code that can use it; databases before Synapse 1.37 do not say.
    pub compat_version: Option<i32>,
}

/// Encoding, collation and ctype that Synapse accepts (`synapse/storage/engines/postgres.py`).
const LOCALE: (&str, &str, &str) = ("UTF8", "C", "C");

/// Whether Synapse starts on a database with this encoding, collation and ctype.
pub fn accepts(encoding: &str, collate: &str, ctype: &str) -> bool {
    (encoding, collate, ctype) == LOCALE
}

/// What Synapse wants.
pub fn locale() -> Locale {
    let (encoding, locale, _) = LOCALE;
    Locale::libc(encoding, locale)
}

/// The statement that makes an empty database as Synapse wants it, on a server of this version (`server_version_num`).
/// `owner`: without it, the role that makes it.
pub fn creation(name: &str, owner: Option<&str>, version: i32) -> String {
    locale().creation(name, owner, version)
}

/// Names of the tables that are there.
pub type Tables<'a> = HashSet<&'a str>;

/// The version of the schema; `None`: this is not a database of Synapse, or one that is still empty.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn schema_version(session: &mut Session, tables: &Tables<'_>) -> Result<Option<SchemaVersion>> {
    const DOING: &str = "reading the version of Synapse's schema";
    if !tables.contains("schema_version") {
        return Ok(None);
    }
    let version: Option<i32> = sqlx::query_scalar("SELECT version FROM schema_version LIMIT 1")
        .fetch_optional(&mut session.connection)
        .await
        .explain(DOING)?;
    let compat_version = if tables.contains("schema_compat_version") {
        sqlx::query_scalar("SELECT compat_version FROM schema_compat_version LIMIT 1")
            .fetch_optional(&mut session.connection)
            .await
            .explain(DOING)?
    } else {
        None
    };
    Ok(version.map(|version| SchemaVersion { version, compat_version }))
}

/// Names of Synapse's own background updates that are not done.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn pending_background_updates(session: &mut Session, tables: &Tables<'_>) -> Result<Vec<String>> {
    if !tables.contains("background_updates") {
        return Ok(vec![]);
    }
    sqlx::query_scalar("SELECT update_name FROM background_updates ORDER BY ordering, update_name")
        .fetch_all(&mut session.connection)
        .await
        .explain("reading Synapse's background updates")
}

/// The server part of the local users' ids; `None`: there is no user.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn server_name(session: &mut Session, tables: &Tables<'_>) -> Result<Option<String>> {
    if !tables.contains("users") {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT substr(name, strpos(name, ':') + 1) FROM users WHERE name LIKE '@%:%' LIMIT 1")
        .fetch_optional(&mut session.connection)
        .await
        .explain("reading the server's name from its users")
}

/// A user of another homeserver, where all should be of this one: Synapse does not start then (`check_database_before_upgrade`
/// in `synapse/storage/databases/main/__init__.py`).
///
/// # Errors
/// Those of PostgreSQL.
pub async fn foreign_user(session: &mut Session, tables: &Tables<'_>, server: &str) -> Result<Option<String>> {
    if !tables.contains("users") {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT name FROM users WHERE substr(name, strpos(name, ':') + 1) <> $1 LIMIT 1")
        .bind(server)
        .fetch_optional(&mut session.connection)
        .await
        .explain("looking whose users there are")
}

/// How many rooms no local user is in, is invited to or has knocked at. `None`: the tables for it are not there.
///
/// A membership may stand in `local_current_membership` alone (an invite by a server that is gone) or in
/// `current_state_events` alone, so both are asked. Rooms that are just being joined are not unused.
///
/// # Errors
/// Those of PostgreSQL; on a large database it may not fit into the statement's time.
pub async fn unused_rooms(session: &mut Session, tables: &Tables<'_>, server: Option<&str>) -> Result<Option<i64>> {
    if !["rooms", "local_current_membership", "current_state_events"].iter().all(|table| tables.contains(table)) {
        return Ok(None);
    }
    let mut sql = "SELECT count(*) FROM rooms r WHERE NOT EXISTS (\
         SELECT FROM local_current_membership l WHERE l.room_id = r.room_id AND l.membership IN ('join', 'invite', 'knock')) \
         AND NOT EXISTS (SELECT FROM current_state_events c WHERE c.room_id = r.room_id AND c.type = 'm.room.member' \
         AND c.membership IN ('join', 'invite', 'knock') AND substr(c.state_key, strpos(c.state_key, ':') + 1) = $1)"
        .to_owned();
    for table in ["partial_state_rooms", "federation_inbound_events_staging"] {
        if tables.contains(table) {
            sql += &format!(" AND NOT EXISTS (SELECT FROM {table} x WHERE x.room_id = r.room_id)");
        }
    }
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .bind(server)
        .fetch_one(&mut session.connection)
        .await
        .explain("counting unused rooms")
        .map(Some)
}

/// How many redacted messages Synapse has not yet taken out of the database. `None`: the table is not there.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn uncensored_redactions(session: &mut Session, tables: &Tables<'_>) -> Result<Option<i64>> {
    if !tables.contains("redactions") {
        return Ok(None);
    }
    sqlx::query_scalar("SELECT count(*) FROM redactions WHERE NOT have_censored")
        .fetch_one(&mut session.connection)
        .await
        .explain("counting redactions")
        .map(Some)
}

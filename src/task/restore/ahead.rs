//! What must be true of a restored database before the first Pod of Synapse sees it.
//!
//! A restore goes back in time; clients and other homeservers do not. Everything here is done while nobody is in either
//! database, and may be done twice.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use crate::{
    api::restore::ScheduledTasks,
    contract::{TaskError, output::progress},
    postgres::{Explain, Result, Session},
    synapse::{schema, sequences},
    task::backup::snapshot::ONE_TIME_KEYS,
    words::counted,
};

/// By so much a sequence is pushed beyond what either database has used: what was handed out after the backup is known only
/// where the old database is still there.
const MARGIN: i64 = 1_000_000;

/// Tasks of Synapse 1.163 that take something away for good (`synapse/handlers/pagination.py`, `admin.py`).
const DELETING: [&str; 4] = ["purge_history", "purge_room", "shutdown_and_purge_room", "redact_all_events"];

/// Does all of it, in a session that is in Synapse's schema. `schema`: its name, where that is known. `old`: what the database had that it takes the place of. Returns what there is to tell people.
///
/// # Errors
/// Terminal, `OneTimeKeysLeft`. Those of PostgreSQL.
pub async fn bring_ahead(
    session: &mut Session,
    schema: Option<&str>,
    old: &BTreeMap<String, Position>,
    wish: ScheduledTasks,
) -> Result<Vec<String>> {
    no_one_time_keys(session).await?;
    let sequences = push_sequences(session, schema, old).await?;
    progress(&format!(
        "{} on behind all that was ever handed out",
        counted(sequences, "sequence goes", "sequences go")
    ));
    let mut notes = scheduled_tasks(session, wish).await?;
    let users = resync_device_lists(session).await?;
    if users > 0 {
        let users = counted(users, "user of another homeserver", "users of other homeservers");
        notes.push(format!("the devices of {users} are asked for anew"));
    }
    Ok(notes)
}

/// What of a sequence is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// As SQL has it, with its schema.
    quoted: String,
    /// The next number to come.
    next: i64,
    /// It cannot count further than this.
    most: i64,
}

/// Every sequence that counts upwards. One of Synapse's goes by its name without a schema: the tables may have been moved to
/// another one since the backup. `schema`: Synapse's, where that is known.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn positions(session: &mut Session, schema: Option<&str>) -> Result<BTreeMap<String, Position>> {
    const DOING: &str = "reading the sequences";
    let schema = schema::enter(session, schema).await?.map(|schema| schema.name);
    let sequences: Vec<(String, String, i64, bool, String, String)> = sqlx::query_as(
        "SELECT CASE WHEN n.nspname = $1 THEN quote_ident(c.relname) ELSE format('%I.%I', n.nspname, c.relname) END, \
             format('%I.%I', n.nspname, c.relname), s.seqmax, \
             has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'SELECT'), n.nspname::text, c.relname::text \
         FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE s.seqincrement > 0 AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND NOT pg_is_other_temp_schema(n.oid) \
         ORDER BY 1",
    )
    .bind(&schema)
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    let mut positions = BTreeMap::new();
    for (name, quoted, most, may_read, in_schema, sequence) in sequences {
        // Of another program, which lets our role not read it: no backup has it.
        let is_synapse_s = schema.as_ref() == Some(&in_schema) && sequences::is_synapse_s(&sequence);
        if !may_read && !is_synapse_s {
            continue;
        }
        // `pg_sequences.last_value` is NULL for one that was set and not used yet.
        let sql = format!("SELECT CASE WHEN is_called THEN last_value + 1 ELSE last_value END FROM {quoted}");
        let next = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut session.connection).await.explain(DOING)?;
        positions.insert(name, Position { quoted, next, most });
    }
    Ok(positions)
}

/// Pushes every sequence of a restored database beyond what it and the old one have ever handed out. A number that is
/// handed out twice makes clients miss what carries it: their tokens name positions (`synapse/handlers/sync.py`).
///
/// Returns how many there are.
///
/// # Errors
/// Those of PostgreSQL.
async fn push_sequences(
    session: &mut Session,
    schema: Option<&str>,
    old: &BTreeMap<String, Position>,
) -> Result<usize> {
    let restored = positions(session, schema).await?;
    for (name, position) in &restored {
        let next = pushed(position, old.get(name));
        // Not used yet: who looks later sees whether Synapse has used it.
        let sql = format!("SELECT setval('{}', {next}, false)", position.quoted.replace('\'', "''"));
        session.execute(&sql).await.explain("pushing a sequence forward")?;
    }
    Ok(restored.len())
}

fn pushed(restored: &Position, old: Option<&Position>) -> i64 {
    let used = old.map_or(restored.next, |old| old.next.max(restored.next));
    let far = used.saturating_add(MARGIN);
    // A small one, such as a smallserial's, has no room for it.
    if far <= restored.most / 2 { far } else { used.min(restored.most) }
}

/// Whether any stream that clients follow was used since it was pushed: then they hold tokens of this database.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn was_used(session: &mut Session) -> Result<bool> {
    const DOING: &str = "looking whether Synapse has written since";
    const FOLLOWED: [&str; 5] = [
        "events_stream_seq",
        "device_inbox_sequence",
        "receipts_sequence",
        "account_data_sequence",
        "device_lists_sequence",
    ];
    for name in FOLLOWED {
        let sql = AssertSqlSafe(format!("SELECT is_called FROM {name}"));
        if has(session, name).await?
            && sqlx::query_scalar(sql).fetch_one(&mut session.connection).await.explain(DOING)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deals with tasks that were under way or waiting when the backup was made: Synapse would go on with them at its start, and
/// purge rooms that people have come back to meanwhile. Returns them, for people.
///
/// # Errors
/// Those of PostgreSQL.
async fn scheduled_tasks(session: &mut Session, wish: ScheduledTasks) -> Result<Vec<String>> {
    const DOING: &str = "looking at Synapse's scheduled tasks";
    if !has(session, "scheduled_tasks").await? {
        return Ok(Vec::new());
    }
    let sql = match wish {
        ScheduledTasks::Cancel => {
            "UPDATE scheduled_tasks SET status = 'cancelled', error = 'cancelled by a restore of synapse-keeper' \
             WHERE status IN ('scheduled', 'active') AND action = ANY ($1) \
             RETURNING format('cancelled %s of %s', action, coalesce(resource_id, 'nothing'))"
        }
        ScheduledTasks::Keep => {
            "SELECT format('%s of %s goes on', action, coalesce(resource_id, 'nothing')) FROM scheduled_tasks \
             WHERE status IN ('scheduled', 'active') AND action = ANY ($1)"
        }
    };
    sqlx::query_scalar(sql).bind(&DELETING[..]).fetch_all(&mut session.connection).await.explain(DOING)
}

/// Marks what other homeservers have said of their users' devices for a new look: updates since the backup were answered and
/// will not come again. Returns of how many users.
///
/// # Errors
/// Those of PostgreSQL.
async fn resync_device_lists(session: &mut Session) -> Result<u64> {
    const DOING: &str = "marking remote device lists for a resync";
    if !has(session, "device_lists_remote_resync").await? {
        return Ok(0);
    }
    // As the single-user form in Synapse's `useful_sql_for_admins.md`.
    let done = sqlx::query(
        "INSERT INTO device_lists_remote_resync (user_id, added_ts) \
         SELECT DISTINCT user_id, (extract(epoch FROM now()) * 1000)::bigint FROM device_lists_remote_extremeties \
         ON CONFLICT DO NOTHING",
    )
    .execute(&mut session.connection)
    .await
    .explain(DOING)?;
    Ok(done.rows_affected())
}

/// Counts the one-time keys, once more and last.
///
/// # Errors
/// Terminal, `OneTimeKeysLeft`.
async fn no_one_time_keys(session: &mut Session) -> Result<()> {
    if !has(session, ONE_TIME_KEYS).await? {
        return Ok(());
    }
    let left: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {ONE_TIME_KEYS}")))
        .fetch_one(&mut session.connection)
        .await
        .explain("counting the one-time keys")?;
    if left == 0 {
        return Ok(());
    }
    Err(TaskError::terminal(
        "OneTimeKeysLeft",
        format!(
            "The restored database has {left} one-time keys: messages that use one twice cannot be read. Nothing was replaced."
        ),
    ))
}

/// Whether this schema of Synapse has the table or sequence. Users wait meanwhile: nothing is measured for it.
async fn has(session: &mut Session, name: &str) -> Result<bool> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(name)
        .fetch_one(&mut session.connection)
        .await
        .explain("looking what this schema has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_goes_beyond_both_databases() {
        let at = |next| Position { quoted: String::new(), next, most: i64::MAX };
        assert_eq!(pushed(&at(100), Some(&at(500))), 1_000_500);
        assert_eq!(pushed(&at(500), Some(&at(100))), 1_000_500);
        assert_eq!(pushed(&at(100), None), 1_000_100, "the old one is lost: who knows what it had handed out");
    }

    #[test]
    fn a_small_sequence_is_not_used_up() {
        let small = |next| Position { quoted: String::new(), next, most: 32_767 };
        assert_eq!(pushed(&small(100), Some(&small(500))), 500);
        assert_eq!(pushed(&small(40_000), None), 32_767);
    }
}

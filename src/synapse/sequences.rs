//! Sequences that lie behind what was made with them.
//!
//! Synapse refuses to start when a stream's position is ahead of its sequence, which happens after a failover of
//! PostgreSQL or a restore; a sequence behind its tables would hand out numbers twice.

use std::{collections::HashSet, time::Duration};

use crate::{
    contract::{TaskError, output::progress},
    postgres::{Explain, Result, Session},
};

/// What lies behind is looked at again after this time: whoever writes rows with numbers of his own, as Synapse does when it
/// starts and a person who mends, moves the sequence afterwards.
const AGAIN_AFTER: Duration = Duration::from_secs(3);

/// A sequence of Synapse's schema and what is numbered with it.
struct Sequence {
    name: &'static str,
    /// Tables and their columns.
    columns: &'static [(&'static str, &'static str)],
    /// Its name in `stream_positions`, if it has one.
    stream: Option<&'static str>,
    /// The numbers run downwards: the sequence counts what the columns hold with a minus sign.
    backwards: bool,
}

/// Whether a sequence of this name in Synapse's schema is Synapse's.
pub fn is_synapse_s(sequence: &str) -> bool {
    sequence == "user_id_seq" || SEQUENCES.iter().any(|known| known.name == sequence)
}

const fn stream(
    name: &'static str,
    stream: &'static str,
    columns: &'static [(&'static str, &'static str)],
) -> Sequence {
    Sequence { name, columns, stream: Some(stream), backwards: false }
}

const fn ids(name: &'static str, columns: &'static [(&'static str, &'static str)]) -> Sequence {
    Sequence { name, columns, stream: None, backwards: false }
}

/// Synapse 1.163 (schema 94). What an older or newer schema does not have is passed over. `user_id_seq` is not here:
/// nothing is numbered with it that could be compared.
const SEQUENCES: [Sequence; 25] = [
    stream(
        "events_stream_seq",
        "events",
        &[
            ("events", "stream_ordering"),
            ("current_state_delta_stream", "stream_id"),
            ("ex_outlier_stream", "event_stream_ordering"),
        ],
    ),
    Sequence {
        name: "events_backfill_stream_seq",
        columns: &[("events", "stream_ordering"), ("ex_outlier_stream", "event_stream_ordering")],
        stream: Some("backfill"),
        backwards: true,
    },
    stream(
        "account_data_sequence",
        "account_data",
        &[("room_account_data", "stream_id"), ("room_tags_revisions", "stream_id"), ("account_data", "stream_id")],
    ),
    stream("receipts_sequence", "receipts", &[("receipts_linearized", "stream_id")]),
    stream("presence_stream_sequence", "presence_stream", &[("presence_stream", "stream_id")]),
    stream(
        "device_lists_sequence",
        "device_lists_stream",
        &[
            ("device_lists_stream", "stream_id"),
            ("user_signature_stream", "stream_id"),
            ("device_lists_outbound_pokes", "stream_id"),
            ("device_lists_changes_in_room", "stream_id"),
            ("device_lists_remote_pending", "stream_id"),
            ("device_lists_changes_converted_stream_position", "stream_id"),
        ],
    ),
    stream(
        "device_inbox_sequence",
        "to_device",
        &[("device_inbox", "stream_id"), ("device_federation_outbox", "stream_id")],
    ),
    stream("pushers_sequence", "pushers", &[("pushers", "id"), ("deleted_pushers", "stream_id")]),
    stream("push_rules_stream_sequence", "push_rules_stream", &[("push_rules_stream", "stream_id")]),
    stream(
        "un_partial_stated_event_stream_sequence",
        "un_partial_stated_event_stream",
        &[("un_partial_stated_event_stream", "stream_id")],
    ),
    stream(
        "un_partial_stated_room_stream_sequence",
        "un_partial_stated_room_stream",
        &[("un_partial_stated_room_stream", "stream_id")],
    ),
    stream("thread_subscriptions_sequence", "thread_subscriptions", &[("thread_subscriptions", "stream_id")]),
    stream("sticky_events_sequence", "sticky_events", &[("sticky_events", "stream_id")]),
    stream("quarantined_media_id_seq", "quarantined_media", &[("quarantined_media_changes", "stream_id")]),
    stream("profile_updates_sequence", "profile_updates", &[("profile_updates", "stream_id")]),
    stream("e2e_cross_signing_keys_sequence", "e2e_cross_signing_keys", &[("e2e_cross_signing_keys", "stream_id")]),
    stream("cache_invalidation_stream_seq", "caches", &[("cache_invalidation_stream_by_instance", "stream_id")]),
    ids("event_auth_chain_id", &[("event_auth_chains", "chain_id")]),
    ids("application_services_txn_id_seq", &[("application_services_txns", "txn_id")]),
    ids("state_group_id_seq", &[("state_groups", "id")]),
    ids("instance_map_instance_id_seq", &[("instance_map", "instance_id")]),
    ids("sliding_sync_connections_connection_key_seq", &[("sliding_sync_connections", "connection_key")]),
    ids(
        "sliding_sync_connection_positions_connection_position_seq",
        &[("sliding_sync_connection_positions", "connection_position")],
    ),
    ids(
        "sliding_sync_connection_required_state_required_state_id_seq",
        &[("sliding_sync_connection_required_state", "required_state_id")],
    ),
    ids("state_groups_pending_deletion_sequence_number_seq", &[("state_groups_pending_deletion", "sequence_number")]),
];

/// What the check found.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many sequences were compared.
    pub sequences: usize,
    /// Such as `events_stream_seq is at 10, stream_positions is at 42`.
    pub inconsistent: Vec<String>,
    /// Sequences that took too long to compare.
    pub errors: Vec<TaskError>,
}

/// What is in the database: tables with a column, and sequences without one.
type Known<'a> = HashSet<(&'a str, &'a str)>;

/// A sequence that lies behind.
struct Behind<'a> {
    sequence: &'a Sequence,
    /// What it is behind, for people.
    what: String,
}

/// Compares every sequence that is there with its tables and its stream's position. Synapse may be at work meanwhile: what lies
/// behind is looked at twice.
///
/// # Errors
/// Those of PostgreSQL, where they are not about one sequence alone.
pub async fn check(session: &mut Session) -> Result<Checked> {
    let known: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.relname::text, coalesce(a.attname, '')::text FROM pg_class c LEFT JOIN pg_attribute a \
             ON a.attrelid = c.oid AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE c.relkind IN ('r', 'S') AND pg_table_is_visible(c.oid) AND c.relnamespace <> 'pg_catalog'::regnamespace",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain("reading which sequences there are")?;
    let known: Known<'_> = known.iter().map(|(table, column)| (table.as_str(), column.as_str())).collect();
    let there: Vec<&Sequence> = SEQUENCES.iter().filter(|sequence| known.contains(&(sequence.name, ""))).collect();

    let mut checked = Checked { sequences: there.len(), ..Checked::default() };
    let mut behind = look(session, &there, &known, &mut checked.errors).await?;
    if !behind.is_empty() {
        let suspects: Vec<&Sequence> = behind.iter().map(|behind| behind.sequence).collect();
        progress(&format!("looks again at {}", names(&suspects)));
        tokio::time::sleep(AGAIN_AFTER).await;
        behind = look(session, &suspects, &known, &mut checked.errors).await?;
    }
    checked.inconsistent = behind.into_iter().map(|behind| behind.what).collect();
    Ok(checked)
}

fn names(sequences: &[&Sequence]) -> String {
    sequences.iter().map(|sequence| sequence.name).collect::<Vec<_>>().join(", ")
}

/// Which of these lie behind. All tables are read first and all sequences last: a sequence only moves forward, so one that is
/// behind what was read before it is behind.
async fn look<'a>(
    session: &mut Session,
    sequences: &[&'a Sequence],
    known: &Known<'_>,
    errors: &mut Vec<TaskError>,
) -> Result<Vec<Behind<'a>>> {
    let mut furthest = Vec::new();
    for sequence in sequences {
        let read = of_sequence(furthest_of(session, sequence, known).await, errors)?;
        furthest.extend(read.flatten().map(|(name, position)| (*sequence, name, position)));
    }
    let mut behind = Vec::new();
    for (sequence, name, position) in furthest {
        let Some(value) = of_sequence(value_of(session, sequence).await, errors)? else { continue };
        if position > value {
            let what = format!("{} is at {value}, {name} is at {position}", sequence.name);
            behind.push(Behind { sequence, what });
        }
    }
    Ok(behind)
}

/// What is about one sequence alone does not end the check.
fn of_sequence<T>(read: Result<T>, errors: &mut Vec<TaskError>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.reason == "ConnectionLost" => Err(error),
        Err(error) => {
            errors.push(error);
            Ok(None)
        }
    }
}

fn doing(sequence: &Sequence) -> String {
    format!("comparing sequence {} with its tables", sequence.name)
}

/// The highest number that was made with a sequence, and where it is.
async fn furthest_of(session: &mut Session, sequence: &Sequence, known: &Known<'_>) -> Result<Option<(String, i64)>> {
    let (highest, sign) = if sequence.backwards { ("-min", "-") } else { ("max", "") };
    let mut names = Vec::new();
    let mut reads = Vec::new();
    for (table, column) in sequence.columns.iter().filter(|column| known.contains(column)) {
        names.push(format!("{table}.{column}"));
        reads.push(format!("(SELECT {highest}({column})::int8 FROM {table})"));
    }
    if let Some(stream) = sequence.stream.filter(|_| known.contains(&("stream_positions", "stream_id"))) {
        names.push("stream_positions".to_owned());
        reads.push(format!("(SELECT max({sign}stream_id)::int8 FROM stream_positions WHERE stream_name = '{stream}')"));
    }
    let sql = format!("SELECT ARRAY[{}]::int8[]", reads.join(", "));
    let positions: Vec<Option<i64>> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&mut session.connection)
        .await
        .explain(&doing(sequence))?;
    let made = names.into_iter().zip(positions).filter_map(|(name, position)| Some((name, position?)));
    Ok(made.max_by_key(|(_, position)| *position))
}

/// The last number that a sequence has handed out.
async fn value_of(session: &mut Session, sequence: &Sequence) -> Result<i64> {
    let sql = format!("SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {}", sequence.name);
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut session.connection).await.explain(&doing(sequence))
}

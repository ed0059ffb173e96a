//! A row that PostgreSQL stores and cannot send: as text it is longer than 1 GiB. `COPY` and `pg_dump` fail at it every time.

use std::time::Duration;

use sqlx::AssertSqlSafe;

use super::{held::Held, parts::Table};
use crate::{
    bytes,
    contract::TaskError,
    postgres::{Explain, Result, Session},
    synapse::guests,
};

/// What PostgreSQL says then: an internal error (a value), program_limit_exceeded (a row), out_of_memory (before its own limit).
const CODES: [&str; 3] = ["XX000", "54000", "53200"];

/// A smaller row is not the reason. Escapes can make up to four characters of one.
const LARGE: i64 = 256 << 20;

/// Whoever reads a large table longer for it is not told of the row.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

const DOING: &str = "looking for the row that is too large";

/// A row, by its largest column.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    ctid: String,
    column: String,
    /// Of the column, and of all.
    bytes: (i64, i64),
}

/// The same error with the table, and with the row where it is one.
pub async fn explain(held: &Held, table: Option<&Table>, code: &str, error: TaskError) -> TaskError {
    let Some(table) = table else { return error };
    let row = match CODES.contains(&code) {
        true => look(held, table).await.unwrap_or_default().filter(|row| row.bytes.1 >= LARGE),
        false => None,
    };
    tell(&table.quoted, row.as_ref(), held.whose.is_synapse(), error)
}

fn tell(table: &str, row: Option<&Row>, may_exclude: bool, error: TaskError) -> TaskError {
    let said = error.message;
    let Some(Row { ctid, column, bytes: (of_column, of_all) }) = row else {
        let message = said.replacen("psql: ", &format!("psql, at table {table}: "), 1);
        return TaskError { message, ..error };
    };
    let said = said.split_once("]. ").map_or(said.as_str(), |(said, _)| said);
    let exclude = if may_exclude && !guests::is_synapse_s(table.rsplit('.').next().unwrap_or(table)) {
        format!(
            ", or leave the table out. In the SynapseBackup (in a new one if it has no schedule): exclude: {{tables: ['{}']}}",
            table.replace('\'', "''")
        )
    } else {
        String::new()
    };
    TaskError::terminal(
        "RowTooLarge",
        format!(
            "{said}]. Table {table} has a row that PostgreSQL cannot send, for it sends no more than 1 GiB as text: {} in the row with \
             ctid {ctid}, {} of it in column {column}. No dump can have it. Shorten the row{exclude}",
            bytes::human(*of_all),
            bytes::human(*of_column),
        ),
    )
}

/// The largest row, without reading its values: their lengths stand in the row itself.
async fn look(held: &Held, table: &Table) -> Result<Option<Row>> {
    let mut session = held.target.connect().await?;
    let within = format!("SET statement_timeout = {}", LOOK_WITHIN.as_millis());
    session.execute(&within).await.explain(DOING)?;
    let columns = lengths(&mut session, table).await?;
    if columns.is_empty() {
        return Ok(None);
    }
    let lengths: Vec<&str> = columns.iter().map(|(_, length)| length.as_str()).collect();
    let sql = format!(
        "SELECT ctid::text, lengths FROM (SELECT ctid, ARRAY[{}]::int8[] AS lengths FROM ONLY {}) rows \
         ORDER BY (SELECT sum(length) FROM unnest(lengths) length) DESC NULLS LAST LIMIT 1",
        lengths.join(", "),
        table.quoted
    );
    let largest: Option<(String, Vec<i64>)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_optional(&mut session.connection).await.explain(DOING)?;
    Ok(largest.and_then(|(ctid, lengths)| {
        let all = lengths.iter().sum();
        let ((column, _), of_column) = columns.into_iter().zip(lengths).max_by_key(|(_, length)| *length)?;
        Some(Row { ctid, column, bytes: (of_column, all) })
    }))
}

/// The columns that can be long, and how long their text is at least. A `bytea` has two digits for each byte.
async fn lengths(session: &mut Session, table: &Table) -> Result<Vec<(String, String)>> {
    sqlx::query_as(
        "SELECT quote_ident(attname), format('coalesce(' || CASE \
             WHEN atttypid = 'bytea'::regtype THEN '2 * octet_length(%1$I)::int8 + 2' \
             WHEN atttypid IN ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype) THEN 'octet_length(%1$I)' \
             ELSE 'pg_column_size(%1$I)' END || ', 0)', attname) \
         FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attlen = -1 \
         ORDER BY attnum",
    )
    .bind(&table.quoted)
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ErrorClass;

    #[test]
    fn the_row_is_named_and_the_way_out() {
        let said =
            || TaskError::terminal("DumpFailed", "psql: invalid memory alloc request size 1 [XX000]. Look at its log.");
        let row = Row { ctid: "(0,1)".to_owned(), column: "b".to_owned(), bytes: (1_200_000_002, 1_200_000_010) };
        let error = tell("bridge.\"it's\"", Some(&row), true, said());
        assert_eq!((error.reason.as_str(), error.class), ("RowTooLarge", ErrorClass::Terminal));
        for words in
            ["[XX000]. Table bridge.", "ctid (0,1)", "1.1 GiB", "column b", "exclude: {tables: ['bridge.\"it''s\"']}"]
        {
            assert!(error.message.contains(words), "{words}: {error}");
        }
        assert!(!error.message.contains("Look at its log"), "{error}");
        assert!(!tell("public.event_json", Some(&row), true, said()).message.contains("exclude"));
        let error = tell("public.t", None, true, said());
        assert!(
            error.reason == "DumpFailed" && error.message.starts_with("psql, at table public.t: invalid"),
            "{error}"
        );
    }
}

//! What was restored is read back and compared with the manifest: a program that ended well is not enough. PostgreSQL reads it for its
//! planner in the same go: without statistics the first requests take minutes.

use std::{cell::RefCell, collections::BTreeMap};

use futures::future::try_join_all;
use sqlx::AssertSqlSafe;

use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Locale, Session, Target, relations},
    synapse::database,
    task::{authentication::Whose, backup::manifest::Dump},
};

/// As many differences are named.
const NAMED: usize = 5;

/// What was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Rows in all tables.
    pub rows: u64,
    pub tables: usize,
    /// Size of the database.
    pub bytes: i64,
}

/// Counts the rows of every table and analyzes it, `at_once` tables at a time. Of Synapse's database, also looks at the locale.
///
/// # Errors
/// Terminal: `RowsDiffer`, with the tables, also where a one-time key is there; `LocaleNotC`. What PostgreSQL says.
pub async fn check(target: &Target, whose: Whose, dump: &Dump, at_once: u16) -> Result<Checked> {
    // What was left out is there, and empty.
    let left_out = dump.left_out.iter().map(|table| (table.as_str(), 0));
    count_and_compare(target, whose, &dump.rows_by_table().chain(left_out).collect(), at_once).await
}

/// The same, where somebody else says how many rows there should be.
///
/// # Errors
/// As [`check`].
pub async fn count_and_compare(
    target: &Target,
    whose: Whose,
    expected: &BTreeMap<&str, u64>,
    at_once: u16,
) -> Result<Checked> {
    let mut session = target.connect().await?;
    let (encoding, collate, ctype) = Locale::read(&mut session).await?.sorts();
    if whose.is_synapse() && !database::accepts(&encoding, &collate, &ctype) {
        return Err(TaskError::terminal(
            "LocaleNotC",
            format!("The restored database is {encoding}, {collate}, {ctype}; Synapse wants UTF8, C, C."),
        ));
    }
    let found = count_all(target, expected, at_once).await?;
    if let Some(different) = differences(expected, &found) {
        return Err(TaskError::terminal(
            "RowsDiffer",
            format!("What came back is not what was backed up: {different}. The backup is not good."),
        ));
    }
    let bytes = relations::database_bytes(&mut session).await?;
    Ok(Checked { rows: found.values().sum(), tables: found.len(), bytes })
}

/// Several sessions, each of which takes the next table: a large one takes minutes, and the others go on beside it.
async fn count_all<'a>(
    target: &Target,
    expected: &BTreeMap<&'a str, u64>,
    at_once: u16,
) -> Result<BTreeMap<&'a str, u64>> {
    let mut largest_first: Vec<(&str, u64)> = expected.iter().map(|(table, rows)| (*table, *rows)).collect();
    largest_first.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    let tables = RefCell::new(largest_first.into_iter());
    let counting = (0..at_once).map(async |_| {
        let mut session = target.connect().await?;
        session.execute("SET statement_timeout = 0").await.explain("setting the statement's time")?;
        let mut found = Vec::new();
        loop {
            let next = tables.borrow_mut().next();
            let Some((table, _)) = next else { return Ok::<_, TaskError>(found) };
            found.push((table, count(&mut session, table).await?));
            let doing = format!("reading {table} for the planner's statistics");
            session.execute(&format!("ANALYZE {table}")).await.explain(&doing)?;
        }
    });
    Ok(try_join_all(counting).await?.into_iter().flatten().collect())
}

async fn count(session: &mut Session, table: &str) -> Result<u64> {
    let doing = format!("counting the rows of {table}");
    // A partitioned table has no rows of its own: what a dump brought through it is in its partitions.
    let is_partitioned: Option<bool> =
        sqlx::query_scalar("SELECT relkind = 'p' FROM pg_class WHERE oid = $1::text::regclass")
            .bind(table)
            .fetch_optional(&mut session.connection)
            .await
            .explain(&doing)?;
    let only = if is_partitioned == Some(true) { "" } else { "ONLY " };
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {only}{table}")))
        .fetch_one(&mut session.connection)
        .await
        .explain(&doing)?;
    Ok(rows.unsigned_abs())
}

fn differences(expected: &BTreeMap<&str, u64>, found: &BTreeMap<&str, u64>) -> Option<String> {
    let different: Vec<String> = expected
        .iter()
        .filter(|(table, rows)| found.get(*table) != Some(*rows))
        .map(|(table, rows)| format!("{table} has {} rows of {rows}", found.get(table).copied().unwrap_or_default()))
        .collect();
    let more = different.len().saturating_sub(NAMED);
    let named = different.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match (different.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(named),
        (false, more) => Some(format!("{named}, and {more} more tables")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_that_differs_is_counted_and_some_are_named() {
        let expected = BTreeMap::from([("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5), ("f", 6), ("g", 7)]);
        assert_eq!(differences(&expected, &expected), None);
        let found = BTreeMap::from([("a", 1), ("b", 3)]);
        let told = differences(&expected, &found).unwrap();
        assert!(
            told.starts_with("b has 3 rows of 2, c has 0 rows of 3") && told.ends_with("and 1 more tables"),
            "{told}"
        );
    }
}

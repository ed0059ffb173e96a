//! What keeps deleted rows: PostgreSQL removes none that somebody may still see, and VACUUM FULL copies it.
//!
//! Not on the list, because they keep no row of Synapse's: a transaction of another database that has not written
//! anything, a plain VACUUM, and the `catalog_xmin` of a slot for logical replication, which is about system catalogs.

use std::{cmp::Reverse, fmt, time::Duration};

use jiff::SignedDuration;

use super::{Application, Explain, Result, Session};

/// Where PostgreSQL does not say since when, this many transactions are taken for a second: a busy Synapse's pace, so that
/// nothing young is taken for old.
const TRANSACTIONS_A_SECOND: u64 = 30;

/// As many are named in a message.
const SHOWN: usize = 3;

/// Somebody for whom deleted rows are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    pub kind: Kind,
    /// For how long, in seconds. `None`: PostgreSQL does not know, or does not show it to our role.
    pub seconds: Option<i64>,
    /// How many transactions have begun since.
    pub transactions: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An open transaction.
    Session { pid: i32, role: String, application: String, database: String, state: Option<String> },
    /// One that was prepared and waits for its second phase. It survives every restart.
    Prepared { gid: String, role: String, database: String },
    /// A standby that asks for it (`hot_standby_feedback`) …
    Standby { name: String },
    /// … and one that also has a replication slot, where the request outlives its connection.
    Slot { name: String, connected: bool },
}

impl Keeper {
    /// Whether it is as old as that.
    pub fn is_older_than(&self, age: Duration) -> bool {
        let transactions = i64::try_from(age.as_secs().saturating_mul(TRANSACTIONS_A_SECOND)).unwrap_or(i64::MAX);
        match (self.seconds, &self.kind) {
            (Some(seconds), _) => seconds >= i64::try_from(age.as_secs()).unwrap_or(i64::MAX),
            // Nobody is there to move it on.
            (None, Kind::Slot { connected: false, .. }) => true,
            (None, _) => self.transactions >= transactions,
        }
    }

    fn advice(&self) -> String {
        match &self.kind {
            Kind::Session { pid, .. } => format!("let it end, or SELECT pg_terminate_backend({pid})"),
            Kind::Prepared { gid, database, .. } => {
                let gid = gid.replace('\'', "''");
                format!("COMMIT PREPARED '{gid}' or ROLLBACK PREPARED '{gid}' in database {database}")
            }
            Kind::Standby { .. } | Kind::Slot { connected: true, .. } => "end the long query there".to_owned(),
            Kind::Slot { name, .. } => {
                let name = name.replace('\'', "''");
                format!("start its standby, or if it is gone for good SELECT pg_drop_replication_slot('{name}')")
            }
        }
    }
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Session { pid, role, application, database, state } => {
                write!(f, "role {role}")?;
                if !application.is_empty() {
                    write!(f, ", application {application}")?;
                }
                write!(f, ", database {database}, pid {pid}")?;
                if let Some(state) = state {
                    write!(f, ", state {state}")?;
                }
            }
            Kind::Prepared { gid, role, database } => {
                write!(f, "prepared transaction {gid}, role {role}, database {database}")?;
            }
            Kind::Standby { name } => write!(f, "standby {name} with hot_standby_feedback")?,
            Kind::Slot { name, connected } => {
                let connected = if *connected { "" } else { ", not connected" };
                write!(f, "replication slot {name} of a standby with hot_standby_feedback{connected}")?;
            }
        }
        match self.seconds {
            Some(seconds) => write!(f, ", for {:#}", SignedDuration::from_secs(seconds)),
            None => write!(f, ", for {} transactions", self.transactions),
        }
    }
}

/// Names them for a message, the first few of them, each with what to do about it.
pub fn list(keepers: &[Keeper]) -> String {
    let named = keepers.iter().take(SHOWN).map(|keeper| format!("[{keeper}: {}]", keeper.advice()));
    let mut text = named.collect::<Vec<_>>().join(", ");
    if keepers.len() > SHOWN {
        text += &format!(" and {} more", keepers.len() - SHOWN);
    }
    text
}

/// Everybody for whom VACUUM FULL of a table in our database would keep deleted rows, oldest first. Tasks of
/// synapse-keeper are left out: they are short, or they are this one.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn keepers(session: &mut Session) -> Result<Vec<Keeper>> {
    let mut keepers = sessions(session).await?;
    keepers.extend(prepared(session).await?);
    keepers.extend(slots(session).await?);
    keepers.sort_by_key(|keeper| Reverse(keeper.transactions));
    Ok(keepers)
}

async fn sessions(session: &mut Session) -> Result<Vec<Keeper>> {
    type Row = (i32, Option<String>, String, Option<String>, Option<String>, bool, Option<i64>, i64);
    // What a transaction has written counts in every database, what it can see in its own alone. A standby's sender is in
    // none. All roles may read the numbers; the times are for those with pg_read_all_stats.
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT pid, usename::text, application_name, datname::text, state, sender, \
             CASE WHEN NOT sender THEN extract(epoch FROM clock_timestamp() - xact_start)::int8 END, transactions::int8 \
         FROM (SELECT *, pid IN (SELECT pid FROM pg_stat_replication) AS sender FROM pg_stat_activity) a, \
             LATERAL (SELECT greatest(age(backend_xid), \
                 CASE WHEN datname = current_database() OR sender THEN age(backend_xmin) END) AS transactions) t \
         WHERE transactions IS NOT NULL AND pid <> pg_backend_pid() AND NOT starts_with(application_name, $1) \
             AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)",
    )
    .bind(Application::PREFIX)
    .fetch_all(&mut session.connection)
    .await
    .explain("listing open transactions")?;
    let keeper = |(pid, role, application, database, state, sender, seconds, transactions): Row| {
        let kind = if sender {
            Kind::Standby { name: application }
        } else {
            let [role, database] = [role, database].map(|name| name.unwrap_or_else(|| "none".to_owned()));
            Kind::Session { pid, role, application, database, state }
        };
        Keeper { kind, seconds, transactions }
    };
    Ok(rows.into_iter().map(keeper).collect())
}

async fn prepared(session: &mut Session) -> Result<Vec<Keeper>> {
    let rows: Vec<(String, String, String, i64, i64)> = sqlx::query_as(
        "SELECT gid, owner::text, database::text, extract(epoch FROM clock_timestamp() - prepared)::int8, \
             age(transaction)::int8 FROM pg_prepared_xacts",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain("listing prepared transactions")?;
    let keeper = |(gid, role, database, seconds, transactions)| Keeper {
        kind: Kind::Prepared { gid, role, database },
        seconds: Some(seconds),
        transactions,
    };
    Ok(rows.into_iter().map(keeper).collect())
}

async fn slots(session: &mut Session) -> Result<Vec<Keeper>> {
    let rows: Vec<(String, bool, i64)> = sqlx::query_as(
        "SELECT slot_name::text, active, age(xmin)::int8 FROM pg_replication_slots WHERE xmin IS NOT NULL",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain("listing replication slots")?;
    let keeper =
        |(name, connected, transactions)| Keeper { kind: Kind::Slot { name, connected }, seconds: None, transactions };
    Ok(rows.into_iter().map(keeper).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_MINUTES: Duration = Duration::from_secs(300);

    fn session(seconds: Option<i64>, transactions: i64) -> Keeper {
        let kind = Kind::Session {
            pid: 4711,
            role: "report".to_owned(),
            application: String::new(),
            database: "sales".to_owned(),
            state: Some("idle in transaction".to_owned()),
        };
        Keeper { kind, seconds, transactions }
    }

    fn slot(connected: bool) -> Keeper {
        Keeper { kind: Kind::Slot { name: "berlin".to_owned(), connected }, seconds: None, transactions: 1 }
    }

    #[test]
    fn the_clock_decides_where_it_is_known() {
        assert!(session(Some(300), 0).is_older_than(FIVE_MINUTES));
        assert!(!session(Some(299), 1_000_000).is_older_than(FIVE_MINUTES));
    }

    #[test]
    fn without_a_clock_the_transactions_since_decide() {
        assert!(session(None, 9_000).is_older_than(FIVE_MINUTES));
        assert!(!session(None, 8_999).is_older_than(FIVE_MINUTES));
        assert!(!slot(true).is_older_than(FIVE_MINUTES), "its standby moves it on");
        assert!(slot(false).is_older_than(FIVE_MINUTES), "nobody moves it on");
    }

    #[test]
    fn each_is_named_with_what_to_do() {
        let text = list(&[session(Some(3_723), 7), session(None, 12_345), slot(false), slot(true)]);
        for words in [
            "role report, database sales, pid 4711, state idle in transaction, for 1h 2m 3s: \
             let it end, or SELECT pg_terminate_backend(4711)",
            "for 12345 transactions",
            "replication slot berlin of a standby with hot_standby_feedback, not connected",
            "SELECT pg_drop_replication_slot('berlin')] and 1 more",
        ] {
            assert!(text.contains(words), "{words:?} is not in: {text}");
        }
        let kind = Kind::Prepared { gid: "it's".to_owned(), role: "a".to_owned(), database: "b".to_owned() };
        let advice = Keeper { kind, seconds: Some(0), transactions: 0 }.advice();
        assert_eq!(advice, "COMMIT PREPARED 'it''s' or ROLLBACK PREPARED 'it''s' in database b");
    }
}

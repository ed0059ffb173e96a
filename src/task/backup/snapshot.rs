//! The moment that is backed up, held by a transaction in each database for as long as the backup takes.
//!
//! An exported snapshot alone is not enough: a table that somebody truncates meanwhile reads as empty in it, and the
//! manifest would agree with the dump. So every table is locked (ACCESS SHARE, as `pg_dump` does) before the snapshot is
//! taken.

use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;
use sqlx::AssertSqlSafe;
use tokio::time::Instant;

use super::{exclude::Excluded, parts::Table};
use crate::{
    api::exclude::Exclude,
    contract::TaskError,
    postgres::{Application, Explain, Result, Session, Target, errors},
    task::authentication::Whose,
};

/// Tables that come, go or are locked while they are being locked make it begin again, for so long.
const LOCKED_WITHIN: Duration = Duration::from_secs(60);

/// Who waits longer for a lock that the dump holds goes first: Synapse that upgrades its schema must not hang.
const PATIENCE: Duration = Duration::from_secs(10);

/// Synapse's table whose rows must never come back: a one-time key that is handed out twice cannot be used
/// (element-hq/element-meta#2155; `docs/usage/administration/backups.md` of Synapse leaves it out as well).
pub const ONE_TIME_KEYS: &str = "e2e_one_time_keys_json";

/// Whether the rows of a table (`pg_class c`) are left out, in SQL. Those of unlogged tables do not survive a crash of PostgreSQL
/// either: whoever made them counts on that.
pub const ROWS_ARE_LEFT_OUT: &str = "(c.relpersistence = 'u' OR c.relname = 'e2e_one_time_keys_json')";

/// An open transaction that keeps the database as it was at one moment.
pub struct Snapshot {
    /// It lives as long as this does. What is read through it is of the same moment.
    pub session: Session,
    /// What `pg_dump --snapshot` and `SET TRANSACTION SNAPSHOT` take.
    pub id: String,
    /// The number that the next transaction had, without its epoch.
    pub next_transaction: u32,
    /// By PostgreSQL's clock.
    pub taken_at: Timestamp,
    /// Those with rows to back up.
    pub tables: Vec<Table>,
    /// All sequences, as SQL has them.
    pub sequences: Vec<String>,
    /// Tables whose rows are left out.
    pub left_out: Vec<String>,
    /// What is left out as a whole.
    pub excluded: Excluded,
}

impl Snapshot {
    /// Locks every table of every database, and only then takes their snapshots and exports them: all at once, so that they
    /// are of one moment as nearly as can be. Also how long that took, by the task's own clock: no more lies between them,
    /// whatever the servers' clocks say.
    ///
    /// # Errors
    /// Transient, if a table stays locked by somebody else, or new tables appear again and again.
    pub async fn take(of: &[(Whose, &Target, Exclude)]) -> Result<(Vec<Self>, Duration)> {
        let mut databases = Vec::new();
        for (whose, target, exclude) in of {
            let session = prepared(target).await.map_err(|error| whose.tell(error))?;
            databases.push(Unheld { whose: *whose, session, exclude: exclude.clone() });
        }
        let deadline = Instant::now() + LOCKED_WITHIN;
        loop {
            let late = match take_once(&mut databases).await? {
                Ok((taken, apart)) => {
                    let snapshots =
                        databases.into_iter().zip(taken).map(|(database, taken)| taken.held_by(database.session));
                    return Ok((snapshots.collect(), apart));
                }
                Err(why) => why,
            };
            if Instant::now() >= deadline {
                return Err(late);
            }
            for Unheld { session, .. } in &mut databases {
                session.execute("ROLLBACK").await.explain(TAKING)?;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// The transaction is still open, so the snapshot held to the end.
    ///
    /// # Errors
    /// Transient: the session is gone, and the locks with it.
    pub async fn still_held(&mut self) -> Result<()> {
        self.session.execute("SELECT 1").await.explain("looking whether the snapshot was held to the end")
    }
}

const TAKING: &str = "taking a snapshot of the database";

/// A database that is not held yet.
struct Unheld {
    whose: Whose,
    session: Session,
    exclude: Exclude,
}

/// What a session has taken.
struct Taken {
    id: String,
    next_transaction: u32,
    taken_at: Timestamp,
    seen: Relations,
}

impl Taken {
    fn held_by(self, session: Session) -> Snapshot {
        let Self { id, next_transaction, taken_at, seen: Relations { tables, sequences, left_out, excluded } } = self;
        Snapshot { session, id, next_transaction, taken_at, tables, sequences, left_out, excluded }
    }
}

/// A session for a snapshot. It is asked nothing for hours. And it does not wait long for a lock while it holds others: an
/// upgrade of the schema that wants those would be the one that PostgreSQL takes out of a deadlock.
async fn prepared(target: &Target) -> Result<Session> {
    let mut session = target.connect().await?;
    session.execute("SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '500ms'").await.explain(TAKING)?;
    Ok(session)
}

/// `Err` within `Ok`: what another try may find gone.
async fn take_once(databases: &mut [Unheld]) -> Result<std::result::Result<(Vec<Taken>, Duration), TaskError>> {
    let mut locked = Vec::new();
    for Unheld { whose, session, exclude } in &mut *databases {
        let seen = relations(session, exclude).await.map_err(|error| whose.tell(error))?;
        if let Some(error) = lock(session, &seen.tables).await.map_err(|error| whose.tell(error))? {
            return Ok(Err(whose.tell(error)));
        }
        locked.push(seen);
    }
    let began = Instant::now();
    let exported = databases
        .iter_mut()
        .map(async |Unheld { whose, session, .. }| export(session).await.map_err(|error| whose.tell(error)));
    let exported = try_join_all(exported).await?;
    let apart = began.elapsed();
    let mut taken = Vec::new();
    for ((Unheld { whose, session, exclude }, seen), (id, taken_at, next_transaction)) in
        databases.iter_mut().zip(locked).zip(exported)
    {
        let now = relations(session, exclude).await.map_err(|error| whose.tell(error))?;
        if !now.are(&seen) {
            return Ok(Err(whose.tell(TaskError::transient(
                "TablesChange",
                "Tables appear or go faster than they can be locked: is the schema being upgraded?",
            ))));
        }
        taken.push(Taken { id, next_transaction, taken_at, seen });
    }
    Ok(Ok((taken, apart)))
}

/// The first statement of the transaction that takes a snapshot: its name, the moment by the server's clock, and the number of
/// the next transaction.
async fn export(session: &mut Session) -> Result<(String, Timestamp, u32)> {
    let (id, taken_at, next): (String, i64, i64) = sqlx::query_as(
        "SELECT pg_export_snapshot(), (extract(epoch FROM clock_timestamp()) * 1000000)::int8, \
             pg_snapshot_xmax(pg_current_snapshot())::text::int8 % (1::int8 << 32)",
    )
    .fetch_one(&mut session.connection)
    .await
    .explain(TAKING)?;
    Ok((id, Timestamp::from_microsecond(taken_at).unwrap_or_default(), u32::try_from(next).unwrap_or_default()))
}

/// Begins the transaction and locks the tables in it. `Some`: one of them is locked by somebody, or has just gone.
///
/// LOCK is the one statement that takes no snapshot: what was committed while it waited is in the one that follows.
async fn lock(session: &mut Session, tables: &[Table]) -> Result<Option<TaskError>> {
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.explain("beginning the snapshot")?;
    for table in tables {
        let locked = session.execute(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", table.quoted)).await;
        let doing = format!("locking table {}", table.quoted);
        match locked {
            Ok(()) => {}
            // lock_not_available, undefined_table
            Err(error) if matches!(errors::sqlstate(&error), Some("55P03" | "42P01")) => {
                return Ok(Some(errors::failed(&error, &doing)));
            }
            Err(error) => return Err(errors::failed(&error, &doing)),
        }
    }
    Ok(None)
}

/// What there is to back up.
struct Relations {
    tables: Vec<Table>,
    sequences: Vec<String>,
    left_out: Vec<String>,
    excluded: Excluded,
}

impl Relations {
    /// But for the sizes.
    fn are(&self, others: &Self) -> bool {
        fn names(table: &Table) -> (&str, &[String]) {
            (&table.quoted, &table.columns)
        }
        let Self { tables, sequences, left_out, excluded } = others;
        self.tables.iter().map(names).eq(tables.iter().map(names))
            && self.sequences == *sequences
            && self.left_out == *left_out
            && self.excluded == *excluded
    }
}

/// Every table and sequence that is no extension's and no session's own, without what is excluded.
async fn relations(session: &mut Session, exclude: &Exclude) -> Result<Relations> {
    let excluded = Excluded::find(session, exclude).await?;
    type Row = (String, bool, bool, i64, Vec<String>);
    let rows: Vec<Row> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'S', {ROWS_ARE_LEFT_OUT}, \
             CASE WHEN c.relkind = 'r' THEN pg_table_size(c.oid) ELSE 0 END, \
             array(SELECT quote_ident(a.attname) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 \
                 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'S') AND c.relpersistence <> 't' AND c.oid::int8 <> ALL ($1) \
             AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)' \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') \
         ORDER BY 1",
    )))
    .bind(excluded.oids())
    .fetch_all(&mut session.connection)
    .await
    .explain("listing the tables")?;
    let mut relations = Relations { tables: Vec::new(), sequences: Vec::new(), left_out: Vec::new(), excluded };
    for (quoted, is_sequence, is_left_out, bytes, columns) in rows {
        match (is_sequence, is_left_out) {
            (true, _) => relations.sequences.push(quoted),
            (false, true) => relations.left_out.push(quoted),
            (false, false) => relations.tables.push(Table { quoted, columns, bytes }),
        }
    }
    Ok(relations)
}

/// Watches whether somebody waits for a lock that the backup holds, and says who.
pub async fn until_somebody_waits(session: &mut Session, application: &Application) -> TaskError {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        match somebody_waits(session, application).await {
            Ok(None) => {}
            Ok(Some(who)) => {
                return TaskError::transient(
                    "GivesWay",
                    format!(
                        "Somebody waited {} s for a table that the backup was reading, so the backup gave way; it begins \
                         again later. It was {who}",
                        PATIENCE.as_secs()
                    ),
                );
            }
            Err(error) => return error,
        }
    }
}

async fn somebody_waits(session: &mut Session, application: &Application) -> Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT format('role %s, application %s, pid %s: %s', coalesce(w.usename, 'unknown'), \
             coalesce(nullif(w.application_name, ''), 'not named'), w.pid, coalesce(left(w.query, 100), 'query not shown')) \
         FROM pg_locks l JOIN pg_stat_activity w USING (pid) \
         WHERE NOT l.granted AND w.datname = current_database() AND l.waitstart < clock_timestamp() - make_interval(secs => $2) \
             AND pg_blocking_pids(l.pid) && array(SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, $1)) \
         ORDER BY l.waitstart LIMIT 1",
    )
    .bind(application.operation_prefix())
    .bind(PATIENCE.as_secs_f64())
    .fetch_optional(&mut session.connection)
    .await
    .explain("looking who waits for the backup")
}

//! The task's lock in the database.
//!
//! The engine's Lease keeps one operation a homeserver. This lock keeps one *task* a database: it also covers two
//! operators, two `Synapse` objects that name one database, and a Pod that everybody believes dead. PostgreSQL frees it
//! when the session ends, however it ends.

use std::time::Duration;

use super::{Application, Explain, Result, Session, errors};
use crate::contract::TaskError;

/// The key of the lock: "synkeepr" in ASCII. Advisory locks belong to one database, so one key is enough.
const KEY: i64 = i64::from_be_bytes(*b"synkeepr");

/// How often a task looks whether it still has the lock.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a task waits for the lock before it names the holder.
const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the lock for as long as the session lives.
///
/// # Errors
/// Transient, `DatabaseBusy`, with the holder.
pub async fn acquire(session: &mut Session) -> Result<()> {
    take(session, "SELECT pg_try_advisory_lock($1)").await
}

/// Takes the lock together with others that only read.
///
/// # Errors
/// Transient, `DatabaseBusy`, with the holder.
pub async fn acquire_shared(session: &mut Session) -> Result<()> {
    take(session, "SELECT pg_try_advisory_lock_shared($1)").await
}

async fn take(session: &mut Session, sql: &'static str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let taken: bool = sqlx::query_scalar(sql)
            .bind(KEY)
            .fetch_one(&mut session.connection)
            .await
            .explain("taking the lock of synapse-keeper")?;
        if taken {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let holder = holder(session).await?;
            return Err(TaskError::transient(
                "DatabaseBusy",
                format!(
                    "Another task of synapse-keeper works on this database: {holder}. Two operators, or two Synapse \
                     objects for one database? Nothing was changed. It is tried again later."
                ),
            ));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Ends when the session is gone that holds the lock, and the lock with it: somebody else may have it by then.
pub async fn until_lost(session: &mut Session) -> TaskError {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(error) = still_held(session).await {
            return error;
        }
    }
}

/// Does work that rests on a lock, and ends it when the lock's session is gone. Without a session there is no lock.
///
/// # Errors
/// Those of the work; transient, `ConnectionLost`.
pub async fn holding<T>(session: Option<&mut Session>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(session) = session else { return work.await };
    tokio::select! {
        done = work => done,
        lost = until_lost(session) => Err(lost),
    }
}

/// Whether the session still holds the lock: it does as long as it lives.
///
/// # Errors
/// Transient, `ConnectionLost`.
pub async fn still_held(session: &mut Session) -> Result<()> {
    session.execute("SELECT 1").await.explain("looking whether the lock of synapse-keeper is still held")
}

async fn holder(session: &mut Session) -> Result<String> {
    // A bigint key is shown in two halves, with objsubid 1.
    let holder: Option<(String, String)> = sqlx::query_as(
        "SELECT coalesce(nullif(application_name, ''), 'no application name'), \
             coalesce(to_char(backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), 'a time that is not shown without pg_read_all_stats') \
         FROM pg_locks JOIN pg_stat_activity USING (pid) \
         WHERE locktype = 'advisory' AND granted AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND classid::int8 = ($1 >> 32) AND objid::int8 = ($1 & 4294967295) AND objsubid = 1 LIMIT 1",
    )
    .bind(KEY)
    .fetch_optional(&mut session.connection)
    .await
    .explain("asking who holds the lock of synapse-keeper")?;
    Ok(match holder {
        Some((application, since)) => format!("{application}, connected since {since}"),
        None => "it has just ended".to_owned(),
    })
}

/// A task of another operation that holds the lock in this database, by its session's name.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn held_by_another(
    session: &mut Session,
    database: &str,
    application: &Application,
) -> Result<Option<String>> {
    sqlx::query_scalar(
        "SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid) JOIN pg_database d ON d.oid = l.database \
         WHERE l.locktype = 'advisory' AND l.granted AND d.datname = $2 AND l.classid::int8 = ($1 >> 32) \
             AND l.objid::int8 = ($1 & 4294967295) AND l.objsubid = 1 AND NOT starts_with(a.application_name, $3) LIMIT 1",
    )
    .bind(KEY)
    .bind(database)
    .bind(application.operation_prefix())
    .fetch_optional(&mut session.connection)
    .await
    .explain("asking who holds the lock of synapse-keeper")
}

/// Makes sure that a lock of a session outlives a transaction: behind a pooler in transaction mode it belongs to a server
/// session that the next transaction of anybody may get.
///
/// `first` locks. `second` opens a transaction, which takes the server session that `first` has just left, if they share
/// a pool: then `second` already owns the lock, or `first` finds itself without it.
///
/// # Errors
/// Terminal, `Pooler`.
pub async fn check_it_survives(first: &mut Session, second: &mut Session) -> Result<()> {
    const DOING: &str = "checking that a lock survives a transaction";
    // Its own key, so that a failed check can never be taken for a task at work.
    let key = KEY ^ i64::from(first.pid) ^ (i64::from(std::process::id()) << 20);
    let lock = "SELECT pg_try_advisory_lock($1)";
    let ask = |sql: &'static str| sqlx::query_scalar::<_, bool>(sql).bind(key).persistent(false);

    let taken = ask(lock).fetch_one(&mut first.connection).await.explain(DOING)?;
    sqlx::raw_sql("BEGIN").execute(&mut second.connection).await.explain(DOING)?;
    let taken_twice = ask(lock).fetch_one(&mut second.connection).await.explain(DOING)?;
    let kept = !taken_twice
        && ask(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() \
         AND classid::int8 = (($1 >> 32) & 4294967295) AND objid::int8 = ($1 & 4294967295) AND objsubid = 1)",
        )
        .fetch_one(&mut first.connection)
        .await
        .explain(DOING)?;
    // The server session that a pooler gave to both of them must not keep the lock.
    if taken_twice {
        sqlx::raw_sql("SELECT pg_advisory_unlock_all()").execute(&mut second.connection).await.explain(DOING)?;
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut second.connection).await.explain(DOING)?;
    let freed = ask("SELECT pg_advisory_unlock($1)").fetch_one(&mut first.connection).await.explain(DOING)?;
    if taken && kept && freed {
        return Ok(());
    }
    Err(TaskError::terminal(
        "Pooler",
        format!("A lock of a session did not survive the end of its transaction. {}", errors::POOLER_ADVICE),
    ))
}

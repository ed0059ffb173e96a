//! The other sessions in the database, and what they mean for a step.
//!
//! Foreign sessions are normal: exporters, a DBA, an idle pool. Only two kinds stop a step that needs the database for
//! itself: sessions of Synapse's own role, and sessions that hold a lock for writing on one of the tables. The rest is
//! listed.

use std::{fmt, time::Duration};

use super::{Application, Explain, Result, Session};
use crate::{api::postgres::IgnoredSession, contract::TaskError};

/// How long an ended session may take to be gone. Undoing VACUUM FULL takes no time: the old file is still there.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// A row of `pg_stat_activity` in words, as SQL. What PostgreSQL does not show to our role is left out.
pub const DESCRIBED: &str = "concat_ws(', ', coalesce('role ' || usename, 'a background process'), \
     'application ' || nullif(application_name, ''), \
     'address ' || CASE client_port WHEN -1 THEN 'local socket' ELSE host(client_addr) END, 'state ' || state, 'pid ' || pid) || \
     CASE WHEN usename IS NOT NULL AND client_port IS NULL AND coalesce(backend_type, 'client backend') = 'client backend' \
         THEN ' (GRANT pg_read_all_stats shows where it comes from)' ELSE '' END";

/// A session of somebody else in our database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherSession {
    pub pid: i32,
    /// `None`: PostgreSQL does not show it to our role.
    pub role: Option<String>,
    pub application: String,
    /// `None`: PostgreSQL does not show it to our role.
    pub address: Option<String>,
    /// `None`: PostgreSQL does not show it to our role.
    pub state: Option<String>,
    /// It is a session of the role that owns Synapse's tables.
    pub of_synapse: bool,
    /// Tables on which it holds a lock for writing.
    pub writes: Vec<String>,
}

impl OtherSession {
    /// It must not be there while a table is written anew.
    pub fn is_in_the_way(&self) -> bool {
        self.of_synapse || !self.writes.is_empty()
    }

    fn is_ignored(&self, ignored: &[IgnoredSession]) -> bool {
        // An entry that names nothing would match everything.
        ignored.iter().filter(|entry| entry.role.is_some() || entry.application_name.is_some()).any(|entry| {
            entry.role.as_ref().is_none_or(|role| Some(role) == self.role.as_ref())
                && entry.application_name.as_ref().is_none_or(|name| *name == self.application)
        })
    }
}

impl fmt::Display for OtherSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Some(role) => write!(f, "role {role}")?,
            None => f.write_str("a session that PostgreSQL does not show to this role, perhaps autovacuum's")?,
        }
        if !self.application.is_empty() {
            write!(f, ", application {}", self.application)?;
        }
        for (name, value) in [("address", &self.address), ("state", &self.state)] {
            value.iter().try_for_each(|value| write!(f, ", {name} {value}"))?;
        }
        write!(f, ", pid {}", self.pid)?;
        if self.role.is_some() && self.address.is_none() {
            f.write_str(" (GRANT pg_read_all_stats shows where it comes from)")?;
        }
        if !self.writes.is_empty() {
            write!(f, ", writes to {}", self.writes.join(", "))?;
        }
        Ok(())
    }
}

/// Joins descriptions for a message, the first few of them.
pub fn list(sessions: &[OtherSession]) -> String {
    const SHOWN: usize = 5;
    let mut text = sessions.iter().take(SHOWN).map(|session| format!("[{session}]")).collect::<Vec<_>>().join(", ");
    if sessions.len() > SHOWN {
        text += &format!(" and {} more", sessions.len() - SHOWN);
    }
    text
}

/// The sessions in this database, but ours and those that the user told us to ignore.
///
/// Tasks of synapse-keeper are left out as well, whoever started them: they have a lock of their own
/// (see [`super::lock`]), and an inspection only reads.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn others(session: &mut Session, ignored: &[IgnoredSession]) -> Result<Vec<OtherSession>> {
    type Row = (i32, Option<String>, String, Option<String>, Option<String>, bool, Vec<String>);
    let rows: Vec<Row> = sqlx::query_as(
        "WITH tables AS (\
             SELECT c.oid, c.relname, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
             AND pg_table_is_visible(c.oid)), \
         me AS (SELECT oid, rolsuper FROM pg_roles WHERE rolname = current_user), \
         synapse AS (\
             SELECT oid FROM me WHERE NOT rolsuper UNION \
             SELECT r.oid FROM tables JOIN pg_roles r ON r.oid = relowner, me WHERE NOT r.rolsuper OR r.oid = me.oid) \
         SELECT a.pid, a.usename::text, a.application_name, \
             CASE WHEN a.client_port = -1 THEN 'local socket' ELSE host(a.client_addr) END, a.state, \
             coalesce(a.usesysid IN (SELECT oid FROM synapse), false), \
             array(SELECT DISTINCT t.relname::text FROM pg_locks l JOIN tables t ON t.oid = l.relation \
                 WHERE l.pid = a.pid AND l.granted AND l.database = a.datid AND l.mode IN \
                 ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock') ORDER BY 1) \
         FROM pg_stat_activity a \
         WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() \
             AND coalesce(a.backend_type, 'client backend') = 'client backend' \
             AND NOT starts_with(a.application_name, $1) ORDER BY a.pid",
    )
    .bind(Application::PREFIX)
    .fetch_all(&mut session.connection)
    .await
    .explain("listing the sessions in the database")?;
    let sessions = rows.into_iter().map(|(pid, role, application, address, state, of_synapse, writes)| OtherSession {
        pid,
        role,
        application,
        address,
        state,
        of_synapse,
        writes,
    });
    Ok(sessions.filter(|session| !session.is_ignored(ignored)).collect())
}

/// Who keeps the session `pid` from getting its lock, by `pg_blocking_pids`.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn blockers(session: &mut Session, pid: i32) -> Result<Vec<String>> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT {DESCRIBED} FROM pg_stat_activity WHERE pid = ANY (pg_blocking_pids($1))"
    )))
    .bind(pid)
    .fetch_all(&mut session.connection)
    .await
    .explain("asking who holds a lock")
}

/// Ends the sessions of earlier attempts of our operation and waits until they are gone. A Pod that was killed, or that
/// sits on a lost node, may have left a statement that still runs.
///
/// Every other session of the operation counts as earlier: to be called before a second one is opened, or to end them all.
///
/// # Errors
/// Transient, `EarlierAttempt`, if one does not go.
pub async fn end_earlier(session: &mut Session, application: &Application) -> Result<usize> {
    const DOING: &str = "ending the sessions of earlier attempts";
    const EARLIER: &str =
        "datname = current_database() AND pid <> pg_backend_pid() AND starts_with(application_name, $1)";
    let ended: Vec<bool> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {EARLIER}"
    )))
    .bind(application.operation_prefix())
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    let deadline = tokio::time::Instant::now() + GONE_WITHIN;
    while !ended.is_empty() {
        let left: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT format('%s, pid %s', application_name, pid) FROM pg_stat_activity WHERE {EARLIER}"
        )))
        .bind(application.operation_prefix())
        .fetch_all(&mut session.connection)
        .await
        .explain(DOING)?;
        if left.is_empty() {
            break;
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(TaskError::transient(
                "EarlierAttempt",
                format!("A session of an earlier attempt does not end: {}.", left.join("; ")),
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(ended.len())
}

/// Asks PostgreSQL to cancel what the session `pid` does.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn cancel(session: &mut Session, pid: i32) -> Result<()> {
    sqlx::query("SELECT pg_cancel_backend($1)")
        .bind(pid)
        .execute(&mut session.connection)
        .await
        .explain("cancelling our statement")
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(role: &str, application: &str) -> OtherSession {
        OtherSession {
            pid: 7,
            role: Some(role.to_owned()),
            application: application.to_owned(),
            address: None,
            state: None,
            of_synapse: true,
            writes: vec![],
        }
    }

    #[test]
    fn an_ignored_session_matches_every_part_that_is_given() {
        let entry = |role: Option<&str>, name: Option<&str>| IgnoredSession {
            role: role.map(str::to_owned),
            application_name: name.map(str::to_owned),
        };
        let exporter = session("synapse", "postgres_exporter");
        assert!(exporter.is_ignored(&[entry(None, Some("postgres_exporter"))]));
        assert!(exporter.is_ignored(&[entry(Some("synapse"), Some("postgres_exporter"))]));
        assert!(!exporter.is_ignored(&[entry(Some("other"), Some("postgres_exporter"))]));
        assert!(!exporter.is_ignored(&[entry(None, Some("postgres"))]));
        assert!(!exporter.is_ignored(&[entry(None, None)]), "an entry that names nothing ignores nothing");
    }

    #[test]
    fn says_what_the_server_does_not_show() {
        let text = session("synapse", "").to_string();
        assert_eq!(text, "role synapse, pid 7 (GRANT pg_read_all_stats shows where it comes from)");
        let hidden = OtherSession { role: None, ..session("", "") };
        assert_eq!(
            hidden.to_string(),
            "a session that PostgreSQL does not show to this role, perhaps autovacuum's, pid 7"
        );
    }
}

//! What of a database is in no dump of ours: found in the catalogs when it is backed up.

use sqlx::AssertSqlSafe;

use super::choice::NotRestored;
use crate::{
    postgres::{Explain, Result, Session},
    words::counted,
};

const DOING: &str = "looking what a backup does not hold";

/// As much of this as there is.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn unsaved(session: &mut Session) -> Result<Vec<NotRestored>> {
    let mut found = Vec::new();
    let (large_objects, unlogged, foreign, subscriptions): (i64, Vec<String>, Vec<String>, Vec<String>) =
        sqlx::query_as(AssertSqlSafe(format!(
            "SELECT (SELECT count(*) FROM pg_largeobject_metadata), \
                 array(SELECT format('table %I.%I', n.nspname, c.relname) FROM pg_class c \
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relpersistence = 'u' \
                     AND NOT (c.relname = ANY ({OF_SYNAPSE})) ORDER BY 1), \
                 array(SELECT format('foreign table %I.%I', n.nspname, c.relname) FROM pg_class c \
                     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f' ORDER BY 1), \
                 array(SELECT format('subscription %I', subname) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid \
                     WHERE d.datname = current_database() ORDER BY 1)"
        )))
        .fetch_one(&mut session.connection)
        .await
        .explain(DOING)?;
    if large_objects > 0 {
        found.push(NotRestored::new(counted(large_objects, "large object", "large objects"), "they are not backed up"));
    }
    let all = |names: Vec<String>, why: &'static str| names.into_iter().map(move |what| NotRestored::new(what, why));
    found.extend(all(unlogged, "it is unlogged, so its rows are not backed up"));
    found.extend(all(foreign, "its rows are on another server, and are not backed up"));
    found.extend(all(subscriptions, "a subscription belongs to a server"));
    found.extend(all(of_extensions(session).await?, "its rows are an extension's, and are not backed up"));
    Ok(found)
}

/// Synapse's own unlogged tables: locks of workers.
const OF_SYNAPSE: &str = "ARRAY['worker_locks', 'worker_read_write_locks', 'worker_read_write_locks_mode']";

/// Tables of extensions in which a dump of `pg_dump` would have the rows of users (`pg_extension_config_dump`), and that have some;
/// or of which our role cannot say it.
async fn of_extensions(session: &mut Session) -> Result<Vec<String>> {
    let tables: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT format('%I.%I', n.nspname, c.relname), coalesce(e.extcondition[array_position(e.extconfig, c.oid)], ''), \
             has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') \
         FROM pg_extension e JOIN pg_class c ON c.oid = ANY (e.extconfig) JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' ORDER BY 1",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    let mut with_rows = Vec::new();
    for (table, condition, may_read) in tables {
        let has_rows = match may_read {
            false => true,
            true => {
                let sql = AssertSqlSafe(format!("SELECT EXISTS (SELECT FROM ONLY {table} {condition})"));
                sqlx::query_scalar(sql).fetch_one(&mut session.connection).await.explain(DOING)?
            }
        };
        if has_rows {
            with_rows.push(format!("table {table}"));
        }
    }
    Ok(with_rows)
}

/// The materialized views that nobody has filled: they stay as they are.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn unfilled_views(session: &mut Session) -> Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND NOT c.relispopulated ORDER BY 1",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)
}

/// The schemas in which the session looks for names without one.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn search_path(session: &mut Session) -> Result<String> {
    sqlx::query_scalar("SELECT current_setting('search_path')").fetch_one(&mut session.connection).await.explain(DOING)
}

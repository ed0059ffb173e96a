//! Tables: which there are, how large they are, who owns them.

use super::{Explain, Result, Session};

/// An ordinary table of the schema that our session sees. Never a system catalog.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    pub oid: i64,
    pub name: String,
    /// Schema and name, quoted for SQL.
    pub quoted: String,
    pub owner: String,
    /// Our role has the rights of the owner. Without them VACUUM only warns, and does nothing.
    pub owned: bool,
    /// Our role may vacuum it: as the owner, or by MAINTAIN.
    pub maintained: bool,
    /// The table with its indexes and TOAST, in bytes.
    pub bytes: i64,
    /// Live rows: as the last VACUUM or ANALYZE counted them, else as the statistics have it.
    pub rows: i64,
    pub dead_rows: i64,
    /// The last VACUUM, by hand or by autovacuum, in microseconds since 1970.
    pub last_vacuum: Option<i64>,
}

/// The right to vacuum without being the owner is new in PostgreSQL 17.
const MAINTAIN_SINCE: i32 = 170_000;

/// The tables that a name without a schema can mean: those of `search_path`, as Synapse itself sees them. Largest first.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn tables(session: &mut Session) -> Result<Vec<Table>> {
    type Row = (i64, String, String, String, bool, bool, i64, i64, i64, Option<i64>);
    let by_grant = if session.version >= MAINTAIN_SINCE { "has_table_privilege(c.oid, 'MAINTAIN')" } else { "false" };
    let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "SELECT c.oid::int8, c.relname::text, format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner)::text, \
             pg_has_role(c.relowner, 'USAGE'), pg_has_role(c.relowner, 'USAGE') OR {by_grant}, coalesce(pg_total_relation_size(c.oid), 0), \
             greatest(CASE WHEN c.reltuples < 0 THEN pg_stat_get_live_tuples(c.oid) ELSE c.reltuples::int8 END, 0), \
             coalesce(pg_stat_get_dead_tuples(c.oid), 0), \
             (extract(epoch FROM greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid))) \
                 * 1000000)::int8 \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
             AND pg_table_is_visible(c.oid) \
         ORDER BY 7 DESC, 2",
    )))
    .fetch_all(&mut session.connection)
    .await
    .explain("reading the sizes of the tables")?;
    let table = |(oid, name, quoted, owner, owned, maintained, bytes, rows, dead_rows, last_vacuum): Row| Table {
        oid,
        name,
        quoted,
        owner,
        owned,
        maintained,
        bytes,
        rows,
        dead_rows,
        last_vacuum,
    };
    Ok(rows.into_iter().map(table).collect())
}

/// What changes when a table is vacuumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// The table with its indexes and TOAST.
    pub bytes: i64,
    /// Live rows, as PostgreSQL last counted them.
    pub rows: i64,
    /// The number of the table's file: another one after VACUUM FULL.
    pub file: i64,
}

/// Measures one table; `None` if it is gone.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn measure(session: &mut Session, oid: i64) -> Result<Option<Measure>> {
    let row: Option<(Option<i64>, i64, Option<i64>)> = sqlx::query_as(
        "SELECT pg_total_relation_size(oid), greatest(reltuples, 0)::int8, pg_relation_filenode(oid)::int8 \
         FROM pg_class WHERE oid = $1::oid",
    )
    .bind(oid)
    .fetch_optional(&mut session.connection)
    .await
    .explain("measuring a table")?;
    Ok(row.and_then(|(bytes, rows, file)| Some(Measure { bytes: bytes?, rows, file: file? })))
}

/// Size of the database in bytes.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn database_bytes(session: &mut Session) -> Result<i64> {
    sqlx::query_scalar("SELECT pg_database_size(current_database())")
        .fetch_one(&mut session.connection)
        .await
        .explain("reading the size of the database")
}

/// Whether the server is a standby.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn in_recovery(session: &mut Session) -> Result<bool> {
    sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(&mut session.connection)
        .await
        .explain("asking whether the server is a standby")
}

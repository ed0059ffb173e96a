//! Taking everything out of a database: what a freshly installed Synapse has made, or what a restore in place has left.
//!
//! `DROP SCHEMA public` is its owner's right alone, and would take away what others have put there. So it is table by table,
//! and only what our role owns. A database that somebody else uses too is refused before: see
//! [`refuse_what_is_not_synapse_s`].

use std::collections::HashSet;

use sqlx::AssertSqlSafe;

use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Session},
    quote,
    task::backup::manifest::Dump,
};

/// What is not PostgreSQL's own.
const SCHEMAS: &str = "SELECT oid, nspname, nspowner FROM pg_namespace \
                       WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";

/// Looks for tables that are neither empty nor the backup's, and for such of the backup's as our role cannot take away.
/// Somebody else's, such as a bridge's, may be in the same database.
///
/// # Errors
/// Terminal, `DatabaseShared`, with their names. Those of PostgreSQL.
pub async fn refuse_what_is_not_synapse_s(session: &mut Session, dump: &Dump, database: &str) -> Result<()> {
    const DOING: &str = "looking whose the tables are";
    let known: HashSet<&str> =
        dump.rows_by_table().map(|(table, _)| table).chain(dump.left_out.iter().map(String::as_str)).collect();
    let tables: Vec<(String, String, bool)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT format('%I.%I', n.nspname, c.relname), pg_get_userbyid(c.relowner)::text, pg_has_role(c.relowner, 'USAGE') \
         FROM pg_class c JOIN ({SCHEMAS}) n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND {} ORDER BY 1",
        of_no_extension("pg_class", "c")
    )))
    .fetch_all(&mut session.connection)
    .await
    .explain(DOING)?;
    let mut others = Vec::new();
    for (table, owner, is_owned) in tables {
        let is_in_the_way = match (known.contains(table.as_str()), is_owned) {
            (true, true) => false,
            (true, false) => true,
            // It stays.
            (false, false) => false,
            (false, true) => {
                let sql = AssertSqlSafe(format!("SELECT EXISTS (SELECT FROM {table})"));
                sqlx::query_scalar(sql).fetch_one(&mut session.connection).await.explain(DOING)?
            }
        };
        if is_in_the_way {
            others.push(format!("{table} of role {owner}"));
        }
    }
    if others.is_empty() {
        return Ok(());
    }
    Err(TaskError::terminal(
        "DatabaseShared",
        format!(
            "Database {database} has tables that are not Synapse's, or not its role's: {}. Nothing was changed. Give Synapse a \
             database of its own.",
            others.join(", ")
        ),
    ))
}

/// Looks for schemas that the backup's tables need, and that are there and not our role's: it cannot make them anew.
///
/// # Errors
/// Terminal, `NotSchemaOwner`, with the statement. Those of PostgreSQL.
pub async fn refuse_schemas_of_others(session: &mut Session, dump: &Dump, database: &str, role: &str) -> Result<()> {
    let schemas: Vec<String> = dump.schemas().into_iter().filter(|schema| schema != "public").collect();
    let found: Option<(String, String)> = sqlx::query_as(AssertSqlSafe(format!(
        "SELECT format('%I', nspname), pg_get_userbyid(nspowner)::text FROM ({SCHEMAS}) n \
         WHERE format('%I', nspname) = ANY ($1) AND NOT pg_has_role($2, nspowner, 'USAGE') LIMIT 1"
    )))
    .bind(schemas)
    .bind(role)
    .fetch_optional(&mut session.connection)
    .await
    .explain("looking whose the schemas are")?;
    let Some((schema, owner)) = found else { return Ok(()) };
    Err(TaskError::terminal(
        "NotSchemaOwner",
        format!(
            "Schema {schema} in database {database} belongs to role {owner}, and the backup has a schema of that name, which a \
             restore makes as role {role}. Nothing was changed. As a superuser, in that database: ALTER SCHEMA {schema} OWNER TO \
             {};",
            quote::ident(role)
        ),
    ))
}

/// Statements that drop all that our role owns there, in an order that needs no CASCADE: what hangs on it and is somebody
/// else's stops them. `schemas`: which of them go, too, by their quoted names; `None`: all but `public`.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn statements(session: &mut Session, schemas: Option<Vec<String>>) -> Result<Vec<String>> {
    let sql = format!(
        "WITH n AS ({SCHEMAS}), objects AS (\
             SELECT CASE c.relkind WHEN 'm' THEN 1 WHEN 'v' THEN 2 WHEN 'S' THEN 5 ELSE 3 END AS place, \
                 CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' \
                     WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind, \
                 format('%I.%I', n.nspname, c.relname) AS name \
             FROM pg_class c JOIN n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND NOT c.relispartition \
                 AND pg_has_role(c.relowner, 'USAGE') AND {} \
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
                     AND c.relkind = 'S' AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0) \
             UNION ALL SELECT 6, 'ROUTINE', p.oid::regprocedure::text \
             FROM pg_proc p JOIN n ON n.oid = p.pronamespace WHERE pg_has_role(p.proowner, 'USAGE') AND {} \
             UNION ALL SELECT 7, CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, format('%I.%I', n.nspname, t.typname) \
             FROM pg_type t JOIN n ON n.oid = t.typnamespace LEFT JOIN pg_class r ON r.oid = t.typrelid \
             WHERE (t.typtype IN ('d', 'e', 'r') OR r.relkind = 'c') AND pg_has_role(t.typowner, 'USAGE') AND {} \
             UNION ALL SELECT 8, 'SCHEMA', format('%I', n.nspname) \
             FROM n WHERE ($1::text[] IS NULL OR format('%I', n.nspname) = ANY ($1)) AND n.nspname <> 'public' AND pg_has_role(n.nspowner, 'USAGE') AND {}) \
         SELECT format('DROP %s %s', kind, string_agg(name, ', ' ORDER BY name)) FROM objects GROUP BY place, kind ORDER BY place",
        of_no_extension("pg_class", "c"),
        of_no_extension("pg_proc", "p"),
        of_no_extension("pg_type", "t"),
        of_no_extension("pg_namespace", "n"),
    );
    sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(schemas)
        .fetch_all(&mut session.connection)
        .await
        .explain("looking what is to be taken out of the database")
}

/// An extension's objects go with it, and it was somebody else's wish.
pub(super) fn of_no_extension(catalog: &str, alias: &str) -> String {
    format!(
        "NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass AND e.objid = {alias}.oid AND e.deptype = 'e')"
    )
}

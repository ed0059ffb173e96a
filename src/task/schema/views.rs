//! Materialized views: a dump of a schema makes them, and leaves them empty.

use crate::{
    contract::{ErrorClass, Result, TaskError, output::progress},
    postgres::{Explain, Session, Target},
    words::counted,
};

/// Fills the materialized views of a database that has its rows: those that are wanted, by their quoted name.
///
/// What another is made of comes first. That may hide in a function, so those that fail are tried again as long as any succeeds.
/// Names without a schema are looked for where the backed up session has looked for them.
///
/// Returns those that stay empty, for people: nobody is without messages for a view.
///
/// # Errors
/// The session was lost.
pub async fn refresh(
    target: &Target,
    is_wanted: impl Fn(&str) -> bool,
    search_path: Option<&str>,
) -> Result<Vec<String>> {
    let mut session = target.connect().await?;
    session.execute("SET statement_timeout = 0; SET lock_timeout = 0").await.explain("setting the statement's time")?;
    if let Some(path) = search_path {
        sqlx::query("SELECT set_config('search_path', $1, false)")
            .bind(path)
            .execute(&mut session.connection)
            .await
            .explain("setting where names are looked for")?;
    }
    let mut views = empty_views(&mut session).await?;
    views.retain(|view| is_wanted(view));
    if !views.is_empty() {
        progress(&format!("fills {}", counted(views.len(), "materialized view", "materialized views")));
    }
    loop {
        let (count, mut failed) = (views.len(), Vec::new());
        for view in views {
            let refreshed = session.execute(&format!("REFRESH MATERIALIZED VIEW {view}")).await;
            if let Err(error) = refreshed.explain(&format!("filling materialized view {view}")) {
                if error.class == ErrorClass::Transient && error.reason == "ConnectionLost" {
                    return Err(error);
                }
                failed.push((view, error));
            }
        }
        if failed.is_empty() || failed.len() == count {
            return Ok(failed.into_iter().map(|(view, error)| stays_empty(&view, &error)).collect());
        }
        views = failed.into_iter().map(|(view, _)| view).collect();
    }
}

fn stays_empty(view: &str, error: &TaskError) -> String {
    format!(
        "materialized view {view} is empty, and a query of it is refused until it is filled (REFRESH MATERIALIZED VIEW {view}): {}",
        error.message
    )
}

/// Those without rows, in the order in which the catalogs say that one is made of another.
async fn empty_views(session: &mut Session) -> Result<Vec<String>> {
    sqlx::query_scalar(
        "WITH RECURSIVE uses AS (\
             SELECT r.ev_class AS view, d.refobjid AS used FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
             WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class), \
         depth AS (\
             SELECT oid AS view, 0 AS depth FROM pg_class WHERE relkind IN ('m', 'v') \
             UNION SELECT u.view, d.depth + 1 FROM uses u JOIN depth d ON d.view = u.used WHERE d.depth < 100) \
         SELECT format('%I.%I', n.nspname, c.relname) FROM depth d JOIN pg_class c ON c.oid = d.view \
             JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND NOT c.relispopulated \
             AND pg_has_role(c.relowner, 'USAGE') \
         GROUP BY 1 ORDER BY max(d.depth), 1",
    )
    .fetch_all(&mut session.connection)
    .await
    .explain("listing the materialized views")
}

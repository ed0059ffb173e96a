//! Databases that restores have made and not swapped in: of a restore that failed, was deleted or was killed. Nobody uses them,
//! and they take as much disk as the homeserver's own. An inspection finds them.

use super::mark::{Mark, State, name_pattern, of_service};
use crate::{
    contract::DatabaseLeft,
    postgres::{Explain, Result, Session},
};

/// Those that belong to the owner of this database, or to a Matrix Authentication Service. A restore that is under way has one,
/// too: who asks knows which runs.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn left(session: &mut Session) -> Result<Vec<DatabaseLeft>> {
    let rows: Vec<(String, bool, Option<String>, i64)> = sqlx::query_as(
        "SELECT d.datname::text, d.datdba = own.datdba, shobj_description(d.oid, 'pg_database'), \
             CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN coalesce(pg_database_size(d.oid), 0) ELSE 0 END \
         FROM pg_database d, pg_database own \
         WHERE own.datname = current_database() AND d.oid <> own.oid AND d.datname LIKE $1 ORDER BY 1",
    )
    .bind(name_pattern())
    .fetch_all(&mut session.connection)
    .await
    .explain("looking for databases that restores have left")?;
    let left = rows.iter().filter_map(|(name, has_same_owner, comment, bytes)| {
        let restore = is_left(*has_same_owner, comment.as_deref())?;
        let has_another = comment.as_deref().and_then(Mark::read).is_some_and(|mark| mark.with_authentication);
        // One on this server is in the list itself.
        let elsewhere =
            Some(of_service(name)).filter(|other| has_another && rows.iter().all(|(name, ..)| name != other));
        Some(DatabaseLeft::new(name, *bytes, restore.as_deref()).with_authentication(elsewhere))
    });
    Ok(left.collect())
}

/// `None`: it is somebody else's. The restore that has made it, where that is on it.
fn is_left(has_same_owner: bool, comment: Option<&str>) -> Option<Option<String>> {
    let Some(comment) = comment else {
        // A task was killed between making it and marking it.
        return has_same_owner.then_some(None);
    };
    let mark = Mark::read(comment)?;
    let is_in_use = matches!(mark.state, State::InPlace | State::Filling);
    (!is_in_use && (has_same_owner || !mark.whose.is_synapse())).then_some(Some(mark.restore))
}

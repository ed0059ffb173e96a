//! What a task leaves behind that is killed between making a database and marking it: an empty one, of which nobody knows whose
//! it is but by its name. Without a mark nothing is dropped; so it gets one, if it is beyond doubt.

use super::{
    mark::{Mark, name_beside},
    server::Server,
};
use crate::{contract::Result, postgres::Explain, task::arguments::Connection};

impl Server {
    /// Marks databases that attempts of this operation have made and not marked: by exactly their names, of the owner whom we
    /// give ours to, without any comment, and with nothing in them.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub(super) async fn mark_unmarked(&mut self, connection: &Connection, mark: &Mark) -> Result<()> {
        let names: Vec<String> =
            (0..=connection.attempt).map(|attempt| name_beside(&connection.operation, attempt)).collect();
        for name in self.unmarked(&names).await? {
            if self.is_empty(connection, &name).await? {
                self.mark(&name, mark).await?;
            }
        }
        Ok(())
    }

    async fn is_empty(&self, connection: &Connection, database: &str) -> Result<bool> {
        let mut session = self.as_owner(connection, database)?.connect().await?;
        sqlx::query_scalar(NOTHING_IN_IT)
            .fetch_one(&mut session.connection)
            .await
            .explain("looking whether a database is empty")
    }
}

/// Nobody has made anything in here: all is as in `template0`.
const NOTHING_IN_IT: &str = "\
    SELECT NOT EXISTS (SELECT FROM pg_class WHERE oid >= 16384) \
        AND NOT EXISTS (SELECT FROM pg_proc WHERE oid >= 16384) \
        AND NOT EXISTS (SELECT FROM pg_type WHERE oid >= 16384) \
        AND NOT EXISTS (SELECT FROM pg_namespace WHERE oid >= 16384) \
        AND NOT EXISTS (SELECT FROM pg_largeobject_metadata)";

//! What keeps a database from being renamed, or follows it where nobody wants it to. Found before anything is made or stopped.

use super::server::{Found, Server, find};
use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Session, lock, sessions},
    quote,
    task::arguments::Connection,
};

impl Server {
    /// A session in the database by the homeserver's name, with the task's lock, if there is such a database. Nothing is looked
    /// at before: who works there may have locked the tables.
    ///
    /// # Errors
    /// Transient, `DatabaseBusy`, with the holder. Those of PostgreSQL.
    pub async fn locked(&self, connection: &Connection, databases: &[Found]) -> Result<Option<Session>> {
        if find(databases, &connection.database).is_none() {
            return Ok(None);
        }
        let target = self.as_owner(connection, &connection.database)?;
        let mut session = target.connect().await?;
        sessions::end_earlier(&mut session, &target.application).await?;
        lock::acquire(&mut session).await?;
        Ok(Some(session))
    }

    /// Looks for them.
    ///
    /// # Errors
    /// Terminal, with the statement that removes it: `DatabaseReplicated`, `PreparedTransactions`. Those of PostgreSQL.
    pub async fn may_be_put_aside(&mut self, database: &str) -> Result<()> {
        self.no_prepared_transactions(database).await?;
        self.no_replication(database).await
    }

    /// One that is never ended holds its locks for ever, and PostgreSQL renames no database that has one.
    ///
    /// # Errors
    /// Terminal, `PreparedTransactions`. Those of PostgreSQL.
    pub async fn no_prepared_transactions(&mut self, database: &str) -> Result<()> {
        let prepared: Vec<(String, String)> = sqlx::query_as(
            "SELECT gid, format('%s of role %s, prepared at %s', gid, owner, to_char(prepared, 'YYYY-MM-DD HH24:MI:SS TZ')) \
             FROM pg_prepared_xacts WHERE database = $1 ORDER BY prepared",
        )
        .bind(database)
        .fetch_all(&mut self.session.connection)
        .await
        .explain("looking for prepared transactions")?;
        if prepared.is_empty() {
            return Ok(());
        }
        let statements = prepared.iter().map(|(gid, _)| format!("ROLLBACK PREPARED {};", quote::literal(gid)));
        Err(TaskError::terminal(
            "PreparedTransactions",
            format!(
                "Database {database} has prepared transactions, which hold their locks until somebody ends them: {}. Nothing was \
                 changed. Whoever prepared them ends them (COMMIT PREPARED), or, in that database: {}",
                prepared.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>().join("; "),
                statements.collect::<Vec<_>>().join(" ")
            ),
        ))
    }

    /// A logical slot goes with the old database under its new name: whoever reads it hears nothing more, and the slot keeps WAL
    /// until the disk is full. A subscription goes on to write into the old database.
    async fn no_replication(&mut self, database: &str) -> Result<()> {
        const DOING: &str = "looking for logical replication";
        let slots: Vec<(String, bool)> = sqlx::query_as(
            "SELECT slot_name::text, active FROM pg_replication_slots WHERE database = $1 AND NOT temporary ORDER BY 1",
        )
        .bind(database)
        .fetch_all(&mut self.session.connection)
        .await
        .explain(DOING)?;
        let subscriptions: Vec<String> = sqlx::query_scalar(
            "SELECT s.subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = $1 ORDER BY 1",
        )
        .bind(database)
        .fetch_all(&mut self.session.connection)
        .await
        .explain(DOING)?;
        if slots.is_empty() && subscriptions.is_empty() {
            return Ok(());
        }
        let mut found = Vec::new();
        let mut statements = Vec::new();
        for (slot, is_active) in &slots {
            found.push(format!("replication slot {slot}{}", if *is_active { " (in use)" } else { "" }));
            statements.push(format!("SELECT pg_drop_replication_slot({});", quote::literal(slot)));
        }
        for subscription in &subscriptions {
            found.push(format!("subscription {subscription}"));
            statements.push(format!("DROP SUBSCRIPTION {};", quote::ident(subscription)));
        }
        Err(TaskError::terminal(
            "DatabaseReplicated",
            format!(
                "Logical replication follows database {database} under the name that it gets, not the restored one: {}. A slot \
                 then keeps WAL until the disk is full. Nothing was changed. Stop who uses it, then, in that database: {}",
                found.join(", "),
                statements.join(" ")
            ),
        ))
    }
}

//! Dropping a database of ours, also on a disk that is full.
//!
//! `DROP DATABASE` asks for a checkpoint before it frees a byte. A checkpoint that finds no room stops PostgreSQL, with every
//! database on it, and PostgreSQL does not start again before somebody makes room. `DROP TABLE` frees its files when it
//! commits, without a checkpoint. So the tables go first.

use sqlx::AssertSqlSafe;

use super::{clear::of_no_extension, mark::State, server::Server};
use crate::{
    contract::{Result, TaskError},
    postgres::{Explain, Session},
    quote,
    task::arguments::Connection,
};

/// Nobody waits for these commits: the database is dropped next.
const SETTINGS: &str =
    "SET statement_timeout = '10min'; SET synchronous_commit = off; SET default_transaction_read_only = off";

/// What holds rows, largest first: so most of the room is free soon.
const TABLES: &str = "SELECT format('DROP %s IF EXISTS %I.%I', \
         CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, n.nspname, c.relname) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND pg_has_role(c.relowner, 'USAGE') \
         AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND";

impl Server {
    /// Drops what attempts of this operation have left, with whatever sessions they have left in it. Nothing else is ever
    /// dropped: neither a database without a mark nor one that had the homeserver's name.
    ///
    /// # Errors
    /// As [`Self::drop_database`].
    pub async fn drop_attempts(&mut self, connection: &Connection) -> Result<usize> {
        let attempts = self.databases().await?.into_iter().filter(|found| {
            found.mark.as_ref().is_some_and(|mark| {
                mark.operation == connection.operation && matches!(mark.state, State::Unfinished | State::Whole)
            })
        });
        let attempts: Vec<String> = attempts.map(|found| found.name).collect();
        for name in &attempts {
            self.drop_database(connection, name).await?;
        }
        Ok(attempts.len())
    }

    /// Drops a database of ours: first its tables, then the database. Whoever calls this has read our mark on it.
    ///
    /// # Errors
    /// Those of PostgreSQL. A database that cannot be emptied is not dropped.
    pub async fn drop_database(&mut self, connection: &Connection, name: &str) -> Result<()> {
        self.end_sessions(name).await?;
        match self.drop_tables(connection, name).await {
            Err(error) if error.reason == "DatabaseMissing" => return Ok(()),
            emptied => emptied.map_err(|error| {
                let (database, owner) = (quote::ident(name), &self.owner);
                let message = format!(
                    "{} Database {name} was not dropped, because DROP DATABASE stops PostgreSQL where the disk is full. As role \
                     {owner}: drop the tables in it, then DROP DATABASE {database};",
                    error.message
                );
                TaskError { message, ..error }
            })?,
        }
        self.session.execute("SET statement_timeout = '10min'").await.explain("setting the statement's time")?;
        // A swap that did not come to its end may have made it one, as the old database is.
        let statement = format!("ALTER DATABASE {} IS_TEMPLATE false", quote::ident(name));
        self.session.execute(&statement).await.explain("dropping what an earlier attempt left")?;
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote::ident(name));
        self.session.execute(&statement).await.explain("dropping what an earlier attempt left")
    }

    /// Each table in a transaction of its own: one for all takes more locks than a small server has.
    async fn drop_tables(&self, connection: &Connection, name: &str) -> Result<()> {
        const DOING: &str = "emptying what an earlier attempt left";
        let mut session = self.as_owner(connection, name)?.connect().await?;
        session.execute(SETTINGS).await.explain(DOING)?;
        drop_each(&mut session, " CASCADE", DOING).await
    }
}

/// Makes room in a database that is to be emptied, and whose disk may be full: tables go one by one, and only where nothing else
/// hangs on them. What stays, stays: what empties the database says why.
pub async fn make_room(session: &mut Session) {
    let _ = drop_each(session, "", "making room in the unfinished database").await;
}

/// Drops the tables of a database, the largest first, each in a transaction of its own. `behaviour`: what follows the name.
async fn drop_each(session: &mut Session, behaviour: &str, doing: &str) -> Result<()> {
    let sql = format!("{TABLES} {} ORDER BY pg_total_relation_size(c.oid) DESC", of_no_extension("pg_class", "c"));
    let statements: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut session.connection).await.explain(doing)?;
    in_passes(statements, async |statement| session.execute(&format!("{statement}{behaviour}")).await.explain(doing))
        .await
}

/// Runs statements that free room on a disk that may be full. A `DROP TABLE` may need room itself, in the catalogs (of a table with
/// a CHECK it writes a row of `pg_class` anew), or another table may hang on it: it is run again when others have made room.
///
/// # Errors
/// The first one of a pass in which no statement succeeded.
async fn in_passes(mut statements: Vec<String>, mut run: impl AsyncFnMut(&str) -> Result<()>) -> Result<()> {
    while !statements.is_empty() {
        let (all, mut first, mut again) = (statements.len(), None, Vec::new());
        for statement in statements {
            if let Err(error) = run(&statement).await {
                first.get_or_insert(error);
                again.push(statement);
            }
        }
        match first {
            Some(error) if again.len() == all => return Err(error),
            _ => statements = again,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Each statement needs those that are named behind it to have succeeded.
    async fn run(needs: &[(&str, &[&str])]) -> (Result<()>, usize) {
        let (mut done, mut runs) = (BTreeSet::new(), 0);
        let statements = needs.iter().map(|(statement, _)| (*statement).to_owned()).collect();
        let ended = in_passes(statements, async |statement| {
            runs += 1;
            let (_, before) = needs.iter().find(|(name, _)| *name == statement).expect("it is one of them");
            match before.iter().all(|name| done.contains(*name)) {
                true => {
                    done.insert(statement.to_owned());
                    Ok(())
                }
                false => Err(TaskError::terminal("DiskFull", statement)),
            }
        });
        (ended.await, runs)
    }

    #[tokio::test]
    async fn what_finds_no_room_is_run_again_when_others_have_made_some() {
        assert_eq!(run(&[("a", &["c"]), ("b", &["a"]), ("c", &[])]).await, (Ok(()), 5));
        let (ended, runs) = run(&[("a", &[]), ("b", &["never"]), ("c", &["never"])]).await;
        assert_eq!((ended.unwrap_err().message.as_str(), runs), ("b", 5), "it ends");
    }
}

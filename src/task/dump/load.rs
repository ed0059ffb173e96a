//! A dump into an empty database, as Synapse's role: one statement at a time, rows as they come.
//!
//! Statements go by the extended protocol, in which PostgreSQL refuses more than one at once: should it ever see two where
//! [`super::lexer`] saw one, that is an error and not a way around the [`super::rules`]. There is no `psql`, so nothing is left
//! that would obey a backslash.

use std::{cell::RefCell, collections::BTreeMap};

use futures::future::try_join_all;
use sqlx::AssertSqlSafe;

use super::{
    reading::Reading,
    script::{Act, Script},
    statement::Statement,
};
use crate::{
    postgres::{Explain, Session, Target, errors},
    task::{
        output::progress,
        report::{ErrorClass, Result, TaskError},
    },
};

/// Nobody uses the database yet: nobody waits for its disk, and indexes are sorted in memory.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
                        SET synchronous_commit = off; SET maintenance_work_mem = '256MB'; SET client_min_messages = warning";

/// What a dump brought.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Rows that PostgreSQL took, by table, as the dump writes its name.
    pub rows: BTreeMap<String, u64>,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What was left out, for people.
    pub warnings: Vec<String>,
}

/// Reads a dump to its end and does what it says.
///
/// Dropped in the middle, it leaves a part of a database.
///
/// # Errors
/// Terminal: `DumpNotAllowed`, `DumpIncomplete`, `DumpUnreadable`, `PostgresTooOld`; `RestoreFailed`, with what PostgreSQL
/// said of which line. What restic answers.
pub async fn load(mut reading: Reading, target: &Target, at_once: u16) -> Result<Loaded> {
    let session = new_session(target, &[]).await?;
    let major = session.version / 10_000;
    let mut loading = Loading { target, at_once, session, settings: Vec::new(), indexes: Vec::new() };
    let (mut script, mut rows) = (Script::new(major), BTreeMap::<String, u64>::new());
    let mut buffer = Vec::new();
    loop {
        match next(&mut script, &mut reading, &mut buffer).await? {
            None => break,
            Some(Act::Run(statement)) => loading.run(statement).await?,
            Some(Act::Copy { statement, table }) => {
                loading.make_indexes().await?;
                progress(&format!("rows of {table}"));
                let mut copy = loading
                    .session
                    .connection
                    .copy_in_raw(&statement.text)
                    .await
                    .map_err(|error| failed(&error, &statement))?;
                while let Some(Act::Rows(rows)) = next(&mut script, &mut reading, &mut buffer).await? {
                    copy.send(rows).await.map_err(|error| failed(&error, &statement))?;
                }
                // A table may come more than once.
                *rows.entry(table).or_default() += copy.finish().await.map_err(|error| failed(&error, &statement))?;
            }
            Some(Act::Rows(_) | Act::RowsEnd) => unreachable!("rows come behind COPY"),
        }
    }
    // Whoever did not give all of it knows why better than what was given.
    let sha256 = reading.finish().await?;
    let warnings = script.finish()?;
    loading.make_indexes().await?;
    Ok(Loaded { rows, sha256, warnings })
}

/// What to do next; `None`: the dump is over.
async fn next(script: &mut Script, reading: &mut Reading, buffer: &mut Vec<u8>) -> Result<Option<Act>> {
    loop {
        if let Some(act) = script.next_act()? {
            return Ok(Some(act));
        }
        reading.more(buffer).await?;
        if buffer.is_empty() {
            return Ok(None);
        }
        script.push(buffer);
    }
}

struct Loading<'a> {
    target: &'a Target,
    at_once: u16,
    session: Session,
    /// What the dump has set: other sessions need it too.
    settings: Vec<Statement>,
    /// Indexes that can be made at once.
    indexes: Vec<Statement>,
}

impl Loading<'_> {
    async fn run(&mut self, statement: Statement) -> Result<()> {
        if makes_an_index(&statement) {
            self.indexes.push(statement);
            return Ok(());
        }
        self.make_indexes().await?;
        run(&mut self.session, &statement).await?;
        let is_setting = match statement.tokens().nth(3).as_deref() {
            Some("SET_CONFIG") => true,
            _ => statement.tokens().next().as_deref() == Some("SET"),
        };
        if is_setting {
            self.settings.push(statement);
        }
        Ok(())
    }

    /// Several sessions, each of which takes the next one.
    async fn make_indexes(&mut self) -> Result<()> {
        if self.indexes.is_empty() {
            return Ok(());
        }
        progress(&format!("makes {} indexes", self.indexes.len()));
        let indexes = RefCell::new(std::mem::take(&mut self.indexes).into_iter());
        let making = (0..self.at_once).map(async |_| {
            let mut session = new_session(self.target, &self.settings).await?;
            loop {
                let next = indexes.borrow_mut().next();
                let Some(statement) = next else { return Ok::<_, TaskError>(()) };
                run(&mut session, &statement).await?;
            }
        });
        try_join_all(making).await.map(drop)
    }
}

/// Those of `pg_dump` follow one another, and none needs another: primary keys and unique constraints, then the others.
fn makes_an_index(statement: &Statement) -> bool {
    let tokens: Vec<String> = statement.tokens().take(24).collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    match words[..] {
        ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..] => true,
        ["ALTER", "TABLE", ..] => {
            words.windows(4).any(|some| matches!(some, ["ADD", "CONSTRAINT", _, "PRIMARY" | "UNIQUE"]))
        }
        _ => false,
    }
}

async fn new_session(target: &Target, settings: &[Statement]) -> Result<Session> {
    let mut session = target.connect().await?;
    session.execute(SETTINGS).await.explain("preparing a session for the restore")?;
    for setting in settings {
        run(&mut session, setting).await?;
    }
    Ok(session)
}

async fn run(session: &mut Session, statement: &Statement) -> Result<()> {
    let query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
    query.execute(&mut session.connection).await.map(drop).map_err(|error| failed(&error, statement))
}

/// What is not the server's trouble is the dump's.
fn failed(error: &sqlx::Error, statement: &Statement) -> TaskError {
    let doing = format!("running line {} of the dump, {}", statement.line, statement.beginning());
    let error = errors::failed(error, &doing);
    if error.class == ErrorClass::Terminal && error.reason == "DatabaseError" {
        return TaskError::terminal("RestoreFailed", format!("{} Nothing was replaced.", error.message));
    }
    error
}

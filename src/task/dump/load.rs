//! A dump into an empty database, as Synapse's role: one statement at a time, rows as they come.
//!
//! Statements go by the extended protocol, in which PostgreSQL refuses more than one at once: should it ever see two where
//! [`super::lexer`] saw one, that is an error and not a way around the [`super::rules`]. There is no `psql`, so nothing is left
//! that would obey a backslash.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

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
                        SET synchronous_commit = off; SET maintenance_work_mem = '256MB'";

/// What a dump brought.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Rows that PostgreSQL took, by table, as the dump writes its name.
    pub rows: BTreeMap<String, u64>,
    /// Materialized views that are to be filled, as the dump writes their names.
    pub views: BTreeSet<String>,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// What was left out, for people.
    pub warnings: Vec<String>,
}

/// Reads a dump to its end and does what it says, but for the entries of these numbers.
///
/// Dropped in the middle, it leaves a part of a database.
///
/// # Errors
/// Terminal: `DumpNotAllowed`, `DumpIncomplete`, `DumpUnreadable`, `PostgresTooOld`; `RestoreFailed`, with what PostgreSQL
/// said of which line. What restic answers.
pub async fn load(mut reading: Reading, skipped: BTreeSet<u32>, target: &Target, at_once: u16) -> Result<Loaded> {
    let session = new_session(target, &[]).await?;
    let major = session.version / 10_000;
    let mut loading = Loading {
        target,
        at_once,
        session,
        settings: Vec::new(),
        indexes: Vec::new(),
        missing: Vec::new(),
        warnings: Vec::new(),
    };
    let (mut script, mut rows) = (Script::without(major, skipped), BTreeMap::<String, u64>::new());
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
    let mut warnings = script.finish()?;
    loading.make_indexes().await?;
    warnings.append(&mut loading.warnings);
    Ok(Loaded { rows, views: script.views, sha256, warnings })
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
    /// Views and the like that could not be made, each by the tokens of its name.
    missing: Vec<Vec<String>>,
    warnings: Vec<String>,
}

impl Loading<'_> {
    async fn run(&mut self, statement: Statement) -> Result<()> {
        if self.missing.iter().any(|name| is_about(&statement, name)) {
            self.warnings.push(format!("not restored: {} (it needs what is left out)", statement.beginning()));
            return Ok(());
        }
        if makes_an_index(&statement) {
            self.indexes.push(statement);
            return Ok(());
        }
        self.make_indexes().await?;
        let query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
        if let Err(error) = query.execute(&mut self.session.connection).await {
            let name = optional(&statement).filter(|_| lacks_something(&error));
            let Some(name) = name else { return Err(failed(&error, &statement)) };
            let said = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            self.warnings.push(format!("not restored: {} ({said})", statement.beginning()));
            self.missing.push(name);
        }
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

/// The name of what a statement makes, where Synapse does not need it: what hangs on somebody's extension or server goes with it.
fn optional(statement: &Statement) -> Option<Vec<String>> {
    let tokens: Vec<String> = statement.tokens().take(12).collect();
    let words: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let rest = match words[..] {
        ["CREATE", "OR", "REPLACE", "VIEW" | "FUNCTION", ..] => &tokens[4..],
        ["CREATE", "MATERIALIZED", "VIEW", ..] => &tokens[3..],
        ["CREATE", "VIEW" | "FUNCTION" | "PROCEDURE" | "AGGREGATE" | "POLICY" | "STATISTICS", ..] => &tokens[2..],
        _ => return None,
    };
    let length = if rest.get(1).is_some_and(|dot| dot == ".") { 3 } else { 1 };
    Some(rest.iter().take(length).cloned().collect())
}

/// undefined_table, undefined_function, undefined_object, invalid_schema_name
fn lacks_something(error: &sqlx::Error) -> bool {
    matches!(errors::sqlstate(error), Some("42P01" | "42883" | "42704" | "3F000"))
}

/// Whether a statement is about what has this name, such as an index on a view: `ON public.v`, `ALTER TABLE ONLY public.v`.
fn is_about(statement: &Statement, name: &[String]) -> bool {
    let tokens: Vec<String> = statement.tokens().collect();
    let follows = |at: usize| tokens[at..].starts_with(name);
    let alters =
        tokens.first().is_some_and(|verb| verb == "ALTER") && (2..5).any(|at| at < tokens.len() && follows(at));
    let is_on = |at: usize| {
        tokens[at] == "ON"
            && (follows(at + 1) || tokens.get(at + 1).is_some_and(|only| only == "ONLY") && follows(at + 2))
    };
    name.len() == 3 && (alters || (0..tokens.len().saturating_sub(3)).any(is_on))
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

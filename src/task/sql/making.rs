//! Statements into a database that nobody uses yet: one at a time, and indexes several at once.
//!
//! Statements go by the extended protocol, in which PostgreSQL refuses more than one at once: should it ever see two where
//! [`super::lexer`] saw one, that is an error and not a way around the [rules of a dump](crate::task::dump).

use std::cell::RefCell;

use futures::future::try_join_all;
use sqlx::AssertSqlSafe;

use crate::{
    contract::{Result, TaskError, output::progress},
    postgres::{Explain, Session, Target, errors},
    task::sql::{
        lexer::{Lexer, Piece, Uncut},
        statement::Statement,
    },
    words::counted,
};

/// Nobody uses the database yet: nobody waits for its disk, and indexes are sorted in memory.
const SETTINGS: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
                        SET synchronous_commit = off; SET maintenance_work_mem = '256MB'";

/// The sessions that do it.
pub struct Making<'a> {
    target: &'a Target,
    at_once: u16,
    pub session: Session,
    /// Says what PostgreSQL refused.
    explain: fn(&sqlx::Error, &Statement) -> TaskError,
    /// What the script has set: other sessions need it too.
    settings: Vec<Statement>,
    /// Indexes that can be made at once.
    indexes: Vec<Statement>,
    leaves_out: bool,
    /// Views and the like that could not be made, each by the tokens of its name.
    missing: Vec<Vec<String>>,
    /// What was left out, for people.
    pub left_out: Vec<String>,
}

impl<'a> Making<'a> {
    /// Opens the first session.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn begin(
        target: &'a Target,
        at_once: u16,
        explain: fn(&sqlx::Error, &Statement) -> TaskError,
    ) -> Result<Self> {
        let session = prepared(target).await?;
        Ok(Self {
            target,
            at_once,
            session,
            explain,
            settings: Vec::new(),
            indexes: Vec::new(),
            leaves_out: false,
            missing: Vec::new(),
            left_out: Vec::new(),
        })
    }

    /// What Synapse does not need, and what hangs on somebody's extension or server, is left out.
    #[must_use]
    pub fn leaving_out(self) -> Self {
        Self { leaves_out: true, ..self }
    }

    /// Runs a whole script of `pg_restore`'s without rows. What it tells `psql` alone is passed over.
    ///
    /// # Errors
    /// What PostgreSQL refused, explained. Terminal, `RestoreFailed`: the script cannot be cut into statements.
    pub async fn run_all(&mut self, script: &[u8]) -> Result<()> {
        let uncut = |uncut: Uncut| TaskError::terminal("RestoreFailed", format!("pg_restore wrote no SQL: {uncut:?}."));
        let mut lexer = Lexer::default();
        lexer.push(script);
        while let Some(piece) = lexer.next_piece().map_err(uncut)? {
            if let Piece::Statement(statement) = piece {
                self.run(statement).await?;
            }
        }
        lexer.finish().map_err(uncut)?;
        self.make_indexes().await
    }

    /// Runs a statement; an index waits for those that follow it.
    ///
    /// # Errors
    /// What PostgreSQL refused, explained.
    pub async fn run(&mut self, statement: Statement) -> Result<()> {
        if self.missing.iter().any(|name| is_about(&statement, name)) {
            self.left_out.push(format!("not restored: {} (it needs what is left out)", statement.beginning()));
            return Ok(());
        }
        if makes_an_index(&statement) {
            self.indexes.push(statement);
            return Ok(());
        }
        self.make_indexes().await?;
        let query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
        if let Err(error) = query.execute(&mut self.session.connection).await {
            let name = optional(&statement).filter(|_| self.leaves_out && lacks_something(&error));
            let Some(name) = name else { return Err((self.explain)(&error, &statement)) };
            let said = error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            self.left_out.push(format!("not restored: {} ({said})", statement.beginning()));
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

    /// Runs an `INSERT`. Returns how many rows PostgreSQL took.
    ///
    /// # Errors
    /// What PostgreSQL refused, explained.
    pub async fn insert(&mut self, statement: &Statement) -> Result<u64> {
        self.make_indexes().await?;
        let query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
        let done = query.execute(&mut self.session.connection).await;
        Ok(done.map_err(|error| (self.explain)(&error, statement))?.rows_affected())
    }

    /// Several sessions, each of which takes the next one.
    ///
    /// # Errors
    /// What PostgreSQL refused, explained.
    pub async fn make_indexes(&mut self) -> Result<()> {
        if self.indexes.is_empty() {
            return Ok(());
        }
        progress(&format!("makes {}", counted(self.indexes.len(), "index", "indexes")));
        let explain = self.explain;
        let indexes = RefCell::new(std::mem::take(&mut self.indexes).into_iter());
        let making = (0..self.at_once).map(async |_| {
            let mut session = prepared(self.target).await?;
            for setting in &self.settings {
                run(&mut session, setting, explain).await?;
            }
            loop {
                let next = indexes.borrow_mut().next();
                let Some(statement) = next else { return Ok::<_, TaskError>(()) };
                run(&mut session, &statement, explain).await?;
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
        ["CREATE", "EXTENSION", "IF", "NOT", "EXISTS", ..] => &tokens[5..],
        ["CREATE", "VIEW" | "FUNCTION" | "PROCEDURE" | "AGGREGATE" | "POLICY" | "STATISTICS", ..] => &tokens[2..],
        _ => return None,
    };
    let length = if rest.get(1).is_some_and(|dot| dot == ".") { 3 } else { 1 };
    Some(rest.iter().take(length).cloned().collect())
}

/// undefined_table, undefined_function, undefined_object, invalid_schema_name; of an extension: undefined_file,
/// feature_not_supported
fn lacks_something(error: &sqlx::Error) -> bool {
    matches!(errors::sqlstate(error), Some("42P01" | "42883" | "42704" | "3F000" | "58P01" | "0A000"))
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

async fn prepared(target: &Target) -> Result<Session> {
    let mut session = target.connect().await?;
    session.execute(SETTINGS).await.explain("preparing a session for the restore")?;
    Ok(session)
}

async fn run(
    session: &mut Session,
    statement: &Statement,
    explain: fn(&sqlx::Error, &Statement) -> TaskError,
) -> Result<()> {
    let query = sqlx::query(AssertSqlSafe(statement.text.clone())).persistent(false);
    query.execute(&mut session.connection).await.map(drop).map_err(|error| explain(&error, statement))
}

//! A dump into an empty database, as Synapse's role: one statement at a time ([`making`](crate::task::sql::making)), rows as they come. There is no
//! `psql`, so nothing is left that would obey a backslash.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    reading::Reading,
    script::{Act, Script},
    wanted::refuse,
};
use crate::{
    contract::{ErrorClass, Result, TaskError, output::progress},
    postgres::{Target, errors},
    task::sql::{making::Making, statement::Statement},
};

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

/// Reads a dump to its end and does what it says.
///
/// Dropped in the middle, it leaves a part of a database.
///
/// # Errors
/// Terminal: `DumpNotAllowed`, `DumpIncomplete`, `DumpUnreadable`, `PostgresTooOld`; `RestoreFailed`, with what PostgreSQL
/// said of which line; `SuperuserNeeded`, where that is because of what was left out. What restic answers.
pub async fn load(mut reading: Reading, mut script: Script, target: &Target, at_once: u16) -> Result<Loaded> {
    let mut making = Making::begin(target, at_once, failed).await?.leaving_out();
    let version = making.session.version;
    let (mut rows, mut buffer) = (BTreeMap::<String, u64>::new(), Vec::new());
    loop {
        match next(&mut script, &mut reading, &mut buffer).await? {
            None => break,
            Some(Act::Run(statement)) => {
                let beginning = statement.beginning();
                making.run(statement).await.map_err(|error| because(error, &script, &beginning, version))?;
            }
            Some(Act::Insert { statement, table }) => {
                let beginning = statement.beginning();
                let inserted = making.insert(&statement).await;
                *rows.entry(table).or_default() +=
                    inserted.map_err(|error| because(error, &script, &beginning, version))?;
            }
            Some(Act::Copy { statement, table }) => {
                making.make_indexes().await.map_err(|error| because(error, &script, "an index", version))?;
                progress(&format!("rows of {table}"));
                let mut copy = making
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
    making.make_indexes().await.map_err(|error| because(error, &script, "an index", version))?;
    warnings.append(&mut making.left_out);
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

/// undefined_table, undefined_function, undefined_object, invalid_schema_name
const LACKING: [&str; 4] = ["[42P01]", "[42883]", "[42704]", "[3F000]"];

/// A table lacks what was left out. Of a dump that is looked at to its end this is known before: see [`super::wanted`].
fn because(error: TaskError, script: &Script, by: &str, version: i32) -> TaskError {
    if error.reason != "RestoreFailed" || !LACKING.iter().any(|code| error.message.contains(code)) {
        return error;
    }
    match refuse(&script.references.missed(&error.message, by), version) {
        Ok(()) => error,
        Err(refused) => TaskError { message: format!("{} {}", error.message, refused.message), ..refused },
    }
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

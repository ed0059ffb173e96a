//! The streams of a backup, and what `pg_dump` is told for each.

use std::collections::BTreeSet;

use tokio::process::Command;

use super::{
    held::Held,
    manifest::{AUTHENTICATION, SCHEMA_FILE},
    parts::{self, Part},
    stream::Rows,
};
use crate::task::report::{Result, TaskError};

/// A stream of a database.
pub struct Stream<'a> {
    pub held: &'a Held,
    /// Its file in the snapshot.
    pub file: String,
    content: Content,
}

enum Content {
    Schema,
    Rows { part: Part, with_sequences: bool },
}

impl<'a> Stream<'a> {
    /// All of a database: its rows in so many streams, and its schema.
    pub fn all(held: &'a Held, count: usize) -> Vec<Self> {
        let prefix = if held.whose.is_synapse() { "" } else { AUTHENTICATION };
        let stream = |file: &str, content| Self { held, file: format!("{prefix}{file}"), content };
        let parts = parts::deal(held.snapshot.tables.clone(), count).into_iter().enumerate();
        let rows = parts.map(|(index, part)| {
            let file = part.file.clone();
            stream(&file, Content::Rows { part, with_sequences: index == 0 })
        });
        rows.chain([stream(SCHEMA_FILE, Content::Schema)]).collect()
    }

    /// The program that writes it. `word` is the same each night, and the database's server does not know it.
    pub fn command(&self, word: &str) -> Command {
        let Held { programs, target, snapshot, .. } = self.held;
        let mut command = programs.command("pg_dump", target);
        // Of its own, and whatever PGOPTIONS says: who holds the lock may wait for us.
        command.arg("--lock-wait-timeout=10s");
        match &self.content {
            Content::Schema => command.args(["--format=custom", "--schema-only"]),
            Content::Rows { part, with_sequences } => {
                command.args(["--format=plain", "--data-only", "--strict-names", "--no-unlogged-table-data"]);
                if programs.takes_restrict_key {
                    // Since CVE-2025-8714 a plain dump begins with a random word, so each stream would begin anew each
                    // night.
                    command.arg(format!("--restrict-key={word}"));
                }
                command.args(part.tables.iter().map(|table| format!("--table={}", table.pattern())));
                let sequences = snapshot.sequences.iter().filter(|_| *with_sequences);
                command.args(sequences.map(|pattern| format!("--table={pattern}")))
            }
        };
        command.arg(format!("--snapshot={}", snapshot.id));
        command
    }

    /// What passed by is what was asked for: every table of the part and no other.
    ///
    /// # Errors
    /// Terminal, `DumpDiffers`.
    pub fn check(&self, rows: &Rows) -> Result<()> {
        let Content::Rows { part, .. } = &self.content else { return Ok(()) };
        let wanted: BTreeSet<&str> = part.tables.iter().map(|table| table.quoted.as_str()).collect();
        let found: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
        let Some(table) = wanted.symmetric_difference(&found).next() else { return Ok(()) };
        let what = if wanted.contains(table) { "left out" } else { "wrote" };
        let message = format!("pg_dump {what} table {table} against its orders: please report it.");
        Err(TaskError::terminal("DumpDiffers", message))
    }
}

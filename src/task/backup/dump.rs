//! The streams of a backup, and who writes each.

use std::{fs, path::Path};

use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{
    coverage::{self, Covered},
    held::Held,
    manifest::{AUTHENTICATION, SCHEMA_FILE},
    parts::{self, Part},
    rows::{self, Counted, Source},
    stopped,
    stream::{NotCarried, carry_bytes_unless, carry_rows, output_of},
    too_large,
};
use crate::{
    contract::{Result, TaskError},
    postgres::said::VERBOSE,
    restic::{Repository, Stored},
};

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

    /// Stores it, unless `stop` comes first. `scratch` is for what `psql` is told.
    ///
    /// # Errors
    /// Those of [`carry_rows`] and [`output_of`].
    pub async fn store(
        &self,
        repository: &Repository,
        scratch: &Path,
        tags: &[String],
        stop: &CancellationToken,
    ) -> Result<(Stored, Counted)> {
        match &self.content {
            Content::Schema => {
                let schema = stop.run_until_cancelled(output_of(self.schema()?, "pg_dump")).await;
                let schema = schema.unwrap_or_else(|| Err(stopped()))?;
                let covered = stop.run_until_cancelled(Covered::look(self.held.seen(), &schema, scratch)).await;
                let _ = self.held.covered.set(covered.unwrap_or_else(|| Err(stopped()))?);
                let stored = carry_bytes_unless(stop, &schema, repository.store_stream(&self.file, tags)?).await?;
                Ok((stored, Counted::new()))
            }
            Content::Rows { part, with_sequences } => {
                let Held { programs, snapshot, .. } = self.held;
                let sequences = if *with_sequences { snapshot.sequences.as_slice() } else { &[] };
                let psql = self.rows(&rows::script(part, sequences, &snapshot.id), scratch)?;
                let word = programs.takes_restrict_key.then(|| repository.word().to_owned());
                let source = Source { part: part.clone(), next_transaction: snapshot.next_transaction, word };
                let upload = repository.store_compressed_stream(&self.file, tags)?;
                match carry_rows(psql, source, upload, stop).await {
                    Ok(stored) => Ok(stored),
                    Err(NotCarried { error, refused: None }) => Err(error),
                    Err(NotCarried { error, refused: Some((code, line)) }) => {
                        Err(too_large::explain(self.held, rows::table_at(part, line), &code, error).await)
                    }
                }
            }
        }
    }

    fn schema(&self) -> Result<Command> {
        let Held { programs, target, snapshot, .. } = self.held;
        let mut command = coverage::schema(programs, target, &snapshot.excluded)?;
        command.arg(format!("--snapshot={}", snapshot.id));
        Ok(command)
    }

    fn rows(&self, script: &str, scratch: &Path) -> Result<Command> {
        let Held { programs, target, .. } = self.held;
        // A pipe would have to be written to beside all else.
        let path = scratch.join(&self.file).with_extension("query");
        fs::write(&path, script).map_err(|error| TaskError::no_scratch_space(&error))?;
        let mut command = programs.command("psql", target)?;
        command.args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set=ON_ERROR_STOP=1",
            VERBOSE,
            "--file",
        ]);
        command.arg(path);
        Ok(command)
    }

    /// Says of what PostgreSQL's programs said in which database it was. What restic says is about neither.
    pub fn tell(&self, error: TaskError) -> TaskError {
        let is_of_program = ["psql", "pg_dump", "What psql"].iter().any(|words| error.message.starts_with(words));
        if is_of_program { self.held.whose.tell(error) } else { error }
    }
}

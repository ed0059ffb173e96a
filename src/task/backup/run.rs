//! The task from its beginning to its end.

use std::{
    collections::BTreeMap,
    fs,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments,
    facts::Facts,
    list::Inventory,
    manifest::{CONFIG_FILE, FORMAT, Manifest, SCHEMA_FILE, StoredPart},
    out_of_time,
    parts::{self, Part},
    providers,
    rows::{self, Source},
    seal::{Attempt, Sealed, findings},
    snapshot::{self, Snapshot},
    stopped,
    stream::{carry_bytes, carry_rows, output_of},
};
use crate::{
    bytes,
    postgres::{Application, Session, Target, lock, programs::Programs, sessions},
    restic::{Repository, Stored},
    synapse::version,
    task::{
        output::progress,
        report::{Findings, Report, Result, StepResult, TaskError},
    },
};

/// Runs the task.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    let done = in_time(&arguments, stop).await;
    let told =
        |done: Done| Report { result: Some(done.result()), findings: Some(done.findings()), ..Report::default() };
    done.map(told).into()
}

/// With its end in time, if it must have one. What is under way then is stopped in order.
async fn in_time(arguments: &Arguments, stop: &CancellationToken) -> Result<Done> {
    let Some(until) = arguments.until else { return back_up(arguments, stop).await };
    let stop_now = stop.child_token();
    let mut done = pin!(back_up(arguments, &stop_now));
    let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default();
    tokio::select! {
        done = &mut done => done,
        () = tokio::time::sleep(left) => {
            stop_now.cancel();
            done.await.map_err(|error| if stop.is_cancelled() { error } else { out_of_time(until) })
        }
    }
}

async fn back_up(arguments: &Arguments, stop: &CancellationToken) -> Result<Done> {
    let began = Instant::now();
    // Until something is stored there is nothing to clear up.
    let begun = stop.run_until_cancelled(Backup::begin(arguments)).await;
    let (mut backup, mut session) = begun.unwrap_or_else(|| Err(stopped()))?;
    let (mut parts, mut added) = backup.store(&mut session, stop).await?;
    backup.snapshot.still_held().await?;
    if let Some(config) = &backup.config {
        let stored =
            carry_bytes(config, backup.repository.store_stream(CONFIG_FILE, &backup.attempt().tags(&[]))?).await?;
        added += stored.added;
        let Stored { snapshot, bytes, .. } = stored;
        parts.insert(CONFIG_FILE.to_owned(), StoredPart { snapshot, bytes, rows: BTreeMap::new() });
    }
    let manifest = backup.manifest(parts, began.elapsed());
    let attempt = backup.attempt();
    let is_new = backup.is_new;
    if arguments.draft {
        let Stored { snapshot, added: also, .. } = attempt.leave_draft(&backup.repository, &manifest).await?;
        return Ok(Done { manifest, snapshot, added: added + also, is_new, inventory: None });
    }
    let Sealed { snapshot, added: also, inventory } = attempt.seal(&backup.repository, &manifest).await?;
    Ok(Done { manifest, snapshot, added: added + also, is_new, inventory: Some(inventory) })
}

/// A backup under way.
struct Backup<'a> {
    arguments: &'a Arguments,
    /// restic's cache and what `psql` is told; it goes with the task.
    scratch: TempDir,
    repository: Repository,
    is_new: bool,
    target: Target,
    programs: Programs,
    snapshot: Snapshot,
    facts: Facts,
    synapse_version: Option<String>,
    /// The homeserver's configuration, as manifests.
    config: Option<Vec<u8>>,
    signing_key_ids: Vec<String>,
}

/// Told once, when the repository is made: later nobody reads it.
const KEEP_THE_PASSWORD: &str =
    "keep the repository's password outside of the cluster as well: without it nobody can read the backups";

type StoredParts = BTreeMap<String, StoredPart>;

impl<'a> Backup<'a> {
    /// All that can be refused, and the snapshot. The session has the task's lock.
    async fn begin(arguments: &'a Arguments) -> Result<(Self, Session)> {
        let config = arguments.config.manifests()?;
        let signing_key_ids = arguments.config.signing_key_ids()?;
        let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
        let repository = arguments.destination.place.open(scratch.path())?;
        // Before the snapshot: while it is held PostgreSQL keeps every row that is deleted.
        let is_new = repository.open(arguments.destination.init).await?;
        progress("the repository is open");

        let target = arguments.connection.target()?;
        let mut session = target.connect().await?;
        sessions::end_earlier(&mut session, &target.application).await?;
        lock::acquire_shared(&mut session).await?;
        let programs = Programs::of(session.version).await?;
        let mut snapshot = Snapshot::take(&target).await?;
        let facts = Facts::read(&mut snapshot.session, &arguments.destination.server_name).await?;
        let synapse_version = match &arguments.synapse_url {
            Some(url) => version::server_version(url).await.ok(),
            None => None,
        };
        progress(&format!("the database is held as it was at {}", snapshot.taken_at));
        Ok((
            Self {
                arguments,
                scratch,
                repository,
                is_new,
                target,
                programs,
                snapshot,
                facts,
                synapse_version,
                config,
                signing_key_ids,
            },
            session,
        ))
    }

    /// Everything but the manifest, and how many bytes came new into the repository. A schema's upgrade that waits for a
    /// table goes first.
    async fn store(&self, session: &mut Session, stop: &CancellationToken) -> Result<(StoredParts, u64)> {
        let stop = stop.child_token();
        let mut stored = pin!(self.everything(&stop));
        tokio::select! {
            stored = &mut stored => stored,
            why = snapshot::until_somebody_waits(session, &self.target.application) => {
                stop.cancel();
                // At once: the locks are those of the snapshot's session and of every pg_dump, and one of these may itself
                // be waiting behind who waits for us.
                let ended = sessions::end_earlier(session, &self.target.application).await;
                let _ = stored.await;
                ended?;
                Err(why)
            }
        }
    }

    /// All parts, several at once.
    async fn everything(&self, stop: &CancellationToken) -> Result<(StoredParts, u64)> {
        let parts = parts::deal(self.snapshot.tables.clone(), self.arguments.streams.into());
        let rows = parts.into_iter().enumerate().map(|(index, part)| Stream::Rows { part, with_sequences: index == 0 });
        let streams: Vec<Stream> = rows.chain([Stream::Schema]).collect();
        let count = streams.len();
        let mut storing =
            stream::iter(streams).map(|stream| self.one(stream, stop)).buffer_unordered(self.arguments.at_once.into());
        let (mut parts, mut added) = (StoredParts::new(), 0);
        let mut failure = None;
        while let Some(stored) = storing.next().await {
            match stored {
                Ok((file, part, bytes)) => {
                    parts.insert(file, part);
                    added += bytes;
                    progress(&format!("stored {} of {count} streams", parts.len()));
                }
                // The others end too, each in order: it is the first that tells why.
                Err(error) => {
                    failure.get_or_insert(error);
                    stop.cancel();
                }
            }
        }
        failure.map_or(Ok((parts, added)), Err)
    }

    async fn one(&self, stream: Stream, stop: &CancellationToken) -> Result<(String, StoredPart, u64)> {
        if stop.is_cancelled() {
            return Err(stopped());
        }
        let tags = self.attempt().tags(&[]);
        let (file, Stored { snapshot, bytes, added }, rows) = match stream {
            Stream::Schema => {
                let schema = stop.run_until_cancelled(output_of(self.schema(), "pg_dump")).await;
                let schema = schema.unwrap_or_else(|| Err(stopped()))?;
                let stored = carry_bytes(&schema, self.repository.store_stream(SCHEMA_FILE, &tags)?).await?;
                (SCHEMA_FILE.to_owned(), stored, BTreeMap::new())
            }
            Stream::Rows { part, with_sequences } => {
                let file = part.file.clone();
                let psql = self.rows(&part, with_sequences)?;
                let word = self.programs.takes_restrict_key.then(|| self.repository.word().to_owned());
                let source = Source { part, next_transaction: self.snapshot.next_transaction, word };
                let upload = self.repository.store_compressed_stream(&file, &tags)?;
                let (stored, rows) = carry_rows(psql, source, upload, stop).await?;
                (file, stored, rows)
            }
        };
        Ok((file, StoredPart { snapshot, bytes, rows }, added))
    }

    fn schema(&self) -> Command {
        let mut command = self.programs.command("pg_dump", &self.target);
        // Of its own, and whatever PGOPTIONS says: who holds the lock may wait for us.
        command.args(["--lock-wait-timeout=10s", "--format=custom", "--schema-only"]);
        command.arg(format!("--snapshot={}", self.snapshot.id));
        command
    }

    fn rows(&self, part: &Part, with_sequences: bool) -> Result<Command> {
        let sequences = if with_sequences { self.snapshot.sequences.as_slice() } else { &[] };
        let script = rows::script(part, sequences, &self.snapshot.id, self.facts.postgres_version);
        // A pipe would have to be written to beside all else.
        let path = self.scratch.path().join(&part.file).with_extension("query");
        fs::write(&path, script).map_err(|error| TaskError::no_scratch_space(&error))?;
        let mut command = self.programs.command("psql", &self.target);
        command.args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file"]);
        command.arg(path);
        Ok(command)
    }

    fn manifest(&self, parts: StoredParts, took: Duration) -> Manifest {
        let (encoding, collate, ctype) = self.facts.locale.clone();
        Manifest {
            format: FORMAT,
            origin: self.arguments.destination.origin.clone(),
            server_name: self.arguments.destination.server_name.clone(),
            taken_at: Time(self.snapshot.taken_at),
            synapse_version: self.synapse_version.clone(),
            schema_version: self.facts.schema_version.version,
            schema_compat_version: self.facts.schema_version.compat_version,
            postgres_version: self.facts.postgres_version,
            encoding,
            collate,
            ctype,
            database_bytes: self.facts.bytes,
            parts,
            media: None,
            signing_key_ids: self.signing_key_ids.clone(),
            left_out: self.snapshot.left_out.clone(),
            warnings: self.config.as_deref().map(providers::warnings).unwrap_or_default(),
            seconds: took.as_secs_f64(),
        }
    }

    fn attempt(&self) -> Attempt {
        let Application { operation, run, attempt } = &self.target.application;
        let name = format!("{}.{run}.{attempt}", operation.replace(',', "-"));
        Attempt { destination: self.arguments.destination.clone(), name }
    }
}

/// A stream of a backup.
enum Stream {
    Schema,
    Rows { part: Part, with_sequences: bool },
}

/// What came of it.
struct Done {
    manifest: Manifest,
    /// restic's id of the snapshot with the manifest: the backup's name; or that of the draft.
    snapshot: String,
    /// Bytes that came new into the repository.
    added: u64,
    is_new: bool,
    /// All of the origin, read back from the repository. `None`: the media are to come, and until then there is no backup.
    inventory: Option<Inventory>,
}

impl Done {
    fn result(&self) -> StepResult {
        let Self { manifest, added, .. } = self;
        let took = Duration::from_secs_f64(manifest.seconds);
        let made = if self.is_new { " into a new repository" } else { "" };
        let place = match self.inventory {
            Some(_) => format!(" in snapshot {:.8}", self.snapshot),
            None => String::new(),
        };
        StepResult {
            summary: format!(
                "backed up {} rows of {} tables in {} s{made}: {}{place}, {} of it new",
                manifest.rows(),
                manifest.tables(),
                took.as_secs(),
                bytes::human(manifest.bytes().cast_signed()),
                bytes::human(added.cast_signed()),
            ),
            seconds: Some(manifest.seconds),
            warnings: self
                .is_new
                .then(|| KEEP_THE_PASSWORD.to_owned())
                .into_iter()
                .chain(manifest.warnings.clone())
                .collect(),
            backups: self.inventory.as_ref().map(Inventory::listed),
            ..StepResult::default()
        }
    }

    fn findings(&self) -> Findings {
        findings(&self.manifest, &self.snapshot, self.added)
    }
}

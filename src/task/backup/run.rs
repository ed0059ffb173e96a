//! The task from its beginning to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    pin::pin,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments,
    manifest::{self, FORMAT, MANIFEST_TAG, Manifest, SCHEMA_FILE, SEQUENCES_FILE, StoredPart, TAG},
    parts::{self, Part},
    snapshot::{self, Snapshot},
    stream::{carry, ended_well},
};
use crate::{
    bytes,
    postgres::{Result, Session, Target, lock, programs::Programs, relations, sessions},
    restic::{Existing, Repository, Stored},
    synapse::database::{self, SchemaVersion, Tables},
    task::{
        output::progress,
        report::{BackupFindings, Findings, Report, StepResult, TaskError},
        stopped,
    },
};

/// Runs the task.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    match back_up(&arguments, stop).await {
        Ok(done) => Report { result: Some(done.result()), findings: Some(done.findings()), ..Report::default() },
        Err(error) => Report { error: Some(error), ..Report::default() },
    }
}

/// What came of it.
struct Done {
    manifest: Manifest,
    /// restic's id of the snapshot with the manifest: the backup's name.
    snapshot: String,
    /// Bytes that came new into the repository.
    added: u64,
    existing: Existing,
}

async fn back_up(arguments: &Arguments, stop: &CancellationToken) -> Result<Done> {
    let began = Instant::now();
    let scratch = tempfile::tempdir().map_err(|error| no_scratch(&error))?;
    let repository = Repository::from_directory(&arguments.repository_dir, &scratch.path().join("cache"))?;
    let existing = repository.open(arguments.init).await?;
    progress("the repository is open");

    let target = arguments.connection.target()?;
    let mut session = target.connect().await?;
    sessions::end_earlier(&mut session, &target.application).await?;
    lock::acquire_shared(&mut session).await?;
    let programs = Programs::of(session.version).await?;
    let schema_version = check_homeserver(&mut session, &arguments.server_name).await?;
    let snapshot = Snapshot::take(&target).await?;
    progress(&format!("the database is held as it was at {}", snapshot.taken_at));

    let mut backup = Backup { arguments, target, repository, programs, snapshot };
    let folder = scratch.path().join("manifest");
    std::fs::create_dir(&folder).map_err(|error| no_scratch(&error))?;
    let (parts, added) = backup.store_unless_in_the_way(&mut session, &folder, stop).await?;
    backup.snapshot.still_held().await?;
    let (encoding, collate, ctype) = relations::locale(&mut session).await?;
    let manifest = Manifest {
        format: FORMAT,
        origin: arguments.origin.clone(),
        server_name: arguments.server_name.clone(),
        taken_at: Time(backup.snapshot.taken_at),
        schema_version: schema_version.version,
        schema_compat_version: schema_version.compat_version,
        postgres_version: session.version,
        encoding,
        collate,
        ctype,
        database_bytes: relations::database_bytes(&mut session).await?,
        parts,
        left_out: backup.snapshot.left_out.clone(),
        seconds: began.elapsed().as_secs_f64(),
    };
    let stored = backup.seal(&folder, &manifest, stop).await?;
    Ok(Done { manifest, snapshot: stored.snapshot, added: added + stored.added, existing })
}

/// It is Synapse's, and of the homeserver that it should be.
async fn check_homeserver(session: &mut Session, server_name: &str) -> Result<SchemaVersion> {
    let tables = relations::tables(session).await?;
    let names: Tables = tables.iter().map(|table| table.name.as_str()).collect();
    let Some(schema_version) = database::schema_version(session, &names).await? else {
        return Err(TaskError::terminal(
            "NoSynapseSchema",
            "There is no schema of Synapse in this database: is postgres.database right?",
        ));
    };
    match database::server_name(session, &names).await? {
        Some(found) if found != server_name => Err(TaskError::terminal(
            "ServerNameDiffers",
            format!("The users in this database are of {found}, not of {server_name}: is postgres.database right?"),
        )),
        _ => Ok(schema_version),
    }
}

/// A backup under way.
struct Backup<'a> {
    arguments: &'a Arguments,
    target: Target,
    repository: Repository,
    programs: Programs,
    snapshot: Snapshot,
}

type StoredParts = BTreeMap<String, StoredPart>;

impl Backup<'_> {
    /// A schema's upgrade that waits for us goes first.
    async fn store_unless_in_the_way(
        &self,
        session: &mut Session,
        folder: &Path,
        stop: &CancellationToken,
    ) -> Result<(StoredParts, u64)> {
        let stop = stop.child_token();
        let mut storing = pin!(self.store(folder, &stop));
        tokio::select! {
            stored = &mut storing => stored,
            why = snapshot::until_somebody_waits(session, &self.target.application) => {
                stop.cancel();
                let _ = storing.await;
                Err(why)
            }
        }
    }

    /// Everything but the manifest: the streams, then what goes beside it. Bytes that came new into the repository.
    async fn store(&self, folder: &Path, stop: &CancellationToken) -> Result<(StoredParts, u64)> {
        let id = format!("--snapshot={}", self.snapshot.id);
        self.dump_into(&folder.join(SCHEMA_FILE), &["--format=custom", "--schema-only", &id]).await?;

        let parts = parts::deal(self.snapshot.tables.clone(), self.arguments.streams.into());
        let count = parts.len();
        let mut storing = stream::iter(parts)
            .map(|part| async {
                let stored = self.store_part(&part, stop).await;
                (part.file, stored)
            })
            .buffer_unordered(self.arguments.at_once.into());
        let (mut stored_parts, mut added) = (StoredParts::new(), 0);
        let mut failure = None;
        while let Some((file, stored)) = storing.next().await {
            match stored {
                Ok((part, bytes_added)) => {
                    progress(&format!("stored {} of {count} streams", stored_parts.len() + 1));
                    stored_parts.insert(file, part);
                    added += bytes_added;
                }
                // The others end too, each in order: it is the first that tells why.
                Err(error) => {
                    failure.get_or_insert(error);
                    stop.cancel();
                }
            }
        }
        drop(storing);
        if let Some(error) = failure {
            return Err(error);
        }
        // Sequences know no snapshot: read last, none is behind a row that was copied.
        let sequences = self.snapshot.sequences.iter().map(|pattern| format!("--table={pattern}"));
        let sequences: Vec<String> = sequences.chain(["--data-only".to_owned(), id]).collect();
        let sequences: Vec<&str> = sequences.iter().map(String::as_str).collect();
        self.dump_into(&folder.join(SEQUENCES_FILE), &sequences).await?;
        Ok((stored_parts, added))
    }

    async fn store_part(&self, part: &Part, stop: &CancellationToken) -> Result<(StoredPart, u64)> {
        let mut command = self.programs.command("pg_dump", &self.target);
        command.args(["--format=plain", "--data-only", "--strict-names", "--no-unlogged-table-data"]);
        command.arg(format!("--snapshot={}", self.snapshot.id));
        if self.programs.takes_restrict_key {
            // Since CVE-2025-8714 a plain dump begins with a random word: each stream would begin anew each night.
            command.arg(format!("--restrict-key={}", self.repository.derived_word()));
        }
        command.args(part.tables.iter().map(|table| format!("--table={}", table.pattern())));
        let upload = self.repository.store_stream(&part.file, &self.tags(&[]))?;
        let (Stored { snapshot, bytes, added }, rows) = carry(command, upload, stop).await?;
        let wanted: BTreeSet<&str> = part.tables.iter().map(|table| table.quoted.as_str()).collect();
        let found: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
        if let Some(table) = wanted.symmetric_difference(&found).next() {
            let what = if wanted.contains(table) { "left out" } else { "wrote" };
            let message = format!("pg_dump {what} table {table} against its orders: please report it.");
            return Err(TaskError::terminal("DumpDiffers", message));
        }
        Ok((StoredPart { snapshot, bytes, rows }, added))
    }

    /// The manifest, with the schema and the sequences beside it. From here on the backup exists.
    async fn seal(&self, folder: &Path, manifest: &Manifest, stop: &CancellationToken) -> Result<Stored> {
        let json = serde_json::to_vec_pretty(manifest).expect("plain data");
        std::fs::write(folder.join(manifest::FILE), json).map_err(|error| no_scratch(&error))?;
        if stop.is_cancelled() {
            return Err(stopped());
        }
        self.repository.store_folder(folder, &self.tags(&[MANIFEST_TAG]))?.finish().await
    }

    fn tags(&self, more: &[&str]) -> Vec<String> {
        let application = &self.target.application;
        let attempt = format!("{}.{}.{}", application.operation, application.run, application.attempt);
        let own = [TAG.to_owned(), manifest::origin_tag(&self.arguments.origin), manifest::attempt_tag(&attempt)];
        own.into_iter().chain(more.iter().map(|tag| (*tag).to_owned())).collect()
    }

    /// Runs `pg_dump` into a small file.
    async fn dump_into(&self, path: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = self.programs.command("pg_dump", &self.target);
        command.args(arguments).arg("--file").arg(path).stdout(Stdio::null()).stderr(Stdio::piped());
        let program = command.spawn().map_err(|error| {
            TaskError::terminal("ClientProgramsMissing", format!("pg_dump cannot be started: {error}."))
        })?;
        ended_well(program).await
    }
}

fn no_scratch(error: &std::io::Error) -> TaskError {
    TaskError::transient("NoScratchSpace", format!("The task cannot write to its temporary directory: {error}."))
}

impl Done {
    fn result(&self) -> StepResult {
        let Self { manifest, added, .. } = self;
        let took = Duration::from_secs_f64(manifest.seconds);
        let made = if self.existing == Existing::Made { " into a new repository" } else { "" };
        StepResult {
            summary: format!(
                "backed up {} rows of {} tables in {} s{made}: {} in snapshot {:.8}, {} of it new",
                manifest.rows(),
                manifest.tables(),
                took.as_secs(),
                bytes::human(manifest.parts.values().map(|part| part.bytes.cast_signed()).sum()),
                self.snapshot,
                bytes::human(added.cast_signed()),
            ),
            seconds: Some(manifest.seconds),
            ..StepResult::default()
        }
    }

    fn findings(&self) -> Findings {
        let Self { manifest, snapshot, added, .. } = self;
        Findings::Backup(BackupFindings {
            snapshot: snapshot.clone(),
            taken_at: manifest.taken_at.clone(),
            bytes: manifest.parts.values().map(|part| part.bytes).sum(),
            added: *added,
            rows: manifest.rows(),
        })
    }
}

//! The task from its beginning to its end.

use std::{
    collections::BTreeMap,
    pin::pin,
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    future::{select_all, try_join_all},
    stream,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments,
    dump::Stream,
    held::{Databases, Watch},
    list::Inventory,
    manifest::{
        self, AUTHENTICATION, AuthenticationDump, CONFIG_FILE, FORMAT, MANIFEST_TAG, Manifest, StoredPart, StoredParts,
        TAG,
    },
    out_of_time, providers,
    seal::{Attempt, Sealed, findings},
    stopped,
    stream::carry_bytes,
};
use crate::{
    bytes,
    contract::{Coverage, Findings, Report, Result, StepResult, TaskError, output::progress},
    postgres::Application,
    restic::{Repository, Stored},
    synapse::version,
    task::arguments::Connection,
    words::{moment, rows_of},
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
    let (mut backup, mut watches) = begun.unwrap_or_else(|| Err(stopped()))?;
    let (mut parts, mut added) = backup.store(&mut watches, stop).await?;
    backup.databases.still_held().await?;
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
    let coverage = backup.databases.coverage();
    let about_excluded = backup.databases.about_excluded();
    if arguments.draft {
        let Stored { snapshot, added: also, .. } = attempt.leave_draft(&backup.repository, &manifest).await?;
        return Ok(Done { manifest, snapshot, added: added + also, is_new, coverage, about_excluded, inventory: None });
    }
    let Sealed { snapshot, added: also, inventory } = attempt.seal(&backup.repository, &manifest).await?;
    Ok(Done { manifest, snapshot, added: added + also, is_new, coverage, about_excluded, inventory: Some(inventory) })
}

/// A backup under way.
struct Backup<'a> {
    arguments: &'a Arguments,
    /// restic's cache and what `psql` is told; it goes with the task.
    scratch: TempDir,
    repository: Repository,
    is_new: bool,
    databases: Databases,
    synapse_version: Option<String>,
    /// The homeserver's configuration, as manifests.
    config: Option<Vec<u8>>,
    signing_key_ids: Vec<String>,
}

/// Told once, when the repository is made: later nobody reads it.
const KEEP_THE_PASSWORD: &str =
    "keep the repository's password outside of the cluster as well: without it nobody can read the backups";

impl<'a> Backup<'a> {
    /// All that can be refused, and the snapshots. The watches have the task's locks.
    async fn begin(arguments: &'a Arguments) -> Result<(Self, Vec<Watch>)> {
        let config = arguments.config.manifests()?;
        let signing_key_ids = arguments.config.signing_key_ids()?;
        let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
        let repository = arguments.destination.place.open(scratch.path())?;
        // Before the snapshot: while it is held PostgreSQL keeps every row that is deleted.
        let is_new = repository.open(arguments.destination.init).await?;
        progress("the repository is open");

        let service = arguments.authentication_service.as_ref();
        let held =
            Databases::hold(&arguments.connection, service, &arguments.destination.server_name, &arguments.exclude);
        let (is_new_attempt, held) = tokio::join!(refuse_stored(&repository, arguments), held);
        is_new_attempt?;
        let (databases, watches) = held?;
        let synapse_version = match &arguments.synapse_url {
            Some(url) => version::server_version(url).await.ok(),
            None => None,
        };
        progress(&format!("the database is held as it was at {}", moment(databases.synapse.snapshot.taken_at)));
        Ok((
            Self { arguments, scratch, repository, is_new, databases, synapse_version, config, signing_key_ids },
            watches,
        ))
    }

    /// Everything but the manifest, and how many bytes came new into the repository. A schema's upgrade that waits for a
    /// table goes first.
    async fn store(&self, watches: &mut [Watch], stop: &CancellationToken) -> Result<(StoredParts, u64)> {
        let stop = stop.child_token();
        let mut stored = pin!(self.everything(&stop));
        let waits = select_all(watches.iter_mut().map(|watch| Box::pin(watch.until_somebody_waits())));
        let why = tokio::select! {
            stored = &mut stored => return stored,
            (why, ..) = waits => why,
        };
        stop.cancel();
        let let_go = try_join_all(watches.iter_mut().map(Watch::let_go)).await;
        let _ = stored.await;
        let_go?;
        Err(why)
    }

    /// All parts, several at once.
    async fn everything(&self, stop: &CancellationToken) -> Result<(StoredParts, u64)> {
        let streams: Vec<Stream<'_>> =
            self.databases.all().flat_map(|held| Stream::all(held, self.arguments.streams.into())).collect();
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

    async fn one(&self, stream: Stream<'_>, stop: &CancellationToken) -> Result<(String, StoredPart, u64)> {
        if stop.is_cancelled() {
            return Err(stopped());
        }
        let tags = self.attempt().tags(&[]);
        let stored = stream.store(&self.repository, self.scratch.path(), &tags, stop).await;
        let (Stored { snapshot, bytes, added }, rows) = stored.map_err(|error| stream.tell(error))?;
        Ok((stream.file, StoredPart { snapshot, bytes, rows }, added))
    }

    fn manifest(&self, parts: StoredParts, took: Duration) -> Manifest {
        let Databases { synapse, schema_version, authentication } = &self.databases;
        let (of_service, of_synapse) = parts.into_iter().partition(|(file, _)| file.starts_with(AUTHENTICATION));
        let service = authentication.as_ref().map(|service| AuthenticationDump {
            taken_at: Time(service.held.snapshot.taken_at),
            apart_seconds: in_milliseconds(service.apart),
            migration: service.migration,
            database: service.held.dump(of_service),
        });
        Manifest {
            format: FORMAT,
            origin: self.arguments.destination.origin.clone(),
            server_name: self.arguments.destination.server_name.clone(),
            taken_at: Time(synapse.snapshot.taken_at),
            synapse_version: self.synapse_version.clone(),
            schema_version: schema_version.version,
            schema_compat_version: schema_version.compat_version,
            database: synapse.dump(of_synapse),
            authentication_service: service,
            media: None,
            signing_key_ids: self.signing_key_ids.clone(),
            warnings: self.config.as_deref().map(providers::warnings).unwrap_or_default(),
            seconds: took.as_secs_f64(),
        }
    }

    fn attempt(&self) -> Attempt {
        let name = attempt_name(&self.databases.synapse.target.application);
        Attempt { destination: self.arguments.destination.clone(), name }
    }
}

/// A comma is the end of a tag.
fn attempt_name(Application { operation, run, attempt }: &Application) -> String {
    format!("{}.{run}.{attempt}", operation.replace(',', "-"))
}

/// What carries the name of an attempt is one backup: streams of a second call under the same name would make it none.
async fn refuse_stored(repository: &Repository, arguments: &Arguments) -> Result<()> {
    let Connection { operation, run, attempt, .. } = &arguments.connection;
    let application = Application { operation: operation.clone(), run: *run, attempt: *attempt };
    let tags = [
        TAG.to_owned(),
        manifest::origin_tag(&arguments.destination.origin),
        manifest::attempt_tag(&attempt_name(&application)),
    ];
    let stored = repository.list(&[tags.to_vec()]).await?;
    let Some(first) = stored.first() else { return Ok(()) };
    let what = match stored.iter().find(|snapshot| snapshot.has_tag(MANIFEST_TAG)) {
        Some(manifest) => format!("backup {:.8}", manifest.id),
        None => format!("{} snapshots, such as {:.8}, and no whole backup", stored.len(), first.id),
    };
    Err(TaskError::transient(
        "AttemptStored",
        format!(
            "The repository already has {what} of operation {operation}, run {run}, attempt {attempt}. Nothing was stored. By \
             hand: leave --operation out, or give another --run or --attempt."
        ),
    ))
}

/// Seconds, rounded up to a thousandth: it is said that no more lies between them.
fn in_milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).ceil() / 1000.0
}

/// What came of it.
struct Done {
    manifest: Manifest,
    /// restic's id of the snapshot with the manifest: the backup's name; or that of the draft.
    snapshot: String,
    /// Bytes that came new into the repository.
    added: u64,
    is_new: bool,
    /// What a restore will not bring back.
    coverage: Coverage,
    /// What of `spec.exclude` is worth a look.
    about_excluded: Vec<String>,
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
        let service = manifest.authentication_service.as_ref().map(|service| {
            let AuthenticationDump { database, apart_seconds, .. } = service;
            let rows = rows_of(database.rows(), database.tables());
            format!(
                "; with it {rows} of the Matrix Authentication Service: no more than {apart_seconds:.3} s \
                 lie between the moments of the two databases"
            )
        });
        let service = service.unwrap_or_default();
        StepResult {
            summary: format!(
                "backed up {} in {} s{made}: {}{place}, {} of it new{service}",
                rows_of(manifest.database.rows(), manifest.database.tables()),
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
                .chain(self.about_excluded.clone())
                .chain(self.coverage.warnings())
                .collect(),
            coverage: Some(self.coverage.clone()),
            backups: self.inventory.as_ref().map(Inventory::listed),
            ..StepResult::default()
        }
    }

    fn findings(&self) -> Findings {
        findings(&self.manifest, &self.snapshot, self.added)
    }
}

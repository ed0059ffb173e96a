//! `task backup-media`: the files that users uploaded, and then the seal of the backup.
//!
//! It comes after `task backup --draft`, so every file that the database knows of is there; what was uploaded since does no
//! harm. It holds nothing of the homeserver's, and may take days. Killed, it leaves a snapshot that no manifest names, or none;
//! the next attempt reads the files again, and uploads only what the repository does not have yet.

pub mod links;
pub mod named;
pub mod store;
mod unreadable;

pub use store::{LOOKS_FOR_LINKS, MediaStore};

use std::{
    fs,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    Destination,
    list::{Backup, Inventory},
    manifest::{MEDIA_TAG, Manifest, StoredMedia, taken_at_tag},
    origins::Listing,
    seal::{Attempt, Draft, Sealed, findings, newest_media},
    stopped,
};
use crate::{
    bytes,
    contract::{Report, Result, StepResult, TaskError, output::progress},
    restic::{Repository, StoredFiles},
    words::{counted, moment},
};

/// Which files, where to, and to which backup they belong.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub destination: Destination,
    #[command(flatten)]
    pub store: MediaStore,
    /// The run of `task backup --draft` that it completes: <UID of its operation>.<run> [default: the newest]
    #[arg(long)]
    pub of_run: Option<String>,
}

/// Runs the task.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    back_up(&arguments, stop).await.into()
}

async fn back_up(arguments: &Arguments, stop: &CancellationToken) -> Result<Report> {
    let began = Instant::now();
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let repository = arguments.destination.place.open(scratch.path())?;
    let begun = stop.run_until_cancelled(Begun::begin(arguments, &repository)).await;
    let begun = begun.unwrap_or_else(|| Err(stopped()))?;
    if let Some(backup) = begun.is_sealed() {
        return Ok(already(backup, &begun.inventory));
    }
    let mut manifest = Manifest::read(&repository, &begun.draft.snapshot).await?;
    let attempt = Attempt { destination: arguments.destination.clone(), name: begun.draft.attempt.clone() };
    let stored = begun.store(&repository, &arguments.store, &attempt, stop).await?;
    manifest.media = Some(StoredMedia {
        snapshot: stored.snapshot.clone(),
        files: stored.files,
        bytes: stored.bytes,
        remote: arguments.store.remote_media,
        elsewhere: arguments.store.media_elsewhere,
    });
    let Sealed { snapshot, added, inventory } = attempt.seal(&repository, &manifest).await?;
    let findings = findings(&manifest, &snapshot, stored.added + added);
    let result = StepResult {
        summary: summary(&stored, began.elapsed(), &snapshot),
        seconds: Some(began.elapsed().as_secs_f64()),
        backups: Some(inventory.listed()),
        ..StepResult::default()
    };
    Ok(Report { result: Some(result), findings: Some(findings), ..Report::default() })
}

/// What it begins with.
struct Begun {
    inventory: Inventory,
    draft: Draft,
    /// The newest media of what is ours: most of them have not changed since.
    parent: Option<String>,
}

impl Begun {
    async fn begin(arguments: &Arguments, repository: &Repository) -> Result<Self> {
        repository.open(false).await?;
        let listing = Listing::read(repository, &arguments.destination).await?;
        let draft = Draft::find(&listing.own(&arguments.destination), arguments.of_run.as_deref())?;
        progress(&format!("completes the backup of {}", moment(draft.taken_at.0)));
        let parent = newest_media(&listing.ours).map(str::to_owned);
        Ok(Self { inventory: listing.inventory(), draft, parent })
    }

    /// The backup that an earlier attempt has completed, though nobody heard of it.
    fn is_sealed(&self) -> Option<&Backup> {
        self.inventory.backups.iter().find(|backup| backup.attempt == self.draft.attempt)
    }

    async fn store(
        &self,
        repository: &Repository,
        store: &MediaStore,
        attempt: &Attempt,
        stop: &CancellationToken,
    ) -> Result<StoredFiles> {
        let folders = store.folders()?;
        links::refuse(&store.media_store, &folders, None)?;
        let tags = attempt.tags(&[MEDIA_TAG.to_owned(), taken_at_tag(&self.draft.taken_at)]);
        let parent = self.parent.as_deref();
        let stored = match folders.is_empty() {
            false => repository.store_files(&store.media_store, &folders, &tags, parent, stop).await?,
            // Nobody has uploaded anything yet. restic makes no snapshot of nothing, nor of what is beside its cache.
            true => {
                let empty = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
                let folder = "local_content";
                fs::create_dir(empty.path().join(folder)).map_err(|error| TaskError::no_scratch_space(&error))?;
                repository.store_files(empty.path(), &[folder], &tags, parent, stop).await?
            }
        };
        stored.map_err(|refused| store::not_read(&refused))
    }
}

fn summary(stored: &StoredFiles, took: Duration, snapshot: &str) -> String {
    format!(
        "backed up {} in {} s: {}, {} of it new; the backup is snapshot {snapshot:.8}",
        counted(stored.files, "file of media", "files of media"),
        took.as_secs(),
        bytes::human(stored.bytes.cast_signed()),
        bytes::human(stored.added.cast_signed()),
    )
}

fn already(backup: &Backup, inventory: &Inventory) -> Report {
    let result = StepResult {
        summary: format!("an earlier attempt had completed the backup: it is snapshot {:.8}", backup.shown.id),
        backups: Some(inventory.listed()),
        ..StepResult::default()
    };
    Report { result: Some(result), ..Report::default() }
}

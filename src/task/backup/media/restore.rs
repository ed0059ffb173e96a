//! `task restore-media`: puts a backup's media back into a media store. What is missing or differs is written; nothing is
//! deleted, and what was uploaded since stays.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::{
    super::{list::Inventory, restore_config::read_manifest},
    store,
};
use crate::{
    bytes,
    restic::Repository,
    task::report::{Result, StepResult, TaskError},
};

/// Which backup, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    /// Directory with what restic reads from its environment: RESTIC_REPOSITORY, RESTIC_PASSWORD, …
    #[arg(long)]
    pub repository_dir: PathBuf,
    /// The repository, where RESTIC_REPOSITORY does not name it.
    #[arg(long)]
    pub repository: Option<String>,
    /// The homeserver's name.
    #[arg(long)]
    pub server_name: String,
    /// A backup's name as `status.snapshots` has it, or the beginning of it.
    #[arg(long, default_value = "latest")]
    pub snapshot: String,
    /// Synapse's media_store_path. It must be there.
    #[arg(long)]
    pub media_store: PathBuf,
}

/// Runs the task. Cut off, it can be run again.
///
/// # Errors
/// Terminal: `SnapshotNotFound`, `NoMediaInBackup`, `ManifestUnreadable`, `MediaMissing`, `MediaNotWritten`; what restic
/// answers.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Result<StepResult> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let location = arguments.repository.as_deref();
    let repository = Repository::from_directory(&arguments.repository_dir, location, scratch.path())?;
    let inventory = Inventory::of_server(&repository, &arguments.server_name).await?;
    let backup = inventory.find(&arguments.snapshot)?;
    let manifest = read_manifest(&repository, &backup.shown.id).await?;
    let Some(media) = manifest.media else {
        return Err(TaskError::terminal(
            "NoMediaInBackup",
            format!("Backup {:.8} has no media: they were not asked for when it was made.", backup.shown.id),
        ));
    };
    if !arguments.media_store.is_dir() {
        // restic would make it, wherever a mistyped path leads.
        let message =
            format!("There is no directory {}: it is Synapse's media_store_path.", arguments.media_store.display());
        return Err(TaskError::terminal("MediaMissing", message));
    }
    let restored = repository.restore_files(&media.snapshot, &arguments.media_store, stop).await?;
    let restored = restored.map_err(|refused| store::not_written(&refused))?;
    let summary = format!(
        "{} files of media are as they were on {}: {}, of which {} had to be written",
        media.files,
        backup.taken_at,
        bytes::human(media.bytes.cast_signed()),
        bytes::human(restored.bytes_restored.cast_signed()),
    );
    Ok(StepResult { summary, ..StepResult::default() })
}

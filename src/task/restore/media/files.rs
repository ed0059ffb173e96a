//! `task restore-media`: puts a backup's media back into a media store. What is missing or differs is written; nothing is
//! deleted, and what was uploaded since stays.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use crate::{
    bytes,
    contract::{Result, StepResult, TaskError},
    restic::Refused,
    task::{
        backup::{
            list::Backup,
            media::{links, store},
        },
        restore::source::{Chosen, Source},
    },
    words::{counted_are, moment},
};

/// Which backup, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub source: Source,
    /// Synapse's media_store_path. It must be there.
    #[arg(long)]
    pub media_store: PathBuf,
    /// A backup without media is no error.
    #[arg(long)]
    pub if_any: bool,
}

/// A backup that has no media.
pub fn no_media(backup: &Backup) -> TaskError {
    TaskError::terminal(
        "NoMediaInBackup",
        format!("Backup {:.8} has no media: they were not asked for when it was made.", backup.shown.id),
    )
}

/// Whether files can be put there. restic would make the directory, wherever a mistyped path leads.
///
/// # Errors
/// Terminal: `MediaMissing`, `MediaNotWritten`, `MediaLinked`, as far as links are found until then.
pub fn writable(media_store: &Path, until: Option<Instant>) -> Result<()> {
    if !media_store.is_dir() {
        let message = format!("There is no directory {}: it is Synapse's media_store_path.", media_store.display());
        return Err(TaskError::terminal("MediaMissing", message));
    }
    let tried = tempfile::Builder::new().prefix(".synapse-keeper").tempfile_in(media_store);
    tried.map(drop).map_err(|error| {
        let refused = Refused { item: media_store.display().to_string(), why: error.to_string() };
        store::not_written(&[refused])
    })?;
    // restic would put a folder in the place of a link.
    links::refuse(media_store, &store::ALL, until)
}

/// Runs the task. Cut off, it can be run again.
///
/// # Errors
/// Those of [`Source::find`]; terminal: `NoMediaInBackup`, `MediaMissing`, `MediaNotWritten`, `MediaLinked`; what restic answers.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Result<StepResult> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let Chosen { repository, backup, manifest } = arguments.source.find(scratch.path()).await?;
    let Some(media) = manifest.media else {
        let nothing = StepResult { summary: "the backup has no media".to_owned(), ..StepResult::default() };
        return if arguments.if_any { Ok(nothing) } else { Err(no_media(&backup)) };
    };
    writable(&arguments.media_store, None)?;
    // restic would put a folder in the place of a media store that is a link.
    let root = fs::canonicalize(&arguments.media_store).map_err(|error| {
        let refused = Refused { item: arguments.media_store.display().to_string(), why: error.to_string() };
        store::not_written(&[refused])
    })?;
    let restored = repository.restore_files(&media.snapshot, &root, stop).await?;
    let restored = restored.map_err(|refused| store::not_written(&refused))?;
    let summary = format!(
        "{} as on {}: {}, of which {} had to be written",
        counted_are(media.files, "file of media", "files of media"),
        moment(backup.taken_at),
        bytes::human(media.bytes.cast_signed()),
        bytes::human(restored.bytes_restored.cast_signed()),
    );
    Ok(StepResult { summary, ..StepResult::default() })
}

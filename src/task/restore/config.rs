//! `task restore-config`: gives a backup's Secrets and ConfigMaps back, as manifests in a file.
//!
//! An admin runs it, looks at the file and applies it: the operator reads no Secret, and its Jobs may write none.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    contract::{Result, StepResult, TaskError},
    task::{
        backup::manifest::CONFIG_FILE,
        restore::source::{Chosen, Source},
    },
    words::{counted, moment},
};

/// Which backup, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub source: Source,
    /// A new file for the manifests; only its owner may read it.
    #[arg(long)]
    pub output: PathBuf,
}

/// Runs the task.
///
/// # Errors
/// Those of [`Source::find`]; terminal: `NoConfigInBackup`, `OutputNotWritten`; what restic answers.
pub async fn run(arguments: Arguments) -> Result<StepResult> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let Chosen { repository, backup, manifest } = arguments.source.find(scratch.path()).await?;
    let Some(part) = manifest.database.parts.get(CONFIG_FILE) else {
        return Err(TaskError::terminal(
            "NoConfigInBackup",
            format!("Backup {:.8} has no configuration: the Synapse object named none (spec.config).", backup.shown.id),
        ));
    };
    let text = repository.fetch(&part.snapshot, CONFIG_FILE).await?;
    write_new(&arguments.output, &text).map_err(|error| {
        TaskError::terminal("OutputNotWritten", format!("{}: {error}.", arguments.output.display()))
    })?;
    let objects = text.lines().filter(|line| *line == "---").count();
    let summary = format!(
        "wrote {} of {} to {}: look at them, then kubectl apply -f",
        counted(objects, "object", "objects"),
        moment(backup.taken_at),
        arguments.output.display()
    );
    Ok(StepResult { summary, ..StepResult::default() })
}

/// Secrets are in it: nobody else may read it, and nothing that is there is overwritten.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

//! `task delete-backups`: takes all that an object has stored out of a repository.
//!
//! Nothing is kept back here, neither the newest backup nor one that was verified: somebody has asked for it. What others have
//! stored is not touched. Manifests go first: cut off in the middle there is no backup that is half there, and the next attempt
//! goes on with the rest.

use std::collections::BTreeSet;

use super::{
    manifest::{MANIFEST_TAG, tags_of},
    removal::{Doomed, remove},
};
use crate::{
    contract::{Result, StepResult, TaskError, output::progress},
    restic::Listed,
    task::place::Place,
    words::counted,
};

/// What to delete.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Whose backups go: the UID of an object; may be given several times.
    #[arg(long = "origin", value_name = "UID", required = true, value_parser = super::destination::origin)]
    origins: Vec<String>,
}

impl Arguments {
    /// The arguments of the task.
    pub fn to_args(place: &Place, origins: &[String]) -> Vec<String> {
        let mut args = place.to_args();
        args.extend(origins.iter().map(|origin| format!("--origin={origin}")));
        args
    }
}

/// Runs the task.
///
/// # Errors
/// What restic answers; `RepositoryDamaged` where some snapshots cannot be read: they may be such as should go.
pub async fn run(Arguments { place, origins }: Arguments) -> Result<StepResult> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let repository = place.open(scratch.path())?;
    repository.look().await?;
    let wanted = tags_of(&origins);
    let stored = repository.list(&wanted).await?;
    let (mut manifests, rest): (Vec<Listed>, Vec<Listed>) =
        stored.into_iter().partition(|snapshot| snapshot.has_tag(MANIFEST_TAG));
    // The oldest first.
    manifests.sort_by_key(|manifest| manifest.tag("taken-at=").map(str::to_owned));
    progress(&format!(
        "deletes {}, {} in all",
        counted(manifests.len(), "backup", "backups"),
        counted(manifests.len() + rest.len(), "snapshot", "snapshots")
    ));
    let doomed: Vec<Doomed> = manifests.iter().map(|manifest| doomed(manifest, &rest)).collect();
    let of_backups: BTreeSet<&String> = doomed.iter().flat_map(|backup| &backup.streams).collect();
    let others: Vec<String> =
        rest.iter().map(|snapshot| &snapshot.id).filter(|id| !of_backups.contains(id)).cloned().collect();
    remove(&repository, &doomed, &others).await?;
    // Always: an attempt before may have been cut off here.
    repository.prune().await?;
    let left = repository.list_all(&wanted).await?;
    if !left.is_empty() {
        return Err(TaskError::transient(
            "BackupsLeft",
            format!(
                "The repository still lists {} of what was deleted: does somebody make new ones?",
                counted(left.len(), "snapshot", "snapshots")
            ),
        ));
    }
    let summary = format!("deleted {} and gave the space back", counted(manifests.len(), "backup", "backups"));
    Ok(StepResult { summary, ..StepResult::default() })
}

/// A backup with all of its attempt.
fn doomed(manifest: &Listed, rest: &[Listed]) -> Doomed {
    let attempt = manifest.tag("attempt=");
    let of_it = rest.iter().filter(|snapshot| attempt.is_some() && snapshot.tag("attempt=") == attempt);
    Doomed { manifest: manifest.id.clone(), streams: of_it.map(|snapshot| snapshot.id.clone()).collect() }
}

//! Which backup comes back.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    contract::{Result, TaskError},
    restic::Repository,
    task::{
        backup::{
            list::{Backup, Inventory},
            manifest::Manifest,
        },
        place::Place,
    },
};

/// A backup and the repository that has it.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    #[command(flatten)]
    #[serde(flatten)]
    pub place: Place,
    /// The homeserver's name; the backup of another is refused.
    #[arg(long)]
    pub server_name: String,
    /// Only backups of these objects (their UIDs). Without it: whoever made them, for the cluster that did may be gone.
    #[arg(long = "origin", value_name = "UID")]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<String>,
    /// A backup's name as `status.snapshots` has it, or the beginning of it; `latest`: the newest.
    #[arg(long, default_value = "latest")]
    pub snapshot: String,
    /// The newest that is not younger than this moment, such as 2026-01-31T03:30:00Z.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Timestamp>,
}

/// A backup that was found whole.
pub struct Chosen {
    pub repository: Repository,
    pub backup: Backup,
    pub manifest: Manifest,
}

impl Source {
    /// The same as arguments of the task, but for the backup: preflight finds it, and steps are told which it was. Until they run
    /// there may be a newer one.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = self.place.to_args();
        args.push(format!("--server-name={}", self.server_name));
        args.extend(self.origins.iter().map(|origin| format!("--origin={origin}")));
        args
    }

    /// Finds the backup; restic's cache goes into `scratch`.
    ///
    /// # Errors
    /// Terminal: `SnapshotNotFound`, with those that there are; `ManifestUnreadable`; `ServerNameDiffers`. What restic
    /// answers.
    pub async fn find(&self, scratch: &Path) -> Result<Chosen> {
        let repository = self.place.open(scratch)?;
        let inventory = match self.origins.is_empty() {
            false => Inventory::of_origins(&repository, &self.origins).await?,
            true => Inventory::of_server(&repository, &self.server_name).await?,
        };
        let backup = match self.before {
            Some(before) => inventory.find_before(before)?,
            None => inventory.find(&self.snapshot)?,
        }
        .clone();
        let manifest = Manifest::read(&repository, &backup.shown.id).await?;
        if manifest.server_name != self.server_name {
            return Err(TaskError::terminal(
                "ServerNameDiffers",
                format!(
                    "Backup {:.8} is one of {}, not of {}: a homeserver cannot change its name.",
                    backup.shown.id, manifest.server_name, self.server_name
                ),
            ));
        }
        Ok(Chosen { repository, backup, manifest })
    }
}

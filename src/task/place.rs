//! Where a repository is: for every task that works with one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{api::Duration, contract::Result, restic::Repository};

/// A repository and how to get in.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// Directory with what restic reads from its environment, such as a mounted Secret: RESTIC_REPOSITORY,
    /// RESTIC_PASSWORD, AWS_ACCESS_KEY_ID, …; ca.crt is the certificate authority of the storage.
    #[arg(long)]
    pub repository_dir: PathBuf,
    /// The repository, where RESTIC_REPOSITORY does not name it: such as a folder on a mounted volume.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The PersistentVolumeClaim that the repository is on, for people.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_claim: Option<String>,
    /// How long restic may complain of the storage and come no further, before it is given up [default: 5m]
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_within: Option<Duration>,
}

impl Place {
    /// The same as arguments of a task.
    pub fn to_args(&self) -> Vec<String> {
        let directory = format!("--repository-dir={}", self.repository_dir.display());
        let location = self.repository.iter().map(|repository| format!("--repository={repository}"));
        let claim = self.repository_claim.iter().map(|claim| format!("--repository-claim={claim}"));
        let patience = self.stalled_within.iter().map(|within| format!("--stalled-within={within}"));
        [directory].into_iter().chain(location).chain(claim).chain(patience).collect()
    }

    /// The repository; restic's cache and its scratch files go into this directory.
    ///
    /// # Errors
    /// As [`Repository::from_directory`].
    pub fn open(&self, scratch: &Path) -> Result<Repository> {
        let repository = Repository::from_directory(&self.repository_dir, self.repository.as_deref(), scratch)?;
        let repository = repository.on_claim(self.repository_claim.clone());
        Ok(repository.stalled_within(self.stalled_within.as_ref().map(|within| within.to_signed().unsigned_abs())))
    }
}

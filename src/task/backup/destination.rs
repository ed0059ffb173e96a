//! Whose backup it is, and where it goes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{restic::Repository, task::report::Result};

/// A homeserver's place in a repository.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Directory with what restic reads from its environment, such as a mounted Secret: RESTIC_REPOSITORY,
    /// RESTIC_PASSWORD, AWS_ACCESS_KEY_ID, …; ca.crt is the certificate authority of the storage.
    #[arg(long)]
    pub repository_dir: PathBuf,
    /// The repository, where RESTIC_REPOSITORY does not name it: such as a folder on a mounted volume.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// Make the repository if there is none.
    #[arg(long)]
    #[serde(default)]
    pub init: bool,
    /// The homeserver's name; a database of another is refused.
    #[arg(long)]
    pub server_name: String,
    /// Whose backups these are: the UID of an object. Another's in the same repository are left alone.
    #[arg(long, value_parser = word)]
    pub origin: String,
}

impl Destination {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = vec![format!("--repository-dir={}", self.repository_dir.display())];
        args.extend(self.repository.iter().map(|repository| format!("--repository={repository}")));
        args.extend(self.init.then(|| "--init".to_owned()));
        args.extend([format!("--server-name={}", self.server_name), format!("--origin={}", self.origin)]);
        args
    }

    /// The repository; restic's cache and its scratch files go into this directory.
    ///
    /// # Errors
    /// As [`Repository::from_directory`].
    pub fn repository(&self, scratch: &Path) -> Result<Repository> {
        Repository::from_directory(&self.repository_dir, self.repository.as_deref(), scratch)
    }
}

/// restic takes a comma for the end of a tag.
fn word(text: &str) -> std::result::Result<String, String> {
    let is_word =
        !text.is_empty() && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
    if is_word { Ok(text.to_owned()) } else { Err("write letters, digits and - only".to_owned()) }
}

//! Which snapshots there are.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Repository, errors, repository::LIST_WITHIN};
use crate::contract::{Result, TaskError};

/// A snapshot, as the repository lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: String,
    pub tags: Vec<String>,
    /// By the clock of the node on which restic ran.
    pub stored_at: Timestamp,
    /// Bytes that it holds.
    pub bytes: u64,
    /// Bytes that came new into the repository with it, compressed.
    pub added: u64,
}

impl Listed {
    /// It has exactly this tag.
    pub fn has_tag(&self, wanted: &str) -> bool {
        self.tags.iter().any(|tag| tag == wanted)
    }

    /// The rest of its tag that begins so.
    pub fn tag(&self, begins: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(begins))
    }
}

/// As restic prints it.
#[derive(Deserialize)]
struct Snapshot {
    id: String,
    #[serde(default)]
    time: Option<Timestamp>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    summary: Summary,
}

#[derive(Default, Deserialize)]
struct Summary {
    total_bytes_processed: u64,
    data_added_packed: u64,
}

impl From<Snapshot> for Listed {
    fn from(Snapshot { id, time, tags, summary }: Snapshot) -> Self {
        let stored_at = time.unwrap_or(Timestamp::UNIX_EPOCH);
        Self { id, tags, stored_at, bytes: summary.total_bytes_processed, added: summary.data_added_packed }
    }
}

impl Repository {
    /// The snapshots that carry all tags of one of these sets. Without a lock, so that it need not wait for a prune.
    ///
    /// # Errors
    /// What restic answers.
    pub async fn list(&self, any_of: &[Vec<String>]) -> Result<Vec<Listed>> {
        self.list_and_complaints(any_of).await.map(|(listed, _)| listed)
    }

    /// The same, where every snapshot of the repository can be read: for who takes away what seems to belong to nothing. restic
    /// passes over one that is damaged, or that the storage does not give for a moment, and calls that a success.
    ///
    /// # Errors
    /// Transient, `RepositoryDamaged`. What restic answers.
    pub async fn list_all(&self, any_of: &[Vec<String>]) -> Result<Vec<Listed>> {
        let (listed, complaints) = self.list_and_complaints(any_of).await?;
        errors::passed_over(&complaints).map_or(Ok(listed), Err)
    }

    async fn list_and_complaints(&self, any_of: &[Vec<String>]) -> Result<(Vec<Listed>, String)> {
        let sets: Vec<String> = any_of.iter().map(|tags| tags.join(",")).collect();
        let mut arguments = vec!["snapshots", "--json", "--no-lock"];
        arguments.extend(sets.iter().flat_map(|set| ["--tag", set]));
        let (json, complaints) = self.say(&arguments, LIST_WITHIN).await?;
        let listed: Vec<Snapshot> = serde_json::from_str(&json).map_err(|error| {
            TaskError::terminal("ResticFailed", format!("restic snapshots gave no list of them: {error}."))
        })?;
        Ok((listed.into_iter().map(Listed::from).collect(), complaints))
    }
}

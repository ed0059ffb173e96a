//! Which backups were restored for a test and found whole: on record in the repository, where it outlives the cluster.
//!
//! A mark is a snapshot of its own, since a tag that is added to a snapshot changes its name. It goes with its backup.

use jiff::Timestamp;

use super::{
    Destination,
    list::{Inventory, tag},
    manifest::{TAG, format_tag, origin_tag, server_tag},
    stream::carry_bytes,
};
use crate::{
    restic::{Listed, Repository},
    task::report::Result,
};

const VERIFIED: &str = "verified=";
const AT: &str = "verified-at=";

/// A mark's name in its snapshot. What it says stands in the tags.
const FILE: &str = "verified";

/// That a backup was found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// restic's id of the mark.
    pub id: String,
    /// The backup's name.
    pub backup: String,
    /// By the clock of the node that restored it.
    pub at: Timestamp,
}

impl Mark {
    pub(super) fn read(snapshot: &Listed) -> Option<Self> {
        let backup = tag(snapshot, VERIFIED)?.to_owned();
        Some(Self { id: snapshot.id.clone(), backup, at: tag(snapshot, AT)?.parse().ok()? })
    }

    /// Puts a mark on a backup.
    ///
    /// # Errors
    /// What restic says.
    pub async fn put(repository: &Repository, destination: &Destination, backup: &str) -> Result<()> {
        let tags = [
            TAG.to_owned(),
            origin_tag(&destination.origin),
            server_tag(&destination.server_name),
            format_tag(),
            format!("{VERIFIED}{backup}"),
            format!("{AT}{}", Timestamp::now()),
        ];
        carry_bytes(backup.as_bytes(), repository.store_stream(FILE, &tags)?).await.map(drop)
    }

    /// Takes the marks of a backup away: it was found damaged since.
    ///
    /// # Errors
    /// What restic says.
    pub async fn take_away(repository: &Repository, inventory: &Inventory, backup: &str) -> Result<()> {
        let of_it = inventory.marks.iter().filter(|mark| mark.backup == backup);
        repository.forget(&of_it.map(|mark| mark.id.clone()).collect::<Vec<_>>()).await
    }
}

impl Inventory {
    /// Marks that say nothing any more: their backup is gone or goes, or there is a newer one of it.
    pub fn marks_of_no_use(&self, going: &[String]) -> Vec<String> {
        let is_newest = |mark: &Mark| {
            let shown = self.backups.iter().map(|backup| &backup.shown).find(|shown| shown.id == mark.backup);
            shown.is_some_and(|shown| shown.verified_at.as_ref().is_some_and(|at| at.0 == mark.at))
        };
        let of_no_use = |mark: &&Mark| going.contains(&mark.backup) || !is_newest(mark);
        self.marks.iter().filter(of_no_use).map(|mark| mark.id.clone()).collect()
    }
}

//! What drills have found of backups: on record in the repository, where it outlives the cluster.
//!
//! A mark is a snapshot of its own, since a tag that is added to a snapshot changes its name. The newest mark of a backup
//! counts, and it goes with its backup.

use jiff::Timestamp;

use super::{
    list::{Inventory, tag},
    manifest::{TAG, format_tag, origin_tag, server_tag},
    stream::carry_bytes,
};
use crate::{
    contract::Result,
    restic::{Listed, Repository},
};

const VERIFIED: &str = "verified=";
const DAMAGED: &str = "damaged=";
const AT: &str = "found-at=";

/// A mark's name in its snapshot. What it says stands in the tags.
const FILE: &str = "mark";

/// What was found of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// restic's id of the mark.
    pub id: String,
    /// The backup's name.
    pub backup: String,
    pub is_whole: bool,
    /// By the clock of the node that restored it.
    pub at: Timestamp,
}

impl Mark {
    pub(super) fn read(snapshot: &Listed) -> Option<Self> {
        let (is_whole, backup) = match (tag(snapshot, VERIFIED), tag(snapshot, DAMAGED)) {
            (Some(backup), None) => (true, backup),
            (None, Some(backup)) => (false, backup),
            _ => return None,
        };
        let at = tag(snapshot, AT)?.parse().ok()?;
        Some(Self { id: snapshot.id.clone(), backup: backup.to_owned(), is_whole, at })
    }

    /// Puts a mark on a backup of this origin and server.
    ///
    /// # Errors
    /// What restic says.
    pub async fn put(
        repository: &Repository,
        (origin, server_name): (&str, &str),
        backup: &str,
        is_whole: bool,
    ) -> Result<()> {
        let found = if is_whole { VERIFIED } else { DAMAGED };
        let tags = [
            TAG.to_owned(),
            origin_tag(origin),
            server_tag(server_name),
            format_tag(),
            format!("{found}{backup}"),
            format!("{AT}{}", Timestamp::now()),
        ];
        carry_bytes(backup.as_bytes(), repository.store_stream(FILE, &tags)?).await.map(drop)
    }
}

impl Inventory {
    /// The newest mark of a backup. One of the future, by a clock that was ahead of time, counts only where there is no other.
    pub(super) fn mark_of(&self, backup: &str, now: Timestamp) -> Option<&Mark> {
        self.marks.iter().filter(|mark| mark.backup == backup).max_by_key(|mark| (mark.at <= now, mark.at))
    }

    /// Marks that say nothing any more: their backup is gone or goes, or there is a newer one of it.
    pub fn marks_of_no_use(&self, going: &[String]) -> Vec<String> {
        let is_there = |mark: &Mark| self.backups.iter().any(|backup| backup.shown.id == mark.backup);
        let now = Timestamp::now();
        let counts = |mark: &Mark| self.mark_of(&mark.backup, now).is_some_and(|newest| newest.id == mark.id);
        let of_no_use = |mark: &&Mark| going.contains(&mark.backup) || !is_there(mark) || !counts(mark);
        self.marks.iter().filter(of_no_use).map(|mark| mark.id.clone()).collect()
    }
}

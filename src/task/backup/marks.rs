//! What drills have found of backups: on record in the repository, where it outlives the cluster.
//!
//! A mark is a snapshot of its own, since a tag that is added to a snapshot changes its name. The newest mark of a backup
//! counts, and it goes with its backup.

use jiff::Timestamp;

use super::{
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
        let (is_whole, backup) = match (snapshot.tag(VERIFIED), snapshot.tag(DAMAGED)) {
            (Some(backup), None) => (true, backup),
            (None, Some(backup)) => (false, backup),
            _ => return None,
        };
        let at = snapshot.tag(AT)?.parse().ok()?;
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

//! The last act of a backup: its manifest is stored, and read back from the list. Whoever has done his part does it: the
//! database's task where that is all, the media's where there are some. To these the first leaves a draft.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Destination,
    list::Inventory,
    manifest::{self, DRAFT_TAG, MANIFEST_TAG, MEDIA_TAG, Manifest, TAG},
    newest::{self, Made},
    origins::Listing,
    stream::carry_bytes,
};
use crate::{
    contract::{BackupFindings, Findings, Result, TaskError},
    restic::{Listed, Repository, Stored},
};

/// What the snapshots of one attempt have in common.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub destination: Destination,
    /// `<UID of the operation>.<run>.<attempt>`
    pub name: String,
}

/// A backup that is whole.
pub struct Sealed {
    /// restic's id of the snapshot with the manifest: the backup's name.
    pub snapshot: String,
    /// Bytes that came new into the repository with the manifest.
    pub added: u64,
    /// All of the origin, read back from the repository.
    pub inventory: Inventory,
}

/// A manifest that still lacks the media.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub snapshot: String,
    pub attempt: String,
    /// The moment of the database, by PostgreSQL's clock.
    pub taken_at: Time,
}

impl Attempt {
    /// The tags of a snapshot.
    pub fn tags(&self, more: &[String]) -> Vec<String> {
        let Destination { origin, server_name, .. } = &self.destination;
        let own = [
            TAG.to_owned(),
            manifest::origin_tag(origin),
            manifest::server_tag(server_name),
            manifest::format_tag(),
            manifest::attempt_tag(&self.name),
        ];
        own.into_iter().chain(more.iter().cloned()).collect()
    }

    /// Stores the manifest: from then on the backup is there.
    ///
    /// # Errors
    /// What restic says. Transient, `BackupNotListed`: the repository does not show it.
    pub async fn seal(&self, repository: &Repository, manifest: &Manifest) -> Result<Sealed> {
        let media = manifest.media.iter().map(|media| manifest::media_tag(&media.snapshot));
        let tags = [MANIFEST_TAG.to_owned(), manifest::parts_tag(manifest.streams())];
        let apart = manifest.authentication_service.iter().map(|service| manifest::apart_tag(service.apart_seconds));
        let tags: Vec<String> = tags.into_iter().chain(media).chain(apart).collect();
        let Stored { snapshot, added, .. } = self.store(repository, manifest, &tags).await?;
        let inventory = Listing::read(repository, &self.destination).await?.inventory();
        if !inventory.backups.iter().any(|backup| backup.shown.id == snapshot) {
            return Err(TaskError::transient(
                "BackupNotListed",
                format!("The repository does not list the backup that was just stored ({snapshot:.8})."),
            ));
        }
        Ok(Sealed { snapshot, added, inventory })
    }

    /// Leaves the manifest to who stores the media. It is no backup.
    ///
    /// # Errors
    /// What restic says.
    pub async fn leave_draft(&self, repository: &Repository, manifest: &Manifest) -> Result<Stored> {
        self.store(repository, manifest, &[DRAFT_TAG.to_owned()]).await
    }

    async fn store(&self, repository: &Repository, manifest: &Manifest, tags: &[String]) -> Result<Stored> {
        let json = serde_json::to_vec_pretty(manifest).expect("plain data");
        let own = [manifest::taken_at_tag(&manifest.taken_at), manifest::postgres_tag(manifest.newest_postgres())];
        let tags = [tags, &own].concat();
        carry_bytes(&json, repository.store_stream(manifest::FILE, &self.tags(&tags))?).await
    }
}

impl Draft {
    /// The draft of a run (`<UID of the operation>.<run>`), or the newest. Of several attempts at the database, the last that
    /// came so far.
    ///
    /// # Errors
    /// Transient, `DraftMissing`.
    pub fn find(listed: &[Listed], of_run: Option<&str>) -> Result<Self> {
        let of_run = of_run.map(|run| format!("{run}."));
        let is_of_run = |draft: &Self| of_run.as_ref().is_none_or(|run| draft.attempt.starts_with(run));
        let drafts = listed.iter().filter(|snapshot| snapshot.has_tag(DRAFT_TAG) && manifest::is_known(&snapshot.tags));
        let drafts = drafts.filter_map(|snapshot| Some((Self::read(snapshot)?, Made::read(snapshot)?)));
        let drafts = drafts.filter(|(draft, _)| is_of_run(draft)).collect();
        let newest = newest::first(drafts, |(_, made)| made, Timestamp::now()).into_iter().next();
        newest.map(|((draft, _), _)| draft).ok_or_else(|| {
            TaskError::transient(
                "DraftMissing",
                "The repository does not list the database's part of this backup. Is it a storage that shows writes late, or \
                 did somebody take it away? The next run makes a new one.",
            )
        })
    }

    fn read(snapshot: &Listed) -> Option<Self> {
        let taken_at: Timestamp = snapshot.tag("taken-at=")?.parse().ok()?;
        let attempt = snapshot.tag("attempt=")?.to_owned();
        Some(Self { snapshot: snapshot.id.clone(), attempt, taken_at: Time(taken_at) })
    }
}

/// The newest media of an origin.
pub fn newest_media(listed: &[Listed]) -> Option<&str> {
    let media = listed.iter().filter(|snapshot| snapshot.has_tag(MEDIA_TAG));
    let media = media.filter_map(|snapshot| Some((snapshot.id.as_str(), Made::read(snapshot)?))).collect();
    newest::first(media, |(_, made)| made, Timestamp::now()).into_iter().next().map(|((id, _), _)| id)
}

/// What is told of a snapshot that was stored: of the backup, or of its draft.
pub fn findings(manifest: &Manifest, snapshot: &str, added: u64) -> Findings {
    Findings::Backup(BackupFindings {
        snapshot: snapshot.to_owned(),
        taken_at: manifest.taken_at.clone(),
        bytes: manifest.bytes(),
        added,
        rows: manifest.database.rows(),
        apart_seconds: manifest.authentication_service.as_ref().map(|service| service.apart_seconds),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str, attempt: &str, kind: &str, taken_at: &str) -> Listed {
        let tags =
            [manifest::format_tag(), format!("attempt={attempt}"), kind.to_owned(), format!("taken-at={taken_at}")];
        Listed { id: id.to_owned(), tags: tags.to_vec(), stored_at: Timestamp::UNIX_EPOCH, bytes: 1, added: 1 }
    }

    #[test]
    fn the_draft_is_that_of_the_run_and_of_its_last_attempt() {
        let (one, two, three) = ("2016-11-22T02:00:00Z", "2016-11-22T02:10:00Z", "2016-11-23T02:00:00Z");
        let listed = [
            stored("b", "u.1.2", "draft", two),
            stored("a", "u.1.1", "draft", one),
            stored("ten", "u.10.1", "draft", three),
            stored("m", "u.1.2", "media", one),
            stored("n", "u.1.2", "media", two),
        ];
        let found = |run| Draft::find(&listed, run).map(|draft| draft.snapshot);
        assert_eq!(found(Some("u.1")).as_deref(), Ok("b"));
        assert_eq!(found(Some("u.10")).as_deref(), Ok("ten"));
        assert_eq!(found(None).as_deref(), Ok("ten"));
        assert_eq!(found(Some("u.2")).unwrap_err().reason, "DraftMissing");
        assert_eq!(newest_media(&listed), Some("n"));
        assert_eq!(newest_media(&listed[..3]), None);
    }
}

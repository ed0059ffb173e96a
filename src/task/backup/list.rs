//! Which backups there are. What has no manifest, or lacks a stream that its manifest names, does not exist.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    manifest::{MANIFEST_TAG, POSTGRES, TAG, format_tag, origin_tag, server_tag},
    marks::Mark,
};
use crate::{
    api::backup::{BackupSnapshot, ListedBackups},
    restic::{Listed, Repository},
    task::report::{Result, TaskError},
};

/// What a repository has of an origin.
#[derive(Debug, Default, PartialEq)]
pub struct Inventory {
    /// The newest first.
    pub backups: Vec<Backup>,
    /// Snapshots of our format that belong to no whole backup, by attempt.
    pub leftovers: BTreeMap<String, Vec<String>>,
    /// Of backups that were verified, also of such that are gone.
    pub marks: Vec<Mark>,
}

/// A whole backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    pub shown: BackupSnapshot,
    /// The moment that it shows, by PostgreSQL's clock.
    pub taken_at: Timestamp,
    /// restic's snapshots of its streams.
    pub streams: Vec<String>,
}

impl Inventory {
    /// Looks.
    ///
    /// # Errors
    /// What restic answers.
    pub async fn of_origin(repository: &Repository, origin: &str) -> Result<Self> {
        Ok(Self::new(&repository.list(&[TAG.to_owned(), origin_tag(origin)]).await?))
    }

    /// What there is of a homeserver, whoever made it.
    ///
    /// # Errors
    /// What restic answers.
    pub async fn of_server(repository: &Repository, server_name: &str) -> Result<Self> {
        Ok(Self::new(&repository.list(&[TAG.to_owned(), server_tag(server_name)]).await?))
    }

    /// A backup by the beginning of its name, or the newest one: `latest`.
    ///
    /// # Errors
    /// Terminal, `SnapshotNotFound`, with those that there are.
    pub fn find(&self, name: &str) -> Result<&Backup> {
        let found = match name {
            "latest" => self.backups.first(),
            id => self.backups.iter().find(|backup| backup.shown.id.starts_with(id)),
        };
        found.ok_or_else(|| self.not_found(name))
    }

    fn not_found(&self, wanted: &str) -> TaskError {
        let listed = self.backups.iter().take(10);
        let listed: Vec<String> =
            listed.map(|backup| format!("{:.8} of {}", backup.shown.id, backup.taken_at)).collect();
        let there_is = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        TaskError::terminal("SnapshotNotFound", format!("There is no whole backup {wanted}. There is: {there_is}."))
    }

    /// The newest backup that is not younger than a moment.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_before(&self, moment: Timestamp) -> Result<&Backup> {
        self.backups
            .iter()
            .find(|backup| backup.taken_at <= moment)
            .ok_or_else(|| self.not_found(&format!("before {moment}")))
    }

    fn new(listed: &[Listed]) -> Self {
        let mut attempts: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
        // What a newer release has stored may be whole in its own way.
        let of_our_format = |snapshot: &&Listed| snapshot.tags.contains(&format_tag());
        for snapshot in listed.iter().filter(of_our_format) {
            if let Some(attempt) = tag(snapshot, "attempt=") {
                attempts.entry(attempt).or_default().push(snapshot);
            }
        }
        let mut inventory = Self::default();
        for (attempt, snapshots) in attempts {
            match whole(&snapshots) {
                Some(backup) => inventory.backups.push(backup),
                None => {
                    let ids = snapshots.iter().map(|snapshot| snapshot.id.clone()).collect();
                    inventory.leftovers.insert(attempt.to_owned(), ids);
                }
            }
        }
        inventory.marks = listed.iter().filter(of_our_format).filter_map(Mark::read).collect();
        let verified_at = |backup: &Backup| {
            inventory.mark_of(&backup.shown.id).filter(|mark| mark.is_whole).map(|mark| Time(mark.at))
        };
        let verified: Vec<Option<Time>> = inventory.backups.iter().map(verified_at).collect();
        for (backup, at) in inventory.backups.iter_mut().zip(verified) {
            backup.shown.verified_at = at;
        }
        inventory.backups.sort_by_key(|backup| std::cmp::Reverse(backup.taken_at));
        inventory
    }

    /// For a status.
    pub fn listed(&self) -> ListedBackups {
        ListedBackups::new(self.backups.iter().map(|backup| backup.shown.clone()).collect())
    }
}

/// The backup that these snapshots of an attempt make, if they do.
fn whole(snapshots: &[&Listed]) -> Option<Backup> {
    let is_manifest = |snapshot: &&&Listed| snapshot.tags.iter().any(|tag| tag == MANIFEST_TAG);
    let manifest = snapshots.iter().find(is_manifest)?;
    let streams: Vec<&&Listed> = snapshots.iter().filter(|snapshot| !is_manifest(snapshot)).collect();
    let parts: usize = tag(manifest, "parts=")?.parse().ok()?;
    let taken_at: Timestamp = tag(manifest, "taken-at=")?.parse().ok()?;
    if streams.len() != parts {
        return None;
    }
    let bytes: u64 = streams.iter().map(|stream| stream.bytes).sum();
    let added: u64 = snapshots.iter().map(|snapshot| snapshot.added).sum();
    let (bytes, added) = (bytes.cast_signed(), added.cast_signed());
    Some(Backup {
        shown: BackupSnapshot {
            postgres_major: tag(manifest, POSTGRES).and_then(|major| major.parse().ok()),
            ..BackupSnapshot::new(manifest.id.clone(), Some(Time(taken_at)), bytes, added)
        },
        taken_at,
        streams: streams.iter().map(|stream| stream.id.clone()).collect(),
    })
}

/// The rest of the tag that begins so.
pub(super) fn tag<'a>(snapshot: &'a Listed, key: &str) -> Option<&'a str> {
    snapshot.tags.iter().find_map(|tag| tag.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str, attempt: &str, more: &[&str]) -> Listed {
        let tags =
            [format_tag(), format!("attempt={attempt}")].into_iter().chain(more.iter().map(|tag| (*tag).to_owned()));
        Listed { id: id.to_owned(), tags: tags.collect(), bytes: 100, added: 7 }
    }

    fn manifest(id: &str, attempt: &str, parts: &str) -> Listed {
        stored(id, attempt, &["manifest", parts, "taken-at=2026-11-22T02:00:00Z", "postgres=15"])
    }

    #[test]
    fn a_mark_says_that_a_backup_was_verified_and_goes_with_it() {
        let mark = |id: &str, of: &str, at: &str| Listed {
            id: id.to_owned(),
            tags: vec![format_tag(), of.to_owned(), format!("found-at={at}")],
            bytes: 1,
            added: 1,
        };
        let inventory = Inventory::new(&[
            stored("a", "u.1.1", &[]),
            manifest("whole", "u.1.1", "parts=1"),
            mark("old", "damaged=whole", "2026-11-22T05:00:00Z"),
            mark("new", "verified=whole", "2026-11-29T05:00:00Z"),
            mark("orphan", "verified=gone", "2026-11-22T05:00:00Z"),
        ]);
        assert!(inventory.leftovers.is_empty(), "a mark belongs to no attempt: {inventory:?}");
        let listed = inventory.listed();
        assert_eq!(listed.newest[0].verified_at, Some(Time("2026-11-29T05:00:00Z".parse().unwrap())));
        assert_eq!((listed.newest[0].postgres_major, listed.verified), (Some(15), listed.newest[0].taken_at.clone()));
        assert_eq!(inventory.marks_of_no_use(&[]), ["old", "orphan"]);
        assert_eq!(inventory.marks_of_no_use(&["whole".to_owned()]), ["old", "new", "orphan"]);
        let later = Inventory::new(&[
            stored("a", "u.1.1", &[]),
            manifest("whole", "u.1.1", "parts=1"),
            mark("old", "verified=whole", "2026-11-22T05:00:00Z"),
            mark("new", "damaged=whole", "2026-11-29T05:00:00Z"),
        ]);
        assert_eq!(later.listed().verified, None, "it was well, and is damaged since");
    }

    #[test]
    fn a_backup_is_whole_or_it_does_not_exist() {
        let inventory = Inventory::new(&[
            stored("a", "u.1.1", &[]),
            stored("b", "u.1.1", &[]),
            manifest("whole", "u.1.1", "parts=2"),
            // Killed before its manifest.
            stored("c", "u.2.1", &[]),
            // Somebody took a stream away.
            stored("d", "u.2.2", &[]),
            manifest("torn", "u.2.2", "parts=2"),
            // Of a newer release, and of somebody who has borrowed our tag.
            Listed { tags: vec!["format=2".to_owned(), "attempt=u.3.1".to_owned()], ..stored("e", "", &[]) },
            Listed { tags: vec![format_tag()], ..stored("f", "", &[]) },
        ]);
        assert_eq!(inventory.leftovers.len(), 2, "{inventory:?}");
        let [backup] = &inventory.backups[..] else { panic!("{inventory:?}") };
        assert_eq!(backup.streams, ["a", "b"]);
        assert_eq!((backup.shown.id.as_str(), backup.shown.bytes, backup.shown.added_bytes), ("whole", 200, 21));
        assert_eq!(backup.shown.taken_at, Some(Time("2026-11-22T02:00:00Z".parse().unwrap())));
        assert_eq!(inventory.find("latest").map(|backup| backup.shown.id.as_str()), Ok("whole"));
        assert_eq!(inventory.find("who").map(|backup| backup.shown.id.as_str()), Ok("whole"));
        let missing = inventory.find("torn").unwrap_err();
        assert!(missing.message.contains("whole of 2026-11-22T02:00:00Z"), "{missing}");
        assert_eq!(inventory.leftovers["u.2.1"], ["c"]);
        assert_eq!(inventory.leftovers["u.2.2"], ["d", "torn"]);
    }
}

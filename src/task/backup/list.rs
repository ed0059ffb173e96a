//! Which backups there are. What has no manifest, or lacks a stream or the media that its manifest names, does not exist.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    manifest::{APART, DRAFT_TAG, MANIFEST_TAG, MEDIA_TAG, POSTGRES, TAG, is_known, server_tag, tags_of},
    marks::Mark,
    newest::{self, Made},
};
use crate::{
    contract::{BackupSnapshot, ListedBackups, OtherOrigin, Result, TaskError},
    restic::{Listed, Repository},
    words::moment,
};

/// What a repository has of an object's.
#[derive(Debug, Default, PartialEq)]
pub struct Inventory {
    /// The newest first.
    pub backups: Vec<Backup>,
    /// Snapshots of our format that belong to no whole backup, by attempt.
    pub leftovers: BTreeMap<String, Vec<String>>,
    /// Of backups that were verified, also of such that are gone.
    pub marks: Vec<Mark>,
    /// Who else has backups of the same homeserver, the one with the newest first.
    pub others: Vec<OtherOrigin>,
    /// Names of the homeservers that the repository has something of, where it has no backup of this one.
    pub other_servers: Vec<String>,
}

/// A whole backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    pub shown: BackupSnapshot,
    /// The moment that it shows, by PostgreSQL's clock. That clock may have been wrong.
    pub taken_at: Timestamp,
    /// The moment that counts where backups are compared.
    pub counts_as: Timestamp,
    /// Which attempt made it.
    pub attempt: String,
    /// restic's snapshots of all that it consists of, but for the manifest.
    pub streams: Vec<String>,
}

impl Inventory {
    /// What these have stored.
    ///
    /// # Errors
    /// What restic answers.
    pub async fn of_origins(repository: &Repository, origins: &[String]) -> Result<Self> {
        Ok(Self::new(&repository.list(&tags_of(origins)).await?))
    }

    /// What there is of a homeserver, whoever made it.
    ///
    /// # Errors
    /// What restic answers.
    pub async fn of_server(repository: &Repository, server_name: &str) -> Result<Self> {
        let mut inventory = Self::new(&repository.list(&[vec![TAG.to_owned(), server_tag(server_name)]]).await?);
        if inventory.backups.is_empty() {
            let all = repository.list(&[vec![TAG.to_owned()]]).await?;
            let servers: BTreeSet<&str> = all.iter().filter_map(|snapshot| snapshot.tag(&server_tag(""))).collect();
            let others = servers.into_iter().filter(|name| *name != server_name);
            inventory.other_servers = others.map(str::to_owned).collect();
        }
        Ok(inventory)
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
            listed.map(|backup| format!("{:.8} of {}", backup.shown.id, moment(backup.taken_at))).collect();
        let there_is = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        let others = match self.other_servers.is_empty() {
            true => String::new(),
            false => format!(" The repository has backups of another homeserver: {}.", self.other_servers.join(", ")),
        };
        let message = format!("There is no whole backup {wanted}. There is: {there_is}.{others}");
        TaskError::terminal("SnapshotNotFound", message)
    }

    /// The newest backup that is not younger than a moment.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn find_before(&self, moment: Timestamp) -> Result<&Backup> {
        self.backups
            .iter()
            .find(|backup| backup.counts_as <= moment)
            .ok_or_else(|| self.not_found(&format!("before {moment}")))
    }

    pub(super) fn new(listed: &[Listed]) -> Self {
        Self::at(listed, Timestamp::now())
    }

    fn at(listed: &[Listed], now: Timestamp) -> Self {
        let mut attempts: BTreeMap<&str, Vec<&Listed>> = BTreeMap::new();
        // What a newer release has stored may be whole in its own way.
        for snapshot in listed.iter().filter(|snapshot| is_known(&snapshot.tags)) {
            if let Some(attempt) = snapshot.tag("attempt=") {
                attempts.entry(attempt).or_default().push(snapshot);
            }
        }
        let mut inventory = Self::default();
        let mut whole_ones = Vec::new();
        for (attempt, snapshots) in attempts {
            let backup = whole(attempt, &snapshots);
            let belongs = |id: &String| {
                backup.as_ref().is_some_and(|(backup, _)| backup.shown.id == *id || backup.streams.contains(id))
            };
            let ids = snapshots.iter().map(|snapshot| snapshot.id.clone());
            let left: Vec<String> = ids.filter(|id| !belongs(id)).collect();
            if !left.is_empty() {
                inventory.leftovers.insert(attempt.to_owned(), left);
            }
            whole_ones.extend(backup);
        }
        let newest_first = newest::first(whole_ones, |(_, made)| made, now).into_iter();
        inventory.backups = newest_first.map(|((backup, _), counts_as)| Backup { counts_as, ..backup }).collect();
        inventory.marks = listed.iter().filter(|snapshot| is_known(&snapshot.tags)).filter_map(Mark::read).collect();
        let verified_at = |backup: &Backup| {
            inventory.mark_of(&backup.shown.id, now).filter(|mark| mark.is_whole).map(|mark| Time(mark.at))
        };
        let verified: Vec<Option<Time>> = inventory.backups.iter().map(verified_at).collect();
        for (backup, at) in inventory.backups.iter_mut().zip(verified) {
            backup.shown.verified_at = at;
        }
        inventory
    }

    /// For a status.
    pub fn listed(&self) -> ListedBackups {
        let listed = ListedBackups::new(self.backups.iter().map(|backup| backup.shown.clone()).collect());
        ListedBackups { others: self.others.clone(), ..listed }
    }
}

/// The backup that these snapshots of an attempt make, if they do. Of several manifests, such as those of two tasks that did
/// not know of each other, the first counts: a backup is there once.
fn whole(attempt: &str, snapshots: &[&Listed]) -> Option<(Backup, Made)> {
    let mut manifests = snapshots.iter().filter(|snapshot| snapshot.has_tag(MANIFEST_TAG));
    manifests.find_map(|manifest| of_manifest(attempt, manifest, snapshots))
}

fn of_manifest(attempt: &str, manifest: &Listed, snapshots: &[&Listed]) -> Option<(Backup, Made)> {
    let is_stream = |snapshot: &&&Listed| ![MANIFEST_TAG, DRAFT_TAG, MEDIA_TAG].iter().any(|tag| snapshot.has_tag(tag));
    let streams: Vec<&&Listed> = snapshots.iter().filter(is_stream).collect();
    let parts: usize = manifest.tag("parts=")?.parse().ok()?;
    let made = Made::read(manifest)?;
    let taken_at = made.taken_at;
    if streams.len() != parts {
        return None;
    }
    // It names one of the snapshots that attempts at the media have left.
    let media = match manifest.tag("media=") {
        Some(id) => Some(snapshots.iter().find(|snapshot| snapshot.id == id && snapshot.has_tag(MEDIA_TAG))?),
        None => None,
    };
    let media_bytes = media.map(|media| media.bytes.cast_signed());
    let bytes = streams.iter().map(|stream| stream.bytes).sum::<u64>().cast_signed() + media_bytes.unwrap_or_default();
    // The draft has served. It is small, and goes with the backup.
    let drafts = snapshots.iter().filter(|snapshot| snapshot.has_tag(DRAFT_TAG));
    let all: Vec<&Listed> = streams.into_iter().chain(media).chain(drafts).copied().collect();
    let added = manifest.added + all.iter().map(|snapshot| snapshot.added).sum::<u64>();
    let shown = BackupSnapshot::new(manifest.id.clone(), Some(Time(taken_at)), bytes, added.cast_signed());
    let backup = Backup {
        shown: BackupSnapshot {
            media_bytes,
            authentication_apart_seconds: manifest.tag(APART).and_then(|seconds| seconds.parse().ok()),
            postgres_major: manifest.tag(POSTGRES).and_then(|major| major.parse().ok()),
            ..shown
        },
        taken_at,
        counts_as: taken_at,
        attempt: attempt.to_owned(),
        streams: all.iter().map(|snapshot| snapshot.id.clone()).collect(),
    };
    Some((backup, made))
}

impl Inventory {
    /// The newest mark of a backup. One of the future, by a clock that was ahead of time, counts only where there is no other.
    fn mark_of(&self, backup: &str, now: Timestamp) -> Option<&Mark> {
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

#[cfg(test)]
mod tests {
    use super::{
        super::manifest::{FORMAT, format_tag},
        *,
    };

    fn stored(id: &str, attempt: &str, more: &[&str]) -> Listed {
        let tags =
            [format_tag(), format!("attempt={attempt}")].into_iter().chain(more.iter().map(|tag| (*tag).to_owned()));
        Listed { id: id.to_owned(), tags: tags.collect(), stored_at: Timestamp::UNIX_EPOCH, bytes: 100, added: 7 }
    }

    fn manifest(id: &str, attempt: &str, parts: &str) -> Listed {
        stored(id, attempt, &["manifest", parts, "taken-at=2016-11-22T02:00:00Z", "postgres=15"])
    }

    #[test]
    fn a_mark_says_that_a_backup_was_verified_and_goes_with_it() {
        let mark = |id: &str, of: &str, at: &str| Listed {
            id: id.to_owned(),
            tags: vec![format_tag(), of.to_owned(), format!("found-at={at}")],
            stored_at: Timestamp::UNIX_EPOCH,
            bytes: 1,
            added: 1,
        };
        let inventory = Inventory::new(&[
            stored("a", "u.1.1", &[]),
            manifest("whole", "u.1.1", "parts=1"),
            mark("old", "damaged=whole", "2016-11-22T05:00:00Z"),
            mark("new", "verified=whole", "2016-11-29T05:00:00Z"),
            mark("orphan", "verified=gone", "2016-11-22T05:00:00Z"),
        ]);
        assert!(inventory.leftovers.is_empty(), "a mark belongs to no attempt: {inventory:?}");
        let listed = inventory.listed();
        assert_eq!(listed.newest[0].verified_at, Some(Time("2016-11-29T05:00:00Z".parse().unwrap())));
        assert_eq!((listed.newest[0].postgres_major, listed.verified), (Some(15), listed.newest[0].taken_at.clone()));
        assert_eq!(inventory.marks_of_no_use(&[]), ["old", "orphan"]);
        assert_eq!(inventory.marks_of_no_use(&["whole".to_owned()]), ["old", "new", "orphan"]);
        let later = Inventory::new(&[
            stored("a", "u.1.1", &[]),
            manifest("whole", "u.1.1", "parts=1"),
            mark("old", "verified=whole", "2016-11-22T05:00:00Z"),
            mark("new", "damaged=whole", "2016-11-29T05:00:00Z"),
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
            Listed { tags: vec![format!("format={}", FORMAT + 1), "attempt=u.3.1".to_owned()], ..stored("e", "", &[]) },
            Listed { tags: vec![format_tag()], ..stored("f", "", &[]) },
        ]);
        assert_eq!(inventory.leftovers.len(), 2, "{inventory:?}");
        let [backup] = &inventory.backups[..] else { panic!("{inventory:?}") };
        assert_eq!(backup.streams, ["a", "b"]);
        assert_eq!((backup.shown.id.as_str(), backup.shown.bytes, backup.shown.added_bytes), ("whole", 200, 21));
        assert_eq!(backup.shown.taken_at, Some(Time("2016-11-22T02:00:00Z".parse().unwrap())));
        assert_eq!(inventory.find("latest").map(|backup| backup.shown.id.as_str()), Ok("whole"));
        assert_eq!(inventory.find("who").map(|backup| backup.shown.id.as_str()), Ok("whole"));
        let missing = inventory.find("torn").unwrap_err();
        assert!(missing.message.contains("whole of 2016-11-22T02:00:00Z"), "{missing}");
        assert_eq!(inventory.leftovers["u.2.1"], ["c"]);
        assert_eq!(inventory.leftovers["u.2.2"], ["d", "torn"]);
    }
    #[test]
    fn a_backup_with_media_is_whole_with_those_that_its_manifest_names() {
        let named =
            |id, attempt, media| stored(id, attempt, &["manifest", "parts=1", "taken-at=2016-11-22T02:00:00Z", media]);
        let inventory = Inventory::new(&[
            stored("stream", "u.1.1", &[]),
            stored("draft", "u.1.1", &["draft"]),
            // Of an attempt that was killed before the manifest, and of the one that was not.
            stored("first", "u.1.1", &["media"]),
            stored("second", "u.1.1", &["media"]),
            named("whole", "u.1.1", "media=second"),
            // Of a task that was held for dead.
            named("again", "u.1.1", "media=first"),
            // Its media are gone.
            stored("a", "u.2.1", &[]),
            stored("b", "u.2.1", &["media"]),
            named("torn", "u.2.1", "media=gone"),
            // Its media are under way, or came to nothing.
            stored("c", "u.3.1", &[]),
            stored("d", "u.3.1", &["draft"]),
            stored("e", "u.3.1", &["media"]),
        ]);
        let [backup] = &inventory.backups[..] else { panic!("{inventory:?}") };
        assert_eq!((backup.shown.id.as_str(), backup.attempt.as_str()), ("whole", "u.1.1"));
        assert_eq!(backup.streams, ["stream", "second", "draft"]);
        assert_eq!((backup.shown.bytes, backup.shown.media_bytes, backup.shown.added_bytes), (200, Some(100), 28));
        assert_eq!(inventory.leftovers["u.1.1"], ["first", "again"]);
        assert_eq!(inventory.leftovers["u.2.1"], ["a", "b", "torn"]);
        assert_eq!(inventory.leftovers["u.3.1"], ["c", "d", "e"]);
    }

    #[test]
    fn how_far_two_databases_are_apart_is_listed() {
        let tags = ["manifest", "parts=2", "taken-at=2016-11-22T02:00:00Z", "mas-apart=0.004"];
        let inventory = Inventory::new(&[
            stored("stream", "u.1.1", &[]),
            stored("of-mas", "u.1.1", &[]),
            stored("whole", "u.1.1", &tags),
            // Without the second database it is half of one.
            stored("alone", "u.2.1", &[]),
            stored("torn", "u.2.1", &tags),
        ]);
        let [backup] = &inventory.backups[..] else { panic!("{inventory:?}") };
        assert_eq!(backup.shown.authentication_apart_seconds, Some(0.004));
        assert_eq!(inventory.leftovers["u.2.1"], ["alone", "torn"]);
    }

    #[test]
    fn what_the_first_format_stored_is_whole_too() {
        let first = |id: &str, more: &[&str]| {
            let mut listed = stored(id, "u.1.1", more);
            listed.tags[0] = "format=1".to_owned();
            listed
        };
        let inventory = Inventory::new(&[
            first("a", &[]),
            first("whole", &["manifest", "parts=1", "taken-at=2016-11-22T02:00:00Z"]),
        ]);
        assert_eq!(inventory.backups.len(), 1, "{inventory:?}");
        assert_eq!(inventory.backups[0].shown.media_bytes, None);
    }
}

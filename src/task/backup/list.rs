//! Which backups there are. What has no manifest, or lacks a stream that its manifest names, does not exist.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::manifest::{MANIFEST_TAG, TAG, origin_tag};
use crate::{
    api::backup::BackupSnapshot,
    restic::{Listed, Repository},
    task::report::Result,
};

/// The whole backups of an origin.
///
/// # Errors
/// What restic answers.
pub async fn of_origin(repository: &Repository, origin: &str) -> Result<Vec<BackupSnapshot>> {
    let listed = repository.list(&[TAG.to_owned(), origin_tag(origin)]).await?;
    Ok(whole(&listed))
}

/// What of a backup is in the repository.
#[derive(Default)]
struct Found<'a> {
    manifest: Option<&'a Listed>,
    streams: usize,
    bytes: u64,
    added: u64,
}

/// The backups among these snapshots, in no order.
fn whole(listed: &[Listed]) -> Vec<BackupSnapshot> {
    let mut attempts: BTreeMap<&str, Found<'_>> = BTreeMap::new();
    for snapshot in listed {
        let Some(attempt) = tag(snapshot, "attempt=") else { continue };
        let found = attempts.entry(attempt).or_default();
        found.added += snapshot.added;
        if snapshot.tags.iter().any(|tag| tag == MANIFEST_TAG) {
            found.manifest = Some(snapshot);
        } else {
            found.streams += 1;
            found.bytes += snapshot.bytes;
        }
    }
    attempts.values().filter_map(backup).collect()
}

fn backup(found: &Found<'_>) -> Option<BackupSnapshot> {
    let manifest = found.manifest?;
    let parts: usize = tag(manifest, "parts=")?.parse().ok()?;
    let taken_at = tag(manifest, "taken-at=")?.parse().ok().map(Time);
    (found.streams == parts).then(|| {
        BackupSnapshot::new(manifest.id.clone(), taken_at, found.bytes.cast_signed(), found.added.cast_signed())
    })
}

/// The rest of the tag that begins so.
fn tag<'a>(snapshot: &'a Listed, key: &str) -> Option<&'a str> {
    snapshot.tags.iter().find_map(|tag| tag.strip_prefix(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str, attempt: &str, more: &[&str]) -> Listed {
        let tags = [format!("attempt={attempt}")].into_iter().chain(more.iter().map(|tag| (*tag).to_owned()));
        Listed { id: id.to_owned(), tags: tags.collect(), bytes: 100, added: 7 }
    }

    fn manifest(id: &str, attempt: &str, parts: &str) -> Listed {
        stored(id, attempt, &["manifest", parts, "taken-at=2026-11-22T02:00:00Z"])
    }

    #[test]
    fn a_backup_is_whole_or_it_does_not_exist() {
        let listed = [
            stored("a", "u.1.1", &[]),
            stored("b", "u.1.1", &[]),
            manifest("whole", "u.1.1", "parts=2"),
            // Killed before its manifest.
            stored("c", "u.2.1", &[]),
            // Somebody took a stream away.
            stored("d", "u.2.2", &[]),
            manifest("torn", "u.2.2", "parts=2"),
            // Of somebody else's making.
            stored("e", "", &["manifest"]),
        ];
        let found = whole(&listed);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].id.as_str(), found[0].bytes, found[0].added_bytes), ("whole", 200, 21));
        assert_eq!(found[0].taken_at, Some(Time("2026-11-22T02:00:00Z".parse().unwrap())));
    }
}

//! A file in somebody's snapshot: which one, how large, of when.

use jiff::Timestamp;
use serde::Deserialize;

use super::{Repository, repository::LIST_WITHIN};
use crate::contract::{Result, TaskError};

/// A file in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFile {
    /// restic's id of the snapshot.
    pub snapshot: String,
    /// When the snapshot was made, by the clock of who made it.
    pub at: Timestamp,
    pub bytes: u64,
}

/// A snapshot, as restic lists it.
#[derive(Deserialize)]
struct Snapshot {
    id: String,
    time: Timestamp,
    paths: Vec<String>,
}

/// A line of `restic ls --json`.
#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    size: u64,
}

impl Repository {
    /// Finds a file, by its path from the root of the snapshot. `latest` is the newest snapshot of all that were made of the file
    /// or of a folder around it: others may be in the repository too.
    ///
    /// # Errors
    /// Terminal: `SnapshotNotFound`, `DumpNotFound`. What restic answers.
    pub async fn find_file(&self, snapshot: &str, path: &str) -> Result<StoredFile> {
        let path = format!("/{}", path.trim_start_matches('/'));
        let listed = self.run(&["snapshots", "--json", "--no-lock"], LIST_WITHIN).await?;
        let snapshots: Vec<Snapshot> = serde_json::from_str(&listed).map_err(|error| {
            TaskError::terminal("ResticFailed", format!("restic snapshots gave no list of them: {error}."))
        })?;
        let found = choose(&snapshots, snapshot, &path).ok_or_else(|| {
            TaskError::terminal(
                "SnapshotNotFound",
                format!("There is no snapshot {snapshot} with {path} among the {} of the repository.", snapshots.len()),
            )
        })?;
        let nodes = self.run(&["ls", "--json", "--no-lock", &found.id, &path], LIST_WITHIN).await?;
        let is_it = |node: &Node| node.path == path && node.kind == "file";
        let node = nodes.lines().filter_map(|line| serde_json::from_str::<Node>(line).ok()).find(is_it);
        let node = node.ok_or_else(|| {
            TaskError::terminal(
                "DumpNotFound",
                format!(
                    "Snapshot {:.8} has no file {path}: see `restic ls`. A dump in the directory format cannot be restored \
                     from a repository.",
                    found.id
                ),
            )
        })?;
        Ok(StoredFile { snapshot: found.id.clone(), at: found.time, bytes: node.size })
    }
}

/// By the beginning of its name, or the newest one that can have the file.
fn choose<'a>(snapshots: &'a [Snapshot], name: &str, path: &str) -> Option<&'a Snapshot> {
    if name != "latest" {
        return snapshots.iter().find(|snapshot| snapshot.id.starts_with(name));
    }
    let holds = |folder: &String| {
        let rest = path.strip_prefix(folder.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    snapshots.iter().filter(|snapshot| snapshot.paths.iter().any(holds)).max_by_key(|snapshot| snapshot.time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_is_the_newest_that_can_have_the_file() {
        let snapshot = |id: &str, day: u32, paths: &[&str]| Snapshot {
            id: id.to_owned(),
            time: format!("2026-11-{day:02}T02:00:00+01:00").parse().unwrap(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        };
        let snapshots = [
            snapshot("aaaa", 2, &["/dumps"]),
            snapshot("bbbb", 3, &["/srv/media", "/dumps/"]),
            snapshot("cccc", 4, &["/dumps-of-others"]),
            snapshot("dddd", 1, &["/synapse.dump"]),
        ];
        let chosen = |name, path| choose(&snapshots, name, path).map(|snapshot| snapshot.id.as_str());
        assert_eq!(chosen("latest", "/dumps/synapse.sql"), Some("bbbb"));
        assert_eq!(chosen("latest", "/synapse.dump"), Some("dddd"));
        assert_eq!(chosen("latest", "/elsewhere"), None);
        assert_eq!(chosen("cc", "/dumps/synapse.sql"), Some("cccc"), "who names one means it");
        assert_eq!(chosen("ffff", "/dumps"), None);
    }
}

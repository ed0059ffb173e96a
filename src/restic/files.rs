//! Files of a folder, into a snapshot and back.

use std::{path::Path, process::Stdio};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{ChildStderr, Command},
};
use tokio_util::sync::CancellationToken;

use super::{
    Download, Repository,
    errors::{self, explain},
    pulse::Pulse,
    said::{each_complaint, keep},
    secrets::Secrets,
    upload::interrupt,
};
use crate::contract::{Result, TaskError};

/// restic's exit code when it has stored a snapshot but could not read all that it was to store.
const INCOMPLETE: i32 = 3;

/// As many of what went wrong with single files is kept.
const KEPT: usize = 20;

/// Files that are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFiles {
    /// The snapshot's id, all of it.
    pub snapshot: String,
    pub files: u64,
    /// Their length.
    pub bytes: u64,
    /// Bytes that came new into the repository, compressed.
    pub added: u64,
}

/// Files that are as a snapshot has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RestoredFiles {
    /// Bytes of all of them.
    pub total_bytes: u64,
    /// Bytes that had to be written.
    pub bytes_restored: u64,
}

/// A file that a snapshot has.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct File {
    pub path: String,
    /// Its length.
    #[serde(default)]
    pub size: u64,
}

/// What a snapshot has at a path.
pub enum Entry {
    File(File),
    /// A link without what is behind it.
    Link(File),
}

/// As `restic ls` prints it.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Node {
    File(File),
    Symlink(File),
    #[serde(other)]
    Other,
}

impl File {
    /// Its path is the one that it has. Where a name is not UTF-8 restic's list has another in its place.
    pub fn has_its_path(&self) -> bool {
        !self.path.contains(char::REPLACEMENT_CHARACTER)
    }
}

/// What restic could not do with a file, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub item: String,
    pub why: String,
}

impl Refused {
    /// It is a matter of rights, which another try does not change.
    pub fn is_about_rights(&self) -> bool {
        self.why.contains("permission denied") || self.why.contains("operation not permitted")
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.item, self.why)
    }
}

/// What came of work on files: all went well, or what did not.
pub type Done<T> = std::result::Result<T, Vec<Refused>>;

#[derive(Deserialize)]
struct Stored {
    snapshot_id: String,
    total_files_processed: u64,
    total_bytes_processed: u64,
    data_added_packed: u64,
}

impl Repository {
    /// Stores folders of `root` in a snapshot of their own, with paths that begin at `root`. Files that did not change since the
    /// snapshot `parent` are not read again: their size, their inode and the times of their last changes are the same. A file
    /// that goes while it is to be read is left out.
    ///
    /// # Errors
    /// What restic said, or `Stopped`. Within: files that could not be read; a snapshot of the others may be there.
    pub async fn store_files(
        &self,
        root: &Path,
        folders: &[&str],
        tags: &[String],
        parent: Option<&str>,
        stop: &CancellationToken,
    ) -> Result<Done<StoredFiles>> {
        let mut command = self.telling_command();
        command.current_dir(root).args(["backup", "--json", "--no-scan"]);
        command.args(["--retry-lock", super::repository::RETRY_LOCK]);
        for tag in tags {
            command.args(["--tag", tag]);
        }
        // Left to itself restic looks for one of the same host, which is a Pod's name.
        command.args(parent.into_iter().flat_map(|parent| ["--parent", parent]));
        command.arg("--").args(folders);
        let ended = self.work(command, "storing the files", stop).await?;
        if !ended.refused.is_empty() {
            return Ok(Err(ended.refused));
        }
        let Stored { snapshot_id, total_files_processed, total_bytes_processed, data_added_packed } =
            ended.summary(self)?;
        Ok(Ok(StoredFiles {
            snapshot: snapshot_id,
            files: total_files_processed,
            bytes: total_bytes_processed,
            added: data_added_packed,
        }))
    }

    /// Looks at every file and link of a snapshot, without reading any.
    ///
    /// # Errors
    /// What restic said.
    pub async fn look_at_files(&self, snapshot: &str, mut look: impl FnMut(Entry)) -> Result<()> {
        let mut command = self.command();
        command.args(["ls", "--json", "--quiet"]).args(self.lock_to_read()).arg(snapshot);
        let mut download = Download::start(command, self.clone(), format!("the names of snapshot {snapshot:.8}"))?;
        let mut lines = BufReader::new(download.output.take().expect("its output is a pipe")).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            // The first line is about the snapshot.
            match serde_json::from_slice(&line) {
                Ok(Node::File(file)) => look(Entry::File(file)),
                Ok(Node::Symlink(link)) => look(Entry::Link(link)),
                _ => {}
            }
        }
        drop(lines);
        download.finish().await
    }

    /// Writes all files of a snapshot into `root`: those that are missing, and what differs in those that are there. Files that
    /// the snapshot does not have are left alone.
    ///
    /// # Errors
    /// What restic said, or `Stopped`. Within: files that could not be written.
    pub async fn restore_files(
        &self,
        snapshot: &str,
        root: &Path,
        stop: &CancellationToken,
    ) -> Result<Done<RestoredFiles>> {
        let mut command = self.telling_command();
        command.args(["restore", "--json", "--no-lock", "--overwrite", "always", "--target"]);
        command.arg(root).arg(snapshot);
        let ended = self.work(command, "restoring the files", stop).await?;
        if !ended.refused.is_empty() {
            return Ok(Err(ended.refused));
        }
        Ok(Ok(ended.summary(self)?))
    }

    /// Runs a restic that says in JSON what goes wrong with which file.
    async fn work(&self, mut command: Command, doing: &str, stop: &CancellationToken) -> Result<Ended> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| errors::not_started(&error))?;
        let pulse = self.pulse();
        let said = pulse.follow(child.stdout.take());
        let complained = tokio::spawn(listen(child.stderr.take(), self.secrets.clone(), pulse.clone()));
        let doing = format!("{doing} ({})", self.location());
        let given_up = tokio::select! {
            status = child.wait() => Ok(Some(status)),
            () = pulse.is_done_but_for_the_lock() => {
                let _ = child.kill().await;
                Ok(None)
            }
            () = stop.cancelled() => {
                Err(TaskError::transient("Stopped", format!("Stopped (SIGTERM) while {doing}.")))
            }
            why = pulse.stops() => Err(errors::came_no_further(self, &doing, pulse.within(), &why)),
        };
        let status = match given_up {
            Ok(status) => status.transpose().map_err(|error| errors::not_started(&error))?,
            Err(why) => {
                interrupt(&mut child, None).await;
                return Err(why);
            }
        };
        let Complaints { mut refused, others } = complained.await.unwrap_or_default();
        let failed = status.filter(|status| !status.success());
        if let Some(status) = failed.filter(|status| status.code() != Some(INCOMPLETE) && refused.is_empty()) {
            return Err(explain(self, &doing, status, &others));
        }
        if status.is_some_and(|status| status.success()) {
            refused.clear();
        }
        Ok(Ended { said: said.await.unwrap_or_default(), refused })
    }
}

/// A restic that has ended.
struct Ended {
    said: String,
    refused: Vec<Refused>,
}

impl Ended {
    /// The last line.
    fn summary<T: for<'a> Deserialize<'a>>(&self, repository: &Repository) -> Result<T> {
        let summary = self.said.lines().filter_map(|line| serde_json::from_str(line).ok()).next_back();
        summary.ok_or_else(|| {
            let said = repository.secrets.mask(&self.said);
            TaskError::terminal("ResticFailed", format!("restic gave no summary: {said}"))
        })
    }
}

#[derive(Default)]
struct Complaints {
    refused: Vec<Refused>,
    /// Everything that is not about one file.
    others: String,
}

impl Complaints {
    fn hear(&mut self, line: &str) {
        match about_file(line) {
            // It was deleted while it was to be read.
            Some(Refused { why, .. }) if why.contains("no such file or directory") && line.contains("archival") => {}
            Some(refused) if self.refused.len() < KEPT => self.refused.push(refused),
            Some(_) => {}
            None => keep(&mut self.others, line),
        }
    }
}

/// An error that is about one file.
fn about_file(line: &str) -> Option<Refused> {
    let said: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let item = text(&said["item"]).filter(|item| !item.is_empty())?;
    (said["message_type"] == "error").then_some(Refused { item, why: text(&said["error"]["message"])? })
}

async fn listen(stderr: Option<ChildStderr>, secrets: Secrets, pulse: Pulse) -> Complaints {
    let mut complaints = Complaints::default();
    each_complaint(stderr, secrets, |line| {
        pulse.hears(line);
        complaints.hear(line);
    })
    .await;
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What restic 0.18 says.
    fn said(during: &str, why: &str) -> String {
        format!(
            r#"{{"message_type":"error","error":{{"message":"open local_content/aa: {why}"}},"during":"{during}","item":"local_content/aa"}}"#
        )
    }

    #[test]
    fn a_file_that_goes_is_no_error_and_one_that_cannot_be_read_is() {
        let mut complaints = Complaints::default();
        complaints.hear(&said("archival", "no such file or directory"));
        assert_eq!(complaints.refused, []);
        complaints.hear(&said("archival", "permission denied"));
        let [refused] = &complaints.refused[..] else { panic!("{:?}", complaints.refused) };
        assert!(refused.is_about_rights() && refused.item == "local_content/aa", "{refused}");
        complaints.hear(&said("restore", "no such file or directory"));
        assert_eq!(complaints.refused.len(), 2, "where it was to be written, that is an error");
        complaints.hear(r#"{"message_type":"exit_error","code":3,"message":"Warning: at least one"}"#);
        assert!(complaints.others.contains("exit_error"));
        (0..99).for_each(|_| complaints.hear(&said("archival", "input/output error")));
        assert_eq!(complaints.refused.len(), KEPT);
    }
}

//! Files of a snapshot that are being read.

use std::process::Stdio;

use tokio::{
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
};

use super::{
    Repository,
    errors::{self, explain},
    said::{each_complaint, keep},
};
use crate::contract::Result;

/// A `restic dump` at work. Dropped, it is killed.
pub struct Download {
    child: Child,
    /// Where the bytes come from. restic checks each against its hash before it hands it out.
    pub output: Option<ChildStdout>,
    repository: Repository,
    what: String,
    complained: JoinHandle<String>,
}

impl Repository {
    /// Begins to read a file of a snapshot, however large.
    ///
    /// # Errors
    /// restic cannot be started.
    pub fn read_stream(&self, snapshot: &str, file: &str) -> Result<Download> {
        let mut command = self.command();
        command.args(self.dump()).args([snapshot, &format!("/{file}")]);
        Download::start(command, self.clone(), format!("{file} of snapshot {snapshot:.8}"))
    }

    /// Begins to read all files of a snapshot, one behind the other as a tar archive: restic ends badly where one is shorter or
    /// longer than on record.
    ///
    /// # Errors
    /// restic cannot be started.
    pub fn read_all(&self, snapshot: &str) -> Result<Download> {
        let mut command = self.command();
        command.args(self.dump()).args(["--archive", "tar", snapshot, "/"]);
        Download::start(command, self.clone(), format!("snapshot {snapshot:.8}"))
    }
}

impl Download {
    pub(super) fn start(mut command: Command, repository: Repository, what: String) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| errors::not_started(&error))?;
        let (stderr, secrets) = (child.stderr.take(), repository.secrets.clone());
        let complained = tokio::spawn(async move {
            let mut complained = String::new();
            each_complaint(stderr, secrets, |line| keep(&mut complained, line)).await;
            complained
        });
        let output = child.stdout.take();
        Ok(Self { child, output, repository, what, complained })
    }

    /// Waits for its end, once its output has been read or given away.
    ///
    /// # Errors
    /// What restic said: what was read is not all of the file, or there was damage in it.
    pub async fn finish(mut self) -> Result<()> {
        let doing = format!("reading {}", self.what);
        let status = self.child.wait().await.map_err(|error| errors::not_started(&error))?;
        let complained = self.complained.await.unwrap_or_default();
        if status.success() { Ok(()) } else { Err(explain(&self.repository, &doing, status, &complained)) }
    }
}

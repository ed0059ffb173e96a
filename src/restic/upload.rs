//! One snapshot that is being stored.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::{
    io::AsyncReadExt,
    process::{Child, ChildStderr, ChildStdin, Command},
    task::JoinHandle,
};

use super::{
    Repository,
    errors::{self, explain, while_storing},
    pulse::Pulse,
    said::{each_complaint, keep},
    secrets::Secrets,
};
use crate::contract::{Result, TaskError};

/// Of what a program says, as much is kept.
const WORDS: u64 = 16 << 10;

/// A signal is heard in less.
const HEARS_WITHIN: Duration = Duration::from_millis(300);

/// Taking a lock out of a storage far away takes a few requests.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// A `restic backup` at work. Dropped, it is killed; [`Upload::abandon`] lets it take its lock away.
pub struct Upload {
    child: Child,
    /// Where the bytes go.
    pub input: Option<ChildStdin>,
    repository: Repository,
    what: String,
    pulse: Pulse,
    said: JoinHandle<String>,
    complained: JoinHandle<String>,
}

/// A snapshot that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The snapshot's id, all of it.
    pub snapshot: String,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that came new into the repository, compressed.
    pub added: u64,
}

#[derive(Deserialize)]
struct Summary {
    snapshot_id: String,
    total_bytes_processed: u64,
    data_added_packed: u64,
}

impl Upload {
    pub(super) fn start(mut command: Command, repository: Repository, what: &str) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| errors::not_started(&error))?;
        let pulse = repository.pulse();
        let said = pulse.follow(child.stdout.take());
        let complained = tokio::spawn(listen(child.stderr.take(), repository.secrets.clone(), pulse.clone()));
        let input = child.stdin.take();
        let what = format!("storing {what} in {}", repository.location());
        Ok(Self { child, input, repository, what, pulse, said, complained })
    }

    /// Returns when restic complains and comes no further: why. Then it is to be abandoned. Whoever writes to its input waits for
    /// this too.
    pub fn stops(&self) -> impl Future<Output = TaskError> + use<> {
        let (pulse, repository, what) = (self.pulse.clone(), self.repository.clone(), self.what.clone());
        async move {
            let complaint = pulse.stops().await;
            errors::came_no_further(&repository, &what, pulse.within(), &complaint)
        }
    }

    /// Says that nothing more comes, and waits until it is all stored.
    ///
    /// # Errors
    /// What restic said. Nothing was stored, or at least no snapshot names it.
    pub async fn finish(mut self) -> Result<Stored> {
        drop(self.input.take());
        let stops = self.stops();
        let status = tokio::select! {
            status = self.child.wait() => Some(status.map_err(|error| errors::not_started(&error))?),
            () = self.pulse.is_done_but_for_the_lock() => {
                let _ = self.child.kill().await;
                None
            }
            why = stops => {
                interrupt(&mut self.child, None).await;
                return Err(why);
            }
        };
        let (said, complained) = (self.said.await.unwrap_or_default(), self.complained.await.unwrap_or_default());
        if let Some(status) = status.filter(|status| !status.success()) {
            return Err(while_storing(explain(&self.repository, &self.what, status, &complained)));
        }
        let summary = said.lines().filter_map(|line| serde_json::from_str::<Summary>(line).ok()).next_back();
        let Some(summary) = summary else {
            let said = self.repository.secrets.mask(&said);
            return Err(TaskError::terminal(
                "ResticFailed",
                format!("While {}: restic gave no summary: {said}", self.what),
            ));
        };
        let Summary { snapshot_id, total_bytes_processed, data_added_packed } = summary;
        Ok(Stored { snapshot: snapshot_id, bytes: total_bytes_processed, added: data_added_packed })
    }

    /// Ends it without a snapshot, and lets restic take its lock away.
    ///
    /// restic hears the signal but goes on reading until the input gives something or ends. Were the end seen first, there
    /// would be a snapshot of a part: without a manifest it is none of a backup.
    pub async fn abandon(mut self) {
        interrupt(&mut self.child, self.input.take()).await;
    }

    /// restic ended although there was more to come: what it said.
    pub async fn why_it_ended(mut self) -> TaskError {
        // Its end is near: it has closed its input.
        match self.child.wait().await {
            Ok(status) => {
                let complained = self.complained.await.unwrap_or_default();
                while_storing(explain(&self.repository, &self.what, status, &complained))
            }
            Err(error) => errors::not_started(&error),
        }
    }
}

/// Tells restic to stop, and waits until it has taken its lock away.
pub(super) async fn interrupt(child: &mut Child, input: Option<ChildStdin>) {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if pid.is_some_and(|pid| kill_process(pid, Signal::INT).is_ok()) && input.is_some() {
        tokio::time::sleep(HEARS_WITHIN).await;
    }
    drop(input);
    if tokio::time::timeout(ENDS_WITHIN, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

async fn listen(stderr: Option<ChildStderr>, secrets: Secrets, pulse: Pulse) -> String {
    let mut complained = String::new();
    each_complaint(stderr, secrets, |line| {
        pulse.hears(line);
        keep(&mut complained, line);
    })
    .await;
    complained
}

/// Reads an output to its end beside everything else: a full pipe would stop the program.
pub fn collect(output: Option<impl tokio::io::AsyncRead + Unpin + Send + 'static>) -> JoinHandle<String> {
    tokio::spawn(async move {
        let mut kept = Vec::new();
        if let Some(mut output) = output {
            let _ = (&mut output).take(WORDS).read_to_end(&mut kept).await;
            let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}

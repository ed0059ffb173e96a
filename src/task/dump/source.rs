//! Where somebody's dump is.

use std::{fs, io, path::PathBuf, time::UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;

use crate::{
    contract::{Result, TaskError},
    restic::{Download, Repository},
    task::place::Place,
};

/// A file, or one in a snapshot of restic.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// The dump: `pg_dump -Fc` or SQL, maybe compressed by gzip. With a repository: its path in the snapshot.
    #[arg(long)]
    pub dump: PathBuf,
    /// Directory with what restic reads from its environment, where the dump is in a repository.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_dir: Option<PathBuf>,
    /// The repository, where RESTIC_REPOSITORY does not name it.
    #[arg(long, requires = "repository_dir")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// restic's name of the snapshot, or the beginning of it; `latest`: the newest that has the dump.
    #[arg(long, default_value = "latest")]
    pub snapshot: String,
}

/// A dump that is there.
pub struct Found {
    /// With the id of its snapshot.
    repository: Option<(Repository, String)>,
    /// As people named it.
    pub path: String,
    /// When it was written, by the clock of who wrote it: what it shows is a little older.
    pub taken_at: Timestamp,
    pub bytes: u64,
}

/// The bytes of a dump, and restic where they come from it.
pub(super) type Opened = (Box<dyn AsyncRead + Send + Unpin>, Option<Download>);

impl Source {
    /// The same as arguments of a task, but for the snapshot: preflight finds it, and the step is told.
    pub fn to_args(&self) -> Vec<String> {
        let place = self.place().into_iter().flat_map(|place| place.to_args());
        [format!("--dump={}", self.dump.display())].into_iter().chain(place).collect()
    }

    fn place(&self) -> Option<Place> {
        let repository_dir = self.repository_dir.clone()?;
        let repository = self.repository.clone();
        Some(Place { repository_dir, repository, repository_claim: None, stalled_within: None })
    }

    /// Finds it; restic's cache goes into `scratch`.
    ///
    /// # Errors
    /// Terminal: `DumpNotFound`, `DumpUnreadable`, `SnapshotNotFound`. What restic answers.
    pub async fn find(&self, scratch: &std::path::Path) -> Result<Found> {
        let path = self.dump.display().to_string();
        if let Some(place) = self.place() {
            let repository = place.open(scratch)?;
            let stored = repository.find_file(&self.snapshot, &path).await?;
            return Ok(Found {
                repository: Some((repository, stored.snapshot)),
                path,
                // restic has it to the nanosecond, which nobody wants to read.
                taken_at: Timestamp::from_second(stored.at.as_second()).unwrap_or(stored.at),
                bytes: stored.bytes,
            });
        }
        let file = fs::metadata(&self.dump).map_err(|error| unreadable(&path, &error))?;
        if !file.is_file() {
            return Err(TaskError::terminal(
                "DumpFormatUnknown",
                format!("{path} is no file. A dump in the directory format is not read: make one with pg_dump -Fc."),
            ));
        }
        let written = file.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let taken_at = written.and_then(|at| Timestamp::from_second(at.as_secs().cast_signed()).ok());
        Ok(Found { repository: None, path, taken_at: taken_at.unwrap_or_default(), bytes: file.len() })
    }
}

impl Found {
    /// restic's id of its snapshot.
    pub fn snapshot(&self) -> Option<&str> {
        self.repository.as_ref().map(|(_, snapshot)| snapshot.as_str())
    }

    /// It can be read twice at no great cost.
    pub fn is_at_hand(&self) -> bool {
        self.repository.is_none()
    }

    /// Begins to read it.
    pub(super) async fn open(&self) -> Result<Opened> {
        match &self.repository {
            Some((repository, snapshot)) => {
                let mut download = repository.read_stream(snapshot, self.path.trim_start_matches('/'))?;
                let output = download.output.take().expect("its output is a pipe");
                Ok((Box::new(output), Some(download)))
            }
            None => {
                let file = tokio::fs::File::open(&self.path).await.map_err(|error| unreadable(&self.path, &error))?;
                Ok((Box::new(file), None))
            }
        }
    }
}

fn unreadable(path: &str, error: &io::Error) -> TaskError {
    if error.kind() == io::ErrorKind::NotFound {
        return TaskError::terminal(
            "DumpNotFound",
            format!(
                "There is no file {path}. Create a new SynapseRestore with the right spec.from.dump: the path counts from the root of the claim."
            ),
        );
    }
    TaskError::terminal(
        "DumpUnreadable",
        format!("{path} cannot be read: {error}. Who may read it? The Job runs as jobs.runAsUser, with jobs.fsGroup."),
    )
}

//! PostgreSQL's client programs, of the server's own major or, where there are none of it, of a newer one ([`super::clients`]).
//!
//! The tools image has several majors side by side, as Debian and PGDG install them.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tokio::process::Command;

use super::{
    Result, Target,
    clients::{self, Clients},
    reach::Files,
    settings::{self, Setting},
};
use crate::contract::TaskError;

/// Where Debian's and PGDG's packages put a major's programs.
const INSTALLED: &str = "/usr/lib/postgresql";

/// The programs for one server.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `None`: on the PATH.
    directory: Option<PathBuf>,
    /// `pg_dump` takes `--restrict-key` and `psql` knows `\restrict`: new in 14.19, 15.14, 16.10, 17.6 and 18.
    pub takes_restrict_key: bool,
    /// Their own.
    pub major: i32,
    /// The server's (`server_version_num`).
    version: i32,
    /// What they read: each has the same for as long as one of them may run.
    files: Arc<Files>,
}

impl Programs {
    /// Finds those of a server's major (`server_version_num`), or else of the next newer one.
    ///
    /// # Errors
    /// Terminal, `ClientProgramsMissing`, with what there is instead.
    pub async fn of(version: i32) -> Result<Self> {
        let major = version / 10_000;
        Self::not_older_than(major, version).await?.map_err(|found| {
            TaskError::terminal(
                "ClientProgramsMissing",
                format!(
                    "The server is PostgreSQL {major}, and a pg_dump of that major or a newer one is neither in {INSTALLED} nor \
                     on the PATH (there is {found}): use a tools image with postgresql-client-{major}."
                ),
            )
        })
    }

    /// The same programs if they read this archive of `pg_dump`, or else newer ones.
    ///
    /// # Errors
    /// Terminal, `ClientProgramsMissing`: none there reads it.
    pub async fn that_read(&self, archive: &Path) -> Result<Self> {
        let mut head = [0; 8];
        let read = std::fs::File::open(archive).and_then(|mut file| file.read_exact(&mut head));
        let oldest = read.map_or(0, |()| clients::reads_archive(&head));
        if oldest <= self.major {
            return Ok(self.clone());
        }
        Self::not_older_than(oldest, self.version).await?.map_err(|found| {
            TaskError::terminal(
                "ClientProgramsMissing",
                format!(
                    "pg_dump of PostgreSQL {oldest} or later wrote the backup's schema, and a pg_restore of that major or a newer \
                     one is neither in {INSTALLED} nor on the PATH (there is {found}): use a tools image with \
                     postgresql-client-{oldest}."
                ),
            )
        })
    }

    /// The programs of this major or the next newer one; else what there is.
    async fn not_older_than(oldest: i32, version: i32) -> Result<std::result::Result<Self, String>> {
        let on_the_path = ask_pg_dump(None, "--version").await;
        let mut there = clients::installed(Path::new(INSTALLED));
        there.extend(clients::major_of(&on_the_path).map(|major| Clients { major, directory: None }));
        let found = clients::told(&there);
        let Some(Clients { major, directory }) = clients::choose(there, oldest) else { return Ok(Err(found)) };
        let takes_restrict_key = ask_pg_dump(directory.as_deref(), "--help").await.contains("--restrict-key");
        let files = Arc::new(Files::new().map_err(|error| TaskError::no_scratch_space(&error))?);
        Ok(Ok(Self { directory, takes_restrict_key, major, version, files }))
    }

    /// What the server takes of a script that `pg_restore` has written.
    pub fn understood(&self, script: String) -> String {
        if clients::are_understood(self.major, self.version / 10_000) { script } else { clients::for_older(&script) }
    }

    fn path(&self, program: &str) -> PathBuf {
        path(self.directory.as_deref(), program)
    }

    /// One of them, told how to reach the database.
    ///
    /// # Errors
    /// Transient, `NoScratchSpace`.
    pub fn command(&self, program: &str, target: &Target) -> Result<Command> {
        self.command_with(program, target, &[])
    }

    /// The same, with settings of its own for its sessions.
    ///
    /// # Errors
    /// Transient, `NoScratchSpace`.
    pub fn command_with(&self, program: &str, target: &Target, own: &[Setting]) -> Result<Command> {
        let mut command = Command::new(self.path(program));
        self.files.tell(&mut command, target).map_err(|error| TaskError::no_scratch_space(&error))?;
        command.env("PGOPTIONS", settings::of_program(self.version, own)).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }
}

fn path(directory: Option<&Path>, program: &str) -> PathBuf {
    directory.map_or_else(|| program.into(), |directory| directory.join(program))
}

async fn ask_pg_dump(directory: Option<&Path>, question: &str) -> String {
    let mut pg_dump = Command::new(path(directory, "pg_dump"));
    let output = pg_dump.arg(question).stdin(Stdio::null()).kill_on_drop(true).output().await;
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

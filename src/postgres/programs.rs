//! PostgreSQL's client programs, of the server's own major.
//!
//! A newer `pg_dump` writes settings that an older server refuses, and an older one refuses a newer server. The tools image
//! has several majors side by side, as Debian and PGDG install them.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use tokio::process::Command;

use super::{
    Result, Target,
    reach::Files,
    settings::{self, Setting},
};
use crate::task::report::TaskError;

/// Where Debian's and PGDG's packages put a major's programs.
const INSTALLED: &str = "/usr/lib/postgresql";

/// The programs for one server.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `None`: on the PATH.
    directory: Option<PathBuf>,
    /// `pg_dump` takes `--restrict-key` and `psql` knows `\restrict`: new in 14.19, 15.14, 16.10, 17.6 and 18.
    pub takes_restrict_key: bool,
    /// The server's (`server_version_num`).
    version: i32,
    /// What they read: each has the same for as long as one of them may run.
    files: Arc<Files>,
}

impl Programs {
    /// Finds those of a server's major (`server_version_num`).
    ///
    /// # Errors
    /// Terminal, `ClientProgramsMissing`, with what there is instead.
    pub async fn of(version: i32) -> Result<Self> {
        let major = version / 10_000;
        let installed = Path::new(INSTALLED).join(major.to_string()).join("bin");
        let directory = Some(installed.clone()).filter(|directory| directory.join("pg_dump").exists());
        let files = Arc::new(Files::new().map_err(|error| TaskError::no_scratch_space(&error))?);
        let programs = Self { directory, takes_restrict_key: false, version, files };
        // "pg_dump (PostgreSQL) 17.6 (Debian 17.6-0)"
        let said = programs.ask_pg_dump("--version").await;
        let found = said.split_whitespace().nth(2).and_then(|version| version.split('.').next()?.parse().ok());
        if found == Some(major) {
            let takes_restrict_key = programs.ask_pg_dump("--help").await.contains("--restrict-key");
            return Ok(Self { takes_restrict_key, ..programs });
        }
        let found = if said.is_empty() { "no pg_dump at all" } else { said.trim() };
        Err(TaskError::terminal(
            "ClientProgramsMissing",
            format!(
                "The server is PostgreSQL {major}, and its pg_dump is neither in {} nor on the PATH (there is {found}): use a \
                 tools image with postgresql-client-{major}.",
                installed.display()
            ),
        ))
    }

    async fn ask_pg_dump(&self, question: &str) -> String {
        let output =
            Command::new(self.path("pg_dump")).arg(question).stdin(Stdio::null()).kill_on_drop(true).output().await;
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }

    fn path(&self, program: &str) -> PathBuf {
        self.directory.as_ref().map_or_else(|| program.into(), |directory| directory.join(program))
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

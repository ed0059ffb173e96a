//! What runs in Jobs: `synapse-keeper task …`.
//!
//! A task runs by hand as well, against any PostgreSQL. It is told everything by its arguments and by mounted files, does
//! its work, prints its progress as JSON lines, and reports how it ended (see [`crate::contract`]).
//!
//! Every task can be killed at any moment and run again: [`inspect`] and [`preflight`] change nothing, [`vacuum`] skips
//! what is already small, what a [`backup`] has stored does not exist before its last act, and what a [`restore`] has made
//! has no name that anybody uses before it is whole.

pub mod arguments;
pub mod authentication;
pub mod backup;
pub mod dump;
pub mod inspect;
pub mod place;
pub mod preflight;
pub mod restore;
pub mod schema;
mod sql;
pub mod vacuum;
pub mod verify;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::contract::{Findings, Report, TaskError, output};
use watch::{databases, watched};

/// One task.
#[derive(clap::Args)]
pub struct Task {
    #[command(subcommand)]
    command: Command,
    /// Where the report goes beside standard output [default: /dev/termination-log, if it exists]
    #[arg(long, global = true, env = "SYNAPSE_KEEPER_TERMINATION_LOG")]
    termination_log: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Back the database up into a restic repository. Synapse goes on serving.
    Backup(backup::Arguments),
    /// Add the media to what `backup --draft` has stored: then it is a backup.
    BackupMedia(backup::media::Arguments),
    /// Empty the database that a restore in place has left unfinished. Any other is not touched.
    ClearDatabase(restore::in_place::ClearArguments),
    /// Delete all that an object has stored in a restic repository.
    DeleteBackups(backup::delete::Arguments),
    /// Read what is true of a homeserver's database.
    Inspect(inspect::Arguments),
    /// Do nothing. The start of its Pod shows that the next one gets a node.
    Placement(Anything),
    /// Check that steps can be done, and say what they would do. Changes nothing.
    Preflight(preflight::Arguments),
    /// Write a backup's Secrets and ConfigMaps to a file, as manifests.
    RestoreConfig(restore::config::Arguments),
    /// Put a backup's media back into a media store. Nothing is deleted.
    RestoreMedia(restore::media::files::Arguments),
    /// Restore a backup's database beside the one that serves, while Synapse goes on serving. Or in place: then Synapse must be
    /// down.
    RestoreDatabase(restore::Arguments),
    /// Restore a dump that somebody else made beside the database that serves. Synapse goes on serving.
    RestoreDump(dump::Arguments),
    /// Take old backups out of a restic repository, and what failed attempts left there.
    Retain(backup::retain::Arguments),
    /// Give the restored database the homeserver's name. Synapse must be down.
    SwapDatabase(restore::swap::Arguments),
    /// Vacuum tables.
    Vacuum(vacuum::Arguments),
    /// Restore a backup into a PostgreSQL that is thrown away afterwards, and look whether it is whole.
    Verify(verify::Arguments),
}

/// Arguments that nobody reads: those of the step for which a place was looked for.
#[derive(clap::Args)]
struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _arguments: Vec<String>,
}

/// Runs a task to its end and reports.
///
/// # Errors
/// Only those of starting at all: no runtime, no signal handler, libpq's variables that stay. What goes wrong in the task is in its report.
pub fn main(task: Task) -> std::io::Result<ExitCode> {
    crate::postgres::forget_variables()?;
    // One thread is enough: a task waits for PostgreSQL.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let stop = stop_on_signal()?;
        Ok::<_, std::io::Error>(match task.command {
            Command::Inspect(arguments) => {
                watched(databases(&arguments.connection, None), &stop, async |stop| {
                    reading(&stop, inspect::run(arguments), |found| Findings::Inspection(Box::new(found))).await
                })
                .await
            }
            Command::Preflight(arguments) => {
                watched(databases(&arguments.connection, None), &stop, async |stop| {
                    reading(&stop, preflight::run(arguments), Findings::Preflight).await
                })
                .await
            }
            Command::Backup(arguments) => {
                let targets = databases(&arguments.connection, arguments.authentication_service.as_ref());
                watched(targets, &stop, async |stop| backup::run(arguments, &stop).await).await
            }
            Command::Placement(_) => Report::default(),
            Command::BackupMedia(arguments) => backup::media::run(arguments, &stop).await,
            Command::RestoreMedia(arguments) => restore::media::files::run(arguments, &stop).await.into(),
            Command::RestoreConfig(arguments) => unless(&stop, restore::config::run(arguments)).await.into(),
            // restic is killed with it, and leaves a lock that the next one waits for.
            Command::Retain(arguments) => unless(&stop, backup::retain::run(arguments)).await.into(),
            Command::RestoreDatabase(arguments) => {
                let targets = databases(&arguments.connection, arguments.wanted.authentication_service.as_ref());
                watched(targets, &stop, async |stop| restore::run(arguments, &stop).await).await
            }
            Command::ClearDatabase(arguments) => {
                let targets = databases(arguments.connection(), None);
                watched(targets, &stop, async |stop| restore::in_place::clear(arguments, &stop).await).await
            }
            Command::DeleteBackups(arguments) => unless(&stop, backup::delete::run(arguments)).await.into(),
            Command::RestoreDump(arguments) => {
                watched(databases(&arguments.connection, None), &stop, async |stop| {
                    dump::run(arguments, &stop).await.into()
                })
                .await
            }
            // From the databases to which it connects itself: who watches must not be in one that is renamed.
            Command::SwapDatabase(arguments) => {
                watched(arguments.targets(), &stop, async |stop| restore::swap::run(arguments, &stop).await).await
            }
            Command::Vacuum(arguments) => {
                watched(databases(&arguments.connection, None), &stop, async |stop| vacuum::run(arguments, &stop).await)
                    .await
            }
            // Its PostgreSQL is in its own Pod.
            Command::Verify(arguments) => verify::run(arguments, &stop).await,
        })
    })?;
    output::finish(&report, task.termination_log.as_deref());
    Ok(report.exit_code())
}

/// A task that only reads is left where it is when the signal comes: the connection closes, and PostgreSQL ends the
/// statement within a second (`client_connection_check_interval`).
async fn reading<T>(
    stop: &CancellationToken,
    work: impl Future<Output = Result<T, TaskError>>,
    findings: impl FnOnce(T) -> Findings,
) -> Report {
    let found = unless(stop, work).await;
    found.map(|found| Report { findings: Some(findings(found)), ..Report::default() }).into()
}

/// What a task came to, or that it was stopped.
async fn unless<T>(stop: &CancellationToken, work: impl Future<Output = Result<T, TaskError>>) -> Result<T, TaskError> {
    stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(stopped()))
}

const STOPPED: &str = "The task was stopped (SIGTERM) before it finished. Its statement was cancelled and rolled back.";

/// The error of a task that was stopped.
fn stopped() -> TaskError {
    TaskError::transient("Stopped", STOPPED)
}

/// Kubernetes stops a Pod with SIGTERM, a terminal with SIGINT.
fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
    });
    Ok(stop)
}

//! `task restore-database`: a backup's database, made beside the one that serves. Synapse goes on serving.
//!
//! Killed at any moment, it leaves a database under a name of its own that nobody uses; the next attempt drops it and
//! begins again.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::{
    Arguments,
    check::{Checked, check},
    fill::Filling,
    mark::{Mark, State, name_beside},
    preflight::{Ready, ready},
    server::Server,
};
use crate::{
    bytes,
    task::{
        authentication::Whose,
        output::progress,
        report::{Result, StepResult, TaskError},
        stopped,
    },
};

/// Runs the task.
///
/// # Errors
/// Those of preflight; what restic, PostgreSQL and its programs say; terminal, `RowsDiffer`, where what came back is not
/// what was backed up. Then the new database is dropped again.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Result<StepResult> {
    let began = Instant::now();
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let Arguments { connection, wanted, at_once, .. } = &arguments;
    let begun = stop.run_until_cancelled(ready(connection, wanted, scratch.path())).await;
    let Ready { mut server, chosen, programs, .. } = begun.unwrap_or_else(|| Err(stopped()))?;
    if let Some(done) = done_before(&mut server, &connection.operation, &chosen.backup.shown.id).await? {
        return Ok(done);
    }
    // Not before everything else has been found well: an attempt that is whole is dropped only for another one.
    server.drop_attempts(&connection.operation).await?;

    let name = name_beside(&connection.operation, connection.attempt);
    let mark = Mark {
        state: State::Unfinished,
        restore: wanted.restore.clone(),
        operation: connection.operation.clone(),
        snapshot: chosen.backup.shown.id.clone(),
        taken_at: chosen.backup.taken_at,
        at: jiff::Timestamp::now(),
        earlier: Vec::new(),
        replaced: None,
        comment: None,
    };
    let target = server.as_owner(connection, &name)?;
    let filling = Filling {
        repository: &chosen.repository,
        dump: &chosen.manifest.database,
        target: &target,
        programs: &programs,
        scratch: scratch.path(),
        at_once: *at_once,
    };
    let filled = async {
        server.create(&name, &mark).await?;
        progress(&format!("made database {name} beside {}", connection.database));
        let warnings = filling.fill().await?;
        progress("counts the rows");
        let checked = check(&target, Whose::Synapse, &chosen.manifest.database, *at_once).await?;
        server.mark(&name, &mark.now(State::Whole)).await?;
        Ok((checked, warnings))
    };
    let filled = stop.run_until_cancelled(filled).await.unwrap_or_else(|| Err(stopped()));
    match filled {
        Ok((Checked { rows, tables, bytes }, warnings)) => Ok(StepResult {
            summary: format!(
                "restored {rows} rows of {tables} tables of {} into {name} ({}), beside {}, in {} s",
                chosen.backup.taken_at,
                bytes::human(bytes),
                connection.database,
                began.elapsed().as_secs()
            ),
            warnings,
            seconds: Some(began.elapsed().as_secs_f64()),
            ..StepResult::default()
        }),
        // The space is wanted for the next attempt, and for the database that serves.
        Err(error) => Err(match Server::connect(connection, &wanted.administrator).await {
            Ok(mut server) => match server.drop_attempts(&connection.operation).await {
                Ok(_) => error,
                Err(left) => with(error, &format!("Database {name} could not be dropped: {left}")),
            },
            Err(left) => with(error, &format!("Database {name} could not be dropped: {left}")),
        }),
    }
}

/// An earlier attempt came to its end and died before it could say so.
async fn done_before(server: &mut Server, operation: &str, snapshot: &str) -> Result<Option<StepResult>> {
    let whole = |mark: &Mark| mark.operation == operation && mark.state == State::Whole && mark.snapshot == snapshot;
    let databases = server.databases().await?;
    let done = databases.iter().find(|found| found.mark.as_ref().is_some_and(whole));
    Ok(done.map(|found| StepResult {
        summary: format!("an earlier attempt had restored it into {} ({})", found.name, bytes::human(found.bytes)),
        ..StepResult::default()
    }))
}

fn with(error: TaskError, more: &str) -> TaskError {
    TaskError { message: format!("{} {more}", error.message), ..error }
}

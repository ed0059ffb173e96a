//! `task restore-database`: a backup's database, made beside the one that serves. Synapse goes on serving.
//!
//! Killed at any moment, it leaves a database under a name of its own that nobody uses; the next attempt drops it and
//! begins again.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::{
    Arguments, Wanted,
    authentication::{Half, Refill},
    check::{Checked, check},
    fill::Filling,
    mark::{Mark, State, name_beside, of_service},
    preflight::{Ready, ready},
    server::{Administrator, Server},
    terms::Fit,
};
use crate::{
    bytes,
    contract::{DatabaseLeft, Result, StepResult, TaskError, output::progress},
    postgres::{Session, Target, disk, lock},
    synapse::{database, schema},
    task::{arguments::Connection, authentication::Whose, schema::place_beside, stopped},
    words::{moment, rows_of},
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
    let Ready { fit: Fit { mut server, programs, lock, .. }, chosen, mut authentication, .. } =
        begun.unwrap_or_else(|| Err(stopped()))?;
    let mark = Mark {
        state: State::Unfinished,
        restore: wanted.terms.restore.clone(),
        operation: connection.operation.clone(),
        snapshot: chosen.backup.shown.id.clone(),
        dump: None,
        taken_at: chosen.backup.taken_at,
        at: jiff::Timestamp::now(),
        earlier: Vec::new(),
        whose: Whose::Synapse,
        with_authentication: authentication.is_some(),
        replaced: None,
        schema: chosen.manifest.database.schema.clone(),
        comment: None,
    };
    if let Some(done) = done_before(&mut server, &mark).await? {
        let is_whole = match &mut authentication {
            Some(half) => half.is_whole().await?,
            None => true,
        };
        if is_whole {
            return Ok(done);
        }
    }
    if let Some(half) = &mut authentication {
        half.drop_attempts().await?;
    }
    let filled = make(connection, &wanted.terms.administrator, (server, lock), &mark, stop, async |target| {
        let (repository, dump, scratch) = (&chosen.repository, &chosen.manifest.database, scratch.path());
        let place = place_beside(Whose::Synapse, &database::locale(), chosen.manifest.database.postgres_version);
        let filling = Filling { repository, dump, target, programs: &programs, scratch, at_once: *at_once, place };
        let mut warnings = filling.fill().await?.warnings();
        progress("counts the rows and reads them for the planner's statistics");
        let checked = check(target, Whose::Synapse, dump, *at_once).await?;
        warnings.extend(schema::lead_to(target, dump.schema.as_deref()).await?);
        let with_it = match (&mut authentication, &chosen.manifest.authentication_service) {
            (Some(half), Some(service)) => {
                let refill = Refill { chosen: &chosen, dump: &service.database, scratch, at_once: *at_once };
                let (summary, more) = half.restore(&mark, refill).await.map_err(|error| half.tell(error))?;
                warnings.extend(more);
                summary
            }
            _ => String::new(),
        };
        Ok(((checked, warnings, with_it), mark.clone()))
    });
    let (name, (Checked { rows, tables, bytes }, warnings, with_it)) = match filled.await {
        Ok(filled) => filled,
        Err(error) => return Err(clear_away(connection, wanted, error).await),
    };
    Ok(StepResult {
        summary: format!(
            "restored {} of {} into {name} ({}), beside {},{with_it} in {} s",
            rows_of(rows, tables),
            moment(chosen.backup.taken_at),
            bytes::human(bytes),
            connection.database,
            began.elapsed().as_secs()
        ),
        beside: Some(
            DatabaseLeft::new(&name, bytes, Some(&wanted.terms.restore))
                .with_authentication(authentication.is_some().then(|| of_service(&name))),
        ),
        warnings,
        seconds: Some(began.elapsed().as_secs_f64()),
        ..StepResult::default()
    })
}

/// What was made of the Matrix Authentication Service's database goes too. With sessions of its own: those of the attempt may be
/// in the middle of something.
async fn clear_away(connection: &Connection, wanted: &Wanted, error: TaskError) -> TaskError {
    let Some(service) = &wanted.authentication_service else { return error };
    let administrator = &wanted.terms.administrator;
    let dropped = async {
        let mut server = Server::connect(connection, administrator).await?;
        Half::connect(connection, administrator, &mut server, service).await?.drop_attempts().await
    };
    match dropped.await {
        Ok(()) => error,
        Err(left) => with(error, &format!("What was made of the second database could not be dropped: {left}")),
    }
}

/// Makes a database beside the homeserver's and has it filled. What earlier attempts have left is dropped before, and what
/// this one has made where it fails: the space is wanted for the next one, and for the database that serves.
///
/// Without the lock of the homeserver's database it ends: another task may work there by then, and what is made takes its place.
///
/// `fill` returns what it has to tell, and what is known of the source by then. Returns the database's name as well.
///
/// # Errors
/// Those of `fill`. What PostgreSQL says. Transient, `ConnectionLost`: the lock is lost.
pub async fn make<T>(
    connection: &Connection,
    administrator: &Administrator,
    (mut server, mut lock): (Server, Option<Session>),
    mark: &Mark,
    stop: &CancellationToken,
    fill: impl AsyncFnOnce(&Target) -> Result<(T, Mark)>,
) -> Result<(String, T)> {
    // Not before everything else has been found well: an attempt that is whole is dropped only for another one.
    server.mark_unmarked(connection, mark).await?;
    server.drop_attempts(connection).await?;
    let name = name_beside(&connection.operation, connection.attempt);
    let target = server.as_owner(connection, &name)?;
    let filled = async {
        server.create(&name, &connection.database, &database::locale(), mark).await?;
        progress(&format!("made database {name} beside {}", connection.database));
        let (told, mark) = fill(&target).await?;
        server.mark(&name, &mark.now(State::Whole)).await?;
        Ok(told)
    };
    let filled = disk::watched(connection.data_volume.as_deref(), lock::holding(lock.as_mut(), filled));
    match stop.run_until_cancelled(filled).await.unwrap_or_else(|| Err(stopped())) {
        Ok(told) => Ok((name, told)),
        Err(error) => Err(match Server::connect(connection, administrator).await {
            Ok(mut server) => match server.drop_attempts(connection).await {
                Ok(_) => error,
                Err(left) => with(error, &format!("Database {name} could not be dropped: {left}")),
            },
            Err(left) => with(error, &format!("Database {name} could not be dropped: {left}")),
        }),
    }
}

/// An earlier attempt came to its end and died before it could say so.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn done_before(server: &mut Server, mark: &Mark) -> Result<Option<StepResult>> {
    let whole = |found: &Mark| found.is_as(mark) && found.state == State::Whole;
    let databases = server.databases().await?;
    let Some(found) = databases.iter().find(|found| found.mark.as_ref().is_some_and(whole)) else { return Ok(None) };
    Ok(Some(StepResult {
        summary: format!("an earlier attempt had restored it into {} ({})", found.name, bytes::human(found.bytes)),
        beside: Some(found.as_left()),
        ..StepResult::default()
    }))
}

fn with(error: TaskError, more: &str) -> TaskError {
    TaskError { message: format!("{} {more}", error.message), ..error }
}

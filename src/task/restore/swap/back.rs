//! The old database gets its name back.

use super::{
    super::{
        ahead,
        authentication::{Half, not_named},
        mark::{Mark, State, name_beside},
        server::{Found, Server, find},
    },
    Arguments, mine,
    names::rename_both,
    read_back,
};
use crate::{
    contract::{Result, StepResult, TaskError},
    synapse::schema,
    task::{arguments::Connection, restore::doubt::gone},
};

/// Takes a swap back: of the one database, of both, or of the service's alone where it was cut off between the two. Where
/// nothing was swapped there is nothing to do, and it says so: who asks may not know.
///
/// # Errors
/// Terminal: `NothingToTakeBack`, `RestoredDatabaseUsed`. What is in the way, by name.
pub async fn swap_back(
    arguments: &Arguments,
    server: &mut Server,
    mut half: Option<&mut Half>,
    databases: &[Found],
    touched: &mut bool,
) -> Result<StepResult> {
    let connection = &arguments.connection;
    let of_service = match &mut half {
        Some(half) => half.renames_back().await.map_err(|error| half.tell(error))?,
        None => Vec::new(),
    };
    let in_place =
        find(databases, &connection.database).and_then(|found| Some((found, mine(found, connection, State::InPlace)?)));
    let Some((_, mark)) = in_place else {
        let in_state = |state| databases.iter().find(|found| mine(found, connection, state).is_some());
        let taken_back = in_state(State::TakenBack);
        if !of_service.is_empty() {
            // It was cut off between the two servers.
            *touched = true;
            rename_both(arguments, server, half, of_service, Vec::new()).await?;
        } else if let (None, Some(whole)) = (taken_back, in_state(State::Whole)) {
            return Ok(not_swapped(connection, whole));
        } else if taken_back.is_none() {
            return Err(TaskError::terminal(
                "NothingToTakeBack",
                format!(
                    "Database {} is not what this restore has put there: nothing is rolled back.",
                    connection.database
                ),
            ));
        }
        return Ok(put_back(connection, taken_back));
    };
    if mark.with_authentication && half.is_none() {
        return Err(not_named());
    }
    // Nobody must be served from one that a restore in place has left unfinished.
    let is_whole = |found: &&Found| !found.mark.as_ref().is_some_and(Mark::is_filling);
    let Some(old) = mark.replaced.as_ref().and_then(|name| find(databases, name)).filter(is_whole) else {
        return Err(TaskError::terminal(
            "NothingToTakeBack",
            "There was no whole database before the restore, or it is gone: nothing can be rolled back.",
        ));
    };
    let Some(mut session) = server.locked(connection, databases).await? else {
        return Err(gone());
    };
    schema::enter(&mut session, mark.schema.as_deref()).await?;
    if ahead::was_used(&mut session).await? {
        return Err(TaskError::terminal(
            "RestoredDatabaseUsed",
            format!(
                "Synapse has written into the restored database: clients hold tokens of it, so it is not rolled back. The old \
                 one is {}.",
                old.name
            ),
        ));
    }
    let away = name_beside(&connection.operation, connection.attempt);
    let renames = vec![
        (connection.database.clone(), away, Some(mark.now(State::TakenBack))),
        (old.name.clone(), connection.database.clone(), None),
    ];
    drop(session);
    *touched = true;
    rename_both(arguments, server, half.as_deref_mut(), of_service, renames).await?;
    read_back(arguments, server, half, State::TakenBack, vec![]).await
}

fn not_swapped(connection: &Connection, whole: &Found) -> StepResult {
    StepResult {
        beside: Some(whole.as_left()),
        summary: format!("{} was not swapped: there was nothing to roll back", connection.database),
        ..StepResult::default()
    }
}

/// `restored`: where it is now. None: Synapse's had not been replaced yet.
pub fn put_back(connection: &Connection, restored: Option<&Found>) -> StepResult {
    let kept = restored
        .map(|found| format!("; the restored one is kept as {}: drop it when it is not wanted any more", found.name));
    StepResult {
        summary: format!("{} is the old database again{}", connection.database, kept.unwrap_or_default()),
        beside: restored.map(Found::as_left),
        ..StepResult::default()
    }
}

//! `task swap-database`: the restored database gets the homeserver's name, and the old one another. With `--back` the other way
//! round.
//!
//! Synapse is down. Both names change in one transaction, so that at every moment there is one database by the homeserver's
//! name, and it is whole. Done twice, it finds that it is done.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    ahead::{self, Position},
    existing::Present,
    in_place::writable_again,
    mark::{Mark, State, name_aside},
    server::{Administrator, Found, Server, find},
};
use crate::{
    api::{
        dump::RestoredDump,
        restore::{Existing, Restored, ScheduledTasks},
    },
    bytes,
    postgres::sessions,
    task::{
        arguments::Connection,
        report::{Result, StepResult, TaskError},
    },
};

/// Sessions that were told to end, and exporters that come back at once, may stand in the way for so long.
const SWAPPED_WITHIN: Duration = Duration::from_secs(60);
const TRIES_EVERY: Duration = Duration::from_millis(500);

/// What to swap.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    administrator: Administrator,
    /// What becomes of a database that somebody has used.
    #[arg(long, value_enum, default_value_t)]
    existing: Existing,
    /// What becomes of purges that were under way when the backup was made.
    #[arg(long, value_enum, default_value_t)]
    scheduled_tasks: ScheduledTasks,
    /// Give the old database its name back.
    #[arg(long)]
    back: bool,
    /// When it must be over: users are waiting.
    #[arg(long)]
    until: Option<Timestamp>,
}

/// Runs the task. It is short, and a signal that comes in the middle changes nothing: both names or none.
///
/// # Errors
/// What is in the way, by name. Nothing is swapped then.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Result<StepResult> {
    let Arguments { connection, administrator, back, .. } = &arguments;
    let mut server = Server::connect(connection, administrator).await?;
    let databases = server.databases().await?;
    let work = async {
        match back {
            true => swap_back(&arguments, &mut server, &databases).await,
            false => swap(&arguments, &mut server, &databases).await,
        }
    };
    stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(crate::task::stopped()))
}

async fn swap(arguments: &Arguments, server: &mut Server, databases: &[Found]) -> Result<StepResult> {
    let connection = &arguments.connection;
    let present = find(databases, &connection.database);
    if let Some((found, mark)) = present.and_then(|found| Some((found, mine(found, connection, State::InPlace)?))) {
        return Ok(swapped(databases, found, mark, vec![]));
    }
    // One that was taken back may be tried again, by a person who has mended what kept Synapse from starting.
    let ready = |found| mine(found, connection, State::Whole).or_else(|| mine(found, connection, State::TakenBack));
    let Some((new, mark)) = databases.iter().find_map(|found| Some((found, ready(found)?))) else {
        return Err(TaskError::terminal(
            "RestoredDatabaseGone",
            "The database that this restore has made beside the old one is not there any more. Nothing was replaced: make a \
             new SynapseRestore.",
        ));
    };
    Present::look(server, connection, databases).await?.may_go_aside(arguments.existing, &connection.database)?;

    let old_positions = match present {
        Some(_) => read_old(arguments, server).await?,
        None => BTreeMap::new(),
    };
    let mut session = server.as_owner(connection, &new.name)?.connect().await?;
    sessions::end_earlier(&mut session, &server.target.application).await?;
    let mut notes = ahead::bring_ahead(&mut session, &old_positions, arguments.scheduled_tasks).await?;
    drop(session);

    let aside = present.map(|_| name_aside(&connection.database, Timestamp::now()));
    let earlier = present.and_then(|found| found.mark.as_ref()).map(Mark::history).unwrap_or_default();
    let mark = Mark { earlier, replaced: aside.clone(), ..mark.now(State::InPlace) };
    let mut renames = Vec::new();
    if let Some(aside) = aside {
        let refused = server.copy_settings(&connection.database, &new.name).await?;
        notes.extend(refused.into_iter().map(|refused| format!("a setting was not taken over: {refused}")));
        if present.and_then(|found| found.mark.as_ref()).is_some_and(Mark::is_filling) {
            server.at_once(&[writable_again(&new.name)], "letting Synapse write").await?;
        }
        renames.push((connection.database.clone(), aside, None));
    }
    renames.push((new.name.clone(), connection.database.clone(), Some(mark)));
    rename(arguments, server, &renames).await?;
    read_back(arguments, server, State::InPlace, notes).await
}

/// Until the last moment somebody may come: what belongs to Synapse stops the swap, others are sent away.
async fn read_old(arguments: &Arguments, server: &mut Server) -> Result<BTreeMap<String, Position>> {
    let connection = &arguments.connection;
    let mut session = server.as_owner(connection, &connection.database)?.connect().await?;
    let deadline = deadline(arguments);
    loop {
        let others = sessions::others(&mut session, &connection.ignore_sessions).await?;
        let intruders: Vec<_> = others.into_iter().filter(sessions::OtherSession::is_in_the_way).collect();
        if intruders.is_empty() {
            return ahead::positions(&mut session).await;
        }
        // Those of Pods that have just ended go by themselves.
        if Instant::now() >= deadline {
            return Err(TaskError::terminal(
                "Contested",
                format!(
                    "Somebody works on the old database while it is to be put aside: {}.",
                    sessions::list(&intruders)
                ),
            ));
        }
        tokio::time::sleep(TRIES_EVERY).await;
    }
}

async fn swap_back(arguments: &Arguments, server: &mut Server, databases: &[Found]) -> Result<StepResult> {
    let connection = &arguments.connection;
    let in_place =
        find(databases, &connection.database).and_then(|found| Some((found, mine(found, connection, State::InPlace)?)));
    let Some((_, mark)) = in_place else {
        let taken_back = |found: &&Found| mine(found, connection, State::TakenBack).is_some();
        if let Some(found) = databases.iter().find(taken_back) {
            return Ok(put_back(connection, found));
        }
        return Err(TaskError::terminal(
            "NothingToTakeBack",
            format!("Database {} is not what this restore has put there: nothing is taken back.", connection.database),
        ));
    };
    // Nobody must be served from one that a restore in place has left unfinished.
    let is_whole = |found: &&Found| !found.mark.as_ref().is_some_and(Mark::is_filling);
    let Some(old) = mark.replaced.as_ref().and_then(|name| find(databases, name)).filter(is_whole) else {
        return Err(TaskError::terminal(
            "NothingToTakeBack",
            "There was no whole database before the restore, or it is gone: nothing can be taken back.",
        ));
    };
    let mut session = server.as_owner(connection, &connection.database)?.connect().await?;
    if ahead::was_used(&mut session).await? {
        return Err(TaskError::terminal(
            "RestoredDatabaseUsed",
            format!(
                "Synapse has written into the restored database: clients hold tokens of it, so it is not taken back. The old \
                 one is {}.",
                old.name
            ),
        ));
    }
    drop(session);
    let away = super::mark::name_beside(&connection.operation, connection.attempt);
    let renames = [
        (connection.database.clone(), away, Some(mark.now(State::TakenBack))),
        (old.name.clone(), connection.database.clone(), None),
    ];
    rename(arguments, server, &renames).await?;
    read_back(arguments, server, State::TakenBack, vec![]).await
}

/// Users wait: not longer than for sessions to go, and not longer than they should.
fn deadline(Arguments { until, .. }: &Arguments) -> Instant {
    let left = until.map(|until| Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default());
    Instant::now() + left.unwrap_or(SWAPPED_WITHIN).min(SWAPPED_WITHIN)
}

/// Until nobody is connected: PostgreSQL waits five seconds for that itself.
async fn rename(arguments: &Arguments, server: &mut Server, renames: &[(String, String, Option<Mark>)]) -> Result<()> {
    let deadline = deadline(arguments);
    loop {
        let mut left = Vec::new();
        for (from, _, _) in renames {
            left.extend(server.end_sessions(from).await?);
        }
        match server.rename(renames).await {
            Err(error) if Instant::now() >= deadline => {
                let who = if left.is_empty() { String::new() } else { format!(" Still there: {}.", left.join("; ")) };
                return Err(TaskError { message: format!("{}{who} Nothing was swapped.", error.message), ..error });
            }
            Err(_) => tokio::time::sleep(TRIES_EVERY).await,
            Ok(()) => return Ok(()),
        }
    }
}

/// What the server says now.
async fn read_back(arguments: &Arguments, server: &mut Server, state: State, notes: Vec<String>) -> Result<StepResult> {
    let connection = &arguments.connection;
    let databases = server.databases().await?;
    let found = databases.iter().find_map(|found| Some((found, mine(found, connection, state)?)));
    match (found, state) {
        (Some((found, mark)), State::InPlace) if found.name == connection.database => {
            Ok(swapped(&databases, found, mark, notes))
        }
        (Some((found, _)), State::TakenBack) => Ok(put_back(connection, found)),
        _ => Err(TaskError::transient(
            "SwapUnknown",
            "The names were swapped, and the server does not say so: looks again.",
        )),
    }
}

/// A mark of this restore on a database, in this state.
fn mine<'a>(found: &'a Found, connection: &Connection, state: State) -> Option<&'a Mark> {
    found.mark.as_ref().filter(|mark| mark.operation == connection.operation && mark.state == state)
}

fn swapped(databases: &[Found], found: &Found, mark: &Mark, warnings: Vec<String>) -> StepResult {
    let kept = mark.replaced.as_ref().and_then(|name| find(databases, name));
    let kept_size = kept.map(|kept| bytes::human(kept.bytes));
    let kept = mark.replaced.as_ref().map_or_else(
        || "there was no database before".to_owned(),
        |kept| {
            let size = kept_size.as_deref().unwrap_or("dropped since");
            format!("the old one is kept as {kept} ({size}): drop it when it is not wanted any more")
        },
    );
    StepResult {
        summary: format!(
            "{} is {} of {} now ({}); {kept}",
            found.name,
            mark.what(),
            mark.taken_at,
            bytes::human(found.bytes)
        ),
        warnings,
        restored: Some(Restored {
            snapshot: Some(mark.snapshot.clone()).filter(|snapshot| !snapshot.is_empty()),
            dump: mark.dump.as_ref().map(|dump| RestoredDump { path: dump.path.clone(), sha256: dump.sha256.clone() }),
            taken_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(mark.taken_at),
            database: found.name.clone(),
            kept: mark.replaced.clone(),
            kept_size,
        }),
        ..StepResult::default()
    }
}

fn put_back(connection: &Connection, found: &Found) -> StepResult {
    StepResult {
        summary: format!(
            "{} is the old database again; the restored one is kept as {}: drop it when it is not wanted any more",
            connection.database, found.name
        ),
        ..StepResult::default()
    }
}

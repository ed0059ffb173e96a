//! `task swap-database`: the restored database gets the homeserver's name, and the old one another. With `--back` the other way
//! round.
//!
//! Synapse is down. Both names change in one transaction, so that at every moment there is one database by the homeserver's
//! name, and it is whole. Done twice, it finds that it is done.
//!
//! With the database of the Matrix Authentication Service it is four names, in one transaction where both are on one server.
//! On two, the service's change first: Synapse's mark says that all is done. What is cut off in between is finished by the next
//! attempt or taken back by `--back`, and what fails in between is taken back by the same one: see [`settle`](mod@settle).

mod back;
mod names;
mod settle;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::{
    back::{put_back, swap_back},
    names::{alone, rename_both},
    settle::settle,
};
use super::{
    ahead,
    authentication::{Half, not_named},
    doubt,
    existing::Present,
    in_place::writable_again,
    mark::{Mark, State, name_aside},
    server::{Administrator, Found, Rename, Server, find},
};
use crate::{
    api::restore::{Existing, ScheduledTasks},
    bytes,
    contract::{Leaves, Report, Restored, RestoredAuthentication, RestoredDump, Result, StepResult},
    postgres::{Session, Target, lock, relations, sessions},
    synapse::schema,
    task::{arguments::Connection, authentication::AuthenticationService},
    words::moment,
};

/// The kubelet leaves a task that it stops fifteen seconds.
const MENDED_WITHIN: Duration = Duration::from_secs(10);

/// What to swap.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    administrator: Administrator,
    #[command(flatten)]
    authentication_service: Option<AuthenticationService>,
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

impl Arguments {
    /// The databases to which it connects to rename others, one or two: their servers are watched.
    pub fn targets(&self) -> Vec<Target> {
        let Self { connection, administrator, authentication_service, .. } = self;
        let of_service = authentication_service
            .as_ref()
            .map(|service| administrator.of_service(service).target(&service.connection(connection)));
        [Some(administrator.target(connection)), of_service].into_iter().flatten().flatten().collect()
    }
}

/// Runs the task. It is short, and a signal that comes in the middle changes nothing: both names or none. What it has left is
/// in its report, whatever went wrong. Where the server does not answer, that is unknown, and so says the report.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    let (mut server, mut half) = match connect(&arguments).await {
        Ok(connected) => connected,
        Err(error) => return Report { error: Some(error), leaves: Some(Leaves::AsItWas), ..Report::default() },
    };
    let mut touched = false;
    let work = async {
        let databases = server.databases().await?;
        match arguments.back {
            true => swap_back(&arguments, &mut server, half.as_mut(), &databases, &mut touched).await,
            false => swap(&arguments, &mut server, half.as_mut(), &databases, &mut touched).await,
        }
    };
    match stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(crate::task::stopped())) {
        Ok(done) => Ok(done).into(),
        Err(error) => settle(&arguments, error, touched).await,
    }
}

/// What an earlier attempt was about to rename it does not rename any more.
async fn connect(arguments: &Arguments) -> Result<(Server, Option<Half>)> {
    let Arguments { connection, administrator, authentication_service, .. } = arguments;
    let mut server = Server::connect(connection, administrator).await?;
    server.end_earlier().await?;
    let Some(service) = authentication_service else { return Ok((server, None)) };
    let mut half = Half::connect(connection, administrator, &mut server, service).await?;
    if !half.is_on_one_server {
        half.server.end_earlier().await.map_err(|error| half.tell(error))?;
    }
    Ok((server, Some(half)))
}

async fn swap(
    arguments: &Arguments,
    server: &mut Server,
    mut half: Option<&mut Half>,
    databases: &[Found],
    touched: &mut bool,
) -> Result<StepResult> {
    let connection = &arguments.connection;
    let present = find(databases, &connection.database);
    if present.is_some_and(|found| mine(found, connection, State::InPlace).is_some()) {
        return read_back(arguments, server, half, State::InPlace, vec![]).await;
    }
    // One that was taken back may be tried again, by a person who has mended what kept Synapse from starting.
    let ready = |found| mine(found, connection, State::Whole).or_else(|| mine(found, connection, State::TakenBack));
    let Some((new, mark)) = databases.iter().find_map(|found| Some((found, ready(found)?))) else {
        return Err(doubt::gone());
    };
    if mark.with_authentication && half.is_none() {
        return Err(not_named());
    }
    // It has the task's lock until the names change.
    let mut old = server.locked(connection, databases).await?;
    Present::look(server, connection, databases).await?.may_go_aside(arguments.existing, &connection.database)?;
    server.may_be_put_aside(&connection.database).await?;
    let (of_service, mut notes, mut lock_of_service) = match &mut half {
        Some(half) => ahead_of_service(arguments, half).await.map_err(|error| half.tell(error))?,
        None => Default::default(),
    };
    let old_positions = match &mut old {
        Some(old) => {
            alone(arguments, old, connection).await?;
            ahead::positions(old, None).await?
        }
        None => BTreeMap::new(),
    };
    let target = server.as_owner(connection, &new.name)?;
    let mut session = target.connect().await?;
    sessions::end_earlier(&mut session, &server.target.application).await?;
    schema::enter(&mut session, mark.schema.as_deref()).await?;
    is_whole(&mut session, &new.name).await?;
    notes.extend(
        ahead::bring_ahead(&mut session, mark.schema.as_deref(), &old_positions, arguments.scheduled_tasks).await?,
    );
    drop(session);

    let aside = present.map(|_| name_aside(&connection.database, Timestamp::now()));
    let earlier = present.and_then(|found| found.mark.as_ref()).map(Mark::history).unwrap_or_default();
    let comment = present.and_then(Found::own_comment);
    let known = mark.schema.clone();
    let mark = Mark { earlier, replaced: aside.clone(), comment, ..mark.now(State::InPlace) };
    let mut renames = Vec::new();
    if let Some(aside) = aside {
        notes.extend(server.copy_settings(connection, &connection.database, &new.name).await?);
        let owner = present.map(|found| &found.owner).filter(|owner| **owner != server.owner);
        notes.extend(owner.map(|owner| {
            format!("{} belongs to role {} now; the old one belongs to {owner}", connection.database, server.owner)
        }));
        if present.and_then(|found| found.mark.as_ref()).is_some_and(Mark::is_filling) {
            server.at_once(&[writable_again(&new.name)], "letting Synapse write").await?;
        }
        renames.push((connection.database.clone(), aside, None));
    }
    notes.extend(schema::lead_to(&target, known.as_deref()).await?);
    renames.push((new.name.clone(), connection.database.clone(), Some(mark)));
    // Without it another task may work there. From here on a rename refuses while one does.
    for lock in [old.as_mut(), lock_of_service.as_mut()].into_iter().flatten() {
        lock::still_held(lock).await?;
    }
    drop((old, lock_of_service));
    *touched = true;
    rename_both(arguments, server, half.as_deref_mut(), of_service, renames).await?;
    read_back(arguments, server, half, State::InPlace, notes).await
}

/// What gives the service's database its name, when nobody uses the old one any more.
async fn ahead_of_service(
    arguments: &Arguments,
    half: &mut Half,
) -> Result<(Vec<Rename>, Vec<String>, Option<Session>)> {
    let databases = half.server.databases().await?;
    let mut old = half.server.locked(&half.connection, &databases).await?;
    let (renames, notes) = half.renames(arguments.existing).await?;
    // Only where an old one is renamed.
    if let Some(old) = old.as_mut().filter(|_| renames.len() > 1) {
        alone(arguments, old, &half.connection).await?;
    }
    Ok((renames, notes, old))
}

/// What takes the place of the old one is a whole homeserver, whoever has restored it.
async fn is_whole(session: &mut Session, name: &str) -> Result<()> {
    let tables = relations::tables(session).await?;
    let names = tables.iter().map(|table| table.name.as_str()).collect();
    match schema::Missing::of(&names) {
        None => Ok(()),
        Some(missing) => Err(missing.refused(&format!("In the restored database {name}"), "Nothing was replaced.")),
    }
}

/// What the servers say now.
async fn read_back(
    arguments: &Arguments,
    server: &mut Server,
    half: Option<&mut Half>,
    state: State,
    notes: Vec<String>,
) -> Result<StepResult> {
    let connection = &arguments.connection;
    let databases = server.databases().await?;
    let found = databases.iter().find_map(|found| Some((found, mine(found, connection, state)?)));
    match (found, state) {
        (Some((found, mark)), State::InPlace) if found.name == connection.database => {
            let service = match half {
                Some(half) => Some(half.restored().await?),
                None => None,
            };
            Ok(swapped(&databases, found, mark, service, notes))
        }
        (Some((found, _)), State::TakenBack) => Ok(put_back(connection, Some(found))),
        _ => Err(doubt::unknown()),
    }
}

/// The mark of this restore on its Synapse's database, in this state.
fn mine<'a>(found: &'a Found, connection: &Connection, state: State) -> Option<&'a Mark> {
    let is_mine =
        |mark: &&Mark| mark.operation == connection.operation && mark.state == state && mark.whose.is_synapse();
    found.mark.as_ref().filter(is_mine)
}

fn swapped(
    databases: &[Found],
    found: &Found,
    mark: &Mark,
    service: Option<RestoredAuthentication>,
    warnings: Vec<String>,
) -> StepResult {
    let kept = mark.replaced.as_ref().and_then(|name| find(databases, name));
    let kept_size = kept.map(|kept| bytes::human(kept.bytes));
    let with_it = service.as_ref().map(|service| {
        format!(
            "; so is {}, of the Matrix Authentication Service; {}",
            service.database,
            kept_as(&service.kept, &service.kept_size)
        )
    });
    let with_it = with_it.unwrap_or_default();
    let kept = kept_as(&mark.replaced, &kept_size);
    StepResult {
        summary: format!(
            "database {} now has {} of {} ({}); {kept}{with_it}",
            found.name,
            mark.what(),
            moment(mark.taken_at),
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
            authentication_service: service,
        }),
        ..StepResult::default()
    }
}

fn kept_as(kept: &Option<String>, size: &Option<String>) -> String {
    match kept {
        None => "there was no database before".to_owned(),
        Some(kept) => {
            let size = size.as_deref().unwrap_or("dropped since");
            format!("the old database is kept as {kept} ({size}): drop it when you no longer need it")
        }
    }
}

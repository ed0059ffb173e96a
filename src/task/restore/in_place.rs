//! `task restore-database --method=in-place`: a backup's database into the homeserver's own, where no role may make another.
//! And `task clear-database`, which takes it back.
//!
//! Nobody has used that database, and Synapse is down. The first change to it is one transaction: its mark says that it is
//! unfinished, whoever does not ask for it may not write any more, and what a freshly installed Synapse has made there is gone.
//! The last one takes both away. In between, and if the task dies there, nobody must be served from it.

use std::{collections::BTreeMap, time::Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments, ahead,
    check::{Checked, check},
    clear, drop,
    fill::Filling,
    mark::{Mark, State},
    preflight::{Ready, ready},
    server::{Administrator, Found, Server, comment, find},
    terms::Fit,
};
use crate::{
    bytes,
    contract::{Leaves, Report, Restored, Result, StepResult, TaskError, output::progress},
    postgres::{Explain, disk, lock, sessions},
    quote,
    synapse::schema,
    task::{
        arguments::Connection,
        authentication::Whose,
        schema::{Place, facts},
        stopped,
    },
    words::{moment, rows_of},
};

/// As many tables are dropped at once as there are.
const TIME_TO_DROP: &str = "SET statement_timeout = '10min'";

/// Runs the task.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    let mut touched = false;
    let work = disk::watched(arguments.connection.data_volume.as_deref(), restore(&arguments, &mut touched));
    let work = stop.run_until_cancelled(work).await;
    let error = match work.unwrap_or_else(|| Err(stopped())) {
        Ok(done) => return Ok(done).into(),
        Err(error) => error,
    };
    if !touched {
        return Report { error: Some(error), leaves: Some(Leaves::AsItWas), ..Report::default() };
    }
    // Synapse may start with nothing, as it would have before; with half of something it must not.
    match empty(&arguments.connection, &arguments.wanted.terms.administrator).await {
        Ok(_) => Report { error: Some(error), leaves: Some(Leaves::Empty), ..Report::default() },
        Err(left) => {
            let database = &arguments.connection.database;
            let message =
                format!("{} Database {database} is unfinished: it could not be emptied: {left}", error.message);
            Report { error: Some(TaskError { message, ..error }), ..Report::default() }
        }
    }
}

/// `touched`: something was changed.
async fn restore(arguments: &Arguments, touched: &mut bool) -> Result<StepResult> {
    let began = Instant::now();
    let Arguments { connection, wanted, at_once, scheduled_tasks } = arguments;
    if let Some(done) = done_before(connection, &wanted.terms.administrator).await? {
        return Ok(done);
    }
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let Ready { fit: Fit { mut server, programs, .. }, chosen, .. } = ready(connection, wanted, scratch.path()).await?;
    take(&mut server, connection).await?;
    let found = server.databases().await?;
    let found = here(&found, connection)?;
    let mark = mark(found, arguments, &chosen.backup.shown.id, chosen.backup.taken_at);
    let is_unfinished = found.mark.as_ref().is_some_and(Mark::is_filling);
    let mut statements = vec![comment(&found.name, &mark), read_only(&found.name)];
    // The backup makes its schemas anew.
    let schemas = (!is_unfinished).then(|| chosen.manifest.database.schemas().into_iter().collect());
    statements.extend(clear::statements(server.session(), schemas).await?);
    *touched = true;
    let target = server.as_owner(connection, &connection.database)?;
    if let Err(error) = server.at_once(&statements, "marking the database as unfinished, and emptying it").await {
        return Err(facts::naming_event_triggers(&target, error).await);
    }
    progress(&format!("database {} is marked as unfinished, and empty", found.name));

    let dump = &chosen.manifest.database;
    let filling = Filling {
        repository: &chosen.repository,
        dump,
        target: &target,
        programs: &programs,
        scratch: scratch.path(),
        at_once: *at_once,
        place: Place::Here(connection.database.clone()),
    };
    let mut warnings = lock::holding(Some(server.session()), filling.fill()).await?.warnings();
    progress("counts the rows and reads them for the planner's statistics");
    let Checked { rows, tables, bytes } = check(&target, Whose::Synapse, dump, *at_once).await?;
    warnings.extend(schema::lead_to(&target, dump.schema.as_deref()).await?);
    let mut session = schema::connect(&target, dump.schema.as_deref()).await?;
    // Nobody has used what was there: it has handed nothing out.
    warnings
        .extend(ahead::bring_ahead(&mut session, dump.schema.as_deref(), &BTreeMap::new(), *scheduled_tasks).await?);
    drop(session);
    let whole = [comment(&found.name, &mark.now(State::InPlace)), writable_again(&found.name)];
    server.at_once(&whole, "marking the database as whole").await?;
    progress("the database is whole");
    Ok(StepResult {
        summary: format!(
            "restored {} of {} into {} ({}) in {} s",
            rows_of(rows, tables),
            moment(chosen.backup.taken_at),
            found.name,
            bytes::human(bytes),
            began.elapsed().as_secs()
        ),
        warnings,
        seconds: Some(began.elapsed().as_secs_f64()),
        restored: Some(restored(&found.name, &mark)),
        ..StepResult::default()
    })
}

/// The mark of this restore. What an unfinished one knows of before is kept: the comment, and who was here.
fn mark(found: &Found, arguments: &Arguments, snapshot: &str, taken_at: Timestamp) -> Mark {
    let unfinished = found.mark.as_ref().filter(|mark| mark.is_filling());
    Mark {
        state: State::Filling,
        restore: arguments.wanted.terms.restore.clone(),
        operation: arguments.connection.operation.clone(),
        snapshot: snapshot.to_owned(),
        dump: None,
        taken_at,
        at: Timestamp::now(),
        earlier: found.mark.as_ref().map(Mark::history).unwrap_or_default(),
        whose: Whose::Synapse,
        with_authentication: false,
        replaced: None,
        schema: None,
        comment: unfinished.map_or_else(|| found.comment.clone(), |mark| mark.comment.clone()),
    }
}

/// Nobody works there but this attempt: what earlier ones have left is ended, and the lock is held as long as the session lives.
async fn take(server: &mut Server, connection: &Connection) -> Result<()> {
    let application = server.target.application.clone();
    let session = server.session();
    sessions::end_earlier(session, &application).await?;
    lock::acquire(session).await?;
    let mut owner = schema::connect(&connection.target()?, None).await?;
    let others = sessions::others(&mut owner, &connection.ignore_sessions).await?;
    let intruders: Vec<_> = others.into_iter().filter(sessions::OtherSession::is_in_the_way).collect();
    if !intruders.is_empty() {
        return Err(TaskError::transient(
            "Contested",
            format!(
                "Somebody works on database {} while a backup is to come back into it: {}.",
                connection.database,
                sessions::list(&intruders)
            ),
        ));
    }
    server.session().execute(TIME_TO_DROP).await.explain("setting the statement's time")
}

/// An earlier attempt came to its end and died before it could say so.
async fn done_before(connection: &Connection, administrator: &Administrator) -> Result<Option<StepResult>> {
    let mut server = Server::connect_in_place(connection, administrator).await?;
    let databases = server.databases().await?;
    let found = here(&databases, connection)?;
    let whole = |mark: &&Mark| mark.operation == connection.operation && mark.state == State::InPlace;
    Ok(found.mark.as_ref().filter(whole).map(|mark| StepResult {
        summary: format!("an earlier attempt had restored it into {} ({})", found.name, bytes::human(found.bytes)),
        restored: Some(restored(&found.name, mark)),
        ..StepResult::default()
    }))
}

fn restored(database: &str, mark: &Mark) -> Restored {
    Restored {
        snapshot: Some(mark.snapshot.clone()),
        dump: None,
        taken_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(mark.taken_at),
        database: database.to_owned(),
        kept: None,
        kept_size: None,
        authentication_service: None,
    }
}

/// What to empty.
#[derive(clap::Args, Clone, Debug)]
pub struct ClearArguments {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    administrator: Administrator,
    /// When it must be over: users are waiting.
    #[arg(long)]
    until: Option<Timestamp>,
}

impl ClearArguments {
    /// Where the database is.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }
}

/// Runs `clear-database`.
pub async fn clear(arguments: ClearArguments, stop: &CancellationToken) -> Report {
    let left = arguments.until.map(|until| until.duration_since(Timestamp::now()).unsigned_abs());
    let emptied = async {
        let work = empty(&arguments.connection, &arguments.administrator);
        match left {
            Some(left) => tokio::time::timeout(left, work).await.unwrap_or_else(|_| Err(stopped())),
            None => work.await,
        }
    };
    let emptied = stop.run_until_cancelled(emptied).await.unwrap_or_else(|| Err(stopped()));
    let database = &arguments.connection.database;
    emptied
        .map(|emptied| StepResult {
            summary: match emptied {
                true => format!("{database} is empty again, as before"),
                false => format!("{database} is not marked as unfinished: nothing was done"),
            },
            ..StepResult::default()
        })
        .into()
}

/// Empties a database whose mark says that it is unfinished, and takes the mark away; false: there is none.
///
/// The last transaction may need room on a disk that is full, as the one before may: the large tables go first, each by itself.
async fn empty(connection: &Connection, administrator: &Administrator) -> Result<bool> {
    let mut server = Server::connect_in_place(connection, administrator).await?;
    take(&mut server, connection).await?;
    let found = server.databases().await?;
    let found = here(&found, connection)?;
    let Some(mark) = found.mark.as_ref().filter(|mark| mark.is_filling()) else { return Ok(false) };
    drop::make_room(server.session()).await;
    let statements = clear::statements(server.session(), None).await?;
    server.at_once(&statements, "emptying the unfinished database").await?;
    let before = mark.comment.as_deref().map_or_else(|| "NULL".to_owned(), quote::literal);
    let comment = format!("COMMENT ON DATABASE {} IS {before}", quote::ident(&found.name));
    server.at_once(&[comment, writable_again(&found.name)], "taking the mark of the empty database away").await?;
    Ok(true)
}

fn here<'a>(databases: &'a [Found], connection: &Connection) -> Result<&'a Found> {
    find(databases, &connection.database).ok_or_else(|| {
        TaskError::terminal("DatabaseMissing", format!("Database {} is not there any more.", connection.database))
    })
}

/// A Synapse that somebody starts all the same cannot even begin.
fn read_only(database: &str) -> String {
    format!("ALTER DATABASE {} SET default_transaction_read_only = on", quote::ident(database))
}

/// The opposite.
pub(super) fn writable_again(database: &str) -> String {
    format!("ALTER DATABASE {} RESET default_transaction_read_only", quote::ident(database))
}

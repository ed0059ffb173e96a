//! How names change: when nobody is connected, and all together where one server has them.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{
        authentication::Half,
        server::{Rename, Server},
    },
    Arguments,
};
use crate::{
    contract::{Result, TaskError, output::progress},
    postgres::{Session, sessions},
    synapse::{guests, schema},
    task::arguments::Connection,
};

/// Sessions that were told to end, and exporters that come back at once, may stand in the way for so long.
const SWAPPED_WITHIN: Duration = Duration::from_secs(60);
const TRIES_EVERY: Duration = Duration::from_millis(500);
/// All names at once, where one server has them; the service's first, where there are two.
///
/// # Errors
/// What is in the way, by name.
pub async fn rename_both(
    arguments: &Arguments,
    server: &mut Server,
    half: Option<&mut Half>,
    of_service: Vec<Rename>,
    of_synapse: Vec<Rename>,
) -> Result<()> {
    let deadline = deadline(arguments);
    match half {
        Some(half) if !half.is_on_one_server && !of_service.is_empty() => {
            rename(deadline, &mut half.server, &of_service).await.map_err(|error| half.tell(error))?;
            progress("the names of the Matrix Authentication Service's databases are swapped");
            rename(deadline, server, &of_synapse).await
        }
        _ => rename(deadline, server, &[of_service, of_synapse].concat()).await,
    }
}

/// Waits until nobody is in the old database but this session. Until the last moment somebody may come: what belongs to Synapse,
/// or to the service, stops the swap; others are sent away.
///
/// # Errors
/// Terminal, `Contested`. Those of PostgreSQL.
pub async fn alone(arguments: &Arguments, session: &mut Session, connection: &Connection) -> Result<()> {
    schema::enter(session, None).await?;
    let deadline = deadline(arguments);
    loop {
        let others = sessions::others(session, &connection.ignore_sessions).await?;
        let intruders: Vec<_> = others.into_iter().filter(sessions::OtherSession::is_in_the_way).collect();
        if intruders.is_empty() {
            return Ok(());
        }
        // Those of Pods that have just ended go by themselves.
        if Instant::now() >= deadline {
            let hint = guests::hint(session).await;
            return Err(TaskError::terminal(
                "Contested",
                format!(
                    "The old database cannot be renamed while somebody works on it: {}.{hint}",
                    sessions::list(&intruders)
                ),
            ));
        }
        tokio::time::sleep(TRIES_EVERY).await;
    }
}

/// Users wait: not longer than for sessions to go, and not longer than they should.
fn deadline(Arguments { until, .. }: &Arguments) -> Instant {
    let left = until.map(|until| Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or_default());
    Instant::now() + left.unwrap_or(SWAPPED_WITHIN).min(SWAPPED_WITHIN)
}

/// Until nobody is connected: PostgreSQL waits five seconds for that itself.
///
/// # Errors
/// What is in the way, by name. Nothing has changed then.
pub async fn rename(deadline: Instant, server: &mut Server, renames: &[Rename]) -> Result<()> {
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

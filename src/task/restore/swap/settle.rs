//! What a swap has left that did not come to its end. Nobody may be served from two databases that are out of step.

use tokio::time::Instant;

use super::{
    super::{
        mark::State,
        server::{Server, find},
    },
    Arguments, MENDED_WITHIN, connect, mine,
    names::rename,
};
use crate::contract::{Leaves, Report, Result, TaskError};

/// What is there, as far as this operation has swapped it.
struct Swapped {
    synapse: bool,
    /// The same as Synapse's where there is none.
    service: bool,
}

/// Says of a failed swap, or swap back, what it has left: with sessions of its own, because those of the swap may be in the
/// middle of something. Where it was between two servers, the service's names change back first, for Synapse will start with its
/// old database. `touched`: names may have changed.
pub async fn settle(arguments: &Arguments, error: TaskError, touched: bool) -> Report {
    let (told, leaves) = match look_and_mend(arguments).await {
        Ok((Swapped { synapse: false, service: false }, true)) => {
            let told = "The database of the Matrix Authentication Service has its old name again.";
            (Some(told.to_owned()), Some(Leaves::InStep))
        }
        Ok((left, _)) => (None, left.tells(arguments.back)),
        Err(_) if !touched => (None, Some(Leaves::AsItWas)),
        Err(left) => {
            let told =
                format!("What it has left could not be looked at or mended ({}: {}).", left.reason, left.message);
            (Some(told), None)
        }
    };
    let message = [Some(error.message), told].into_iter().flatten().collect::<Vec<_>>().join(" ");
    Report { error: Some(TaskError { message, ..error }), leaves, ..Report::default() }
}

impl Swapped {
    /// A swap that is there all the same may be taken back. What was to be taken back and is there cannot be.
    fn tells(&self, back: bool) -> Option<Leaves> {
        let nothing_to_do = self.synapse == self.service && (back || !self.synapse);
        nothing_to_do.then_some(Leaves::InStep)
    }
}

/// What there is, and whether the service's names were changed back.
async fn look_and_mend(arguments: &Arguments) -> Result<(Swapped, bool)> {
    let (mut server, half) = connect(arguments).await?;
    let synapse = is_swapped(arguments, &mut server).await?;
    let Some(mut half) = half else { return Ok((Swapped { synapse, service: synapse }, false)) };
    let renames = half.renames_back().await?;
    let service = !renames.is_empty();
    if arguments.back || synapse || !service || half.is_on_one_server {
        return Ok((Swapped { synapse, service }, false));
    }
    rename(Instant::now() + MENDED_WITHIN, &mut half.server, &renames).await?;
    Ok((Swapped { synapse, service: false }, true))
}

async fn is_swapped(arguments: &Arguments, server: &mut Server) -> Result<bool> {
    let databases = server.databases().await?;
    let found = find(&databases, &arguments.connection.database);
    Ok(found.is_some_and(|found| mine(found, &arguments.connection, State::InPlace).is_some()))
}

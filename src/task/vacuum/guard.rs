//! A statement under guard: a second session looks each second whether it may go on.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use sqlx::AssertSqlSafe;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    api::postgres::IgnoredSession,
    contract::TaskError,
    postgres::{Explain, Result, Session, errors, sessions},
    synapse::guests,
    task::stopped,
};

/// How often the guard looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long a look may take: a server that answers no more is gone.
const LOOK_WITHIN: Duration = Duration::from_secs(10);
/// How long a cancelled statement may take to end.
const END_WITHIN: Duration = Duration::from_secs(15);

/// Watches over the statements of a worker session.
pub struct Guard<'a> {
    pub watcher: Session,
    /// Sessions that do not matter.
    pub ignored: &'a [IgnoredSession],
    /// No session of Synapse and no writer may be there.
    pub exclusive: bool,
    pub stop: &'a CancellationToken,
}

/// By so much the end of a statement's time may seem to come early.
const CLOCKS_DIFFER: Duration = Duration::from_millis(100);

/// How a statement ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// PostgreSQL cancelled it when its time was over.
    OutOfTime,
}

impl Guard<'_> {
    /// Runs one statement in the worker session, at most as long as `limit`. It ends early, cancelled by the guard, if
    /// the task is told to stop or if somebody comes who must not be there.
    ///
    /// # Errors
    /// Terminal, `Contested`, with whoever came. Transient: `Stopped`; `LockTimeout` with whoever holds the lock; the
    /// connection broke.
    pub async fn run(&mut self, worker: &mut Session, sql: &str, limit: Option<Duration>) -> Result<Ended> {
        let doing = format!("running {sql}");
        let milliseconds = limit.map_or(0, |limit| limit.as_millis().max(1));
        sqlx::raw_sql(AssertSqlSafe(format!("SET statement_timeout = {milliseconds}")))
            .execute(&mut worker.connection)
            .await
            .explain("setting the statement's time")?;

        let pid = worker.pid;
        let started = Instant::now();
        let mut statement = pin!(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut worker.connection));
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut halted: Option<(TaskError, Instant)> = None;
        let mut blockers = Vec::new();
        let outcome = loop {
            tokio::select! {
                outcome = &mut statement => break outcome,
                () = self.stop.cancelled(), if halted.is_none() => halted = Some((stopped(), Instant::now())),
                _ = tick.tick() => match &halted {
                    None => match self.look(pid, &mut blockers).await {
                        Ok(()) => continue,
                        Err(error) => halted = Some((error, Instant::now())),
                    },
                    // The server is gone, or it does not listen: the session's own settings end it there.
                    Some((error, since)) if since.elapsed() > END_WITHIN => return Err(error.clone()),
                    Some(_) => {}
                },
            }
            // Again at every tick: a statement that had not begun yet would miss the first time.
            let _ = timeout(LOOK_WITHIN, sessions::cancel(&mut self.watcher, pid)).await;
        };
        match (outcome, halted) {
            (Err(error), Some((halted, _))) => Err(why(errors::failed(&error, &doing), halted)),
            (Ok(_), Some((halted, _))) => Err(halted),
            (Ok(_), None) => Ok(Ended::Done),
            (Err(error), None) => match errors::sqlstate(&error) {
                // PostgreSQL counts whole milliseconds, and by its own clock.
                Some("57014") if limit.is_some_and(|limit| started.elapsed() + CLOCKS_DIFFER >= limit) => {
                    Ok(Ended::OutOfTime)
                }
                Some("55P03") => {
                    let mut error = errors::failed(&error, &doing);
                    if !blockers.is_empty() {
                        error.message = format!("{} It is held by {}.", error.message, blockers.join("; "));
                    }
                    Err(error)
                }
                _ => Err(errors::failed(&error, &doing)),
            },
        }
    }

    /// Looks around once. Whoever blocks us is kept in `blockers`: when PostgreSQL gives up waiting, it does not say for
    /// whom.
    async fn look(&mut self, pid: i32, blockers: &mut Vec<String>) -> Result<()> {
        let look = async {
            let found = sessions::blockers(&mut self.watcher, pid).await?;
            if !found.is_empty() {
                *blockers = found;
            }
            if self.exclusive { self.intruders().await } else { Ok(vec![]) }
        };
        let intruders = timeout(LOOK_WITHIN, look).await.unwrap_or_else(|_| {
            let text = format!("PostgreSQL did not answer within {} s while it worked.", LOOK_WITHIN.as_secs());
            Err(TaskError::transient("ConnectionLost", text))
        })?;
        if intruders.is_empty() {
            return Ok(());
        }
        let hint = timeout(LOOK_WITHIN, guests::hint(&mut self.watcher)).await.unwrap_or_default();
        Err(TaskError::terminal(
            "Contested",
            format!(
                "Somebody began to use the database meanwhile; the statement was cancelled and rolled back: {}. Was Synapse \
                 scaled up? A session that does no harm can be named in postgres.ignoreSessions.{hint}",
                sessions::list(&intruders)
            ),
        ))
    }

    /// Sessions that must not be there.
    ///
    /// # Errors
    /// Those of PostgreSQL.
    pub async fn intruders(&mut self) -> Result<Vec<sessions::OtherSession>> {
        let mut others = sessions::others(&mut self.watcher, self.ignored).await?;
        others.retain(sessions::OtherSession::is_in_the_way);
        Ok(others)
    }
}

/// Why a statement failed that the guard had halted. A server that breaks down drops the guard as well; what it said to the
/// statement tells more.
fn why(said: TaskError, halted: TaskError) -> TaskError {
    if halted.reason == "ConnectionLost" && said.reason == "DiskFull" { said } else { halted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_where_it_took_the_guard_along() {
        let lost = || TaskError::transient("ConnectionLost", "the guard's");
        let full = || TaskError::terminal("DiskFull", "the statement's");
        let canceled = || TaskError::transient("Canceled", "the statement's");
        assert_eq!(why(full(), lost()), full());
        assert_eq!(why(canceled(), lost()), lost());
        assert_eq!(why(full(), stopped()), stopped());
    }
}

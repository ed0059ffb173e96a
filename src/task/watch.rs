//! A second session that notices that PostgreSQL is gone without a word.
//!
//! A node that vanishes closes no connection. Whoever waits for its answer would wait for ever, and hold the homeserver's Lease.
//! So a session of its own asks for a sign of life again and again, beside whatever the task does, and the programs of
//! PostgreSQL's that it has started. It is silence that ends the task: an error has been told to the task as well, by its own
//! sessions.

use std::{pin::pin, time::Duration};

use futures::future::select_all;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{arguments::Connection, authentication::AuthenticationService};
use crate::{
    contract::{Report, TaskError},
    postgres::{Application, Session, Target},
};

/// How often it asks.
const EVERY: Duration = Duration::from_secs(10);

/// A server that is busy still answers; so long only one that is gone does not.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// How long a task may take to come to its end in order: what it says to the same server gets no answer either.
const ENDS_WITHIN: Duration = Duration::from_secs(40);

/// The databases from which a task is watched: the homeserver's, and that of the Matrix Authentication Service. Arguments that are
/// wrong are left out: the task itself reports them.
pub fn databases(connection: &Connection, service: Option<&AuthenticationService>) -> Vec<Target> {
    let of_service = service.map(|service| service.connection(connection).target());
    [Some(connection.target()), of_service].into_iter().flatten().flatten().collect()
}

/// Runs a task. Where the PostgreSQL of one of these falls silent it is asked to stop, and the silence is its error.
pub async fn watched<W: Future<Output = Report>>(
    mut targets: Vec<Target>,
    stop: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> W,
) -> Report {
    let stop_work = stop.child_token();
    let mut work = pin!(work(stop_work.clone()));
    // One session watches a server.
    targets.dedup_by(|one, other| one.host == other.host && one.port == other.port);
    if targets.is_empty() {
        return work.await;
    }
    let lost = tokio::select! {
        report = &mut work => return report,
        (lost, ..) = select_all(targets.iter().map(|target| Box::pin(silence(target)))) => lost,
    };
    stop_work.cancel();
    match timeout(ENDS_WITHIN, work).await {
        Ok(report) => because(report, lost),
        // What it has left is unknown, and the report says nothing of it.
        Err(_) => Report { error: Some(lost), ..Report::default() },
    }
}

/// A task that was told to stop says why.
fn because(report: Report, lost: TaskError) -> Report {
    match &report.error {
        Some(error) if error.reason == "Stopped" => {
            let more = error.message.split_once(super::STOPPED).map_or("", |(_, more)| more);
            let message = format!("{}{more}", lost.message);
            Report { error: Some(TaskError { message, ..lost }), ..report }
        }
        _ => report,
    }
}

/// Ends when the server has not answered for a while that answered before.
async fn silence(target: &Target) -> TaskError {
    let application = Application { operation: "watch".to_owned(), run: 0, attempt: 0 };
    let target = Target { application, ..target.clone() };
    let mut session: Option<Session> = None;
    let mut heard: Option<Instant> = None;
    loop {
        match &mut session {
            Some(open) => match timeout(SILENT_FOR, open.execute("SELECT 1")).await {
                Ok(Ok(())) => heard = Some(Instant::now()),
                // Somebody has ended it, or PostgreSQL.
                Ok(Err(_)) => session = None,
                Err(_) => return lost(&target),
            },
            None => match target.connect().await {
                Ok(new) => {
                    session = Some(new);
                    heard = Some(Instant::now());
                }
                Err(error) if error.reason == "NoAnswer" => {
                    if heard.is_some_and(|heard| heard.elapsed() >= SILENT_FOR) {
                        return lost(&target);
                    }
                }
                // It answers, and lets no further session in, say.
                Err(_) => heard = heard.map(|_| Instant::now()),
            },
        }
        sleep(EVERY).await;
    }
}

fn lost(target: &Target) -> TaskError {
    TaskError::transient(
        "ConnectionLost",
        format!(
            "PostgreSQL at {target} has given no sign of life for {} s: its node is gone, or the network in between, and no \
             connection was closed.",
            SILENT_FOR.as_secs()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{contract::Leaves, task::stopped};

    #[test]
    fn a_task_that_was_stopped_says_why_and_keeps_what_it_tells_beside() {
        let lost = || TaskError::transient("ConnectionLost", "gone.");
        let mut error = stopped();
        error.message += " Database a is unfinished.";
        let report = Report { error: Some(error), leaves: Some(Leaves::Empty), ..Report::default() };
        let told = because(report, lost());
        assert_eq!(told.leaves, Some(Leaves::Empty));
        assert_eq!(told.error, Some(TaskError::transient("ConnectionLost", "gone. Database a is unfinished.")));
        let full = Report { error: Some(TaskError::terminal("DiskFull", "full")), ..Report::default() };
        assert_eq!(because(full.clone(), lost()), full);
    }
}

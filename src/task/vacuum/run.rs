//! Doing it: table after table, within the time, measured before and after.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    Arguments,
    guard::{Ended, Guard},
    plan::{self, Candidate, Pace},
    survey::{self, Request, Space, Survey},
};
use crate::{
    api::maintenance::VacuumMode,
    bytes,
    contract::{Report, StepResult, TableResult, TaskError, output::progress},
    postgres::{Result, Session, check_server, horizon, lock, relations, sessions},
    synapse::{guests, schema},
    task::stopped,
    words::counted,
};

/// Kept back of the time for the report and the end of the Pod.
const RESERVE: Duration = Duration::from_secs(5);
/// How long sessions of Synapse may take to be gone after its Pods are.
const SYNAPSE_GONE_WITHIN: Duration = Duration::from_secs(10);
/// How long the database's size may take to be told at the end.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// A table that should have given back less, and did not, is not told of.
const WORTH_A_WORD: i64 = 1 << 20;
/// As many tables are named in the result.
const TABLES_SHOWN: usize = 50;

/// Vacuums. Tables that were done before a failure are in the report as well.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    let started = Instant::now();
    let prepared = stop.run_until_cancelled(prepare(&arguments, stop)).await.unwrap_or_else(|| Err(stopped()));
    let (worker, guard, survey) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Report { error: Some(error), ..Report::default() },
    };
    let mut work = Work {
        request: arguments.request(),
        is_of_synapse: survey.is_of_synapse,
        until: arguments.until,
        worker,
        guard,
        left: survey.candidates,
        pace: Pace::default(),
        done: Vec::new(),
        skipped: BTreeMap::new(),
        warnings: Vec::new(),
    };
    for (candidate, reason) in survey.skipped {
        work.skip(candidate, reason);
    }
    let bytes_before = relations::database_bytes(&mut work.guard.watcher).await.ok();
    let error = work.all().await.err();
    // A server that is gone keeps nobody waiting: the homeserver is down.
    let bytes_after = tokio::time::timeout(ANSWERS_WITHIN, relations::database_bytes(&mut work.guard.watcher)).await;
    let bytes_after = bytes_after.ok().and_then(Result::ok);
    let result = work.result(bytes_before, bytes_after, started.elapsed());
    Report { error, result: Some(result), ..Report::default() }
}

/// Everything that can be refused is refused here, before the first table is touched.
async fn prepare<'a>(arguments: &'a Arguments, stop: &'a CancellationToken) -> Result<(Session, Guard<'a>, Survey)> {
    let full = arguments.mode == VacuumMode::Full;
    let target = arguments.connection.target()?;
    let mut worker = target.connect().await?;
    let ended = sessions::end_earlier(&mut worker, &target.application).await?;
    if ended > 0 {
        progress(&format!("ended {} of earlier attempts", counted(ended, "session", "sessions")));
    }
    let mut watcher = target.connect().await?;
    check_server(&mut worker, &mut watcher).await?;
    lock::acquire(&mut worker).await?;
    schema::enter(&mut watcher, None).await?;

    let mut guard = Guard { watcher, ignored: &arguments.connection.ignore_sessions, exclusive: full, stop };
    if full {
        synapse_is_gone(&mut guard).await?;
    }
    let request = arguments.request();
    let survey = survey::survey(&mut worker, &request).await?;
    if full {
        let (fitting, _) = plan::fit(&survey.candidates, request.mode, seconds_until(arguments.until));
        Space::look(&mut worker, &request, &fitting).await?.check()?;
    }
    Ok((worker, guard, survey))
}

/// Waits a little for the last sessions of Synapse: PostgreSQL notices a moment later that a Pod is gone.
async fn synapse_is_gone(guard: &mut Guard<'_>) -> Result<()> {
    let deadline = Instant::now() + SYNAPSE_GONE_WITHIN;
    loop {
        let intruders = guard.intruders().await?;
        if intruders.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let hint = guests::hint(&mut guard.watcher).await;
            return Err(TaskError::terminal(
                "SessionsOfSynapse",
                format!(
                    "VACUUM FULL needs the database for itself, but it is in use: {}. Nothing was changed. Stop what holds \
                     these sessions; one that does no harm can be named in postgres.ignoreSessions.{hint}",
                    sessions::list(&intruders)
                ),
            ));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Seconds that may still be worked; `None`: no limit.
fn seconds_until(until: Option<Timestamp>) -> Option<f64> {
    until.map(|until| (until.duration_since(Timestamp::now()).as_secs_f64() - RESERVE.as_secs_f64()).max(0.0))
}

struct Work<'a> {
    request: Request,
    /// There is a table of Synapse.
    is_of_synapse: bool,
    until: Option<Timestamp>,
    worker: Session,
    guard: Guard<'a>,
    /// What is still to do, in order.
    left: Vec<Candidate>,
    pace: Pace,
    done: Vec<TableResult>,
    /// Names of tables that were left alone, by reason.
    skipped: BTreeMap<String, Vec<String>>,
    warnings: Vec<String>,
}

impl Work<'_> {
    async fn all(&mut self) -> Result<()> {
        let total = self.left.len();
        while let Some(next) = plan::next(&self.left, self.request.mode, self.pace, seconds_until(self.until)) {
            if self.guard.stop.is_cancelled() {
                return Err(stopped());
            }
            let candidate = self.left.remove(next);
            progress(&format!(
                "{:?} of table {} ({}), {} of {total}",
                self.request.mode,
                candidate.table.name,
                bytes::human(candidate.table.bytes),
                self.done.len() + 1,
            ));
            match self.table(&candidate).await {
                Ok(Ended::Done) => {}
                Ok(Ended::OutOfTime) => {
                    self.left.insert(0, candidate);
                    break;
                }
                // PostgreSQL undid it. The table is as it was, and the others can be done.
                Err(error) if is_about_a_row(&error) => {
                    self.warnings.push(format!(
                        "{} is left as it was: a row of it cannot be indexed again, so a restore of a backup would fail as \
                         well. {}",
                        candidate.table.name, error.message
                    ));
                    self.skip(candidate, "a row cannot be indexed again".to_owned());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn table(&mut self, candidate: &Candidate) -> Result<Ended> {
        let Candidate { table, .. } = candidate;
        let Some(before) = relations::measure(&mut self.guard.watcher, table.oid).await? else {
            self.skip(candidate.clone(), "was dropped meanwhile".to_owned());
            return Ok(Ended::Done);
        };
        let full = self.request.mode == VacuumMode::Full;
        if full {
            // The disk may have changed since the beginning, and slower tables may have come into reach.
            let alone = std::slice::from_ref(candidate);
            if let Err(error) = Space::look(&mut self.guard.watcher, &self.request, alone).await?.check() {
                self.skip(candidate.clone(), error.message);
                return Ok(Ended::Done);
            }
        }
        let started = Instant::now();
        let command = if full { "VACUUM (FULL)" } else { "VACUUM (ANALYZE)" };
        if self.statement(&format!("{command} {}", table.quoted)).await? == Ended::OutOfTime {
            return Ok(Ended::OutOfTime);
        }
        // The table has new files now; a failure from here on must not hide what it gave back.
        let analyzed = if full { self.statement(&format!("ANALYZE {}", table.quoted)).await } else { Ok(Ended::Done) };
        let seconds = started.elapsed().as_secs_f64();
        let after = relations::measure(&mut self.guard.watcher, table.oid).await?.unwrap_or(before);
        // VACUUM warns and does nothing where it may not. Only the file tells.
        if full && after.file == before.file {
            return Err(TaskError::terminal(
                "NothingDone",
                format!("PostgreSQL reported VACUUM FULL of {} as done, but its file is the old one.", table.name),
            ));
        }
        self.pace.learn(candidate, self.request.mode, seconds);
        self.done.push(TableResult {
            name: table.name.clone(),
            bytes_before: before.bytes,
            bytes_after: after.bytes,
            rows: after.rows,
            seconds: (seconds * 1000.0).round() / 1000.0,
        });
        let gain = before.bytes - after.bytes;
        // Of a small table the estimate is no more than that.
        if full && candidate.gain() >= WORTH_A_WORD && gain < candidate.gain() / 2 {
            self.warn_of_old_transactions(candidate, gain).await?;
        }
        // Out of time here is no failure: autovacuum makes up for it.
        analyzed.map(|_| Ended::Done)
    }

    /// A table that gave back far less than it should: most often rows that were deleted are still visible to somebody.
    async fn warn_of_old_transactions(&mut self, candidate: &Candidate, gain: i64) -> Result<()> {
        let keepers = horizon::keepers(&mut self.guard.watcher).await?;
        let keepers = match keepers.as_slice() {
            [] => "nobody may now, so vacuum again".to_owned(),
            _ => format!("{}. Then vacuum again", horizon::list(&keepers)),
        };
        self.warnings.push(format!(
            "{} gave back {} instead of about {}. PostgreSQL keeps deleted rows that somebody may still see: {keepers}.",
            candidate.table.name,
            bytes::human(gain),
            bytes::human(candidate.gain()),
        ));
        Ok(())
    }

    async fn statement(&mut self, sql: &str) -> Result<Ended> {
        let limit = seconds_until(self.until).map(|seconds| Duration::from_secs_f64(seconds.max(0.001)));
        self.guard.run(&mut self.worker, sql, limit).await
    }

    fn skip(&mut self, candidate: Candidate, reason: String) {
        self.skipped.entry(reason).or_default().push(candidate.table.name);
    }

    fn result(self, bytes_before: Option<i64>, bytes_after: Option<i64>, took: Duration) -> StepResult {
        let freed: i64 = self.done.iter().map(|table| table.bytes_before - table.bytes_after).sum();
        let (count, seconds) = (self.done.len(), took.as_secs());
        let tables = if count == 1 { "table" } else { "tables" };
        let mut summary = match self.request.mode {
            VacuumMode::Full => format!("freed {} in {count} {tables} in {seconds} s", bytes::human(freed)),
            VacuumMode::Analyze => format!("vacuumed and analyzed {count} {tables} in {seconds} s"),
        };
        if !self.is_of_synapse {
            summary += survey::NOT_OF_SYNAPSE;
        }
        if !self.left.is_empty() {
            summary += &format!("; {} left, for lack of time", self.left.len());
        }
        let mut tables = self.done;
        tables.truncate(TABLES_SHOWN);
        StepResult {
            summary,
            bytes_before,
            bytes_after,
            seconds: Some((took.as_secs_f64() * 1000.0).round() / 1000.0),
            tables,
            skipped: self.skipped.iter().map(|(reason, tables)| skipped_text(reason, tables)).collect(),
            warnings: self.warnings,
            cursor: plan::cursor(&self.left),
            ..StepResult::default()
        }
    }
}

/// Over-long (program_limit_exceeded), or not what a function or a condition of an index takes: data exceptions, and what a
/// function raises itself. Rows that are there twice are none of these: VACUUM FULL does not check whether they are.
fn is_about_a_row(error: &TaskError) -> bool {
    let code = |begins: &str| error.message.contains(&format!("[{begins}"));
    error.reason == "DatabaseError" && ["54000]", "22", "23", "P0"].into_iter().any(code)
}

/// `events: would give back …`, or `158 tables: smaller than …`.
fn skipped_text(reason: &str, tables: &[String]) -> String {
    match tables {
        [one] => format!("{one}: {reason}"),
        many => format!("{} tables: {reason}", many.len()),
    }
}

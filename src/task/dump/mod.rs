//! `task restore-dump`: a dump that somebody else made, beside the database that serves. Synapse goes on serving.
//!
//! The same as [`super::restore`] but for where the rows come from and who says what must be in it: nobody wrote a manifest. So
//! the dump is looked at as it passes ([`script`], [`homeserver`]), and the database that it became ([`check`]).

mod check;
mod homeserver;
mod load;
mod reading;
mod references;
mod rules;
mod script;
mod source;
mod wanted;

use std::{collections::BTreeMap, time::Instant};

use tokio_util::sync::CancellationToken;

use super::{
    arguments::Connection,
    authentication::Whose,
    backup::snapshot::ONE_TIME_KEYS,
    restore::{
        Dumped, Mark, Present, State,
        beside::{done_before, make},
        check::{Checked, count_and_compare},
        fill::{analyze, forget_one_time_keys},
    },
    schema::views,
    stopped,
};
use crate::{
    bytes,
    contract::{DatabaseLeft, Result, StepResult, TaskError, output::progress},
    synapse::schema,
    words::{counted_are, moment, rows_of},
};

pub use self::{
    source::Source,
    wanted::{Wanted, check as preflight},
};

/// What to restore, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    wanted: Wanted,
    /// How many indexes at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32))]
    at_once: u16,
}

/// Runs the task.
///
/// # Errors
/// Those of preflight; what is wrong with the dump. Then the new database is dropped again.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Result<StepResult> {
    let began = Instant::now();
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let Arguments { connection, wanted, at_once } = &arguments;
    let begun = stop.run_until_cancelled(wanted::ready(connection, wanted, scratch.path())).await;
    let wanted::Ready { fit, found, choice, facts, .. } = begun.unwrap_or_else(|| Err(stopped()))?;
    let (mut server, present, programs, lock) = (fit.server, fit.present, fit.programs, fit.lock);
    let mark = Mark {
        state: State::Unfinished,
        restore: wanted.terms.restore.clone(),
        operation: connection.operation.clone(),
        snapshot: found.snapshot().unwrap_or_default().to_owned(),
        dump: Some(Dumped { path: found.path.clone(), sha256: String::new() }),
        taken_at: found.taken_at,
        at: jiff::Timestamp::now(),
        earlier: Vec::new(),
        whose: Whose::Synapse,
        with_authentication: false,
        replaced: None,
        schema: None,
        comment: None,
    };
    if let Some(done) = done_before(&mut server, &mark).await? {
        return Ok(done);
    }
    let version = server.version();
    let filled = make(connection, &wanted.terms.administrator, (server, lock), &mark, stop, async |target| {
        let reading = reading::Reading::begin(&found, &programs, target).await?;
        let script = wanted::script(version, &choice, &facts);
        let loaded = load::load(reading, script, target, *at_once).await?;
        forget_one_time_keys(target).await?;
        let load::Loaded { mut rows, mut warnings, views: to_fill, sha256 } = loaded;
        warnings.extend(wanted::not_restored(&choice));
        warnings.extend(views::refresh(target, |view| to_fill.contains(view), None).await?);
        let forgotten: u64 =
            rows.iter_mut().filter(|(table, _)| has_one_time_keys(table)).map(|(_, rows)| std::mem::take(rows)).sum();
        if forgotten > 0 {
            let keys = counted_are(forgotten, "one-time key of the dump", "one-time keys of the dump");
            warnings.push(format!("{keys} not restored: clients upload new ones"));
        }
        warnings.extend(check::is_of(target, wanted, present).await?);
        warnings.extend(schema::lead_to(target, None).await?);
        if present != Present::Absent {
            warnings.extend(check::lacks(target, &connection.target()?).await?);
        }
        progress("counts the rows");
        let empty = check::others(target, rows.keys()).await?;
        rows.extend(empty.into_iter().map(|table| (table, 0)));
        let expected: BTreeMap<&str, u64> = rows.iter().map(|(table, rows)| (table.as_str(), *rows)).collect();
        let checked = count_and_compare(target, Whose::Synapse, &expected, *at_once).await?;
        progress("reads the tables for the planner's statistics");
        analyze(target).await?;
        let dump = Some(Dumped { path: found.path.clone(), sha256 });
        Ok(((checked, warnings), Mark { dump, ..mark.clone() }))
    });
    let (name, (Checked { rows, tables, bytes }, warnings)) = filled.await?;
    Ok(StepResult {
        summary: format!(
            "restored {} of the dump {} of {} into {name} ({}), beside {}, in {} s",
            rows_of(rows, tables),
            found.path,
            moment(found.taken_at),
            bytes::human(bytes),
            connection.database,
            began.elapsed().as_secs()
        ),
        beside: Some(DatabaseLeft::new(&name, bytes, Some(&wanted.terms.restore))),
        warnings,
        seconds: Some(began.elapsed().as_secs_f64()),
        ..StepResult::default()
    })
}

/// By its name, as a dump writes it.
fn has_one_time_keys(table: &str) -> bool {
    table.rsplit('.').next() == Some(ONE_TIME_KEYS)
}

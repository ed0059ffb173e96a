//! What is wanted of a restore from a dump, and what is found out before it begins. Changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    homeserver::Seen,
    reading::Reading,
    script::Script,
    source::{Found, Source},
};
use crate::{
    api::restore::Method,
    bytes,
    contract::{PreflightFindings, Result, StepPlan, TaskError},
    postgres::disk,
    synapse::database::locale,
    task::{
        arguments::Connection,
        authentication::Whose,
        restore::{Fit, Terms, facts_beside, possible},
        schema::{Choice, Facts, Needed, choice, place_beside, told},
    },
    words::moment,
};

/// So much of the SQL is looked at before a restore begins, where it comes out of a repository: its first lines say of which
/// PostgreSQL it is, and whether it is of one database. A file is looked at to its end.
const LOOKED_AT: usize = 1 << 20;

/// A dump, and on what terms it comes back.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: Source,
    /// The homeserver's name; the dump of another is refused.
    #[arg(long)]
    pub server_name: String,
    #[command(flatten)]
    #[serde(flatten)]
    pub terms: Terms,
}

impl Wanted {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = self.source.to_args();
        args.push(format!("--server-name={}", self.server_name));
        args.extend(self.terms.to_args());
        args
    }
}

/// A restore that may begin.
pub(super) struct Ready {
    pub fit: Fit,
    pub found: Found,
    /// What of a custom dump is not run.
    pub choice: Choice,
    /// What the new database will have.
    pub facts: Facts,
    needed: i64,
    free: i64,
}

/// Looks at the server, the beginning of the dump and the disk; says what a restore would do.
///
/// # Errors
/// The first thing that a restore would fail for, as far as it is known.
pub async fn check(connection: &Connection, wanted: &Wanted, step: &str) -> Result<PreflightFindings> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let ready = ready(connection, wanted, scratch.path()).await?;
    let Ready { fit, found, choice, needed, free, .. } = &ready;
    let plan = StepPlan {
        step: step.to_owned(),
        summary: format!(
            "would restore the dump {} of {} ({}); {}; {} is free, about {} needed",
            found.path,
            moment(found.taken_at),
            bytes::human(found.bytes.cast_signed()),
            fit.present.becomes(&connection.database, Method::Beside),
            bytes::human(*free),
            bytes::human(*needed),
        ),
        needed_bytes: Some(*needed),
        free_bytes: Some(*free),
        ..StepPlan::default()
    };
    let said = wanted.terms.what_synapse_said();
    let snapshot = found.snapshot().map(|snapshot| format!("--snapshot={snapshot}"));
    let arguments = snapshot.into_iter().chain(said.as_ref().ok().cloned()).collect();
    Ok(PreflightFindings {
        plan: vec![plan],
        arguments: BTreeMap::from([(step.to_owned(), arguments)]),
        warnings: said.err().into_iter().chain(fit.warnings.clone()).chain(not_restored(choice)).collect(),
        ..PreflightFindings::default()
    })
}

/// Everything that can be refused, with nothing changed.
pub(super) async fn ready(connection: &Connection, wanted: &Wanted, scratch: &std::path::Path) -> Result<Ready> {
    let mut fit = wanted.terms.fit(connection, Method::Beside).await?;
    let found = wanted.source.find(scratch).await?;
    let reading = Reading::begin(&found, &fit.programs, &fit.server.target).await?;
    let grown = found.bytes.saturating_mul(reading.format.growth()).cast_signed();
    let needed = disk::needed_for_new(grown, fit.wal);
    let free = wanted.terms.free_space(connection, needed)?;
    let facts = facts_beside(&mut fit.server, &locale()).await?;
    let version = fit.server.version();
    let looked_at = if found.is_at_hand() { usize::MAX } else { LOOKED_AT };
    let contents = Reading::contents(&found, &fit.programs, &fit.server.target).await?;
    let choice = match &contents {
        None => Choice::default(),
        Some(contents) => possible(&mut fit.server, contents, &locale()).await?,
    };
    let (mut script, is_all) = look(reading, script(version, &choice, &facts), looked_at).await?;
    let seen = match &contents {
        _ if is_all => Seen::All,
        None => Seen::Part,
        Some(contents) => {
            script.homeserver.read(contents);
            Seen::Contents
        }
    };
    if contents.is_none() {
        refuse(&script.references.needed(), version)?;
    }
    script.homeserver.flaws(&wanted.server_name, seen).refuse(wanted, fit.present)?;
    Ok(Ready { fit, found, choice, facts, needed, free })
}

/// How a dump is read on a server of this version.
pub(super) fn script(version: i32, choice: &Choice, facts: &Facts) -> Script {
    Script::without(version / 10_000, choice.skipped.clone()).on(facts)
}

/// Where tables need what was left out.
///
/// # Errors
/// Terminal, `SuperuserNeeded`, with the statements.
pub(super) fn refuse(needed: &[Needed], version: i32) -> Result<()> {
    let place = place_beside(Whose::Synapse, &locale(), version);
    let refusal = choice::refusal(needed, &place);
    refusal.map_or(Ok(()), |message| Err(TaskError::terminal("SuperuserNeeded", message)))
}

/// What of a custom dump will not be there, for people.
pub(super) fn not_restored(choice: &Choice) -> Vec<String> {
    told(&choice.left_out).into_iter().map(|line| format!("not restored: {line}")).collect()
}

/// Reads so much of a dump. Returns whether that is all of it.
async fn look(mut reading: Reading, mut script: Script, looked_at: usize) -> Result<(Script, bool)> {
    let (mut buffer, mut seen) = (Vec::new(), 0);
    while seen < looked_at {
        reading.more(&mut buffer).await?;
        if buffer.is_empty() {
            reading.finish().await?;
            return script.finish().map(|_| (script, true));
        }
        seen += buffer.len();
        script.push(&buffer);
        while script.next_act()?.is_some() {}
    }
    Ok((script, false))
}

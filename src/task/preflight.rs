//! `task preflight`: finds out what would make a step fail, before anything goes down, and what the step would cost.
//!
//! It runs as the step will run: with its image, its mounts, its account. It changes nothing.

use std::{path::PathBuf, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    api::{
        maintenance::{Vacuum, VacuumMode},
        operation::restart_reserve,
    },
    bytes,
    contract::{PreflightFindings, StepPlan, TablePlan, TaskError, output::progress},
    postgres::{Locale, Result, Session, check_server, horizon, lock, sessions},
    synapse::{database, schema},
    task::{
        arguments::Connection,
        backup, dump, restore,
        vacuum::{
            plan,
            survey::{self, Request, Space, Survey},
        },
    },
    words::{counted, counted_are},
};

/// As many tables are named in a plan.
const TABLES_SHOWN: usize = 50;

/// A transaction that is open for so many seconds is told of. Synapse's take less, as those of exporters do, and few rows
/// are deleted meanwhile; a backup, a long report or a forgotten session takes more.
const OLD_TRANSACTION: u64 = 300;

/// A step, as a recipe describes it to preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Check {
    Vacuum(Vacuum),
    Backup(Box<backup::Wanted>),
    Media(backup::media::MediaStore),
    Restore(Box<restore::Wanted>),
    RestoreDump(Box<dump::Wanted>),
    RestoreMedia(restore::WantedMedia),
}

impl Check {
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }
}

/// What to check.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// A step: `<name>=<JSON>`, as the recipes write it; may be given several times.
    #[arg(long = "step", value_name = "NAME=JSON", required = true, value_parser = step)]
    steps: Vec<(String, Check)>,
    /// How many seconds Synapse may be down, with stop and start.
    #[arg(long)]
    downtime_at_most: Option<u32>,
    /// Where a step of the last run ended: `<name>=<cursor of its result>`.
    #[arg(long = "cursor", value_name = "NAME=POSITION", value_parser = cursor)]
    cursors: Vec<(String, String)>,
    /// When the steps were written, such as 2026-01-31T03:30:00Z: what they state of the disk may have aged.
    #[arg(long)]
    stated_at: Option<Timestamp>,
    /// A file in which the image of Synapse has said which schema it knows.
    #[arg(long)]
    synapse_schema_file: Option<PathBuf>,
    /// Tell of a disk that is too small, or unknown, as a warning.
    #[arg(long)]
    dry_run: bool,
    /// Tell of transactions that are open for so many seconds.
    #[arg(long, default_value_t = OLD_TRANSACTION)]
    old_transaction: u64,
}

fn step(text: &str) -> std::result::Result<(String, Check), String> {
    let (name, json) = text.split_once('=').ok_or("write <name>=<JSON>")?;
    let step = serde_json::from_str(json).map_err(|error| format!("step {name}: {error}"))?;
    Ok((name.to_owned(), step))
}

fn cursor(text: &str) -> std::result::Result<(String, String), String> {
    let (name, position) = text.split_once('=').ok_or("write <name>=<position>")?;
    Ok((name.to_owned(), position.to_owned()))
}

/// Checks the server and every step.
///
/// # Errors
/// The first thing that would make a step fail.
pub async fn run(arguments: Arguments) -> Result<PreflightFindings> {
    // There may be no database yet to look at.
    for (name, check) in &arguments.steps {
        match check {
            Check::Restore(wanted) => {
                let mut wanted = wanted.clone();
                wanted.terms = wanted.terms.having_heard(arguments.synapse_schema_file.as_deref());
                let parts = arguments.steps.iter().filter_map(|(name, check)| match check {
                    Check::Restore(_) => Some((name.as_str(), restore::Part::Database)),
                    Check::RestoreMedia(media) => Some((name.as_str(), restore::Part::Media(media))),
                    _ => None,
                });
                return restore::preflight(&arguments.connection, &wanted, parts).await;
            }
            Check::RestoreDump(wanted) => {
                let mut wanted = wanted.clone();
                wanted.terms = wanted.terms.having_heard(arguments.synapse_schema_file.as_deref());
                return dump::preflight(&arguments.connection, &wanted, name).await;
            }
            _ => {}
        }
    }
    look(arguments).await
}

/// What needs the homeserver's database.
async fn look(arguments: Arguments) -> Result<PreflightFindings> {
    let target = arguments.connection.target()?;
    let mut session = target.connect().await?;
    sessions::end_earlier(&mut session, &target.application).await?;
    let mut second = target.connect().await?;
    check_server(&mut session, &mut second).await?;
    if !arguments.dry_run {
        // Nobody is locked out for a task that would then wait for another, such as a backup.
        lock::acquire(&mut session).await?;
    }
    schema::enter(&mut session, None).await?;
    progress("the server can be used");

    let mut findings = PreflightFindings { warnings: locale_warnings(&mut session).await?, ..Default::default() };
    let others = sessions::others(&mut session, &arguments.connection.ignore_sessions).await?;
    findings.other_sessions =
        others.iter().filter(|session| !session.is_in_the_way()).map(ToString::to_string).collect();

    let mut seconds_left = arguments.downtime_at_most.map(work_seconds);
    for (name, check) in &arguments.steps {
        progress(&format!("looking at step {name}"));
        let plan = match check {
            Check::Vacuum(vacuum) => {
                vacuum_plan(&mut session, &arguments, name, vacuum, seconds_left, &mut findings.warnings).await?
            }
            Check::Backup(wanted) => {
                let (plan, warnings, coverage) =
                    backup::check(&arguments.connection, &mut session, name, wanted).await?;
                findings.warnings.extend(warnings.into_iter().chain(coverage.warnings()));
                findings.coverage = Some(coverage);
                plan
            }
            Check::Media(store) => store.check(&mut session, name).await?,
            Check::Restore(_) | Check::RestoreDump(_) | Check::RestoreMedia(_) => continue,
        };
        // The offline steps stand in one downtime, one after the other.
        let taken = plan.expected_seconds.filter(|_| plan.offline).unwrap_or_default();
        seconds_left = seconds_left.map(|left| (left - taken as f64).max(0.0));
        findings.plan.push(plan);
    }
    if findings.plan.iter().any(takes_downtime) {
        let age = Duration::from_secs(arguments.old_transaction);
        findings.warnings.extend(old_transactions(&mut session, age).await?);
    }
    Ok(findings)
}

/// What of a downtime is for work.
fn work_seconds(at_most: u32) -> f64 {
    let at_most = SignedDuration::from_secs(at_most.into());
    (at_most - restart_reserve(at_most)).as_secs_f64()
}

/// Mode Full, with a table that is worth it.
fn takes_downtime(plan: &StepPlan) -> bool {
    plan.offline && plan.tables.iter().any(|table| table.skipped.is_none())
}

/// A downtime for nothing, or for less: told, not refused. Whoever keeps the rows may be gone until then, and a backup may
/// matter more.
async fn old_transactions(session: &mut Session, age: Duration) -> Result<Option<String>> {
    let mut keepers = horizon::keepers(session).await?;
    keepers.retain(|keeper| keeper.is_older_than(age));
    Ok((!keepers.is_empty()).then(|| {
        format!(
            "VACUUM FULL may free less than planned: PostgreSQL keeps deleted rows that somebody may still see. Unless it is \
             Synapse's own, this should end before the downtime: {}",
            horizon::list(&keepers)
        )
    }))
}

async fn locale_warnings(session: &mut Session) -> Result<Vec<String>> {
    let (encoding, collate, ctype) = Locale::read(session).await?.sorts();
    if database::accepts(&encoding, &collate, &ctype) {
        return Ok(vec![]);
    }
    Ok(vec![format!(
        "The database is {encoding}, {collate}, {ctype}; Synapse wants UTF8, C, C. With another collation, an update of the \
         operating system can corrupt indexes: dump, and restore into a database made with C."
    )])
}

/// What a step would do.
async fn vacuum_plan(
    session: &mut Session,
    arguments: &Arguments,
    name: &str,
    vacuum: &Vacuum,
    seconds_left: Option<f64>,
    warnings: &mut Vec<String>,
) -> Result<StepPlan> {
    let mode = vacuum.mode;
    let offline = mode == VacuumMode::Full;
    let request = request(arguments, name, vacuum)?;
    let Survey { candidates, skipped, is_of_synapse } = survey::survey(session, &request).await?;
    let seconds = seconds_left.filter(|_| offline);
    let (fitting, left) = plan::fit(&candidates, mode, seconds);

    let space = if offline { Some(Space::look(session, &request, &fitting).await?) } else { None };
    match space.as_ref().map_or(Ok(()), Space::check) {
        Err(error) if arguments.dry_run => warnings.push(format!("Step {name} would be refused: {}", error.message)),
        checked => checked?,
    }

    let expected_seconds = fitting.iter().map(|candidate| candidate.seconds(mode)).sum::<f64>().ceil() as i64;
    let gain: i64 = fitting.iter().map(plan::Candidate::gain).sum();
    let no_time =
        || seconds.map(|seconds| format!("may not fit into the {} s that downtime.atMost leaves", seconds.floor()));
    let mut tables: Vec<TablePlan> = fitting.iter().map(|candidate| candidate.to_plan(mode, None)).collect();
    tables.extend(left.iter().map(|candidate| candidate.to_plan(mode, no_time())));
    tables.extend(skipped.iter().map(|(candidate, reason)| candidate.to_plan(mode, Some(reason.clone()))));
    let mut summary = summary(mode, fitting.len(), left.len(), skipped.len(), gain, expected_seconds);
    if !is_of_synapse {
        summary += survey::NOT_OF_SYNAPSE;
    }
    if tables.len() > TABLES_SHOWN {
        summary += &format!("; of {} tables, {TABLES_SHOWN} are listed", tables.len());
        tables.truncate(TABLES_SHOWN);
    }
    if let Some((free, by)) = space.as_ref().and_then(|space| space.free.zip(space.told_by())) {
        summary += &format!("; {} is free {by}", bytes::human(free));
    }
    Ok(StepPlan {
        step: name.to_owned(),
        summary,
        offline,
        expected_gain_bytes: offline.then_some(gain),
        expected_seconds: Some(expected_seconds),
        needed_bytes: space.as_ref().map(|space| space.needed),
        free_bytes: space.as_ref().and_then(|space| space.free),
        tables,
        media: None,
    })
}

fn request(arguments: &Arguments, name: &str, vacuum: &Vacuum) -> Result<Request> {
    let amount = |field: &str, text: &str| {
        bytes::parse(text)
            .map_err(|error| TaskError::terminal("InvalidStep", format!("{field} of step {name}: {error}.")))
    };
    Ok(Request {
        mode: vacuum.mode,
        tables: vacuum.tables.clone(),
        minimum_gain: amount("minimumGain", &vacuum.minimum_gain)?,
        cursor: arguments.cursors.iter().find(|(step, _)| step == name).map(|(_, position)| position.clone()),
        data_volume: arguments.connection.data_volume.clone(),
        stated: arguments.stated_at.map(|at| Timestamp::now().duration_since(at)),
        free_space: vacuum.free_space.as_deref().map(|text| amount("freeSpace", text)).transpose()?,
    })
}

fn summary(mode: VacuumMode, fitting: usize, left: usize, skipped: usize, gain: i64, seconds: i64) -> String {
    let mut text = match (mode, fitting) {
        (VacuumMode::Full, 0) => "nothing to do".to_owned(),
        (VacuumMode::Full, _) => {
            let tables = counted(fitting, "table", "tables");
            format!("VACUUM FULL of {tables} would free about {} in about {seconds} s", bytes::human(gain))
        }
        (VacuumMode::Analyze, _) => {
            let tables = counted(fitting, "table", "tables");
            format!("VACUUM (ANALYZE) of {tables} would take about {seconds} s")
        }
    };
    if left > 0 {
        text += &format!("; {} not fit into the time", counted(left, "table does", "tables do"));
    }
    if skipped > 0 {
        text += &format!("; {} skipped", counted_are(skipped, "table", "tables"));
    }
    text
}

//! `task retain`: takes old backups away, and what attempts left behind that came to nothing.
//!
//! Which ones is decided on manifests, by the moments of their databases: one backup is several of restic's snapshots, and
//! `restic forget --keep-*` would tear it apart. A backup loses its manifest first: cut off in the middle it does not exist,
//! and the next run clears the rest away. Nothing is touched that is neither of this origin nor adopted, and nothing at all while a snapshot
//! cannot be read: the rest of its backup would look like something that failed.
//!
//! It comes when the run has succeeded, and never beside one: the draft and the streams of a backup whose media are still under
//! way look like what an attempt left behind.

use std::collections::BTreeSet;

use jiff::{Timestamp, ToSpan, Zoned, tz::TimeZone};

use super::{
    Destination,
    list::Backup,
    origins::Listing,
    removal::{Doomed, remove},
};
use crate::{
    api::retention::Retention,
    contract::{Result, StepResult, TaskError, output::progress},
    words::{counted, counted_are},
};

/// What to keep.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub destination: Destination,
    #[command(flatten)]
    pub keep: Keep,
    /// Days, weeks and months are those of this time zone.
    #[arg(long, default_value = "UTC")]
    pub time_zone: String,
    /// The run whose backup stays, whatever else goes: <UID of its operation>.<run>
    #[arg(long)]
    pub of_run: Option<String>,
}

/// As [`Retention`]; without any of them, all backups are kept.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Keep {
    #[arg(long)]
    keep_last: Option<u16>,
    #[arg(long)]
    keep_hourly: Option<u16>,
    #[arg(long)]
    keep_daily: Option<u16>,
    #[arg(long)]
    keep_weekly: Option<u16>,
    #[arg(long)]
    keep_monthly: Option<u16>,
    #[arg(long)]
    keep_yearly: Option<u16>,
}

impl Keep {
    /// The arguments for a retention.
    pub fn to_args(retention: &Retention) -> Vec<String> {
        let Retention { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly } = retention;
        let periods = [
            ("last", keep_last),
            ("hourly", keep_hourly),
            ("daily", keep_daily),
            ("weekly", keep_weekly),
            ("monthly", keep_monthly),
            ("yearly", keep_yearly),
        ];
        periods.iter().filter_map(|(name, count)| count.map(|count| format!("--keep-{name}={count}"))).collect()
    }

    fn is_everything(&self) -> bool {
        let Self { keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly } = self;
        [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly, keep_yearly].iter().all(|count| count.is_none())
    }
}

/// Runs the task. Cut off, it leaves whole backups and what is no backup.
///
/// # Errors
/// Terminal: `UnknownTimeZone`; `RepositoryAccessDenied`, where the storage refuses to delete. What restic answers.
pub async fn run(Arguments { destination, keep, time_zone, of_run }: Arguments) -> Result<StepResult> {
    let zone = TimeZone::get(&time_zone)
        .map_err(|error| TaskError::terminal("UnknownTimeZone", format!("{time_zone}: {error}.")))?;
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let repository = destination.place.open(scratch.path())?;
    let inventory = Listing::read_all(&repository, &destination).await?.inventory();
    let old = outdated(&inventory.backups, &keep, &zone, of_run.as_deref());
    let leftovers: Vec<String> = inventory.leftovers.values().flatten().cloned().collect();
    progress(&format!(
        "deletes {} and {} of failed attempts",
        counted(old.len(), "old backup", "old backups"),
        counted(leftovers.len(), "snapshot", "snapshots")
    ));

    let doomed = |backup: &&Backup| Doomed { manifest: backup.shown.id.clone(), streams: backup.streams.clone() };
    // The newest is the first of the list.
    let doomed: Vec<Doomed> = old.iter().rev().map(doomed).collect();
    let manifests: Vec<String> = doomed.iter().map(|backup| backup.manifest.clone()).collect();
    let mut warnings = Vec::new();
    if !doomed.is_empty() || !leftovers.is_empty() {
        remove(&repository, &doomed, &leftovers).await?;
        repository.forget(&inventory.marks_of_no_use(&manifests)).await?;
        // What an earlier one had forgotten before it was cut off is given back by the next that forgets.
        repository.prune().await?;
    } else if !keep.is_everything() {
        // It would fail on the day when there is something to take away.
        warnings.extend(repository.can_delete().await.err().map(|error| error.message));
    }
    let left = Listing::read(&repository, &destination).await?.inventory();
    let deleted = match manifests.len() {
        0 => "no old backup to delete".to_owned(),
        old => format!("deleted {}", counted(old, "old backup", "old backups")),
    };
    let mut summary = format!("{deleted}, {} kept", counted_are(left.backups.len(), "backup", "backups"));
    if !leftovers.is_empty() {
        summary += &format!("; deleted {} of failed attempts", counted(leftovers.len(), "snapshot", "snapshots"));
    }
    Ok(StepResult { summary, warnings, backups: Some(left.listed()), ..StepResult::default() })
}

/// The name of the hour, the day, … that a moment belongs to.
type Period = fn(&Zoned) -> String;

/// The backups that nobody wants to keep. They come newest first; the newest is never among them, nor is that of this run, nor is the
/// newest that was verified: until another is, it is the one that is known to come back.
fn outdated<'a>(backups: &'a [Backup], keep: &Keep, zone: &TimeZone, of_run: Option<&str>) -> Vec<&'a Backup> {
    if keep.is_everything() {
        return Vec::new();
    }
    let mut kept: BTreeSet<usize> = (0..backups.len()).take(keep.keep_last.unwrap_or(1).max(1).into()).collect();
    kept.extend(backups.iter().position(|backup| backup.shown.verified_at.is_some()));
    if let Some(run) = of_run.map(|run| format!("{run}.")) {
        kept.extend(backups.iter().position(|backup| backup.attempt.starts_with(&run)));
    }
    let periods: [(Option<u16>, Period); 5] = [
        (keep.keep_hourly, |at| at.strftime("%F %H %z").to_string()),
        (keep.keep_daily, |at| at.strftime("%F").to_string()),
        (keep.keep_weekly, |at| monday(at).strftime("%F").to_string()),
        (keep.keep_monthly, |at| at.strftime("%Y-%m").to_string()),
        (keep.keep_yearly, |at| at.strftime("%Y").to_string()),
    ];
    for (count, period) in periods {
        let mut seen = BTreeSet::new();
        for (index, backup) in backups.iter().enumerate() {
            if seen.len() >= count.unwrap_or(0).into() {
                break;
            }
            if seen.insert(period(&in_zone(backup.taken_at, zone))) {
                kept.insert(index);
            }
        }
    }
    let outdated = backups.iter().enumerate().filter(|(index, _)| !kept.contains(index));
    outdated.map(|(_, backup)| backup).collect()
}

fn in_zone(at: Timestamp, zone: &TimeZone) -> Zoned {
    at.to_zoned(zone.clone())
}

/// The Monday of its week.
fn monday(at: &Zoned) -> jiff::civil::Date {
    let date = at.date();
    date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap_or(date)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::contract::BackupSnapshot;

    /// Backups of these moments, given newest first.
    fn backups(moments: &[&str]) -> Vec<Backup> {
        let backup = |moment: &&str| Backup {
            shown: BackupSnapshot { id: (*moment).to_owned(), ..Default::default() },
            taken_at: moment.parse().unwrap(),
            counts_as: moment.parse().unwrap(),
            attempt: String::new(),
            streams: vec![],
        };
        moments.iter().map(backup).collect()
    }

    fn left(moments: &[&str], keep: Keep, zone: &str) -> Vec<String> {
        let backups = backups(moments);
        let old: Vec<&str> = outdated(&backups, &keep, &TimeZone::get(zone).unwrap(), None)
            .iter()
            .map(|old| old.shown.id.as_str())
            .collect();
        moments.iter().filter(|moment| !old.contains(moment)).map(|moment| (*moment).to_owned()).collect()
    }

    #[test]
    fn each_period_keeps_the_newest_of_those_that_have_one() {
        let moments = [
            "2026-11-22T20:00:00Z", // Sunday
            "2026-11-22T02:00:00Z",
            "2026-11-20T02:00:00Z", // nothing on Saturday
            "2026-11-16T02:00:00Z", // Monday of the same week
            "2026-11-15T02:00:00Z",
            "2026-10-31T02:00:00Z",
            "2025-12-31T02:00:00Z",
        ];
        let kept = |keep: Keep| {
            let left = left(&moments, keep, "UTC");
            left.iter().map(|moment| moments.iter().position(|other| other == moment).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kept(Keep::default()), [0, 1, 2, 3, 4, 5, 6], "nothing is said: all are kept");
        assert_eq!(kept(Keep { keep_last: Some(2), ..Keep::default() }), [0, 1]);
        assert_eq!(kept(Keep { keep_hourly: Some(2), ..Keep::default() }), [0, 1]);
        assert_eq!(kept(Keep { keep_daily: Some(2), ..Keep::default() }), [0, 2]);
        assert_eq!(kept(Keep { keep_weekly: Some(2), ..Keep::default() }), [0, 4]);
        assert_eq!(kept(Keep { keep_monthly: Some(2), ..Keep::default() }), [0, 5]);
        assert_eq!(kept(Keep { keep_yearly: Some(9), ..Keep::default() }), [0, 6]);
        assert_eq!(
            kept(Keep { keep_last: Some(1), keep_weekly: Some(2), keep_yearly: Some(1), ..Keep::default() }),
            [0, 4]
        );
    }

    #[test]
    fn days_are_those_of_the_time_zone() {
        // One evening in New York.
        let moments = ["2026-11-22T04:30:00Z", "2026-11-22T02:00:00Z", "2026-11-21T23:00:00Z"];
        let daily = || Keep { keep_daily: Some(7), ..Keep::default() };
        assert_eq!(left(&moments, daily(), "UTC").len(), 2);
        assert_eq!(left(&moments, daily(), "America/New_York").len(), 1);
    }

    #[test]
    fn the_newest_that_was_verified_is_never_outdated() {
        let mut made = backups(&["2026-11-22T02:00:00Z", "2026-11-21T02:00:00Z", "2026-11-20T02:00:00Z"]);
        for verified in &mut made[1..] {
            verified.shown.verified_at = verified.shown.taken_at.clone().or(Some(Time(Timestamp::UNIX_EPOCH)));
        }
        let keep = Keep { keep_last: Some(1), ..Keep::default() };
        let old: Vec<&str> =
            outdated(&made, &keep, &TimeZone::UTC, None).iter().map(|backup| backup.shown.id.as_str()).collect();
        assert_eq!(old, ["2026-11-20T02:00:00Z"]);
    }

    #[test]
    fn the_backup_of_the_run_itself_is_never_outdated() {
        let mut made = backups(&["2026-11-22T02:00:00Z", "2026-11-21T02:00:00Z", "2026-11-20T02:00:00Z"]);
        made.iter_mut()
            .zip(["u.12.1", "u.1.2", "u.11.1"])
            .for_each(|(backup, attempt)| backup.attempt = attempt.to_owned());
        let keep = Keep { keep_last: Some(1), ..Keep::default() };
        let old = |of_run| {
            let old = outdated(&made, &keep, &TimeZone::UTC, of_run);
            old.iter().map(|backup| backup.attempt.clone()).collect::<Vec<_>>()
        };
        assert_eq!(old(Some("u.1")), ["u.11.1"]);
        assert_eq!(old(Some("u.12")), ["u.1.2", "u.11.1"]);
    }

    #[test]
    fn the_newest_is_never_outdated() {
        for keep_daily in [None, Some(0), Some(1)] {
            let keep = Keep { keep_daily, keep_last: Some(0), ..Keep::default() };
            assert_eq!(left(&["2026-11-22T04:30:00Z"], keep, "UTC").len(), 1);
        }
    }
}

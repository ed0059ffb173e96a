//! Looking at the database before anything is done: which tables, what each would give, whether the disk can hold it.
//!
//! Preflight and the task itself look with the same eyes, so that a plan is what would be done.

use std::path::PathBuf;

use jiff::SignedDuration;

use super::{
    estimate,
    plan::{self, Candidate},
};
use crate::{
    api::maintenance::VacuumMode,
    bytes,
    contract::TaskError,
    postgres::{Result, Session, disk, relations},
    synapse::schema,
    words::counted,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub mode: VacuumMode,
    /// Names of tables; none: all.
    pub tables: Vec<String>,
    /// Mode Full: a table that would give back less is left alone, in bytes.
    pub minimum_gain: i64,
    /// Where the last run ended.
    pub cursor: Option<String>,
    /// Where free disk can be looked up …
    pub data_volume: Option<PathBuf>,
    /// … and what the user says that there is, in bytes.
    pub free_space: Option<i64>,
    /// How long ago that was said, at most.
    pub stated: Option<SignedDuration>,
}

/// What there is to do.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Tables to do, in order.
    pub candidates: Vec<Candidate>,
    /// Tables that are left alone, and why.
    pub skipped: Vec<(Candidate, String)>,
    /// There is a table of Synapse.
    pub is_of_synapse: bool,
}

/// What a summary says of a database in which nothing is Synapse's.
pub const NOT_OF_SYNAPSE: &str = "; no table of Synapse is there: is postgres.database right?";

/// Chooses the tables.
///
/// # Errors
/// Terminal: `NoSynapseSchema` where there is no table at all; `TableMissing` for a name that is no table of Synapse's schema, `NotOwner` for a table of somebody else. Both
/// only for tables that were named; where all are meant, a foreign one is left alone.
pub async fn survey(session: &mut Session, request: &Request) -> Result<Survey> {
    let is_of_synapse = schema::enter(session, None).await?.is_some();
    let tables = relations::tables(session).await?;
    if tables.is_empty() {
        return Err(TaskError::terminal(
            "NoSynapseSchema",
            "There is no table of Synapse in this database: is postgres.database right? A Synapse that has never started leaves it \
             empty.",
        ));
    }
    let named = |table: &relations::Table| request.tables.contains(&table.name);
    let missing: Vec<&str> = request
        .tables
        .iter()
        .filter(|name| !tables.iter().any(|table| table.name == **name))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return Err(TaskError::terminal(
            "TableMissing",
            format!(
                "There is no table {} in the schema that Synapse uses. Correct `tables` of the step.",
                missing.join(", ")
            ),
        ));
    }

    let mut survey = Survey { is_of_synapse, ..Survey::default() };
    for table in tables.into_iter().filter(|table| request.tables.is_empty() || named(table)) {
        let whole = Candidate { bytes_after: table.bytes, table };
        if !whole.table.maintained {
            let owner = &whole.table.owner;
            if !request.tables.is_empty() {
                return Err(TaskError::terminal(
                    "NotOwner",
                    format!(
                        "Table {0} belongs to role {owner}: the role of postgres.credentials may not vacuum it. Use the owner there, \
                         or GRANT {owner} to the role, or, since PostgreSQL 17, GRANT MAINTAIN ON {0} to it.",
                        whole.table.name
                    ),
                ));
            }
            let reason = format!("belongs to role {owner}");
            survey.skipped.push((whole, reason));
        } else if request.mode == VacuumMode::Analyze {
            survey.candidates.push(whole);
        } else {
            match judge(session, whole, request.minimum_gain).await? {
                (candidate, None) => survey.candidates.push(candidate),
                (candidate, Some(reason)) => survey.skipped.push((candidate, reason)),
            }
        }
    }
    plan::order(&mut survey.candidates, request.mode, request.cursor.as_deref());
    Ok(survey)
}

/// Whether VACUUM FULL of a table is worth it.
async fn judge(session: &mut Session, whole: Candidate, minimum_gain: i64) -> Result<(Candidate, Option<String>)> {
    // A table cannot give back more than it has: most need not be read.
    if whole.table.bytes < minimum_gain {
        return Ok((whole, Some(format!("smaller than minimumGain ({})", bytes::human(minimum_gain)))));
    }
    match estimate::bytes_after_full(session, &whole.table).await {
        Ok(bytes_after) => {
            let candidate = Candidate { bytes_after, ..whole };
            let reason = plan::too_little(&candidate, minimum_gain);
            Ok((candidate, reason))
        }
        // Locked, or too slow: nothing is known of this table, and nothing is done to it.
        Err(error) if ["LockTimeout", "Canceled"].contains(&error.reason.as_str()) => {
            Ok((whole, Some(format!("could not be estimated: {}", error.message))))
        }
        // MAINTAIN alone does not let read.
        Err(error) if error.reason == "InsufficientPrivilege" => {
            let reason = "could not be estimated: the role of postgres.credentials may not read it (GRANT SELECT)";
            Ok((whole, Some(reason.to_owned())))
        }
        Err(error) => Err(error),
    }
}

/// Free disk, and what VACUUM FULL needs of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    /// At the peak, beside the present files, in bytes.
    pub needed: i64,
    /// In bytes; `None`: unknown.
    pub free: Option<i64>,
    /// Who says so.
    source: String,
    /// A person says so.
    stated: bool,
    /// The table with the largest copy, and its bytes.
    largest: Option<(String, i64)>,
}

impl Space {
    /// Looks up what is free, and adds up what these tables need.
    ///
    /// # Errors
    /// A data volume that cannot be read; those of PostgreSQL.
    pub async fn look(session: &mut Session, request: &Request, candidates: &[Candidate]) -> Result<Self> {
        let (free, source) = match (&request.data_volume, request.free_space) {
            (Some(volume), _) => (Some(disk::free_bytes(volume)?), "on the volume of postgres.dataVolume".to_owned()),
            (None, Some(stated)) => (Some(stated), format!("by vacuum.freeSpace, {}", said(request.stated))),
            (None, None) => (None, String::new()),
        };
        let copies: Vec<i64> = candidates.iter().map(Candidate::copy_bytes).collect();
        let largest = candidates.iter().max_by_key(|candidate| candidate.copy_bytes());
        Ok(Self {
            needed: disk::needed_bytes(&copies, disk::wal(session).await?),
            free,
            source,
            stated: request.data_volume.is_none() && request.free_space.is_some(),
            largest: largest.map(|candidate| (candidate.table.name.clone(), candidate.copy_bytes())),
        })
    }

    /// Who says how much is free, where nobody has measured it.
    pub fn told_by(&self) -> Option<&str> {
        self.stated.then_some(self.source.as_str())
    }

    /// # Errors
    /// Terminal: `FreeSpaceUnknown` or `DiskTooSmall`, with the figures. A full disk under the WAL would not only fail
    /// the statement: PostgreSQL stops.
    pub fn check(&self) -> Result<()> {
        let Some((table, copy)) = &self.largest else { return Ok(()) };
        let needed = bytes::human(self.needed);
        let (copy, wal) = (bytes::human(*copy), bytes::human(self.needed - copy));
        let figures = format!(
            "VACUUM FULL needs about {needed} beside the present files: {copy} for the new copy of {table}, {wal} for WAL"
        );
        match self.free {
            None => Err(TaskError::terminal(
                "FreeSpaceUnknown",
                format!(
                    "{figures}. How much disk is free for PostgreSQL is not known: set postgres.dataVolume of the Synapse \
                     object to the claim of its data, or vacuum.freeSpace to a figure."
                ),
            )),
            Some(free) if free < self.needed => Err(TaskError::terminal(
                "DiskTooSmall",
                format!(
                    "{figures}. {} is free {}. Nothing was changed. Make the volume larger, or name smaller tables in \
                     vacuum.tables first.",
                    bytes::human(free),
                    self.source
                ),
            )),
            Some(_) => Ok(()),
        }
    }
}

/// How much a figure in a spec is worth: it ages with every run of a schedule.
fn said(age: Option<SignedDuration>) -> String {
    let days = age.map(|age| age.as_hours() / 24).filter(|days| *days > 0);
    match days {
        None => "which was stated and not measured".to_owned(),
        Some(days) => {
            format!("which was stated and not measured, in a maintenance that is {} old", counted(days, "day", "days"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(needed: i64, free: Option<i64>) -> Space {
        Space {
            needed,
            free,
            source: "on the volume".to_owned(),
            stated: false,
            largest: Some(("events".to_owned(), needed / 2)),
        }
    }

    #[test]
    fn room_that_is_unknown_or_too_small_is_refused_with_figures() {
        assert_eq!(space(2048, Some(2048)).check(), Ok(()));
        let error = space(2048, Some(2047)).check().unwrap_err();
        assert_eq!(error.reason, "DiskTooSmall");
        for figure in ["2.0 KiB", "1.0 KiB for the new copy of events", "2.0 KiB is free on the volume"] {
            assert!(error.message.contains(figure), "{figure}: {}", error.message);
        }
        assert_eq!(space(2048, None).check().unwrap_err().reason, "FreeSpaceUnknown");
        assert_eq!(Space { largest: None, ..space(0, None) }.check(), Ok(()), "nothing to do needs no room");
    }

    #[test]
    fn a_stated_figure_says_its_age() {
        assert_eq!(said(None), "which was stated and not measured");
        assert_eq!(said(Some(SignedDuration::from_hours(23))), "which was stated and not measured");
        assert!(said(Some(SignedDuration::from_hours(24 * 40 + 5))).ends_with("a maintenance that is 40 days old"));
    }
}

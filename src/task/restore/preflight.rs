//! What would make a restore fail, found out before it begins. Changes nothing.

use serde::{Deserialize, Serialize};

use super::{
    Administrator, clear,
    existing::Present,
    in_place,
    mark::name_aside,
    server::{Server, find},
    source::{Chosen, Source},
};
use crate::{
    api::{
        operation::StepPlan,
        restore::{Existing, Method},
    },
    bytes,
    postgres::{disk, programs::Programs},
    task::{
        arguments::Connection,
        preflight::Check,
        report::{PreflightFindings, Result, TaskError},
    },
};

/// What is wanted of a restore.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: Source,
    #[command(flatten)]
    #[serde(flatten)]
    pub administrator: Administrator,
    /// Namespace and name of the restore: the same name restores nothing a second time. Nothing: a restore by hand.
    #[arg(long, default_value = "")]
    pub restore: String,
    /// Beside the database that serves, or into it.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub method: Method,
    /// What becomes of a database that somebody has used.
    #[arg(long, value_enum, default_value_t)]
    pub existing: Existing,
    /// How much disk is free for PostgreSQL, such as 20Gi, where its volume is not mounted.
    #[arg(long)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_space: Option<String>,
}

impl Wanted {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = self.source.to_args();
        args.extend(self.administrator.to_args());
        args.push(format!("--restore={}", self.restore));
        args.push(format!("--method={}", self.method));
        args.push(format!("--existing={}", self.existing));
        args.extend(self.free_space.iter().map(|space| format!("--free-space={space}")));
        args
    }
}

/// A restore that may begin.
pub(super) struct Ready {
    pub server: Server,
    pub chosen: Chosen,
    pub present: Present,
    pub programs: Programs,
    /// Free disk that it takes, in bytes.
    pub needed: i64,
    /// In bytes.
    pub free: i64,
}

/// Looks at the server, the backup and the disk; says what a restore would do.
///
/// # Errors
/// The first thing that a restore would fail for.
pub async fn check(connection: &Connection, wanted: &Wanted, steps: &[(String, Check)]) -> Result<PreflightFindings> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let ready = ready(connection, wanted, scratch.path()).await?;
    let snapshot = format!("--snapshot={}", ready.chosen.backup.shown.id);
    let mut findings = PreflightFindings::default();
    for (name, check) in steps {
        let plan = match check {
            Check::Restore(wanted) => database_plan(connection, &ready, name, wanted.method),
            Check::RestoreMedia(media) => media.plan(&ready.chosen, name)?,
            _ => continue,
        };
        findings.plan.push(plan);
        findings.arguments.insert(name.clone(), vec![snapshot.clone()]);
    }
    Ok(findings)
}

fn database_plan(connection: &Connection, ready: &Ready, step: &str, method: Method) -> StepPlan {
    let database = &connection.database;
    let becomes = match (method, ready.present) {
        (Method::InPlace, _) => format!("into {database} itself, which nobody has used"),
        (Method::Beside, Present::Absent) => format!("there is no database {database} yet"),
        (Method::Beside, _) => format!("{database} would be kept as {}", name_aside(database, jiff::Timestamp::now())),
    };
    let Chosen { backup, manifest, .. } = &ready.chosen;
    let synapse = manifest.synapse_version.as_ref().map(|version| format!("Synapse {version}, ")).unwrap_or_default();
    StepPlan {
        step: step.to_owned(),
        offline: method == Method::InPlace,
        summary: format!(
            "would restore backup {:.8} of {} ({synapse}{} rows of {} tables); {becomes}; {} is free, {} needed",
            backup.shown.id,
            backup.taken_at,
            manifest.database.rows(),
            manifest.database.tables(),
            bytes::human(ready.free),
            bytes::human(ready.needed),
        ),
        needed_bytes: Some(ready.needed),
        free_bytes: Some(ready.free),
        ..StepPlan::default()
    }
}

/// Everything that can be refused, with nothing changed.
pub(super) async fn ready(connection: &Connection, wanted: &Wanted, scratch: &std::path::Path) -> Result<Ready> {
    let mut server = match wanted.method {
        Method::Beside => Server::connect(connection, &wanted.administrator).await?,
        Method::InPlace => Server::connect_in_place(connection, &wanted.administrator).await?,
    };
    let mut session = server.target.connect().await?;
    let mut second = server.target.connect().await?;
    crate::task::preflight::check_server(&mut session, &mut second).await?;
    let programs = Programs::of(server.version()).await?;
    let databases = server.databases().await?;
    refuse_a_second_time(connection, wanted, &databases)?;
    let present = Present::look(&server, connection, &databases).await?;
    match wanted.method {
        Method::Beside => {
            present.may_go_aside(wanted.existing, &connection.database)?;
            server.can_end_sessions(&connection.database).await?;
        }
        Method::InPlace => in_place::accepts(&mut session, connection, present).await?,
    }

    let chosen = wanted.source.find(scratch).await?;
    let manifest = &chosen.manifest;
    if wanted.method == Method::InPlace && present != Present::Unfinished {
        clear::refuse_what_is_not_synapse_s(&mut session, &manifest.database, &connection.database).await?;
    }
    if manifest.database.postgres_version / 10_000 > server.version() / 10_000 {
        return Err(TaskError::terminal(
            "PostgresTooOld",
            format!(
                "The backup is of PostgreSQL {}, and this is PostgreSQL {}: a dump cannot go back to an older one.",
                manifest.database.postgres_version / 10_000,
                server.version() / 10_000
            ),
        ));
    }
    present.can_be_followed_by(manifest)?;
    let wal = disk::wal(&mut session).await?;
    // Rows first, indexes later: at no time is there more than the whole, beside its WAL.
    let needed = disk::needed_for_new(manifest.database.database_bytes, wal);
    let free = free_space(connection, wanted, needed)?;
    drop((session, second));
    Ok(Ready { server, chosen, present, programs, needed, free })
}

/// Argo CD makes deleted objects again, Velero brings them back without their status.
fn refuse_a_second_time(connection: &Connection, wanted: &Wanted, databases: &[super::server::Found]) -> Result<()> {
    let mark = find(databases, &connection.database).and_then(|found| found.mark.as_ref());
    let again = mark.filter(|mark| {
        !wanted.restore.is_empty() && mark.is_of(&wanted.restore) && mark.operation != connection.operation
    });
    let Some(mark) = again else { return Ok(()) };
    Err(TaskError::terminal(
        "AlreadyRestored",
        format!(
            "Database {} came to be by a restore of this name before ({:.8}, restored at {}). The same name restores nothing a \
             second time, also if its object was deleted and made again: take a new name.",
            connection.database, mark.snapshot, mark.at
        ),
    ))
}

fn free_space(connection: &Connection, wanted: &Wanted, needed: i64) -> Result<i64> {
    let (free, told) = match (&connection.data_volume, &wanted.free_space) {
        (Some(volume), _) => (disk::free_bytes(volume)?, "on the volume of postgres.dataVolume"),
        (None, Some(stated)) => {
            let stated = bytes::parse(stated)
                .map_err(|error| TaskError::terminal("InvalidStep", format!("database.freeSpace: {error}.")))?;
            (stated, "by spec.database.freeSpace")
        }
        (None, None) => {
            return Err(TaskError::terminal(
                "FreeSpaceUnknown",
                format!(
                    "The new database and its WAL need about {} beside the present files. How much disk is free for \
                     PostgreSQL is not known: set postgres.dataVolume of the Synapse object to the claim of its data, or \
                     spec.database.freeSpace to a figure.",
                    bytes::human(needed)
                ),
            ));
        }
    };
    if free < needed {
        return Err(TaskError::terminal(
            "DiskTooSmall",
            format!(
                "The new database and its WAL need about {} beside the present files, and {} is free {told}. Nothing was \
                 changed: make the volume larger.",
                bytes::human(needed),
                bytes::human(free)
            ),
        ));
    }
    Ok(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_travels_as_arguments_and_as_json() {
        let json = r#"{"repositoryDir": "/r", "serverName": "example.org", "snapshot": "latest", "restore": "a/b",
                       "existing": "Rename", "freeSpace": "1Gi"}"#;
        let wanted: Wanted = serde_json::from_str(json).unwrap();
        let args = [
            "--repository-dir=/r",
            "--server-name=example.org",
            "--restore=a/b",
            "--method=beside",
            "--existing=rename",
            "--free-space=1Gi",
        ];
        assert_eq!(wanted.to_args(), args);
    }
}

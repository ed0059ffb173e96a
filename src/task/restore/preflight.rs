//! What would make a restore fail, found out before it begins. Changes nothing.

use serde::{Deserialize, Serialize};

use super::{
    clear,
    existing::Present,
    schema,
    source::{Chosen, Source},
    terms::{Fit, Terms},
};
use crate::{
    api::{operation::StepPlan, restore::Method},
    bytes,
    postgres::disk,
    task::{
        arguments::Connection,
        preflight::Check,
        report::{PreflightFindings, Result, TaskError},
    },
};

/// Nobody knows which Synapse will run.
const UNASKED: &str = "The image of Synapse was not asked which schema it knows, or did not say it: the schema of the database \
                       that is here was compared instead. Set spec.image of the Synapse object.";

/// What is wanted of a restore.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    #[command(flatten)]
    #[serde(flatten)]
    pub source: Source,
    #[command(flatten)]
    #[serde(flatten)]
    pub terms: Terms,
    /// Beside the database that serves, or into it.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub method: Method,
}

impl Wanted {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        [self.source.to_args(), self.terms.to_args(), vec![format!("--method={}", self.method)]].concat()
    }
}

/// A restore that may begin.
pub(super) struct Ready {
    pub fit: Fit,
    pub chosen: Chosen,
    /// Free disk that it takes, in bytes.
    needed: i64,
    /// In bytes.
    free: i64,
}

/// Looks at the server, the backup and the disk; says what a restore would do.
///
/// # Errors
/// The first thing that a restore would fail for.
pub async fn check(connection: &Connection, wanted: &Wanted, steps: &[(String, Check)]) -> Result<PreflightFindings> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let ready = ready(connection, wanted, scratch.path()).await?;
    let told = [format!("--snapshot={}", ready.chosen.backup.shown.id)];
    let mut findings = PreflightFindings::default();
    if wanted.terms.synapse_schema.is_none() {
        findings.warnings.push(UNASKED.to_owned());
    }
    for (name, check) in steps {
        let (plan, more) = match check {
            Check::Restore(_) => {
                let plan = database_plan(connection, &ready, name, wanted.method);
                (plan, wanted.terms.synapse_schema.map(schema::as_argument))
            }
            Check::RestoreMedia(media) => (media.plan(&ready.chosen, name)?, None),
            _ => continue,
        };
        findings.plan.push(plan);
        findings.arguments.insert(name.clone(), told.iter().cloned().chain(more).collect());
    }
    Ok(findings)
}

fn database_plan(connection: &Connection, ready: &Ready, step: &str, method: Method) -> StepPlan {
    let becomes = ready.fit.present.becomes(&connection.database, method);
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
    let fit = wanted.terms.fit(connection, wanted.method).await?;
    let chosen = wanted.source.find(scratch).await?;
    let manifest = &chosen.manifest;
    if wanted.method == Method::InPlace && fit.present != Present::Unfinished {
        let mut session = fit.server.target.connect().await?;
        clear::refuse_what_is_not_synapse_s(&mut session, &manifest.database, &connection.database).await?;
    }
    let version = fit.server.version();
    if manifest.database.postgres_version / 10_000 > version / 10_000 {
        return Err(TaskError::terminal(
            "PostgresTooOld",
            format!(
                "The backup is of PostgreSQL {}, and this is PostgreSQL {}: a dump cannot go back to an older one.",
                manifest.database.postgres_version / 10_000,
                version / 10_000
            ),
        ));
    }
    match wanted.terms.synapse_schema {
        Some(known) => schema::is_known(manifest.schema(), known)?,
        None => fit.present.can_be_followed_by(manifest.schema(), "backup")?,
    }
    // Rows first, indexes later: at no time is there more than the whole, beside its WAL.
    let needed = disk::needed_for_new(manifest.database.database_bytes, fit.wal);
    let free = wanted.terms.free_space(connection, needed)?;
    Ok(Ready { fit, chosen, needed, free })
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
            "--existing=rename",
            "--free-space=1Gi",
            "--method=beside",
        ];
        assert_eq!(wanted.to_args(), args);
    }
}

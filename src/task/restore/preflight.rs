//! What would make a restore fail, found out before it begins. Changes nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{
    authentication::{Half, both_or_none},
    clear,
    existing::Present,
    media::WantedMedia,
    possible::Wish,
    server::Server,
    source::{Chosen, Source},
    terms::{Fit, Terms},
};
use crate::{
    api::restore::Method,
    bytes,
    contract::{PreflightFindings, Result, StepPlan, TaskError},
    postgres::{Session, check_server, disk, programs::Programs},
    synapse::{
        database,
        guests::{self, Guests},
        schema,
    },
    task::{
        arguments::Connection,
        authentication::{AuthenticationService, Whose},
        backup::manifest::Manifest,
    },
    words::{moment, rows_of},
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
    pub terms: Terms,
    #[command(flatten)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_service: Option<AuthenticationService>,
    /// Beside the database that serves, or into it.
    #[arg(long, value_enum, default_value_t)]
    #[serde(default)]
    pub method: Method,
}

impl Wanted {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let service = self.authentication_service.iter().flat_map(AuthenticationService::to_args).collect();
        [self.source.to_args(), self.terms.to_args(), vec![format!("--method={}", self.method)], service].concat()
    }
}

/// A restore that may begin.
pub(super) struct Ready {
    pub fit: Fit,
    pub chosen: Chosen,
    pub authentication: Option<Half>,
    /// Free disk that it takes, in bytes.
    needed: i64,
    /// In bytes.
    free: i64,
    /// What people should know before.
    warnings: Vec<String>,
}

/// A part of a restore, each a step.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    Database,
    Media(&'a WantedMedia),
}

/// Looks at the server, the backup and the disk; says what each of these steps, by its name, would do.
///
/// # Errors
/// The first thing that a restore would fail for.
pub async fn check<'a>(
    connection: &Connection,
    wanted: &Wanted,
    parts: impl Iterator<Item = (&'a str, Part<'a>)>,
) -> Result<PreflightFindings> {
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let ready = ready(connection, wanted, scratch.path()).await?;
    let told = [format!("--snapshot={}", ready.chosen.backup.shown.id)];
    let said = wanted.terms.what_synapse_said();
    let warnings = said
        .as_ref()
        .err()
        .cloned()
        .into_iter()
        .chain(ready.fit.warnings.clone())
        .chain(ready.warnings.clone())
        .collect();
    let mut findings = PreflightFindings { warnings, ..PreflightFindings::default() };
    for (name, part) in parts {
        let (plan, more) = match part {
            Part::Database => {
                let plan = database_plan(connection, &ready, name, wanted.method);
                (plan, said.as_ref().ok().cloned())
            }
            Part::Media(media) => (media.plan(&ready.chosen, name)?, None),
        };
        findings.plan.push(plan);
        findings.arguments.insert(name.to_owned(), told.iter().cloned().chain(more).collect());
    }
    Ok(findings)
}

fn database_plan(connection: &Connection, ready: &Ready, step: &str, method: Method) -> StepPlan {
    let becomes = ready.fit.present.becomes(&connection.database, method);
    let Chosen { backup, manifest, .. } = &ready.chosen;
    let service = manifest.authentication_service.as_ref().map(|service| {
        let rows = rows_of(service.database.rows(), service.database.tables());
        format!(", and {rows} of the Matrix Authentication Service")
    });
    let synapse = manifest.synapse_version.as_ref().map(|version| format!("Synapse {version}, ")).unwrap_or_default();
    StepPlan {
        step: step.to_owned(),
        offline: method == Method::InPlace,
        summary: format!(
            "would restore backup {:.8} of {} ({synapse}{}{}); {becomes}; {} is free, {} needed",
            backup.shown.id,
            moment(backup.taken_at),
            rows_of(manifest.database.rows(), manifest.database.tables()),
            service.unwrap_or_default(),
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
    let mut fit = wanted.terms.fit(connection, wanted.method).await?;
    let chosen = wanted.source.find(scratch).await?;
    let manifest = &chosen.manifest;
    if wanted.method == Method::InPlace {
        let mut session = fit.server.target.connect().await?;
        let (database, role) = (&connection.database, &fit.server.owner);
        clear::refuse_schemas_of_others(&mut session, &manifest.database, database, role).await?;
    }
    if wanted.method == Method::InPlace && fit.present != Present::Unfinished {
        let mut session = fit.server.target.connect().await?;
        clear::refuse_what_is_not_synapse_s(&mut session, &manifest.database, &connection.database).await?;
    }
    manifest.database.fits(fit.server.version())?;
    let tables = manifest.database.names();
    if let Some(missing) = schema::Missing::of(&tables) {
        let what = format!("In backup {:.8}", chosen.backup.shown.id);
        return Err(missing.refused(&what, "Nothing was changed. Choose a backup of a whole homeserver."));
    }
    wanted.terms.accept(manifest.schema(), fit.present, "backup")?;
    fit.warnings.extend(guests(connection, &chosen, &mut fit.lock).await?);
    let mut authentication = authentication(connection, wanted, &mut fit.server, manifest).await?;
    let on_one_server = authentication.as_ref().is_some_and(|half| half.is_on_one_server);
    let beside = manifest.authentication_service.as_ref().filter(|_| on_one_server);
    // Rows first, indexes later: at no time is there more than the whole, beside its WAL.
    let bytes = manifest.database.database_bytes + beside.map_or(0, |service| service.database.database_bytes);
    let needed = disk::needed_for_new(bytes, fit.wal);
    let free = wanted.terms.free_space(connection, needed)?;
    let locale = database::locale();
    let wish = Wish {
        repository: &chosen.repository,
        dump: &manifest.database,
        whose: Whose::Synapse,
        programs: &fit.programs,
        scratch,
        connection,
        method: wanted.method,
        locale: &locale,
    };
    let mut warnings = wish.check(&mut fit.server).await?;
    if let (Some(half), Some(service)) = (&mut authentication, &manifest.authentication_service) {
        let (dump, whose) = (&service.database, Whose::AuthenticationService);
        let (programs, connection) = (Programs::of(half.server.version()).await?, half.connection.clone());
        let (programs, connection, locale) = (&programs, &connection, &dump.locale);
        let checked = Wish { dump, whose, programs, connection, locale, ..wish }.check(&mut half.server).await;
        warnings.extend(checked.map_err(|error| whose.tell(error))?);
    }
    Ok(Ready { fit, chosen, authentication, needed, free, warnings })
}

/// Tables of somebody else in the backup go back in time with Synapse's, and those that came since are not in it.
async fn guests(connection: &Connection, chosen: &Chosen, old: &mut Option<Session>) -> Result<Vec<String>> {
    let database = &connection.database;
    let dump = &chosen.manifest.database;
    let tables: BTreeSet<&str> =
        dump.rows_by_table().map(|(table, _)| table).chain(dump.left_out.iter().map(String::as_str)).collect();
    let back = Guests::among(tables, chosen.manifest.schema_version);
    let here = match old {
        Some(session) => guests::find(session).await?,
        None => None,
    };
    let back_in_time = back.as_ref().map(|guests| {
        format!(
            "the backup has tables that are not Synapse's ({}): they go back in time with it. Whoever uses them, such as a bridge, \
             stops as well where spec.workloads of the Synapse object has its Deployment",
            guests.named()
        )
    });
    let left_behind = here.and_then(|here| here.without(back.as_ref())).map(|guests| {
        format!(
            "{database} has tables that are neither Synapse's nor in the backup ({}): they stay behind in the old database. \
             Whoever uses them, such as a bridge, finds none after the restore",
            guests.named()
        )
    });
    Ok(back_in_time.into_iter().chain(left_behind).collect())
}

/// The database of the Matrix Authentication Service: it comes back with Synapse's, or neither does.
async fn authentication(
    connection: &Connection,
    wanted: &Wanted,
    server: &mut Server,
    manifest: &Manifest,
) -> Result<Option<Half>> {
    let service = wanted.authentication_service.as_ref();
    let Some((service, dump)) = both_or_none(service, manifest)? else { return Ok(None) };
    let mut half = Half::connect(connection, &wanted.terms.administrator, server, service).await?;
    let accepted = async {
        half.accepts(wanted.terms.existing, dump).await?;
        if !half.is_on_one_server {
            let mut session = half.server.target.connect().await?;
            let mut second = half.server.target.connect().await?;
            check_server(&mut session, &mut second).await?;
            Programs::of(half.server.version()).await?;
            let wal = disk::wal(&mut session).await?;
            let needed = disk::needed_for_new(dump.database.database_bytes, wal);
            wanted.terms.free_space(&half.connection, needed)?;
        }
        Ok(())
    };
    accepted.await.map_err(|error| Whose::AuthenticationService.tell(error))?;
    Ok(Some(half))
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

//! What would make a backup fail, and what of the database a restore does not bring back, found out before it begins. Changes
//! nothing.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    ConfigObjects, Destination,
    coverage::{Covered, Seen},
    exclude::Excluded,
    facts::Facts,
    readable,
};
use crate::{
    api::exclude::Exclude,
    bytes,
    contract::{Coverage, Result, StepPlan, TaskError},
    postgres::{Session, check_server, programs::Programs},
    restic::MISSING,
    task::{
        arguments::Connection,
        authentication::{AuthenticationService, Whose},
    },
};

/// What is wanted of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    pub destination: Destination,
    pub config: ConfigObjects,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication_service: Option<AuthenticationService>,
    #[serde(default, skip_serializing_if = "Exclude::is_empty")]
    pub exclude: Exclude,
}

/// Looks at the database and at the repository; says what a backup would do, and what is worth a look.
///
/// # Errors
/// The first thing that a backup would fail for.
pub async fn check(
    connection: &Connection,
    session: &mut Session,
    step: &str,
    Wanted { destination, config, authentication_service, exclude }: &Wanted,
) -> Result<(StepPlan, Vec<String>, Coverage)> {
    config.manifests()?;
    config.signing_key_ids()?;
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let (facts, schema) = Facts::of_synapse(session, &destination.server_name).await?;
    let excluded = Excluded::find(session, exclude).await?;
    excluded.check(session, facts.schema.as_deref()).await?;
    readable::check(session, readable::Of::Synapse { excluded: &excluded, schema: facts.schema.as_deref() }).await?;
    let coverage = covered(Whose::Synapse, connection, &facts, &excluded, scratch.path()).await?;
    let (coverage, and_service) = match authentication_service {
        None => (coverage, String::new()),
        Some(service) => {
            let checked = check_service(&service.connection(connection), scratch.path()).await;
            let (bytes, more) = checked.map_err(|error| Whose::AuthenticationService.tell(error))?;
            let said = format!(", and one of {} of the Matrix Authentication Service,", bytes::human(bytes));
            (coverage.and(more), said)
        }
    };
    let repository = destination.place.open(scratch.path())?;
    let (is_there, made) = match repository.look().await {
        Ok(()) => (true, ""),
        Err(error) if destination.init && error.reason == MISSING => (false, ", which would be made"),
        Err(error) => return Err(error),
    };
    let warning = repository.try_to_write(is_there).await?;
    let plan = StepPlan {
        step: step.to_owned(),
        summary: format!(
            "would back up a database of {}{and_service} into the repository{made}",
            bytes::human(facts.bytes)
        ),
        ..StepPlan::default()
    };
    let warnings = excluded.warnings(facts.schema.as_deref(), schema.version);
    Ok((plan, warning.into_iter().chain(warnings).collect(), coverage))
}

/// What a restore of a database does not bring back.
async fn covered(
    whose: Whose,
    connection: &Connection,
    facts: &Facts,
    excluded: &Excluded,
    scratch: &Path,
) -> Result<Coverage> {
    let (programs, target) = (Programs::of(facts.postgres_version).await?, connection.target()?);
    let seen = Seen { whose, target: &target, programs: &programs, locale: &facts.locale, excluded };
    Covered::ahead(seen, facts.postgres_version, scratch).await
}

/// The size of the service's database, if it can be backed up, and what a restore does not bring back of it.
async fn check_service(connection: &Connection, scratch: &Path) -> Result<(i64, Coverage)> {
    let target = connection.target()?;
    let (mut session, mut second) = (target.connect().await?, target.connect().await?);
    check_server(&mut session, &mut second).await?;
    let (facts, _) = Facts::of_authentication_service(&mut session).await?;
    readable::check(&mut session, readable::Of::AuthenticationService).await?;
    let coverage = covered(Whose::AuthenticationService, connection, &facts, &Excluded::default(), scratch).await?;
    Ok((facts.bytes, coverage))
}

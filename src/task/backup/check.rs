//! What would make a backup fail, found out before it begins. Changes nothing.

use super::{ConfigObjects, Destination, facts::Facts};
use crate::{
    api::operation::StepPlan,
    bytes,
    postgres::{Session, programs::Programs},
    restic::MISSING,
    task::report::{Result, TaskError},
};

/// Looks at the database and at the repository; says what a backup would do.
///
/// # Errors
/// The first thing that a backup would fail for.
pub async fn check(
    session: &mut Session,
    step: &str,
    destination: &Destination,
    config: &ConfigObjects,
) -> Result<StepPlan> {
    config.manifests()?;
    config.signing_key_ids()?;
    let scratch = tempfile::tempdir().map_err(|error| TaskError::no_scratch_space(&error))?;
    let facts = Facts::read(session, &destination.server_name).await?;
    Programs::of(facts.postgres_version).await?;
    let repository = destination.place.open(scratch.path())?;
    let made = match repository.look().await {
        Ok(()) => "",
        Err(error) if destination.init && error.reason == MISSING => ", which would be made",
        Err(error) => return Err(error),
    };
    Ok(StepPlan {
        step: step.to_owned(),
        summary: format!("would back up a database of {} into the repository{made}", bytes::human(facts.bytes)),
        ..StepPlan::default()
    })
}

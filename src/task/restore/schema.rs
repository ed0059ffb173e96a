//! Which schema a Synapse knows, and whether it starts on a backup's: `SCHEMA_VERSION` and `SCHEMA_COMPAT_VERSION`
//! (`synapse/storage/schema/__init__.py`).

use std::path::Path;

use serde::Deserialize;

use crate::{
    contract::{Result, TaskError},
    synapse::database::SchemaVersion,
};

/// What the image of the homeserver's own Synapse has written ([`crate::operation::job::synapse::TELL_SCHEMA`]).
#[derive(Deserialize)]
struct Told {
    version: Option<i32>,
}

/// What it knows; `None`: it did not say it.
pub fn told(file: &Path) -> Option<i32> {
    serde_json::from_slice::<Told>(&std::fs::read(file).ok()?).ok()?.version
}

/// The same, for the steps.
pub(super) fn as_argument(schema: i32) -> String {
    format!("--synapse-schema={schema}")
}

/// Whether a Synapse that knows this schema starts on a `what`, such as a backup. An older schema is no matter: it brings it further.
///
/// # Errors
/// Terminal, `SchemaTooNew`.
pub fn is_known(schema: SchemaVersion, known: i32, what: &str) -> Result<()> {
    let Some(compat) = schema.compat_version.filter(|compat| *compat > known) else { return Ok(()) };
    Err(TaskError::terminal(
        "SchemaTooNew",
        format!(
            "The {what} needs a Synapse that knows schema {compat}, and the image of the one that runs here knows schema {known}: \
             it would not start. Install the Synapse of the {what} (schema {}), or a newer one, first.",
            schema.version
        ),
    ))
}

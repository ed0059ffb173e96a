//! Which schema a Synapse knows, and whether it starts on a backup's: `SCHEMA_VERSION` and `SCHEMA_COMPAT_VERSION`
//! (`synapse/storage/schema/__init__.py`).

use std::path::Path;

use serde::Deserialize;

use crate::task::{
    backup::manifest::Manifest,
    report::{Result, TaskError},
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

/// Whether a Synapse that knows this schema starts on the backup. An older schema is no matter: it brings it further.
///
/// # Errors
/// Terminal, `SchemaTooNew`.
pub fn is_known(manifest: &Manifest, known: i32) -> Result<()> {
    let Some(compat) = manifest.schema_compat_version.filter(|compat| *compat > known) else { return Ok(()) };
    Err(TaskError::terminal(
        "SchemaTooNew",
        format!(
            "The backup needs a Synapse that knows schema {compat}, and the image of the one that runs here knows schema {known}: \
             it would not start. Install the Synapse of the backup (schema {}), or a newer one, first.",
            manifest.schema_version
        ),
    ))
}

//! What it takes to delete a `SynapseBackup` with its data. It is no operation: nothing of the homeserver is needed, which may be
//! gone by then.

use super::repository::{MEMORY_LIMIT, mounts, place};
use crate::{
    api::{
        SynapseBackup,
        operation::{DatabaseAccess, StepSpec},
    },
    task::backup::delete::Arguments,
};

/// The one step: all that the object has stored, or has adopted, goes.
pub fn deletion(backup: &SynapseBackup) -> StepSpec {
    let mut args = vec!["delete-backups".to_owned()];
    args.extend(Arguments::to_args(&place(&backup.spec.repository), &backup.origins()));
    StepSpec {
        name: "delete-backups".to_owned(),
        args,
        database: DatabaseAccess::None,
        mounts: mounts(&backup.spec.repository),
        memory_limit: Some(MEMORY_LIMIT.to_owned()),
        ..StepSpec::default()
    }
}

//! Which field of which object names what is mounted.

use super::{authentication, backup, repository, restore};
use crate::api::mounts::{Mount, Source};

/// The field, as a person finds it. `kind` is that of the object for which the Job works.
pub fn field_of(kind: &str, mount: &Mount) -> String {
    let path = mount.path.as_str();
    let of_synapse = |field: &str| format!("spec.{field} of the Synapse object");
    if path == repository::SECRET {
        // A restore may have it from the backup that it names.
        let or_of_another = if kind == "SynapseRestore" { " of the SynapseBackup, or of spec.from" } else { "" };
        return match mount.source {
            Source::SecretKey { .. } => format!("spec.repository.passwordSecret{or_of_another}"),
            _ => format!("spec.repository.secretName{or_of_another}"),
        };
    }
    match path {
        backup::SIGNING_KEY => of_synapse("signingKey"),
        restore::ADMINISTRATOR => of_synapse("postgres.adminCredentials"),
        authentication::CREDENTIALS => of_synapse("matrixAuthenticationService.postgres.credentials"),
        authentication::CA => of_synapse("matrixAuthenticationService.postgres.tls.caSecret"),
        authentication::CLIENT => of_synapse("matrixAuthenticationService.postgres.tls.clientSecret"),
        authentication::ADMINISTRATOR => of_synapse("matrixAuthenticationService.postgres.adminCredentials"),
        _ if path.starts_with(backup::CONFIG) => of_synapse("config"),
        _ => of_synapse("postgres"),
    }
}

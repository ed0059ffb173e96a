//! Which field of which object names what is mounted.

use crate::{
    api::mounts::{Mount, Source},
    contract::pod,
};

/// The field, as a person finds it. `kind` is that of the object for which the Job works.
pub fn field_of(kind: &str, mount: &Mount) -> String {
    let path = mount.path.as_str();
    let of_synapse = |field: &str| format!("spec.{field} of the Synapse object");
    if path == pod::REPOSITORY {
        // A restore may have it from the backup that it names.
        let or_of_another = if kind == "SynapseRestore" { " of the SynapseBackup, or of spec.from" } else { "" };
        return match mount.source {
            Source::SecretKey { .. } => format!("spec.repository.passwordSecret{or_of_another}"),
            _ => format!("spec.repository.secretName{or_of_another}"),
        };
    }
    match path {
        pod::SIGNING_KEY => of_synapse("signingKey"),
        pod::POSTGRES_ADMIN => of_synapse("postgres.adminCredentials"),
        pod::MAS_POSTGRES => of_synapse("matrixAuthenticationService.postgres.credentials"),
        pod::MAS_POSTGRES_CA => of_synapse("matrixAuthenticationService.postgres.tls.caSecret"),
        pod::MAS_POSTGRES_CLIENT => of_synapse("matrixAuthenticationService.postgres.tls.clientSecret"),
        pod::MAS_POSTGRES_ADMIN => of_synapse("matrixAuthenticationService.postgres.adminCredentials"),
        _ if path.starts_with(pod::CONFIG) => of_synapse("config"),
        _ => of_synapse("postgres"),
    }
}

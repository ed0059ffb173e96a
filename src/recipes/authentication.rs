//! What a Job needs to reach the database of the Matrix Authentication Service: told and mounted like everything that only some
//! steps need.

use crate::{
    api::{
        SynapseSpec,
        mounts::{Mount, Source},
        postgres::Postgres,
    },
    contract::pod::{MAS_POSTGRES, MAS_POSTGRES_ADMIN, MAS_POSTGRES_CA, MAS_POSTGRES_CLIENT, MAS_POSTGRES_DATA},
    task::authentication::AuthenticationService,
};

/// How much of it a step needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Connection,
    /// Also the role that makes and renames databases.
    Administrator,
    /// Also how much disk is free.
    AdministratorAndDisk,
}

/// Where it is, if the homeserver has one and names its database, and what has to be mounted.
pub fn of(homeserver: &SynapseSpec, access: Access) -> (Option<AuthenticationService>, Vec<Mount>) {
    let service = homeserver.matrix_authentication_service.as_ref();
    let Some(postgres) = service.and_then(|service| service.postgres.as_ref()) else { return Default::default() };
    let Postgres { credentials, admin_credentials, tls, data_volume, .. } = postgres;
    let administrator = admin_credentials.as_ref().filter(|_| access != Access::Connection);
    let disk = data_volume.as_ref().filter(|_| access == Access::AdministratorAndDisk);
    let client = tls.client_secret.as_ref();
    let service = AuthenticationService {
        mas_host: postgres.host.clone(),
        mas_port: u16::try_from(postgres.port).unwrap_or_default(),
        mas_database: postgres.database.clone(),
        mas_tls_mode: tls.mode,
        mas_ca_file: tls.ca_secret.as_ref().map(|ca| format!("{MAS_POSTGRES_CA}/{}", ca.key).into()),
        mas_client_cert_file: client.map(|client| format!("{MAS_POSTGRES_CLIENT}/{}", client.cert_key).into()),
        mas_client_key_file: client.map(|client| format!("{MAS_POSTGRES_CLIENT}/{}", client.key_key).into()),
        mas_credentials_dir: Some(MAS_POSTGRES.into()),
        mas_username: None,
        mas_admin_credentials_dir: administrator.map(|_| MAS_POSTGRES_ADMIN.into()),
        mas_ignore_sessions: postgres.ignore_sessions.clone(),
        mas_data_volume: disk.map(|_| MAS_POSTGRES_DATA.into()),
    };
    let ca = tls.ca_secret.iter().map(|ca| Mount {
        path: MAS_POSTGRES_CA.to_owned(),
        source: Source::SecretKey { name: ca.name.clone(), key: ca.key.clone(), file: ca.key.clone() },
    });
    let mounts = [Mount::secret(MAS_POSTGRES, &credentials.secret_name)]
        .into_iter()
        .chain(ca)
        .chain(client.map(|client| Mount::secret(MAS_POSTGRES_CLIENT, &client.name)))
        .chain(administrator.map(|administrator| Mount::secret(MAS_POSTGRES_ADMIN, &administrator.secret_name)))
        .chain(disk.map(|claim| Mount::readable_claim(MAS_POSTGRES_DATA, &claim.claim_name)));
    (Some(service), mounts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipes::tests::homeserver;

    fn named(more: &str) -> SynapseSpec {
        let postgres = format!("host: db, database: mas, credentials: {{secretName: mas}}{more}");
        let workloads = "workloads: {refs: [{kind: Deployment, name: mas}]}";
        homeserver(&format!(", matrixAuthenticationService: {{{workloads}, postgres: {{{postgres}}}}}"))
    }

    #[test]
    fn a_homeserver_without_it_or_without_its_database_has_nothing_to_mount() {
        assert_eq!(of(&homeserver(""), Access::AdministratorAndDisk), Default::default());
        let without = ", matrixAuthenticationService: {workloads: {refs: [{kind: Deployment, name: mas}]}}";
        assert_eq!(of(&homeserver(without), Access::AdministratorAndDisk), Default::default());
    }

    #[test]
    fn a_step_has_what_it_needs_and_no_more() {
        let all = named(
            ", adminCredentials: {secretName: admin}, dataVolume: {claimName: data}, tls: {mode: verify-full, caSecret: {name: ca, key: x}, clientSecret: {name: client, keyKey: y}}",
        );
        let names = |access| {
            let (service, mounts) = of(&all, access);
            let args = service.unwrap().to_args();
            for file in [
                "ca-file=/var/run/synapse-keeper/mas-postgres-ca/x",
                "client-cert-file=/var/run/synapse-keeper/mas-postgres-client/tls.crt",
                "client-key-file=/var/run/synapse-keeper/mas-postgres-client/y",
            ] {
                assert!(args.contains(&format!("--mas-{file}")), "{args:?}");
            }
            mounts.iter().map(|mount| mount.path.rsplit_once('/').unwrap().1.to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(Access::Connection), "mas-postgres mas-postgres-ca mas-postgres-client");
        assert_eq!(names(Access::Administrator), "mas-postgres mas-postgres-ca mas-postgres-client mas-postgres-admin");
        assert_eq!(
            names(Access::AdministratorAndDisk),
            "mas-postgres mas-postgres-ca mas-postgres-client mas-postgres-admin mas-postgres-data"
        );
    }
}

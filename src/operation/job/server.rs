//! A PostgreSQL beside the task, in the same Pod and gone with it.
//!
//! It is an init container that goes on running (a native sidecar): the kubelet starts it before the task and stops it after.
//! Its image is used as the official image `postgres` wants it, and nothing is put into it. Nobody reaches it but by its Unix
//! socket, on a volume that only these two containers have.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, EnvVar, EphemeralVolumeSource, PersistentVolumeClaimSpec, PersistentVolumeClaimTemplate,
        SecurityContext, Volume, VolumeMount, VolumeResourceRequirements,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{at, empty, resources, restricted};
use crate::{
    api::{
        jobs::JobSettings,
        verification::{ScratchServer, ScratchVolume},
    },
    contract::pod::{SCRATCH_PORT, SCRATCH_SOCKET},
};

/// Name of its container.
pub const CONTAINER: &str = "postgres";

/// Where PostgreSQL puts its socket, in all builds that follow Debian's.
const OWN_SOCKET: &str = "/var/run/postgresql";
const DATA: &str = "/var/lib/synapse-keeper";

/// Nothing of it must survive a crash, and it has one client, who knows when to vacuum. Shared memory of parallel workers
/// would be in /dev/shm, which is small.
pub const SETTINGS: [&str; 8] = [
    "listen_addresses=",
    "fsync=off",
    "full_page_writes=off",
    "synchronous_commit=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "autovacuum=off",
    "max_parallel_maintenance_workers=0",
];

/// How much memory it may use, where the user does not say it.
pub const MEMORY_LIMIT: &str = "1Gi";

/// The container. A resource that the server's own settings do not name is as in the Jobs' settings, for a quota that asks
/// for it. Memory is not: PostgreSQL needs another amount than the task.
pub fn container(server: &ScratchServer, settings: &JobSettings) -> Container {
    let mut of_jobs = settings.resources.clone().unwrap_or_default();
    of_jobs.requests.remove("memory");
    of_jobs.limits.remove("memory");
    let wanted = server.resources.clone().unwrap_or_default().or(&of_jobs);
    let settings = SETTINGS.iter().map(|setting| (*setting).to_owned()).chain([format!("port={SCRATCH_PORT}")]);
    let variable =
        |name: &str, value: &str| EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..Default::default() };
    Container {
        name: CONTAINER.to_owned(),
        image: Some(server.image.clone()),
        restart_policy: Some("Always".to_owned()),
        args: Some(
            ["postgres".to_owned()]
                .into_iter()
                .chain(settings.flat_map(|setting| ["-c".to_owned(), setting]))
                .collect(),
        ),
        env: Some(vec![
            variable("PGDATA", &format!("{DATA}/pgdata")),
            variable("POSTGRES_HOST_AUTH_METHOD", "trust"),
            variable("POSTGRES_INITDB_ARGS", "--encoding=UTF8 --locale=C --no-sync"),
        ]),
        resources: Some(resources(Some(&wanted), MEMORY_LIMIT)),
        security_context: Some(SecurityContext { run_as_user: Some(server.run_as_user), ..restricted() }),
        volume_mounts: Some(vec![
            at(DATA, "postgres-data"),
            at(OWN_SOCKET, "postgres-socket"),
            at("/tmp", "postgres-tmp"),
        ]),
        ..Default::default()
    }
}

/// Its volumes. One that is made for it has the labels of its Job, so that a person finds it.
pub fn volumes(server: &ScratchServer, labels: &BTreeMap<String, String>) -> Vec<Volume> {
    let data = match &server.volume {
        None => empty("postgres-data"),
        Some(volume) => Volume {
            name: "postgres-data".to_owned(),
            ephemeral: Some(EphemeralVolumeSource { volume_claim_template: Some(claim(volume, labels)) }),
            ..Default::default()
        },
    };
    vec![data, empty("postgres-socket"), empty("postgres-tmp")]
}

/// Where the task has the socket.
pub fn socket() -> VolumeMount {
    at(SCRATCH_SOCKET, "postgres-socket")
}

fn claim(volume: &ScratchVolume, labels: &BTreeMap<String, String>) -> PersistentVolumeClaimTemplate {
    let size = BTreeMap::from([("storage".to_owned(), Quantity(volume.size.clone()))]);
    PersistentVolumeClaimTemplate {
        metadata: Some(ObjectMeta { labels: Some(labels.clone()), ..Default::default() }),
        spec: PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: volume.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(size), limits: None }),
            ..Default::default()
        },
    }
}

//! The homeserver's own Synapse beside the task, in the same Pod and gone with it.
//!
//! Its image is used as it is: nothing is put into it but a few lines for its Python. As a server it is an init container that
//! goes on running, which waits until the task has restored a database for it, and from which nothing leaves. Asked for
//! its schema it is one that ends before the task begins.

use k8s_openapi::api::core::v1::{Container, SecurityContext, Volume, VolumeMount};

use super::{at, empty, resources, restricted, server};
use crate::{
    api::{
        jobs::JobSettings,
        verification::{Duty, OwnSynapse, SynapseImage},
    },
    contract::pod::SYNAPSE,
};

/// Name of its container.
pub const CONTAINER: &str = "synapse";
/// The user of the official image.
const USER: i64 = 991;
/// It serves one client, with small caches.
const MEMORY_LIMIT: &str = "1Gi";

/// Runs Synapse on the configuration that the task writes into the folder named behind it.
pub const SERVE: &str = include_str!("drilled.py");
/// Writes which schema Synapse knows into the file named behind it.
pub const TELL_SCHEMA: &str = include_str!("schema.py");

/// The file in which it tells its schema.
pub fn schema_file() -> String {
    format!("{SYNAPSE}/schema.json")
}

/// The container. It has the task's user and the task's resources, where the settings name them.
pub fn container(own: &OwnSynapse, settings: &JobSettings) -> Container {
    let OwnSynapse { image: SynapseImage { image, image_pull_policy, .. }, duty } = own;
    let (program, argument, restart_policy) = match duty {
        Duty::Serves => (SERVE, SYNAPSE.to_owned(), Some("Always".to_owned())),
        Duty::TellsSchema => (TELL_SCHEMA, schema_file(), None),
    };
    let socket = (*duty == Duty::Serves).then(server::socket);
    Container {
        name: CONTAINER.to_owned(),
        image: Some(image.clone()),
        image_pull_policy: image_pull_policy.clone(),
        restart_policy,
        command: Some(["python3", "-u", "-B", "-c", program].map(str::to_owned).to_vec()),
        args: Some(vec![argument]),
        resources: Some(resources(settings.resources.as_ref(), MEMORY_LIMIT)),
        security_context: Some(SecurityContext {
            run_as_user: Some(settings.run_as_user.unwrap_or(USER)),
            ..restricted()
        }),
        volume_mounts: Some([place(), at("/tmp", "synapse-tmp")].into_iter().chain(socket).collect()),
        ..Default::default()
    }
}

/// Its volumes.
pub fn volumes() -> [Volume; 2] {
    [empty("synapse"), empty("synapse-tmp")]
}

/// Where both have what they tell each other.
pub fn place() -> VolumeMount {
    at(SYNAPSE, "synapse")
}

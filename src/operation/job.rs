//! The Jobs in which tasks run: built from what is on record, so that every operator builds the same.

pub mod server;
pub mod synapse;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            Affinity, Capabilities, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, KeyToPath,
            LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
            PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements,
            SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, OwnerReference},
    },
};
use sha2::{Digest, Sha256};

use super::lease::{MANAGED_BY, SYNAPSE_LABEL};
use crate::{
    api::{
        MANAGER,
        jobs::{JobSettings, Resources},
        mounts::{Mount, Source},
        operation::{DatabaseAccess, StepSpec},
        postgres::Postgres,
    },
    contract::{
        mounted::{self, MountedSecret},
        pod::{POSTGRES, POSTGRES_CA, POSTGRES_CLIENT, POSTGRES_DATA},
    },
    postgres::connect::NETWORK_OPENS_WITHIN,
    recipes::{self, Lane},
};

/// Name of the container in which the task runs.
pub const CONTAINER: &str = "task";
/// Label with the UID of the object that a Job works for.
pub const OWNER_UID: &str = "synapse-keeper.dev/owner-uid";
/// Label of the Jobs of a lane that is not the object's own.
pub const LANE: &str = "synapse-keeper.dev/lane";
/// Label with the number of the run that a Job belongs to.
pub const RUN: &str = "synapse-keeper.dev/run";

/// How much memory a task may use that only talks to PostgreSQL.
const MEMORY_LIMIT: &str = "256Mi";

/// What a Job gets of the database.
#[derive(Clone, Copy, Debug)]
struct Database<'a> {
    postgres: &'a Postgres,
    /// `postgres.dataVolume` is mounted, where there is one.
    with_volume: bool,
}

/// What makes one Job different from another.
#[derive(Clone, Debug)]
pub struct Blueprint<'a> {
    pub namespace: &'a str,
    /// The object that the Job works for.
    pub owner: OwnerReference,
    /// Which of its runs.
    pub lane: &'a Lane,
    /// Name of the `Synapse` object.
    pub synapse: &'a str,
    pub settings: &'a JobSettings,
    pub image: &'a str,
    pub image_pull_policy: &'a str,
    /// The database. The step says what it gets of it.
    pub postgres: Option<&'a Postgres>,
    /// Where it must run: a ReadWriteOnce volume would not attach elsewhere.
    pub nodes: Vec<&'a str>,
    /// What it does. The step's name is part of the Job's.
    pub step: &'a StepSpec,
    pub run: i64,
    pub attempt: i32,
    /// When the budget of the downtime ends, where it bounds the work.
    pub until: Option<Timestamp>,
    /// The Job is ended after this many seconds.
    pub deadline_seconds: Option<i64>,
}

/// What the Job gets of the database. `None`: nothing, not even its password.
fn database<'a>(blueprint: &Blueprint<'a>) -> Option<Database<'a>> {
    let access = blueprint.step.database;
    let postgres = blueprint.postgres.filter(|_| access != DatabaseAccess::None)?;
    Some(Database { postgres, with_volume: access == DatabaseAccess::WithDisk })
}

/// The name of a Job: the same for the same owner, run, step and attempt, and never more than 63 characters.
pub fn name(owner_name: &str, owner_uid: &str, run: i64, step: &str, attempt: i32) -> String {
    let digest = Sha256::digest(format!("{owner_uid}/{run}/{step}/{attempt}"));
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let readable: String = format!("{owner_name}-{step}").chars().take(54).collect();
    format!("{}-{hash}", readable.trim_end_matches(['-', '.']))
}

/// The label selector of the Jobs of an owner's lane, and of their Pods.
pub fn of_owner(uid: &str, lane: &Lane) -> String {
    match lane.label {
        None => format!("{OWNER_UID}={uid},!{LANE}"),
        Some(label) => format!("{OWNER_UID}={uid},{LANE}={label}"),
    }
}

/// Builds a Job.
pub fn build(blueprint: &Blueprint<'_>) -> Job {
    let settings = blueprint.settings;
    let mut labels = settings.labels.clone();
    labels.extend(labels_of(blueprint));
    let metadata = ObjectMeta {
        name: Some(name(
            &blueprint.owner.name,
            &blueprint.owner.uid,
            blueprint.run,
            &blueprint.step.name,
            blueprint.attempt,
        )),
        namespace: Some(blueprint.namespace.to_owned()),
        labels: Some(labels_of(blueprint)),
        owner_references: Some(vec![blueprint.owner.clone()]),
        ..Default::default()
    };
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: Some(settings.annotations.clone()).filter(|annotations| !annotations.is_empty()),
            ..Default::default()
        }),
        spec: Some(pod(blueprint)),
    };
    let spec = JobSpec {
        // The engine decides about another attempt: it knows the error's class.
        backoff_limit: Some(0),
        active_deadline_seconds: blueprint.deadline_seconds,
        // A Pod that is still terminating may still hold locks.
        pod_replacement_policy: Some("Failed".to_owned()),
        template,
        ..Default::default()
    };
    Job { metadata, spec: Some(spec), status: None }
}

fn labels_of(blueprint: &Blueprint<'_>) -> BTreeMap<String, String> {
    let labels = [
        (MANAGED_BY.to_owned(), MANAGER.to_owned()),
        ("app.kubernetes.io/name".to_owned(), "synapse-keeper-task".to_owned()),
        (OWNER_UID.to_owned(), blueprint.owner.uid.clone()),
        (RUN.to_owned(), blueprint.run.to_string()),
        (SYNAPSE_LABEL.to_owned(), blueprint.synapse.to_owned()),
    ];
    let lane = blueprint.lane.label.map(|label| (LANE.to_owned(), label.to_owned()));
    labels.into_iter().chain(lane).collect()
}

fn pod(blueprint: &Blueprint<'_>) -> PodSpec {
    let settings = blueprint.settings;
    let (mut volumes, mut volume_mounts) = volumes(database(blueprint));
    for (index, mount) in blueprint.step.mounts.iter().enumerate() {
        let name = format!("mount-{index}");
        volume_mounts.push(mounted(&name, mount));
        volumes.push(volume(name, &mount.source));
    }
    if let Some(server) = &blueprint.step.server {
        volume_mounts.push(server::socket());
        volumes.extend(server::volumes(server, &labels_of(blueprint)));
    }
    if blueprint.step.own_synapse.is_some() {
        volume_mounts.push(synapse::place());
        volumes.extend(synapse::volumes());
    }
    // What a new volume is given to, where nobody says it: PostgreSQL could not write to it otherwise.
    let server_group =
        blueprint.step.server.as_ref().filter(|server| server.volume.is_some()).map(|server| server.run_as_user);
    let fs_group = settings.fs_group.or(server_group);
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(blueprint.image.to_owned()),
        image_pull_policy: Some(blueprint.image_pull_policy.to_owned()),
        command: Some(vec!["synapse-keeper".to_owned(), "task".to_owned()]),
        args: Some(arguments(blueprint)),
        env: Some(variables(blueprint)),
        resources: Some(resources(
            settings.resources.as_ref(),
            blueprint.step.memory_limit.as_deref().unwrap_or(MEMORY_LIMIT),
        )),
        security_context: Some(restricted()),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(volume_mounts),
        ..Default::default()
    };
    let of_synapse = blueprint.step.own_synapse.as_ref().map(|own| synapse::container(own, settings));
    let of_server = blueprint.step.server.as_ref().map(|server| server::container(server, settings));
    let beside: Vec<Container> = of_server.into_iter().chain(of_synapse).collect();
    PodSpec {
        // The tasks talk to PostgreSQL, never to the API server.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        restart_policy: Some("Never".to_owned()),
        // Time to cancel the statement that runs.
        termination_grace_period_seconds: Some(15),
        init_containers: Some(beside).filter(|beside| !beside.is_empty()),
        containers: vec![container],
        volumes: Some(volumes),
        image_pull_secrets: image_pull_secrets(blueprint),
        affinity: node_affinity(&blueprint.nodes),
        node_selector: Some(settings.node_selector.clone()).filter(|selector| !selector.is_empty()),
        tolerations: Some(settings.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        priority_class_name: settings.priority_class_name.clone(),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: settings.run_as_user,
            fs_group,
            // Without it the kubelet walks through the whole volume at every start.
            fs_group_change_policy: fs_group.map(|_| "OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Variables and not arguments: the image of a run may be older than the operator.
fn variables(blueprint: &Blueprint<'_>) -> Vec<EnvVar> {
    let secrets = serde_json::to_string(&secrets(blueprint)).expect("plain data");
    let variable =
        |name: &str, value: String| EnvVar { name: name.to_owned(), value: Some(value), ..EnvVar::default() };
    vec![variable(mounted::VARIABLE, secrets), variable(NETWORK_OPENS_WITHIN, "15".to_owned())]
}

/// Those of the Jobs, and those of the homeserver's own Pods where its image is used.
fn image_pull_secrets(blueprint: &Blueprint<'_>) -> Option<Vec<LocalObjectReference>> {
    let own = blueprint.step.own_synapse.iter().flat_map(|own| &own.image.image_pull_secrets);
    let mut names: Vec<&String> = blueprint.settings.image_pull_secrets.iter().chain(own).collect();
    names.sort_unstable();
    names.dedup();
    let secrets: Vec<_> = names.into_iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    Some(secrets).filter(|secrets| !secrets.is_empty())
}

/// No more than Kubernetes' Pod Security Standard "restricted" allows.
fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Default::default() }),
        read_only_root_filesystem: Some(true),
        ..Default::default()
    }
}

/// The Secrets behind the paths in the task's arguments.
fn secrets(blueprint: &Blueprint<'_>) -> Vec<MountedSecret> {
    let postgres = database(blueprint).map(|database| database.postgres);
    let credentials = postgres.map(|postgres| MountedSecret {
        path: POSTGRES.to_owned(),
        secret: postgres.credentials.secret_name.clone(),
        keys: Vec::new(),
        field: "spec.postgres.credentials of the Synapse object".to_owned(),
    });
    let ca = postgres.and_then(|postgres| postgres.tls.ca_secret.as_ref()).map(|ca| MountedSecret {
        path: POSTGRES_CA.to_owned(),
        secret: ca.name.clone(),
        keys: Vec::new(),
        field: "spec.postgres.tls.caSecret of the Synapse object".to_owned(),
    });
    let client = postgres.and_then(|postgres| postgres.tls.client_secret.as_ref()).map(|client| MountedSecret {
        path: POSTGRES_CLIENT.to_owned(),
        secret: client.name.clone(),
        keys: Vec::new(),
        field: "spec.postgres.tls.clientSecret of the Synapse object".to_owned(),
    });
    let more = blueprint.step.mounts.iter().filter_map(|mount| {
        let (secret, keys) = match &mount.source {
            Source::Secret { name } => (name, Vec::new()),
            Source::SecretKey { name, key, file } => (name, vec![(file.clone(), key.clone())]),
            Source::ConfigMap { .. } | Source::Claim { .. } => return None,
        };
        let field = recipes::field_of(&blueprint.owner.kind, mount);
        Some(MountedSecret { path: mount.path.clone(), secret: secret.clone(), keys, field })
    });
    credentials.into_iter().chain(ca).chain(client).chain(more).collect()
}

/// The task, its own arguments, and those of the connection.
fn arguments(blueprint: &Blueprint<'_>) -> Vec<String> {
    let mut args = blueprint.step.args.clone();
    args.extend(blueprint.until.map(|until| format!("--until={until}")));
    let Some(Database { postgres, with_volume }) = database(blueprint) else { return args };
    args.extend([
        format!("--host={}", postgres.host),
        format!("--port={}", postgres.port),
        format!("--database={}", postgres.database),
        format!("--tls-mode={}", postgres.tls.mode),
        format!("--credentials-dir={POSTGRES}"),
        format!("--operation={}", blueprint.owner.uid),
        format!("--run={}", blueprint.run),
        format!("--attempt={}", blueprint.attempt),
    ]);
    if let Some(ca) = &postgres.tls.ca_secret {
        args.push(format!("--ca-file={POSTGRES_CA}/{}", ca.key));
    }
    if let Some(client) = &postgres.tls.client_secret {
        args.push(format!("--client-cert-file={POSTGRES_CLIENT}/{}", client.cert_key));
        args.push(format!("--client-key-file={POSTGRES_CLIENT}/{}", client.key_key));
    }
    if postgres.data_volume.is_some() && with_volume {
        args.push(format!("--data-volume={POSTGRES_DATA}"));
    }
    args.extend(postgres.ignore_sessions.iter().map(|session| format!("--ignore-session={session}")));
    args
}

/// A Secret, or some keys of it as files. It is `optional`: with a missing one the Pod would hang without a word, while the
/// task can name the key that is not there.
fn secret_volume(volume: &str, name: &str, files: Option<&[(&str, &str)]>) -> Volume {
    let items = files.map(|files| {
        let item = |(key, file): &(&str, &str)| KeyToPath { key: (*key).into(), path: (*file).into(), mode: None };
        files.iter().map(item).collect()
    });
    let secret_name = Some(name.to_owned());
    let secret = SecretVolumeSource { secret_name, items, optional: Some(true), ..Default::default() };
    Volume { name: volume.to_owned(), secret: Some(secret), ..Default::default() }
}

/// The volume of a step's own mount.
fn volume(volume: String, source: &Source) -> Volume {
    match source {
        Source::Secret { name } => secret_volume(&volume, name, None),
        Source::SecretKey { name, key, file } => secret_volume(&volume, name, Some(&[(key, file)])),
        Source::ConfigMap { name } => {
            let config_map = ConfigMapVolumeSource { name: name.clone(), optional: Some(true), ..Default::default() };
            Volume { name: volume, config_map: Some(config_map), ..Default::default() }
        }
        Source::Claim { name, writable } => {
            let claim = PersistentVolumeClaimVolumeSource { claim_name: name.clone(), read_only: Some(!writable) };
            Volume { name: volume, persistent_volume_claim: Some(claim), ..Default::default() }
        }
    }
}

fn mounted(volume: &str, mount: &Mount) -> VolumeMount {
    let writable = matches!(mount.source, Source::Claim { writable: true, .. });
    VolumeMount {
        name: volume.to_owned(),
        mount_path: mount.path.clone(),
        read_only: Some(!writable),
        ..Default::default()
    }
}

/// A volume that comes and goes with the Pod.
fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() }
}

/// A volume of the Pod, to write to.
fn at(path: &str, volume: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..Default::default() }
}

/// A place for scratch files, and what the connection needs.
fn volumes(database: Option<Database<'_>>) -> (Vec<Volume>, Vec<VolumeMount>) {
    let mut volumes = vec![empty("tmp")];
    let mut mounts = vec![at("/tmp", "tmp")];
    let Some(Database { postgres, with_volume }) = database else { return (volumes, mounts) };
    let keys = [("username", "username"), ("password", "password")];
    volumes.push(secret_volume("postgres", &postgres.credentials.secret_name, Some(&keys)));
    mounts.push(VolumeMount {
        name: "postgres".to_owned(),
        mount_path: POSTGRES.to_owned(),
        read_only: Some(true),
        ..Default::default()
    });
    if let Some(client) = &postgres.tls.client_secret {
        let (cert, key) = (client.cert_key.as_str(), client.key_key.as_str());
        volumes.push(secret_volume("postgres-client", &client.name, Some(&[(cert, cert), (key, key)])));
        mounts.push(mounted("postgres-client", &Mount::secret(POSTGRES_CLIENT, &client.name)));
    }
    let ca = postgres.tls.ca_secret.as_ref().map(|ca| {
        let source = Source::SecretKey { name: ca.name.clone(), key: ca.key.clone(), file: ca.key.clone() };
        ("postgres-ca", Mount { path: POSTGRES_CA.to_owned(), source })
    });
    let data = postgres.data_volume.as_ref().filter(|_| with_volume).map(|data| {
        let source = Source::Claim { name: data.claim_name.clone(), writable: false };
        ("postgres-data", Mount { path: POSTGRES_DATA.to_owned(), source })
    });
    for (name, mount) in ca.into_iter().chain(data) {
        mounts.push(mounted(name, &mount));
        volumes.push(volume(name.to_owned(), &mount.source));
    }
    (volumes, mounts)
}

/// On all of these at once: more than one is more than a Pod can do, and the scheduler says so.
fn node_affinity(nodes: &[&str]) -> Option<Affinity> {
    let this_node = |node: &&str| NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![(*node).to_owned()]),
    };
    let match_fields: Vec<NodeSelectorRequirement> = nodes.iter().map(this_node).collect();
    let match_fields = Some(match_fields).filter(|fields| !fields.is_empty())?;
    let term = NodeSelectorTerm { match_fields: Some(match_fields), match_expressions: None };
    let required = NodeSelector { node_selector_terms: vec![term] };
    let node_affinity =
        NodeAffinity { required_during_scheduling_ignored_during_execution: Some(required), ..Default::default() };
    Some(Affinity { node_affinity: Some(node_affinity), ..Default::default() })
}

/// The wanted resources; modest ones where none are wanted, so that a quota that asks for them lets the Pod in.
fn resources(wanted: Option<&Resources>, memory_limit: &str) -> ResourceRequirements {
    let wanted = wanted.cloned().unwrap_or_default();
    let quantities = |map: BTreeMap<String, String>| {
        map.into_iter().map(|(key, value)| (key, Quantity(value))).collect::<BTreeMap<_, _>>()
    };
    let mut requests = BTreeMap::from([("cpu".to_owned(), "10m".to_owned()), ("memory".to_owned(), "64Mi".to_owned())]);
    let mut limits = BTreeMap::from([("memory".to_owned(), memory_limit.to_owned())]);
    requests.extend(wanted.requests);
    limits.extend(wanted.limits);
    ResourceRequirements { requests: Some(quantities(requests)), limits: Some(quantities(limits)), claims: None }
}

#[cfg(test)]
mod tests;

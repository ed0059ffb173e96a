//! How backups are verified: restored into a PostgreSQL that is thrown away afterwards.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{jobs::Resources, schedule::Schedule};

/// When the newest backup is restored by a drill, and into what. It needs neither the homeserver nor its Lease.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Image of a PostgreSQL of the database's major, used as the official image `postgres` wants it. Without it:
    /// `docker.io/library/postgres` with the major as its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// Where the restored database lies meanwhile. Without it: on the node's own disk (an emptyDir).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<ScratchVolume>,
    /// What the throw-away PostgreSQL may use, as in a container's `resources`; 1 GiB of memory where it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// User id of the throw-away PostgreSQL: that of `postgres` in its image.
    #[serde(default = "default_user")]
    #[schemars(range(min = 1))]
    pub run_as_user: i64,
    /// Starts the homeserver's own Synapse (`spec.image` of the `Synapse` object) on the restored database, shut in, and asks it.
    #[serde(default)]
    pub synapse: bool,
    /// How many of the media are read byte by byte.
    #[serde(default)]
    pub media: MediaCheck,
}

/// How many of the media are read byte by byte. All of them are counted, and their lengths added up.
#[derive(JsonSchema, clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaCheck {
    /// Twenty, others each time.
    #[default]
    Sample,
    All,
}

impl std::fmt::Display for MediaCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sample => "sample",
            Self::All => "all",
        })
    }
}

/// A volume that comes and goes with the Pod.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScratchVolume {
    /// Such as `20Gi`: the size of the database and a little more.
    #[schemars(length(min = 1, max = 32), regex(pattern = r"^[1-9][0-9]*([kMGTPE]i?)?$"))]
    pub size: String,
    /// Without it: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

/// A PostgreSQL beside the task, in the same Pod: on record, so that every operator builds the same Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScratchServer {
    pub image: String,
    pub run_as_user: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<ScratchVolume>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// The image that the homeserver's own Synapse runs in, and how a node gets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SynapseImage {
    pub image: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<String>,
    /// Secrets of its registry, besides those of the Jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<String>,
}

/// The homeserver's own Synapse beside a task, in the same Pod: on record, so that every operator builds the same Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnSynapse {
    #[serde(flatten)]
    pub image: SynapseImage,
    pub duty: Duty,
}

/// What Synapse does beside a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Duty {
    /// It runs on the database that the task has restored.
    Serves,
    /// It says which schema it knows, before the task begins, and is gone.
    TellsSchema,
}

/// `postgres` in the official image of Debian.
fn default_user() -> i64 {
    999
}

impl Verification {
    /// The server for a backup of this major of PostgreSQL.
    pub fn server(&self, major: i32) -> ScratchServer {
        ScratchServer {
            image: self.image.clone().unwrap_or_else(|| format!("docker.io/library/postgres:{major}")),
            run_as_user: self.run_as_user,
            volume: self.volume.clone(),
            resources: self.resources.clone(),
        }
    }
}

//! A dump that somebody else made: where it is, and what became of it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::repository::Repository;

/// A dump of Synapse's database: `pg_dump -Fc` or SQL, maybe compressed by gzip. On a PersistentVolumeClaim, or in a snapshot of
/// restic.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.claim) != has(self.repository)").message("a dump is either on a claim or in a repository"))]
#[x_kube(validation = Rule::new("has(self.repository) == has(self.path)").message("a dump in a repository has a path in its snapshot; on a claim the path is the claim's"))]
#[x_kube(validation = Rule::new("has(self.repository) || !has(self.snapshot)").message("only a repository has snapshots"))]
pub struct DumpSource {
    /// A file on a PersistentVolumeClaim. It is mounted to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<DumpClaim>,
    /// A restic repository that somebody keeps dumps in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// restic's name of the snapshot, or the beginning of it; without it, or with `latest`, the newest that has the dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^(latest|[0-9a-f]{4,64})$"))]
    pub snapshot: Option<String>,
    /// The dump's path from the root of the snapshot, such as /dumps/synapse.dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/?[^/]+(/[^/]+)*$"))]
    pub path: Option<String>,
}

/// A file on a PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DumpClaim {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The file's path from the root of the claim.
    #[schemars(
        length(min = 1, max = 1024),
        regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._:+-]*(/[A-Za-z0-9_-][A-Za-z0-9._:+-]*)*$")
    )]
    pub path: String,
}

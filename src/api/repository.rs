//! Where backups live: a restic repository.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::references::SecretKey;

/// A restic repository: in a storage that restic supports, by a Secret with its environment, or on a volume. It is created if it does
/// not exist. The tools image has neither ssh nor rclone, so locations that begin with sftp: or rclone: do not work with it.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretName) != has(self.volume)").message("give either secretName (S3 or another storage of restic) or volume"))]
#[x_kube(validation = Rule::new("has(self.volume) == has(self.passwordSecret)").message("a volume needs a passwordSecret; with secretName the password is its key RESTIC_PASSWORD"))]
pub struct Repository {
    /// A Secret with what restic reads from its environment: RESTIC_REPOSITORY, RESTIC_PASSWORD, AWS_ACCESS_KEY_ID, …; its
    /// key ca.crt is the certificate authority of the storage, where that is a private one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// A volume instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<RepositoryVolume>,
    /// The repository's password, where it is on a volume. Whoever loses it loses every backup: keep it outside of the
    /// cluster too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,
}

/// A folder on a PersistentVolumeClaim.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryVolume {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The repository's folder on it.
    #[serde(default = "default_path")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$")
    )]
    pub path: String,
}

fn default_path() -> String {
    "restic".to_owned()
}

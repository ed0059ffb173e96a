//! What a step's Pod has mounted besides the credentials of PostgreSQL: on record, so that every operator builds the same
//! Job.

use serde::{Deserialize, Serialize};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where in the container.
    pub path: String,
    #[serde(flatten)]
    pub source: Source,
}

/// What is mounted. Secrets only ever by a Pod: the operator reads none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// All keys of a Secret, each as a file.
    Secret { name: String },
    /// One key of a Secret, as a file of another name.
    SecretKey { name: String, key: String, file: String },
    /// All keys of a ConfigMap, each as a file.
    ConfigMap { name: String },
    /// A PersistentVolumeClaim.
    Claim { name: String, writable: bool },
}

impl Mount {
    /// All keys of a Secret.
    pub fn secret(path: &str, name: &str) -> Self {
        Self { path: path.to_owned(), source: Source::Secret { name: name.to_owned() } }
    }

    /// All keys of a ConfigMap.
    pub fn config_map(path: &str, name: &str) -> Self {
        Self { path: path.to_owned(), source: Source::ConfigMap { name: name.to_owned() } }
    }

    /// A claim of somebody else's, to read.
    pub fn readable_claim(path: &str, name: &str) -> Self {
        Self { path: path.to_owned(), source: Source::Claim { name: name.to_owned(), writable: false } }
    }

    /// A claim that the task writes to.
    pub fn writable_claim(path: &str, name: &str) -> Self {
        Self { path: path.to_owned(), source: Source::Claim { name: name.to_owned(), writable: true } }
    }
}

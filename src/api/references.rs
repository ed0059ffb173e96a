//! Names of other objects. All of them are in the namespace of the object that names them: an owner reference never
//! crosses a namespace, and a right on one namespace must not reach into another.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The `Synapse` object that an operation works on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SynapseRef {
    /// Name of the `Synapse` object.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A certificate with its private key, both in PEM, as a Secret of type `kubernetes.io/tls` has them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the certificate in the Secret.
    #[serde(default = "cert_key")]
    #[schemars(length(min = 1, max = 253))]
    pub cert_key: String,
    /// Key of the private key in the Secret.
    #[serde(default = "key_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key_key: String,
}

fn cert_key() -> String {
    "tls.crt".to_owned()
}

fn key_key() -> String {
    "tls.key".to_owned()
}

/// A key of a Secret, where the field's own name does not say that it is of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyOfSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// Key in the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// A Secret with the keys `username` and `password` (as `kubernetes.io/basic-auth` has them).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Name of the PersistentVolumeClaim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}

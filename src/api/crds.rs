//! The CustomResourceDefinitions, made from the types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::{Synapse, SynapseMaintenance};

/// Every CRD, in the order in which the docs name them.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![Synapse::crd(), SynapseMaintenance::crd()]
}

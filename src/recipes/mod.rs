//! Recipes: for each kind, a pure function from its spec to what the engine is asked to do.
//!
//! A new kind adds a file here, its spec in [`crate::api`] and its tasks in [`crate::task`]. Lease, preflight, quiesce,
//! Jobs, resume, history and schedule are the engine's (see [`crate::operation`]).

mod maintenance;

use kube::{Resource, core::NamespaceResourceScope};
use serde::{Serialize, de::DeserializeOwned};

use crate::api::{jobs::JobSettings, maintenance::Downtime, operation::OperationStatus, schedule::Schedule};

/// A kind whose objects are operations.
pub trait Operation:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What the object asks for.
    fn request(&self) -> Request;

    /// What the engine remembers of it.
    fn status(&self) -> OperationStatus;

    /// Puts the engine's memory into the object.
    fn set_status(&mut self, status: OperationStatus);
}

/// What an operation asks for, whatever its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Name of the `Synapse` object.
    pub synapse: String,
    pub schedule: Option<Schedule>,
    pub suspend: bool,
    pub dry_run: bool,
    pub downtime: Downtime,
    pub jobs: JobSettings,
    /// What to do, in order. The engine moves the online ones before the offline ones.
    pub steps: Vec<RecipeStep>,
}

/// One step, as a recipe wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipeStep {
    /// Unique in the operation; at most 40 characters.
    pub name: String,
    /// Nobody may write to the database meanwhile.
    pub offline: bool,
    /// The task and its own arguments. The engine adds those of the connection and of the budget.
    pub args: Vec<String>,
    /// The step as `task preflight --step` reads it: JSON of [`crate::api::maintenance::Step`].
    pub preflight: String,
}

//! Recipes: for each kind, a pure function from its spec to what the engine is asked to do.
//!
//! A new kind adds a file here; docs/development.md has what else it takes. Lease, preflight, downtime, Jobs, history and schedule are
//! the engine's (see [`crate::operation`]).

mod authentication;
mod backup;
mod deletion;
mod drill;
mod dump;
mod fields;
pub mod lane;
mod maintenance;
pub mod repository;
mod restore;

pub use self::{deletion::deletion, drill::Drill, fields::field_of, lane::Lane};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Serialize, de::DeserializeOwned};

use crate::api::{
    SynapseBackup, SynapseSpec,
    downtime::Downtime,
    jobs::JobSettings,
    operation::{OperationStatus, StepSpec},
    schedule::Schedule,
    verification::SynapseImage,
};

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
    /// What metrics and logs call it.
    const NAME: &'static str;

    /// What of its object it is.
    const LANE: &'static Lane = &lane::OWN;

    /// Whether a run of it makes old what was known of the database.
    const CHANGES_DATABASE: bool;

    /// What the object asks for, but for the steps.
    fn request(&self) -> Request;

    /// What to do, in order. The engine moves the online steps before the offline ones.
    fn steps(&self, sight: Sight<'_>) -> Vec<RecipeStep>;

    /// Why there can be no such run for this homeserver, before it begins.
    fn refusal(&self, _: &SynapseSpec) -> Option<Refusal> {
        None
    }

    /// Name of its `Synapse` object.
    fn synapse(&self) -> &str;

    /// What the engine remembers of it.
    fn status(&self) -> Option<&OperationStatus>;

    /// The moment of the newest backup that it knows of.
    fn newest_backup(&self) -> Option<&Time> {
        None
    }

    /// The moment of the newest backup that it knows to be whole, because it was restored.
    fn newest_verified(&self) -> Option<&Time> {
        None
    }

    /// There is a run in the object, of this lane or of another. The cache may not have all of it.
    fn has_run(&self) -> bool {
        self.status().is_some_and(|status| status.run.is_some())
    }

    /// Puts the engine's memory into the object.
    fn set_status(&mut self, status: OperationStatus);

    /// All that the engine remembers of the object, of every lane.
    fn memories(&mut self) -> Vec<&mut OperationStatus>;
}

/// What a recipe sees of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    pub homeserver: &'a SynapseSpec,
    /// The `SynapseBackup` that [`Request::backup`] names; it is there where one is named.
    pub backup: Option<&'a SynapseBackup>,
    /// The image of the homeserver's own Synapse, where [`Request::image`] wants it and it is known.
    pub image: Option<&'a SynapseImage>,
}

impl<'a> Sight<'a> {
    /// A homeserver alone.
    pub fn of(homeserver: &'a SynapseSpec) -> Self {
        Self { homeserver, backup: None, image: None }
    }
}

/// What an operation asks for, whatever its kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// Name of the `Synapse` object.
    pub synapse: String,
    pub schedule: Option<Schedule>,
    pub suspend: bool,
    pub dry_run: bool,
    pub downtime: Downtime,
    pub jobs: JobSettings,
    /// Name of the `SynapseBackup` that it works with. It waits until there is one.
    pub backup: Option<String>,
    /// Whether it has to do with the image of the homeserver's own Synapse.
    pub image: Need,
    /// The homeserver may be ill when it begins: it is well when the main process is Ready, whatever it was before. Its database
    /// may be unfinished.
    pub heals: bool,
    /// What no run can do without and is not there.
    pub waits_for: Option<Wait>,
}

/// Why something is refused: a word, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// How much something is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    #[default]
    Not,
    /// It goes on without.
    IfKnown,
    /// There is no run without.
    Must,
}

/// Why no run may begin, though one may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// One word for a condition.
    pub reason: &'static str,
    pub message: &'static str,
}

/// One step, as a recipe wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipeStep {
    pub spec: StepSpec,
    /// The step as `task preflight --step` reads it: JSON of [`crate::task::preflight::Check`]. `None`: the other steps'
    /// checks are its own.
    pub preflight: Option<String>,
    /// The homeserver's own Synapse, which reports beside preflight which schema it knows.
    pub schema_from: Option<SynapseImage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A homeserver whose description has this in it, too.
    pub fn homeserver(more: &str) -> SynapseSpec {
        let spec = "serverName: example.org, workloads: {refs: [{kind: Deployment, name: synapse}]}, \
                    postgres: {host: postgres, database: synapse, credentials: {secretName: postgres}}";
        serde_yaml_ng::from_str(&format!("{{{spec}{more}}}")).expect("a valid spec")
    }
}

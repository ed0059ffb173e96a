//! What users write and read: the kinds of the group `synapse-keeper.dev`, version `v1alpha1`.
//!
//! Nothing in here talks to a cluster. Every rule that the API server can check (CEL, patterns, bounds) stands on the
//! type that it guards, so that a typo is refused by `kubectl apply` with the name of the field.
//! Strings and lists all have an upper bound: the API server refuses a CRD whose CEL rules could run for too long.

pub mod backup;
mod clock;
pub mod conditions;
pub mod crds;
pub mod deletion;
pub mod downtime;
pub mod dump;
pub mod duration;
pub mod exclude;
pub mod jobs;
pub mod kinds;
pub mod maintenance;
pub mod media;
pub mod mounts;
pub mod operation;
pub mod origins;
pub mod postgres;
pub mod references;
pub mod repository;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod synapse;
pub mod verification;

pub use backup::{SynapseBackup, SynapseBackupSpec};
pub use duration::Duration;
pub use maintenance::{SynapseMaintenance, SynapseMaintenanceSpec};
pub use restore::{SynapseRestore, SynapseRestoreSpec};
pub use synapse::{Synapse, SynapseSpec};

/// The field manager of every write; also the value of `app.kubernetes.io/managed-by` on what we create.
pub const MANAGER: &str = "synapse-keeper";

/// Annotation that asks a scheduled operation for a run now; any new value is a new request.
pub const RUN_NOW: &str = "synapse-keeper.dev/run-now";
/// Annotation that asks for the newest backup to be verified now.
pub const VERIFY_NOW: &str = "synapse-keeper.dev/verify-now";
/// Annotation with the UIDs of objects, separated by commas, whose backups count as this one's.
pub const ADOPT_ORIGINS: &str = "synapse-keeper.dev/adopt-origins";
/// Finalizer that an operation carries only while replica counts are out.
pub const FINALIZER: &str = "synapse-keeper.dev/replicas";
/// Finalizer of a backup whose data go with it.
pub const DATA_FINALIZER: &str = "synapse-keeper.dev/data";

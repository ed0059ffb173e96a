//! Deleting a `SynapseBackup` together with its data, where its `deletionPolicy` says so.
//!
//! A finalizer holds the object until one Job has taken out of the repository what carries the object's UID. It is not an
//! [operation](crate::operation): it needs neither the homeserver nor its Lease nor a schedule, and it begins when no run is
//! under way any more. Whatever keeps it from its end is told, and the way out is always the same: `deletionPolicy: Retain` lets
//! the object go. A namespace that is being deleted takes no new Job; it is not held up, and the data stay.

pub mod plan;
pub mod reconcile;

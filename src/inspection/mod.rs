//! The `Synapse` object's own reconcile: what is true of the homeserver.
//!
//! A Job looks (`task inspect`) when the object changes, after each operation and once a day; [`project`] turns what it found
//! into status and conditions. It reads only, so it takes no Lease, but it stays away while an operation has the homeserver
//! down: VACUUM FULL would keep it waiting.

mod plan;
mod project;
pub mod reconcile;
mod seen;
mod serving;

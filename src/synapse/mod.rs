//! Synapse, as seen from outside: what its database says, and what it answers.
//!
//! Its schema belongs to it and changes with its releases: whatever is asked here tolerates tables that are not there.

pub mod authentication;
pub mod database;
pub mod guests;
pub mod schema;
pub mod sequences;
pub mod signing_keys;
pub mod version;

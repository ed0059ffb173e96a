//! Everything together, on a real Kubernetes: Jobs that run in containers, a PostgreSQL, a Synapse that serves.
//!
//! Each test has a namespace of its own, with an operator of its own that sees nothing else (the chart's `namespaced`
//! switch), so that tests run side by side and none depends on another; those in `alone` do not. A test reads as what a user types and sees:
//! YAML in, status and replicas out.

#[path = "../support/authority.rs"]
mod authority;
#[path = "../support/kubectl.rs"]
mod kubectl;
#[path = "../support/setup.rs"]
mod setup;

mod alone;
mod audit;
mod authentication;
mod backup;
mod bad_input;
mod drill;
mod examples;
mod homeserver;
mod interruptions;
mod newest;
mod objects;
mod person;
mod restore;
mod room;
mod s3;
mod world;

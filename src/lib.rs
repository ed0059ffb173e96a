//! synapse-keeper: a Kubernetes operator that keeps Matrix Synapse homeservers healthy.
//!
//! Start with [`api`] for what users write, [`operation`] for the engine that carries it out, and [`task`] for what runs
//! in Jobs. `docs/architecture.md` has the picture.

pub mod api;
pub mod bytes;
pub mod context;
pub mod contract;
pub mod controller;
pub mod deletion;
pub mod error;
pub mod inspection;
pub mod metrics;
pub mod operation;
pub mod pause;
pub mod postgres;
pub mod quote;
pub mod recipes;
pub mod requests;
pub mod restic;
pub mod synapse;
pub mod task;
pub mod words;

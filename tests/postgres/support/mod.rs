//! A private PostgreSQL, databases to spoil, and the program under test.

mod authentication;
#[path = "../../support/authority.rs"]
mod authority;
mod client;
pub mod daemon;
mod database;
mod memory;
mod pooler;
mod program;
mod repository;
mod said;
mod server;
#[path = "../../support/setup.rs"]
mod setup;
mod storage;
mod synapse;

pub use authentication::LOCALE as AUTHENTICATION_LOCALE;
pub use client::ClientCertificate;
pub use database::{Database, execute, synapse_python};
pub use memory::Memory;
pub use pooler::Pooler;
pub use program::{Finished, Program, Running};
pub use repository::{Moment, REPOSITORY_PASSWORD, Repository, until_reached};
pub use server::{PASSWORD, Server, german_server, server};
pub use storage::{SECRET_KEY, Storage, Way, Wire};
pub use synapse::{Listener, Synapse, get};

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine, and much shorter than what restic, TCP and libpq wait for by themselves: a quarter of
/// an hour or more. So a time below it says that nobody has waited for these.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// Asks again and again until the answer is yes; says how long it took.
///
/// # Panics
/// If it is not yes within [`PATIENCE`].
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) -> Duration {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

//! `task restore-database` and `task swap-database`: a backup's database, made beside the one that serves and swapped in when
//! it is whole.
//!
//! While Synapse serves, [`fill`] makes a new database and [`check`] reads it back. Then, with Synapse down, [`swap`] gives it
//! the homeserver's name, in one transaction with the renaming of the old one: users wait for that alone. Nothing is
//! written into a database that holds tables, and nothing is dropped but what attempts of the same restore have left.
//! How far a restore has come stands on the databases themselves, see [`mark`]: it outlives Pods, objects and clusters.
//!
//! With it comes the database of the Matrix Authentication Service ([`authentication`]), where there is one.
//!
//! [`fill`] and [`check`] know nothing of names and marks: they are the drill's as well.

mod accepts;
mod ahead;
mod authentication;
pub mod beside;
pub mod check;
mod clear;
pub mod config;
mod doubt;
mod drop;
mod existing;
pub mod fill;
pub mod in_place;
pub mod left;
mod mark;
pub mod media;
mod obstacles;
mod possible;
mod preflight;
pub mod refused;
mod rights;
pub mod schema;
mod server;
mod settings;
pub mod source;
pub mod swap;
mod terms;
mod unmarked;

pub use existing::Present;
pub use mark::{Dumped, Mark, State, prefix_beside};
pub use media::WantedMedia;
pub(in crate::task) use possible::{facts_beside, possible};
pub use preflight::{Part, Wanted, check as preflight};
pub use server::Administrator;
pub use source::Source;
pub use terms::{Fit, Terms};

use tokio_util::sync::CancellationToken;

use super::arguments::Connection;
use crate::{
    api::restore::{Method, ScheduledTasks},
    contract::Report,
};

/// What to restore, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub wanted: Wanted,
    /// How many streams and indexes at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub at_once: u16,
    /// What becomes of purges that were under way when the backup was made, where it comes back in place. Beside,
    /// `swap-database` deals with them.
    #[arg(long, value_enum, default_value_t)]
    pub scheduled_tasks: ScheduledTasks,
}

/// Runs `restore-database`.
pub async fn run(arguments: Arguments, stop: &CancellationToken) -> Report {
    match arguments.wanted.method {
        Method::Beside => beside::run(arguments, stop).await.into(),
        Method::InPlace => in_place::run(arguments, stop).await,
    }
}

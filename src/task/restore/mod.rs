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

mod ahead;
mod authentication;
pub mod beside;
pub mod check;
mod existing;
pub mod fill;
mod mark;
mod media;
mod preflight;
pub mod schema;
mod server;
pub mod source;
pub mod swap;
mod terms;
mod unmarked;

pub use beside::run;
pub use existing::Present;
pub use mark::{Dumped, Mark, State};
pub use media::WantedMedia;
pub use preflight::{Wanted, check as preflight};
pub use server::Administrator;
pub use source::Source;
pub use terms::{Fit, Terms};

use super::arguments::Connection;

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
}

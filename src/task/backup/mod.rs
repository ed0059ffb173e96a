//! `task backup`: the database, from one moment, streamed into a restic repository, and with it that of the Matrix
//! Authentication Service. Synapse goes on serving.
//!
//! [`snapshot`] holds the moment and keeps every table as it is. [`parts`] says which tables go together: each part is a
//! stream of its own, so that several are read at once and, at the restore, written at once. [`rows`] says what of them is stored,
//! and in which form; [`stream`] carries it to restic. [`manifest`] names what belongs together, and goes in last ([`seal`]):
//! what has no manifest does not exist. Where there are [`media`] to back up, the last is their task.
//!
//! The rows of a part are SQL (`COPY … FROM stdin`), by zstd: stock `zstd`, `psql` and `pg_restore` can read everything.

mod check;
mod config;
mod coverage;
pub mod delete;
mod destination;
mod dump;
pub mod exclude;
mod facts;
mod held;
pub mod list;
pub mod manifest;
pub mod marks;
pub mod media;
mod newest;
mod origins;
pub mod parts;
mod providers;
mod readable;
mod removal;
pub mod retain;
mod rows;
mod run;
mod seal;
pub mod snapshot;
mod stream;
mod too_large;

pub use check::{Wanted, check};
pub use config::ConfigObjects;
pub use destination::Destination;
pub use run::run;

use jiff::Timestamp;

use super::{arguments::Connection, authentication::AuthenticationService};
use crate::{api::exclude::Exclude, contract::TaskError};

/// What to back up, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub authentication_service: Option<AuthenticationService>,
    #[command(flatten)]
    pub destination: Destination,
    #[command(flatten)]
    pub config: ConfigObjects,
    #[command(flatten)]
    pub exclude: Exclude,
    /// `task backup-media` follows: until it has stored the media there is no backup.
    #[arg(long)]
    pub draft: bool,
    /// Where Synapse answers, such as http://synapse:8008. Without it its version is not in the manifest.
    #[arg(long)]
    pub synapse_url: Option<String>,
    /// When it must be over, such as 2026-01-31T03:30:00Z: users are waiting.
    #[arg(long)]
    pub until: Option<Timestamp>,
    /// In how many streams the tables go.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub streams: u16,
    /// How many of them at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub at_once: u16,
}

/// The error of a backup that took longer than users should wait.
fn out_of_time(until: Timestamp) -> TaskError {
    TaskError::terminal(
        "DowntimeTooShort",
        format!(
            "The backup was not done at {until}, when Synapse must start again. Nothing of it can be selected. Raise \
             downtime.atMost, or back up without quiesce: the backup is of one moment either way."
        ),
    )
}

/// The error of a backup that was stopped.
fn stopped() -> TaskError {
    TaskError::transient(
        "Stopped",
        "The backup was stopped (SIGTERM) before it finished. Nothing of it can be selected.",
    )
}

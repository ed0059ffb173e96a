//! `task backup`: the database, from one moment, streamed into a restic repository. Synapse goes on serving.
//!
//! [`snapshot`] holds the moment and keeps every table as it is. [`parts`] says which tables go together: each part is a
//! stream of its own, so that several are read at once and, at the restore, written at once. [`stream`] carries the output
//! of `pg_dump` to restic and counts the rows that pass. [`manifest`] names what belongs together, and goes in last: what
//! has no manifest does not exist.
//!
//! The rows of a part are plain SQL (`COPY … FROM stdin`), not compressed: restic finds again what it has seen on other nights, and
//! compresses. Stock `psql` and `pg_restore` can read everything.

pub mod manifest;
pub mod parts;
mod run;
mod snapshot;
mod stream;

pub use run::run;

use std::path::PathBuf;

use super::{arguments::Connection, report::TaskError};

/// What to back up, and where to.
#[derive(clap::Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// Directory with what restic reads from its environment, such as a mounted Secret: RESTIC_REPOSITORY,
    /// RESTIC_PASSWORD, AWS_ACCESS_KEY_ID, …; ca.crt is the certificate authority of the storage.
    #[arg(long)]
    pub repository_dir: PathBuf,
    /// Make the repository if there is none.
    #[arg(long)]
    pub init: bool,
    /// The homeserver's name; a database of another is refused.
    #[arg(long)]
    pub server_name: String,
    /// Whose backups these are: the UID of an object. Another's in the same repository are left alone.
    #[arg(long, value_parser = word)]
    pub origin: String,
    /// In how many streams the tables go.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub streams: u16,
    /// How many of them at once.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub at_once: u16,
}

/// restic takes a comma for the end of a tag.
fn word(text: &str) -> Result<String, String> {
    let is_word =
        !text.is_empty() && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
    if is_word { Ok(text.to_owned()) } else { Err("write letters, digits and - only".to_owned()) }
}

/// The error of a backup that was told to stop.
fn stopped() -> TaskError {
    TaskError::transient(
        "Stopped",
        "The backup was told to stop (SIGTERM) before it had finished. Nothing of it can be selected.",
    )
}

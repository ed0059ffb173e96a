//! restic: the repositories in which backups live.
//!
//! A [`Repository`] is what restic reads from its environment, as a Secret that is mounted. Everything that is said to
//! restic, and how its answers are understood, stands here; what a backup is does not.

mod download;
mod errors;
mod files;
mod list;
mod locks;
mod lookup;
mod mounted;
mod pulse;
mod repository;
mod said;
mod secrets;
mod upload;

pub use download::Download;
pub use errors::{DAMAGED, KILLED, MISSING};
pub use files::{Entry, File, Refused, RestoredFiles, StoredFiles};
pub use list::Listed;
pub use locks::Wants;
pub use lookup::StoredFile;
pub use repository::Repository;
pub use upload::{Stored, Upload, collect};

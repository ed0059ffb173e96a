//! Free disk, and how much of it VACUUM FULL needs.

use std::{path::Path, time::Duration};

use super::{Explain, Result, Session};
use crate::{bytes, contract::TaskError};

/// Bytes that PostgreSQL can still write to the volume of its data, mounted here.
///
/// # Errors
/// Terminal, `DataVolumeUnreadable`.
pub fn free_bytes(data_volume: &Path) -> Result<i64> {
    Ok(Volume::look(data_volume)?.free)
}

/// Bytes that stay free on the volume of PostgreSQL's data whatever we write: PostgreSQL stops where it cannot write its WAL
/// or a checkpoint, with every database on it.
///
/// # Errors
/// As [`free_bytes`].
pub fn kept_free(data_volume: &Path) -> Result<i64> {
    Ok(Volume::look(data_volume)?.kept_free())
}

/// How often a volume is looked at while a database is filled.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

/// Does some work that fills the volume, as long as [`kept_free`] is left there. `None`: the volume cannot be seen.
///
/// # Errors
/// Terminal, `DiskFull`; then the work was dropped. Those of the work.
pub async fn watched<T>(data_volume: Option<&Path>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(volume) = data_volume else { return work.await };
    tokio::select! {
        done = work => done,
        full = until_nearly_full(volume) => Err(full),
    }
}

/// A look that fails says nothing of the disk.
async fn until_nearly_full(data_volume: &Path) -> TaskError {
    loop {
        if let Ok(volume) = Volume::look(data_volume)
            && volume.free < volume.kept_free()
        {
            return TaskError::terminal(
                "DiskFull",
                format!(
                    "The volume of postgres.dataVolume is nearly full: {} is free, and PostgreSQL needs {} for its WAL and its \
                     checkpoints. So the restore stopped. Nothing was replaced. Make the volume larger.",
                    bytes::human(volume.free),
                    bytes::human(volume.kept_free())
                ),
            );
        }
        tokio::time::sleep(LOOKS_EVERY).await;
    }
}

/// A file system, in bytes.
#[derive(Clone, Copy, Debug)]
struct Volume {
    size: i64,
    free: i64,
}

impl Volume {
    fn look(path: &Path) -> Result<Self> {
        let stat = rustix::fs::statvfs(path).map_err(|error| {
            TaskError::terminal(
                "DataVolumeUnreadable",
                format!("The volume of postgres.dataVolume at {} cannot be looked at: {error}.", path.display()),
            )
        })?;
        // What is left for others than root, in units of the fragment size.
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
        Ok(Self { size: bytes(stat.f_blocks), free: bytes(stat.f_bavail) })
    }

    /// A part of a small volume. Of a large one as much as WAL has by default (`max_wal_size`).
    fn kept_free(self) -> i64 {
        const MIB: i64 = 1 << 20;
        (self.size / 16).clamp(8 * MIB, 1024 * MIB)
    }
}

/// How the server writes its log of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wal {
    /// `wal_level = minimal`: a table that is written anew is not logged.
    pub minimal: bool,
    /// `max_wal_size`, in bytes: PostgreSQL begins to recycle at about this size.
    pub max_bytes: i64,
    /// Something keeps the log: a replication slot, or an archiver. Then nothing of it may be recycled meanwhile.
    pub kept: bool,
}

/// Reads the server's settings.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn wal(session: &mut Session) -> Result<Wal> {
    let (minimal, max_bytes, kept) = sqlx::query_as(
        "SELECT current_setting('wal_level') = 'minimal', pg_size_bytes(current_setting('max_wal_size')), \
             EXISTS (SELECT FROM pg_replication_slots) OR current_setting('archive_mode') <> 'off'",
    )
    .fetch_one(&mut session.connection)
    .await
    .explain("reading how the server writes its WAL")?;
    Ok(Wal { minimal, max_bytes, kept })
}

/// Free disk that VACUUM FULL of tables with these new sizes needs at its peak, one table after another.
///
/// The old file goes only when the new one is whole, so the largest new one must fit beside it. The WAL has the same bytes
/// once more: of the largest table, as the checkpoint that would recycle it may come late; and of the others up to
/// `max_wal_size`, or all of it if something keeps the log.
pub fn needed_bytes(copies: &[i64], wal: Wal) -> i64 {
    let largest = copies.iter().copied().max().unwrap_or(0);
    let total: i64 = copies.iter().sum();
    let logged = match wal {
        Wal { minimal: true, .. } => 0,
        Wal { kept: true, .. } => total,
        Wal { max_bytes, .. } => total.min(largest.max(max_bytes)),
    };
    largest + logged
}

/// Free disk that a new database of this size takes at its peak: itself, and what of its WAL is there at once.
pub fn needed_for_new(bytes: i64, wal: Wal) -> i64 {
    let logged = match wal {
        Wal { minimal: true, .. } => 0,
        Wal { kept: true, .. } => bytes,
        Wal { max_bytes, .. } => bytes.min(max_bytes),
    };
    bytes + logged
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAL: Wal = Wal { minimal: false, max_bytes: 100, kept: false };

    #[test]
    fn the_largest_copy_must_fit_with_its_wal() {
        assert_eq!(needed_bytes(&[], WAL), 0);
        assert_eq!(needed_bytes(&[500], WAL), 1000);
        assert_eq!(needed_bytes(&[500, 400], WAL), 1000);
        assert_eq!(needed_bytes(&[50, 40], WAL), 50 + 90, "below max_wal_size nothing is recycled");
        assert_eq!(needed_bytes(&[50, 40, 30], WAL), 50 + 100);
    }

    #[test]
    fn wal_that_is_kept_counts_whole_and_none_counts_nothing() {
        assert_eq!(needed_bytes(&[500, 400], Wal { kept: true, ..WAL }), 500 + 900);
        assert_eq!(needed_bytes(&[500, 400], Wal { minimal: true, ..WAL }), 500);
    }

    #[test]
    fn a_new_database_needs_room_for_itself_and_its_wal() {
        assert_eq!(needed_for_new(500, WAL), 600);
        assert_eq!(needed_for_new(50, WAL), 100);
        assert_eq!(needed_for_new(500, Wal { kept: true, ..WAL }), 1000);
        assert_eq!(needed_for_new(500, Wal { minimal: true, ..WAL }), 500);
    }

    #[test]
    fn a_part_of_a_small_volume_and_of_a_large_one_enough_for_wal_is_kept_free() {
        let kept = |mib: i64| Volume { size: mib << 20, free: 0 }.kept_free() >> 20;
        assert_eq!([kept(64), kept(1600), kept(1 << 20)], [8, 100, 1024]);
    }

    #[test]
    fn free_space_is_what_the_file_system_says() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")).unwrap_err().reason, "DataVolumeUnreadable");
    }
}

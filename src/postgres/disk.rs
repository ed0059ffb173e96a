//! Free disk, and how much of it VACUUM FULL needs.

use std::path::Path;

use super::{Explain, Result, Session};
use crate::task::report::TaskError;

/// Bytes that PostgreSQL can still write to the volume of its data, mounted here.
///
/// # Errors
/// Terminal, `DataVolumeUnreadable`.
pub fn free_bytes(data_volume: &Path) -> Result<i64> {
    let stat = rustix::fs::statvfs(data_volume).map_err(|error| {
        TaskError::terminal(
            "DataVolumeUnreadable",
            format!("The volume of postgres.dataVolume at {} cannot be looked at: {error}.", data_volume.display()),
        )
    })?;
    // What is left for others than root, in units of the fragment size.
    Ok(i64::try_from(stat.f_bavail.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX))
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
    fn free_space_is_what_the_file_system_says() {
        assert!(free_bytes(Path::new("/")).unwrap() > 0);
        assert_eq!(free_bytes(Path::new("/nowhere/at/all")).unwrap_err().reason, "DataVolumeUnreadable");
    }
}

//! Whether an error speaks of the backup or of the drill. Pure.

use crate::{contract::TaskError, restic::DAMAGED, task::restore::refused::REFUSED};

/// Errors of a backup that does not come back. A repository that cannot be reached, a server that does not start or a disk that is
/// full says nothing about it.
const DAMAGE: [&str; 17] = [
    DAMAGED,
    REFUSED,
    "ManifestUnreadable",
    "ServerNameDiffers",
    "RowsDiffer",
    "OneTimeKeysLeft",
    "LocaleNotC",
    "NoSynapseSchema",
    "DatabaseSplit",
    "TablesMissing",
    "SequenceBehind",
    "SigningKeyDiffers",
    "ConfigUnreadable",
    "MediaDiffer",
    "MediaMissing",
    "SynapseDidNotStart",
    "SynapseAnswersWrong",
];

/// Whether the backup is not what it should be.
pub fn speaks_of_the_backup(error: &TaskError) -> bool {
    DAMAGE.contains(&error.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_looked_at_is_not_damaged() {
        for (reason, message, is_damage) in [
            ("RepositoryDamaged", "ciphertext verification failed", true),
            ("RowsDiffer", "events has 1 row of 2", true),
            ("DatabaseSplit", "state_groups is missing", true),
            ("RestoreFailed", "duplicate key value violates unique constraint [23505]", true),
            ("ServerLacks", "role \"x\" does not exist [42704]", false),
            ("OutOfMemory", "out of memory [53200]", false),
            ("FillFailed", "psql: server closed the connection unexpectedly", false),
            ("RepositoryUnreachable", "no answer", false),
            ("RepositoryPasswordRefused", "wrong password", false),
            ("SnapshotNotFound", "the retention took it", false),
            ("DiskFull", "ERROR:  could not extend file", false),
            ("ScratchServerSilent", "no answer", false),
            ("SynapseDidNotStart", "exit code 1", true),
            ("SynapseAnswersWrong", "it is 2", true),
            ("SynapseKilled", "for want of memory", false),
            ("SynapseSilent", "no answer", false),
        ] {
            assert_eq!(speaks_of_the_backup(&TaskError::terminal(reason, message)), is_damage, "{reason}: {message}");
        }
    }
}

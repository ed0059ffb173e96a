//! Whether an error speaks of the backup or of the drill. Pure.

use crate::{restic::DAMAGED, task::report::TaskError};

/// Errors of a backup that does not come back. A repository that cannot be reached, a server that does not start or a disk that is
/// full says nothing about it.
const DAMAGE: [&str; 13] = [
    DAMAGED,
    "ManifestUnreadable",
    "ServerNameDiffers",
    "RowsDiffer",
    "OneTimeKeysLeft",
    "LocaleNotC",
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
    DAMAGE.contains(&error.reason.as_str()) || (error.reason == "RestoreFailed" && refuses_the_data(&error.message))
}

/// PostgreSQL refuses what it was given, not the connection or for want of memory.
fn refuses_the_data(said: &str) -> bool {
    let of_the_server =
        ["out of memory", "terminating connection", "server closed the connection", "canceling statement"];
    said.contains("ERROR:") && !of_the_server.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_looked_at_is_not_damaged() {
        for (reason, message, is_damage) in [
            ("RepositoryDamaged", "ciphertext verification failed", true),
            ("RowsDiffer", "events has 1 row of 2", true),
            ("RestoreFailed", "psql: ERROR:  duplicate key value violates unique constraint", true),
            ("RestoreFailed", "psql: ERROR:  out of memory", false),
            ("RestoreFailed", "psql: server closed the connection unexpectedly", false),
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
